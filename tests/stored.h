/* stored.h - weights of any format made for a test, and their bytes read by the formats'
 * description (dtype.h, quant/line.h). */
#ifndef TESTS_STORED_H
#define TESTS_STORED_H
#include <string.h>
#include "../autograd/quant/line.h"
#include "../autograd/weight.h"

static inline float *floats(int64_t n) { return mem_alloc((size_t)n * sizeof(float)); }

/* Formats in blocks that nothing here writes: any bytes, but with scales that are numbers. */
static inline void random_blocks(DType d, int64_t n, Rng *rng, void *dst) {
    static const struct {
        int at[2];  /* of its float16 scales */
        float most; /* of them, for values of about 1 */
    } scales[DT_COUNT] = {
        [DT_q4_1] = {{0, 2}, 0.2f},   [DT_q5_1] = {{0, 2}, 0.1f},
        [DT_q5_0] = {{0, 0}, 0.1f},   [DT_q4_k] = {{0, 2}, 0.004f},
        [DT_q5_k] = {{0, 2}, 0.002f}, [DT_q6_k] = {{208, 208}, 0.001f},
    };
    int bytes = dtype_info[d].block_bytes;
    uint8_t *block = dst;
    for (int64_t left = n / dtype_info[d].block_n; left > 0; left--, block += bytes) {
        for (int i = 0; i < bytes; i++) block[i] = (uint8_t)rng_u64(rng);
        for (int k = 0; k < 2 && d != DT_mxfp4_gguf; k++) {
            uint16_t h = f32_to_f16((2 * (float)rng_uniform(rng) - 1) * scales[d].most);
            memcpy(block + scales[d].at[k], &h, sizeof h);
        }
        if (d == DT_mxfp4_gguf) block[0] = (uint8_t)(124 + block[0] % 4);
    }
}
/* Whether weight_pack_all writes such rows, and whether a test can store them in any way. */
static inline bool is_written(DType d, int64_t cols) {
    return dtype_is_weight(d) && dtype_takes_rows(d, cols) &&
           (!dtype_in_blocks(d) || dtype_info[d].from_f32);
}
static inline bool is_storable(DType d, int64_t cols) {
    return dtype_is_weight(d) && dtype_takes_rows(d, cols);
}
/* values: used up as scratch; of formats that nothing writes they are not looked at. */
static inline void store(DType d, float *values, int n_dim, const int64_t *dim, Rng *rng,
                         void *dst) {
    int64_t n = 1;
    for (int i = 0; i < n_dim; i++) n *= dim[i];
    if (dtype_in_blocks(d) && !dtype_info[d].from_f32)
        random_blocks(d, n, rng, dst);
    else
        weight_pack_all(d, values, n_dim, dim, dst);
}

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
