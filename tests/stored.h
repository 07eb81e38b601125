/* stored.h - weights of any format made for a test, and their bytes read by the formats'
 * description (dtype.h, quant/line.h). */
#ifndef TESTS_STORED_H
#define TESTS_STORED_H
#include <string.h>
#include "../autograd/quant/line.h"
#include "../autograd/weight.h"

static inline float *floats(int64_t n) { return mem_alloc((size_t)n * sizeof(float)); }

/* A stored weight of its own memory. The memory is filled first: what packing leaves unset shows.
 */
static inline Tensor stored(DType d, const float *values, int n_dim, const int64_t *dim, int fill) {
    Tensor w = {.dtype = d, .n_dim = n_dim};
    memcpy(w.dim, dim, sizeof *dim * (size_t)n_dim);
    int64_t n = tensor_numel(&w), bytes = weight_bytes(d, n_dim, dim);
    float *copy = floats(n);
    memcpy(copy, values, (size_t)n * sizeof *copy);
    w.data = mem_alloc((size_t)bytes);
    memset(w.data, fill, (size_t)bytes);
    weight_pack_all(d, copy, n_dim, dim, w.data);
    mem_free(copy);
    return w;
}
static inline Tensor stored_2d(DType d, const float *values, int64_t rows, int64_t cols) {
    return stored(d, values, 2, (int64_t[]){rows, cols}, 0xff);
}

/* The 4-bit code of row r, column c of a block. */
static inline int code_at(const void *block, int r, int c) {
    for (int w = 0; w < 32; w++) {
        if (line_column(w) != c % 32) continue;
        const uint8_t *word = (const uint8_t *)block + r / 2 * 64 + w * 2;
        unsigned value = word[0] | (unsigned)word[1] << 8;
        return (int)(value >> (r % 2 * 8 + c / 32 * 4) & 15);
    }
    return -1;
}
static inline float bf16_at(const void *p, int i) {
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, 2);
    return bf16_to_f32(h);
}
static inline float f32_at(const void *p, int i) {
    float x;
    memcpy(&x, (const char *)p + 4 * i, 4);
    return x;
}
#endif
