/* base_build.h - makes a base.h5 out of rows of float32, whoever has them: a checkpoint (quantize),
 * its cache, random numbers (init). */
#ifndef BASE_BUILD_H
#define BASE_BUILD_H
#include "../data/side_files.h"
#include "base_format.h"

/* What a base file says that it was made with, against what is asked for now. */
int base_words_check(const BaseWords *asked, const char *path, Err *e);

/* Where weights come from. Called by many threads at once. */
typedef struct BaseSource {
    void *ctx;
    DType (*stored)(void *ctx, int site);
    /* Values [first, first + n) of a site. */
    int (*values)(void *ctx, int site, int64_t first, int64_t n, float *dst, Err *e);
    /* Before a site's values are asked for. All of it in the format it is wanted in, if the source
     * has that; else *bytes stays NULL. */
    int (*ready)(void *ctx, int site, DType wanted, const void **bytes, Err *e);
    void (*done)(void *ctx, int site); /* its memory can go */
} BaseSource;

typedef struct BaseJob {
    const Model *model; /* bound, or shapes only */
    BaseWords words;
    BaseSource source;
    const SideFiles *files;
    const char *source_key;   /* names what the weights come from; kept in the file */
    const char *path, *doing; /* doing: "quantising" */
    bool verify;              /* read everything again at the end */
} BaseJob;
/* Goes on where a killed run stopped. *busy: another process is writing this file; nothing was
 * done. */
int base_build(const BaseJob *job, bool *busy, Err *e);

/* Whether a base file is there, made from this source with these words. */
bool base_made_of(const char *path, const BaseWords *words, const char *source_key);
/* What became of each kind: a table on standard error, and `kinds` in the result. before[i]: bytes
 * of the source's tensors of kind i. */
int base_report(const char *path, const Model *m, const int64_t before[KIND_COUNT], json_t *result,
                Err *e);
#endif
