/* evaluate.h - samples into batches, and their loss without training. */
#ifndef EVALUATE_H
#define EVALUATE_H
#include <jansson.h>
#include "epochs.h"
#include "progress.h"
#include "rows.h"
#include "session.h"

/* Rows one after the other in one batch; arrays from the arena. */
Batch batch_of(Arena *a, const Sample *const *rows, int n);
/* Micro-batches [from, from + n) of a step, each a batch. */
Batch *batches_of(Arena *a, const StepRows *r, int64_t from, int n);

typedef struct EvalResult {
    double loss; /* mean over the supervised tokens */
    int64_t tokens;
} EvalResult;
/* What the verbs that only look at rows share: opens the datasets and the model as it is, runs body
 * with the tape paused, closes both. */
typedef int (*MeasureFn)(const Config *cfg, Session *s, const Rows *rows, json_t *result, Err *e);
int measure_rows(const Config *cfg, MeasureFn body, json_t *result, Err *e);

/* Every row alone. progress may be NULL. */
int evaluate(Session *s, const Sample *rows, int64_t n, Progress *progress, EvalResult *out,
             Err *e);
/* Of the passes evaluate makes over these rows (n > 0) the one with the most tokens. */
Batch evaluate_longest_batch(const Sample *rows, int64_t n, Arena *a);
#endif
