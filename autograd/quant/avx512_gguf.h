/* avx512_gguf.h - avx512.h for the formats of gguf.h and gguf_k.h, which stand row by row: 32
 * values of a row at a time, part_NAME, just what NAME_part gives, rounded to bfloat16. Where codes
 * are few, all that they can stand for is worked out first and looked up. */
#ifndef QUANT_AVX512_GGUF_H
#define QUANT_AVX512_GGUF_H
#include "../dtype.h"
#include "avx512.h"
#include "gguf_k.h"

/* ---- pieces ---- */

AVX512_OPEN __m512 wide_f16(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm512_cvtph_ps(_mm256_set1_epi16((int16_t)h));
}
AVX512_OPEN __m256i load_bytes(const uint8_t *p) { return _mm256_loadu_si256((const void *)p); }

/* Low nibbles of 16 bytes, then their high ones; what stands above each nibble means nothing. */
AVX512_OPEN __m256i nibbles(const uint8_t *q) {
    __m128i both = _mm_loadu_si128((const void *)q);
    return _mm256_set_m128i(_mm_srli_epi16(both, 4), both);
}
/* With the fifth bits, bit i of value i. */
AVX512_OPEN __m256i five_bits(__m256i low, __mmask32 fifth) {
    low = _mm256_and_si256(low, _mm256_set1_epi8(15));
    return _mm256_mask_add_epi8(low, fifth, low, _mm256_set1_epi8(16));
}
/* Bytes in natural order as words in the order of line_column: groups of four move. */
AVX512_OPEN __m256i in_line_order(__m256i bytes) {
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
/* The low five bits of each code choose one of the 32 values low, high. */
AVX512_OPEN __m512i choose(__m256i codes, __m512 low, __m512 high) {
    __m512i table = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    return _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(in_line_order(codes)), table);
}
/* Signed bytes: the first 16 in line order times low, the others times high. */
AVX512_OPEN __m512i scaled_bytes(__m256i q, __m512 low, __m512 high) {
    __m512 first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(q)));
    __m512 last = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(q, 1)));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(last, high), _mm512_mul_ps(first, low));
}
/* Integers from `from` on, of the 16 that INT4_VALUE is. */
AVX512_OPEN __m512 counted(__m512 values, float from) {
    return _mm512_add_ps(values, _mm512_set1_ps(from + 8));
}

/* ---- 32 values ---- */

AVX512_OPEN __m512i part_q8_0(const uint8_t *block, int part, __m512 values) {
    const __m512 d = wide_f16(block);
    (void)part, (void)values;
    return scaled_bytes(in_line_order(load_bytes(block + 2)), d, d);
}
AVX512_OPEN __m512i part_q4_0(const uint8_t *block, int part, __m512 values) {
    __m512 t = _mm512_mul_ps(values, wide_f16(block));
    (void)part;
    return choose(nibbles(block + 2), t, t);
}
AVX512_OPEN __m512i part_q4_1(const uint8_t *block, int part, __m512 values) {
    __m512 d = wide_f16(block), m = wide_f16(block + 2);
    __m512 t = _mm512_add_ps(_mm512_mul_ps(counted(values, 0), d), m);
    (void)part;
    return choose(nibbles(block + 4), t, t);
}
AVX512_OPEN __m512i part_q5_0(const uint8_t *block, int part, __m512 values) {
    __m512 d = wide_f16(block);
    (void)part;
    return choose(five_bits(nibbles(block + 6), fifth_bits(block + 2)),
                  _mm512_mul_ps(counted(values, -16), d), _mm512_mul_ps(counted(values, 0), d));
}
AVX512_OPEN __m512i part_q5_1(const uint8_t *block, int part, __m512 values) {
    __m512 d = wide_f16(block), m = wide_f16(block + 2);
    (void)part;
    return choose(five_bits(nibbles(block + 8), fifth_bits(block + 4)),
                  _mm512_add_ps(_mm512_mul_ps(counted(values, 0), d), m),
                  _mm512_add_ps(_mm512_mul_ps(counted(values, 16), d), m));
}
AVX512_OPEN __m512i part_mxfp4_gguf(const uint8_t *block, int part, __m512 values) {
    __m512 twice = _mm512_add_ps(_mm512_add_ps(values, values), _mm512_setzero_ps());
    __m512 t = _mm512_mul_ps(twice, _mm512_set1_ps(e8m0_half(block[0])));
    (void)part;
    return choose(nibbles(block + 1), t, t);
}

/* ---- 256 values ---- */

/* Of 32 bytes the nibbles of an even part (low ones) or of an odd one. */
AVX512_OPEN __m256i part_nibbles(const uint8_t *q, int part) {
    return _mm256_srl_epi16(load_bytes(q + part / 2 * PART), _mm_cvtsi32_si128(part % 2 * 4));
}
/* A part's scale and minimum. */
AVX512_OPEN void part_scales(const uint8_t *block, int part, __m512 *d, __m512 *m) {
    int scale, min;
    scale_and_min(block + 4, part, &scale, &min);
    *d = _mm512_mul_ps(wide_f16(block), _mm512_set1_ps((float)scale));
    *m = _mm512_mul_ps(wide_f16(block + 2), _mm512_set1_ps((float)min));
}
AVX512_OPEN __m512i part_q4_k(const uint8_t *block, int part, __m512 values) {
    __m512 d, m;
    part_scales(block, part, &d, &m);
    __m512 t = _mm512_sub_ps(_mm512_mul_ps(counted(values, 0), d), m);
    return choose(part_nibbles(block + 16, part), t, t);
}
AVX512_OPEN __m512i part_q5_k(const uint8_t *block, int part, __m512 values) {
    __m512 d, m;
    part_scales(block, part, &d, &m);
    __mmask32 fifth =
        _mm256_test_epi8_mask(load_bytes(block + 16), _mm256_set1_epi8((int8_t)(1 << part)));
    return choose(five_bits(part_nibbles(block + 48, part), fifth),
                  _mm512_sub_ps(_mm512_mul_ps(counted(values, 0), d), m),
                  _mm512_sub_ps(_mm512_mul_ps(counted(values, 16), d), m));
}
AVX512_OPEN __m512i part_q6_k(const uint8_t *block, int part, __m512 values) {
    const int half = part / 4, quarter = part % 4;
    const int8_t *scale = (const int8_t *)block + 192 + part * 2;
    __m512 d = wide_f16(block + 208), low = _mm512_mul_ps(d, _mm512_set1_ps(scale[0])),
           high = _mm512_mul_ps(d, _mm512_set1_ps(scale[1]));
    __m256i four = _mm256_srl_epi16(load_bytes(block + half * 64 + quarter % 2 * PART),
                                    _mm_cvtsi32_si128(quarter / 2 * 4));
    __m256i two =
        _mm256_srl_epi16(load_bytes(block + 128 + half * PART), _mm_cvtsi32_si128(quarter * 2));
    four = _mm256_and_si256(four, _mm256_set1_epi8(15));
    two = _mm256_and_si256(_mm256_slli_epi16(two, 4), _mm256_set1_epi8(0x30));
    __m256i q = _mm256_sub_epi8(_mm256_or_si256(four, two), _mm256_set1_epi8(32));
    (void)values;
    return to_line_order(scaled_bytes(q, low, high));
}

/* ---- lines ---- */

#define OPEN_PARTS(name, block_n, block_bytes)                                                     \
    AVX512_OPEN __m512i half_##name(const Block *b, int r, int h, __m512 values) {                 \
        int at = b->from + h * PART;                                                               \
        const uint8_t *row = (const uint8_t *)b->bytes + r * b->ld;                                \
        return part_##name(row + at / (block_n) * (block_bytes), at % (block_n) / PART, values);   \
    }                                                                                              \
    AVX512_OPEN Line open_##name(const Block *b, int i, __m512 values) {                           \
        Line line;                                                                                 \
        if (b->rows >= 32 && b->cols >= 64) {                                                      \
            for (int k = 0; k < 4; k++)                                                            \
                line.half[k / 2][k % 2] = half_##name(b, 2 * i + k / 2, k % 2, values);            \
            return line;                                                                           \
        }                                                                                          \
        for (int k = 0; k < 4; k++) {                                                              \
            int r = 2 * i + k / 2, h = k % 2;                                                      \
            bool in = r < b->rows && h * PART < b->cols;                                           \
            line.half[k / 2][h] = in ? half_##name(b, r, h, values) : _mm512_setzero_si512();      \
        }                                                                                          \
        return line;                                                                               \
    }
#define X(name, block_n, block_bytes, ...) OPEN_PARTS(name, block_n, block_bytes)
BLOCK_DTYPES(X)
#undef X

#define AVX512_GGUF_FORMATS(X)                                                                     \
    X(q8_0, INT4_VALUE)                                                                            \
    X(q4_0, INT4_VALUE)                                                                            \
    X(q4_1, INT4_VALUE)                                                                            \
    X(q5_0, INT4_VALUE)                                                                            \
    X(q5_1, INT4_VALUE)                                                                            \
    X(mxfp4_gguf, E2M1_VALUE)                                                                      \
    X(q4_k, INT4_VALUE)                                                                            \
    X(q5_k, INT4_VALUE)                                                                            \
    X(q6_k, INT4_VALUE)
#endif
