/* tensor.h - a named, contiguous, row-major block of numbers. No strides: a change of layout is
 * an op, so every kernel may assume plain rows. */
#ifndef TENSOR_H
#define TENSOR_H
#include "base.h"
#include "dtype.h"

enum { TENSOR_DIMS = 4 };
typedef struct Tensor {
    const char *name; /* as the checkpoint or adapter file calls it; NULL for intermediates */
    DType dtype;
    int n_dim;
    bool wants_grad;
    int64_t dim[TENSOR_DIMS];
    void *data;          /* borrowed: an arena or a mapped file owns it */
    struct Tensor *grad; /* same shape, f32; NULL until backward reaches it */
} Tensor;

int64_t tensor_numel(const Tensor *t);
int64_t tensor_rows(const Tensor *t); /* product of all but the last dim */
static inline int64_t tensor_cols(const Tensor *t) { return t->dim[t->n_dim - 1]; }
int64_t tensor_bytes(const Tensor *t);
static inline float *f32(const Tensor *t) { return (float *)t->data; }
static inline int32_t *i32(const Tensor *t) { return (int32_t *)t->data; }

/* Memory from the arena, contents not set. */
Tensor *tensor_new(Arena *a, DType dt, int n_dim, const int64_t *dim);
Tensor *tensor_1d(Arena *a, DType dt, int64_t n);
Tensor *tensor_2d(Arena *a, DType dt, int64_t rows, int64_t cols);
Tensor *tensor_3d(Arena *a, DType dt, int64_t outer, int64_t rows, int64_t cols);
Tensor *tensor_like(Arena *a, const Tensor *t); /* f32, same shape */
/* A header over memory that is already there (a batch's ids, a mapped weight). */
Tensor *tensor_over(Arena *a, DType dt, int n_dim, const int64_t *dim, const void *data);
#endif
