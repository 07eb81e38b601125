/* dataset.h - rows of text or ids become samples: token ids and what of them is learned.
 *
 * A row of a JSONL file is read by the room of its type (datasets.def), cut or dropped where it is
 * too long, and dropped where nothing of it is supervised; all that is counted. A malformed row is
 * an error that names file and line. dataset_read hands out one row after the other with the text
 * it came from; dataset_load keeps the samples of all of them. */
#ifndef DATASET_H
#define DATASET_H
#include "chat.h"
#include "tokenizer.h"

enum { LABEL_IGNORE = -100, DATASET_WEIGHT_MAX = 1000 };

/* One row. labels[i] is ids[i] where token i is supervised, LABEL_IGNORE elsewhere (unshifted: the
 * loss compares the model's output at i-1 with labels[i]). */
typedef struct Sample {
    int32_t *ids, *labels;
    int32_t n;
} Sample;
int32_t sample_supervised(const Sample *s); /* labels that count after the shift */

/* One entry of `datasets`. */
typedef struct DatasetSpec {
    char *path;    /* JSONL file */
    char *type;    /* auto, or a name in datasets.def; NULL: auto */
    char *split;   /* train, or NULL */
    double weight; /* how often each row is taken: 1, 2.5, 0.1 (every tenth) */
} DatasetSpec;

/* An error that names the types there are unless type is auto or one of them. */
int dataset_type_check(const char *type, Err *e);

/* What turns rows into samples. dataset_open sets the first group; the caller the rest, as the keys
 * of the same name say (the default of every one of them is not 0). */
typedef struct DatasetContext {
    Tokenizer *tokenizer; /* NULL: none is needed */
    Chat *chat;           /* NULL: none is needed */
    int32_t eos_id;       /* the end-of-text token; -1: none known */
    int32_t vocab_size;   /* ids are below it; 0: not known */

    int64_t sequence_len;
    const char *excess_length_strategy; /* drop, truncate, raise */
    const char *const *roles_to_train;
    int n_roles_to_train;
    const char *train_on_eos; /* turn, all, last, none */
    bool train_on_inputs;

    bool keep_all;   /* no row is too long, or dropped for want of supervised tokens */
    bool want_parts; /* DatasetRow.parts are filled in, for people to look at */
    void (*progress)(void *user, int64_t done, int64_t total); /* bytes of the files; may be NULL */
    void *progress_user;
} DatasetContext;

/* Opens what rows of these datasets need of model_dir (NULL: there is none): its tokenizer, its
 * chat template (which, as chat_open), the end-of-text token and the size of the vocabulary. Sets
 * the other fields to the defaults of their keys. dataset_close either way. */
int dataset_open(DatasetContext *ctx, const char *model_dir, const char *which, Thinking thinking,
                 const DatasetSpec *specs, int n_specs, Err *e);
void dataset_close(DatasetContext *ctx); /* the tokenizer and the chat */

typedef struct DatasetCounts {
    int64_t rows, samples; /* read; kept, copies of a weight counted */
    int64_t dropped_long, dropped_empty, dropped_unsupervised, truncated;
    int64_t tokens, supervised; /* of the samples; supervised after the shift */
} DatasetCounts;

/* A stretch of a chat row's text: one message's answer and its end of turn. */
typedef struct DatasetPart {
    size_t from, to;
    char role[32];
} DatasetPart;

/* A row as it is handed out; all of it is overwritten by the next. */
typedef struct DatasetRow {
    const char *path;
    int32_t spec; /* index into the specs */
    int64_t line;
    int32_t copies; /* how often the weight takes it; 0 is never handed out */
    Sample sample;
    Buf text;      /* as rendered; of type tokens: the row's own text, if it has one */
    Tokens tokens; /* from, to: the bytes of text, for the first tokens.n of the sample's ids */
    int32_t *labels;
    size_t labels_cap;
    DatasetPart *parts;
    int n_parts;
    bool empty; /* nothing to learn from: dropped and counted */
} DatasetRow;

/* Rows one by one, in order; take returns -1 with e to stop. */
typedef int (*DatasetTake)(void *user, const DatasetRow *row, Err *e);
int dataset_read(const DatasetContext *ctx, const DatasetSpec *specs, int n_specs, DatasetTake take,
                 void *user, DatasetCounts *counts, Err *e);

/* Where a sample came from: an index into the specs, and the line. */
typedef struct SampleSource {
    int32_t spec;
    bool copy; /* shares the arrays of another */
    int64_t line;
} SampleSource;

typedef struct Dataset {
    Sample *samples;
    SampleSource *source; /* of each sample */
    int64_t n;
    DatasetCounts counts;
} Dataset;
/* All samples in memory. An error where none is left. dataset_free either way. */
int dataset_load(Dataset *out, const DatasetSpec *specs, int n_specs, const DatasetContext *ctx,
                 Err *e);
void dataset_free(Dataset *d);

/* Moves held-out samples to the end, in their order, and returns how many: a share of all rows
 * below 1 (rounded up), else a number of rows. Which ones depends on seed alone. A row is on one
 * side only: of copies that are held out one stays, so n may become smaller. samples and source
 * move. */
int64_t dataset_split(Dataset *d, double val_set_size, uint64_t seed);
/* The order of n rows in an epoch: order[i] is the row that comes i-th. */
void dataset_order(uint64_t seed, int64_t epoch, int64_t n, bool shuffle, int64_t *order);
#endif
