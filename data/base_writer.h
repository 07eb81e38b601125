/* base_writer.h - writes base.h5 (base_file.h): first the layout, all of it, then tensors in any
 * order and from any thread, each recorded when it is complete. The file bears the name
 * files_partial gives until it is whole. A run that is killed leaves it, and the next one with the
 * same plan goes on with the tensors that are recorded there and whose bytes still have the hash
 * they had. */
#ifndef BASE_WRITER_H
#define BASE_WRITER_H
#include "base_file.h"

typedef struct BaseText {
    const char *name; /* "config.json" first, then "tokenizer.json", ... */
    const void *data;
    size_t n;
} BaseText;

/* What the file is to hold. Of the tensors name, dtype, n_dim and dim are read; they come to lie
 * in this order. about: whatever JSON the writer wants to find again (settings, source). */
typedef struct BasePlan {
    const BaseTensor *tensor;
    const BaseText *file;
    int n_tensors, n_files;
    const json_t *about;
} BasePlan;

typedef struct BaseWriter BaseWriter;
/* Makes the partial file, or takes up the one of a killed run. Where another process is writing it
 * right now, *busy is set and *out stays NULL (0 is returned): wait, and look again for path. The
 * plan is no longer needed afterwards. */
int base_writer_open(BaseWriter **out, const char *path, const BasePlan *plan, bool *busy, Err *e);
/* Whether a killed run's file was there and is discarded: of another plan, hardly begun or damaged. */
bool base_writer_anew(const BaseWriter *w);
/* Whether tensor i is there already. */
bool base_writer_has(const BaseWriter *w, int i);
/* n bytes of tensor i, from its byte `at` on. Threads may write at once. */
int base_writer_put(BaseWriter *w, int i, int64_t at, const void *bytes, size_t n, Err *e);
/* Tensor i is complete: base_hash of all its bytes, and what base_file.h's lost and whole say. */
int base_writer_done(BaseWriter *w, int i, uint64_t hash, double lost, double whole, Err *e);
/* All tensors are: the file gets its name. w is gone either way. */
int base_writer_commit(BaseWriter *w, Err *e);
void base_writer_abort(BaseWriter *w); /* removes the partial file; NULL is fine */
#endif
