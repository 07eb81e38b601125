/* evaluate.h - samples into batches, and their loss without training. */
#ifndef EVALUATE_H
#define EVALUATE_H
#include "../data/dataset.h"
#include "progress.h"
#include "session.h"

/* Rows one after the other in one batch; arrays from the arena. */
Batch batch_of(Arena *a, const Sample *const *rows, int n);

typedef struct EvalResult {
    double loss; /* mean over the supervised tokens */
    int64_t tokens;
} EvalResult;
/* Every row alone. progress may be NULL. */
int evaluate(Session *s, const Sample *rows, int64_t n, Progress *progress, EvalResult *out,
             Err *e);
#endif
