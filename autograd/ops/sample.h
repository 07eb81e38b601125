/* sample.h - made inputs for the test cases that every op offers (Op.sample). */
#ifndef OPS_SAMPLE_H
#define OPS_SAMPLE_H
#include "../tape.h"
#include "../weight.h"

/* (rows, cols) of normal numbers that want a gradient; sample_1d: (n). */
static inline Tensor *sample_fill(Tensor *x, Rng *rng) {
    for (int64_t i = 0; i < tensor_numel(x); i++) f32(x)[i] = rng_normal(rng);
    x->wants_grad = true;
    return x;
}
static inline Tensor *sample_1d(Tape *t, Rng *rng, int64_t n) {
    return sample_fill(tensor_1d(t->step, DT_f32, n), rng);
}
static inline Tensor *sample_2d(Tape *t, Rng *rng, int64_t rows, int64_t cols) {
    return sample_fill(tensor_2d(t->step, DT_f32, rows, cols), rng);
}

/* w as a checkpoint would store it: itself in f32, else a copy that cannot learn. */
static inline Tensor *sample_stored(Tape *t, Tensor *w, DType dtype) {
    if (dtype == DT_f32) return w;
    Tensor *stored = tensor_new(t->step, dtype, w->n_dim, w->dim);
    weight_pack_all(dtype, f32(w), w->n_dim, w->dim, stored->data);
    return stored;
}

/* (n) integers from 0 to below - 1. */
static inline Tensor *sample_ints(Tape *t, Rng *rng, int64_t n, int below) {
    Tensor *x = tensor_1d(t->step, DT_i32, n);
    for (int64_t i = 0; i < n; i++) i32(x)[i] = (int32_t)(rng_u64(rng) % (uint64_t)below);
    return x;
}

/* choice (T,k): k different experts of E for every token. */
static inline Tensor *sample_choice(Tape *t, Rng *rng, int64_t T, int64_t k, int E) {
    Tensor *choice = tensor_2d(t->step, DT_i32, T, k);
    for (int64_t i = 0; i < T; i++) {
        int first = (int)(rng_u64(rng) % (uint64_t)E);
        for (int64_t j = 0; j < k; j++) i32(choice)[i * k + j] = (int32_t)((first + j) % E);
    }
    return choice;
}
#endif
