/* dataset.h - rows of text or ids become samples: token ids and what of them is learned. */
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

/* One entry of `datasets`. */
typedef struct DatasetSpec {
    char *path;    /* JSONL file */
    char *type;    /* auto, or a name in datasets.def; NULL: auto */
    char *split;   /* train, or NULL */
    double weight; /* how often each row is taken: 1, 2.5, 0.1 (a fixed part) */
} DatasetSpec;

/* An error that names the types there are unless type is auto or one of them. */
int dataset_type_check(const char *type, Err *e);
#endif
