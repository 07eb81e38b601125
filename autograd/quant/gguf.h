/* gguf.h - llama.cpp's formats of 32 values, byte for byte as GGUF files hold them: small blocks
 * one after the other along a row. NAME_part opens the 32 values of part 0 of a block (the formats
 * of 256 values have more parts: gguf_k.h).
 *
 *     q8_0        f16 d; int8 q[32]                 value = d q
 *     q4_0, q5_0  f16 d; [u32 fifth bits;] 16 bytes value = d (q - 8), d (q - 16)
 *     q4_1, q5_1  f16 d, m; the same                value = d q + m
 *     mxfp4_gguf  E8M0 d; 16 bytes                  value = d E2M1[q]
 * The 16 bytes hold the low four bits of value i (low nibble) and of value 16 + i (high nibble).
 * Source: ggml-quants.c and gguf-py's quants.py of llama.cpp, whose values and bits these are. */
#ifndef QUANT_GGUF_H
#define QUANT_GGUF_H
#include "codebook.h"

enum { PART = 32 }; /* values that are opened at a time */

SIMD_INLINE float f16_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return simd_f16(h);
}

SIMD_INLINE void q8_0_part(const uint8_t *block, int part, float *dst) {
    const float d = f16_at(block);
    (void)part;
    for (int i = 0; i < PART; i++) dst[i] = d * (float)(int8_t)block[2 + i];
}

/* d (q - middle) + m; high: the fifth bits, bit i of value i. */
SIMD_INLINE void nibbles_part(const uint8_t *q, uint32_t high, int middle, float d, float m,
                              float *dst) {
    for (int i = 0; i < PART / 2; i++) {
        int low = (int)(q[i] & 15) | (int)(high >> i & 1) << 4;
        int up = (int)(q[i] >> 4) | (int)(high >> (16 + i) & 1) << 4;
        dst[i] = d * (float)(low - middle) + m;
        dst[16 + i] = d * (float)(up - middle) + m;
    }
}
SIMD_INLINE uint32_t fifth_bits(const uint8_t *p) {
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    return bits;
}
SIMD_INLINE void q4_0_part(const uint8_t *block, int part, float *dst) {
    (void)part;
    nibbles_part(block + 2, 0, 8, f16_at(block), -0.0f, dst);
}
SIMD_INLINE void q4_1_part(const uint8_t *block, int part, float *dst) {
    (void)part;
    nibbles_part(block + 4, 0, 0, f16_at(block), f16_at(block + 2), dst);
}
SIMD_INLINE void q5_0_part(const uint8_t *block, int part, float *dst) {
    (void)part;
    nibbles_part(block + 6, fifth_bits(block + 2), 16, f16_at(block), -0.0f, dst);
}
SIMD_INLINE void q5_1_part(const uint8_t *block, int part, float *dst) {
    (void)part;
    nibbles_part(block + 8, fifth_bits(block + 4), 0, f16_at(block), f16_at(block + 2), dst);
}

/* Half of what an E8M0 byte stands for. */
SIMD_INLINE float e8m0_half(uint32_t e) {
    return bits_to_f32(e < 2 ? 0x00200000u << e : (e - 1) << 23);
}
/* Times twice E2M1's value, as llama.cpp does, whose integer codes know no -0. */
SIMD_INLINE void mxfp4_gguf_part(const uint8_t *block, int part, float *dst) {
    const float d = e8m0_half(block[0]);
    (void)part;
    for (int i = 0; i < PART / 2; i++) {
        dst[i] = d * (2 * E2M1_VALUE[block[1 + i] & 15] + 0.0f);
        dst[16 + i] = d * (2 * E2M1_VALUE[block[1 + i] >> 4] + 0.0f);
    }
}

/* ---- encoding: what llama.cpp would have written ---- */

SIMD_INLINE void put_f16(uint8_t *p, float x) {
    uint16_t h = f32_to_f16(x);
    memcpy(p, &h, sizeof h);
}

/* d = largest magnitude / 127, rounded after it was used; ties away from zero. */
SIMD_INLINE void q8_0_encode(const float *x, uint8_t *block) {
    float most = 0;
    for (int i = 0; i < PART; i++) {
        float a = bits_to_f32(f32_to_bits(x[i]) & 0x7fffffff);
        most = a > most ? a : most;
    }
    float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    put_f16(block, d);
    for (int i = 0; i < PART; i++) {
        float scaled = x[i] * inverse, a = scaled < 0 ? -scaled : scaled;
        int whole = (int)a, q = whole + (int)(2 * (a - (float)whole));
        block[2 + i] = (uint8_t)(int8_t)(scaled < 0 ? -q : q);
    }
}

/* d = the value of the largest magnitude (the first of them) / -8. */
SIMD_INLINE void q4_0_encode(const float *x, uint8_t *block) {
    float most = 0, signed_most = 0;
    for (int i = 0; i < PART; i++) {
        float a = bits_to_f32(f32_to_bits(x[i]) & 0x7fffffff);
        signed_most = a > most ? x[i] : signed_most;
        most = a > most ? a : most;
    }
    float d = signed_most / -8, inverse = d != 0 ? 1 / d : 0;
    put_f16(block, d);
    for (int i = 0; i < PART / 2; i++) {
        int low = (int)(x[i] * inverse + 8.5f), up = (int)(x[16 + i] * inverse + 8.5f);
        block[2 + i] = (uint8_t)((low < 15 ? low : 15) | (up < 15 ? up : 15) << 4);
    }
}

/* E2M1 code: to the nearest, ties to the smaller magnitude, the largest beyond it; a: in units of
 * half of the block's scale. */
SIMD_INLINE int e2m1_half_code(float x) {
    float a = x < 0 ? -x : x;
    int code = (a > 0.5f) + (a > 1.5f) + (a > 2.5f) + (a > 3.5f) + (a > 5) + (a > 7) + (a > 10);
    return x < 0 && code ? code + 8 : code;
}

/* d = the power of two of the largest magnitude, less E2M1's own largest (2^2). */
SIMD_INLINE void mxfp4_gguf_encode(const float *x, uint8_t *block) {
    float most = 0;
    for (int i = 0; i < PART; i++) {
        float a = bits_to_f32(f32_to_bits(x[i]) & 0x7fffffff);
        most = a > most ? a : most;
    }
    int e = (int)(f32_to_bits(most) >> 23) - 2;
    e = e > 0 ? e : 0;
    /* twice the inverse: 2^(128 - e), of which float32 has no 2^128 */
    float inverse = e ? bits_to_f32((uint32_t)(255 - e) << 23) : 0x1p127f;
    block[0] = (uint8_t)e;
    for (int i = 0; i < PART / 2; i++)
        block[1 + i] =
            (uint8_t)(e2m1_half_code(x[i] * inverse) | e2m1_half_code(x[16 + i] * inverse) << 4);
}
#endif
