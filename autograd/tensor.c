/* tensor.c - see tensor.h. */
#include "tensor.h"
#include "weight.h"
#include <string.h>

int64_t tensor_numel(const Tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++) n *= t->dim[i];
    return n;
}

int64_t tensor_rows(const Tensor *t) {
    int64_t n = 1;
    for (int i = 0; i + 1 < t->n_dim; i++) n *= t->dim[i];
    return n;
}

Tensor *tensor_over(Arena *a, DType dt, int n_dim, const int64_t *dim, const void *data) {
    CHECK(n_dim >= 1 && n_dim <= TENSOR_DIMS, "a tensor of %d dimensions", n_dim);
    Tensor *t = arena_push_zero(a, sizeof *t);
    t->dtype = dt;
    t->n_dim = n_dim;
    t->data = (void *)data;
    memcpy(t->dim, dim, sizeof dim[0] * (size_t)n_dim);
    return t;
}

Tensor *tensor_new(Arena *a, DType dt, int n_dim, const int64_t *dim) {
    Tensor *t = tensor_over(a, dt, n_dim, dim, NULL);
    t->data = arena_push(a, (size_t)tensor_bytes(t));
    return t;
}

Tensor *tensor_1d(Arena *a, DType dt, int64_t n) { return tensor_new(a, dt, 1, &n); }
Tensor *tensor_2d(Arena *a, DType dt, int64_t rows, int64_t cols) {
    return tensor_new(a, dt, 2, (int64_t[]){rows, cols});
}
Tensor *tensor_3d(Arena *a, DType dt, int64_t outer, int64_t rows, int64_t cols) {
    return tensor_new(a, dt, 3, (int64_t[]){outer, rows, cols});
}
Tensor *tensor_like(Arena *a, const Tensor *t) { return tensor_new(a, DT_f32, t->n_dim, t->dim); }

int64_t tensor_bytes(const Tensor *t) { return weight_bytes(t->dtype, t->n_dim, t->dim); }
