/* nf4_flat.h - NF4 for matrices whose rows are no multiple of 64: blocks run on from row to row, as
 * bitsandbytes cuts them. All codes, two a byte, the first in the high nibble, filled up with zeros
 * to 64 bytes; then float32 absmax [ceil(numel / 64)]. */
#ifndef QUANT_NF4_FLAT_H
#define QUANT_NF4_FLAT_H
#include "../dtype.h"
#include "codebook.h"

/* Blocks [first, first + n / 64) of w, whose n values start that block; dst: the whole tensor. */
static inline void nf4_flat_pack(const float *w, int64_t n, int64_t first, int64_t numel,
                                 void *dst) {
    uint8_t *codes = (uint8_t *)dst + first * NF4_BLOCK / 2;
    float *absmax = (float *)((char *)dst + nf4_flat_code_bytes(numel)) + first;
    for (int64_t at = 0; at < n; at += NF4_BLOCK) {
        int64_t some = n - at < NF4_BLOCK ? n - at : NF4_BLOCK;
        uint8_t code[NF4_BLOCK];
        float most = 0;
        for (int64_t i = 0; i < some; i++) {
            float a = bits_to_f32(f32_to_bits(w[at + i]) & 0x7fffffff);
            most = a > most ? a : most;
        }
        float inverse = nf4_inverse(most);
        for (int64_t i = 0; i < NF4_BLOCK; i++)
            code[i] = i < some ? nf4_code(w[at + i] * inverse) : NF4_ZERO;
        for (int64_t i = 0; i < (some + 1) / 2; i++)
            codes[at / 2 + i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
        absmax[at / NF4_BLOCK] = most;
    }
}

/* Values [from, from + n) of the tensor. */
static inline void nf4_flat_open(const void *src, int64_t numel, int64_t from, int64_t n,
                                 float *dst) {
    const uint8_t *codes = src;
    const float *absmax = (const float *)((const char *)src + nf4_flat_code_bytes(numel));
    for (int64_t i = from; i < from + n; i++) {
        unsigned code = i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
        dst[i - from] = NF4_VALUE[code] * absmax[i / NF4_BLOCK];
    }
}
#endif
