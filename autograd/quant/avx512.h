/* avx512.h - how every stored format opens to bfloat16 with AVX-512: two neighbouring rows by 64
 * columns at once, the line of line.h. Opened values are bf16(code * scale): scales go into the
 * 16-entry table before the look-up, one table per row (or half row), so that nothing is scaled
 * per value. A new packed format is one opener here and one line in AVX512_FORMATS; those of GGUF
 * files have theirs in avx512_gguf.h.
 *
 * Row-major matrices are read under masks: nothing outside the matrix is touched, and what would
 * lie there opens as zero. */
#ifndef QUANT_AVX512_H
#define QUANT_AVX512_H
#include "codebook.h"
#include <immintrin.h>

#define AVX512      __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define AVX512_OPEN AVX512 static inline __attribute__((always_inline))

/* 32 rows by 64 columns of a stored matrix. */
typedef struct Block {
    const char *bytes; /* packed formats: the block; others: where its first value is stored */
    const char *tail;  /* packed formats: what stands behind the panel's last block */
    int64_t ld;        /* others: bytes from a row to the next */
    int from;          /* others: the first of the values that are stored together there */
    int rows, cols;    /* others: how many of it lie in the matrix; 32, 64 or more: all */
} Block;

/* Rows n = 2i and n + 1 of a block: columns 0..31 and 32..63 of n, then those of n + 1; 32 values
 * of bfloat16 each, in the order of line_column. */
typedef struct Line {
    __m512i half[2][2]; /* [row][half] */
} Line;

/* ---- 4-bit codes ---- */

/* The 16 values times scale, twice: whatever bit 4 of a word is, its low nibble finds its value. */
AVX512_OPEN __m512i table_of(__m512 values, float scale) {
    __m512 t = _mm512_mul_ps(values, _mm512_set1_ps(scale));
    return (__m512i)_mm512_cvtne2ps_pbh(t, t);
}
AVX512_OPEN Line look_up(const Block *b, int i, __m512i n0, __m512i n1, __m512i m0, __m512i m1) {
    __m512i codes = _mm512_loadu_si512(b->bytes + i * 64);
    Line line;
    line.half[0][0] = _mm512_permutexvar_epi16(codes, n0);
    line.half[0][1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), n1);
    line.half[1][0] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), m0);
    line.half[1][1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), m1);
    return line;
}
AVX512_OPEN Line look_up_rows(const Block *b, int i, __m512 values, float n, float m) {
    __m512i table_n = table_of(values, n), table_m = table_of(values, m);
    return look_up(b, i, table_n, table_n, table_m, table_m);
}

AVX512_OPEN Line open_nf4(const Block *b, int i, __m512 values) {
    const float *scale = (const float *)(b->bytes + 1024) + 2 * i;
    return look_up_rows(b, i, values, scale[0], scale[1]);
}
AVX512_OPEN Line open_nf4_bf16(const Block *b, int i, __m512 values) {
    const uint16_t *scale = (const uint16_t *)(b->bytes + 1024) + 2 * i;
    return look_up_rows(b, i, values, bf16_to_f32(scale[0]), bf16_to_f32(scale[1]));
}
AVX512_OPEN Line open_tq4(const Block *b, int i, __m512 values) {
    const float *scale = (const float *)b->tail + 2 * i;
    return look_up_rows(b, i, values, scale[0], scale[1]);
}
AVX512_OPEN Line open_tq4_b64(const Block *b, int i, __m512 values) {
    return open_nf4_bf16(b, i, values);
}
AVX512_OPEN Line open_int4_g32(const Block *b, int i, __m512 values) {
    const uint16_t *scale = (const uint16_t *)(b->bytes + 1024) + 4 * i;
    return look_up(b, i, table_of(values, bf16_to_f32(scale[0])),
                   table_of(values, bf16_to_f32(scale[1])), table_of(values, bf16_to_f32(scale[2])),
                   table_of(values, bf16_to_f32(scale[3])));
}
AVX512_OPEN Line open_mxfp4(const Block *b, int i, __m512 values) {
    const uint8_t *scale = (const uint8_t *)b->bytes + 1024 + 4 * i;
    return look_up(b, i, table_of(values, e8m0_value(scale[0])),
                   table_of(values, e8m0_value(scale[1])), table_of(values, e8m0_value(scale[2])),
                   table_of(values, e8m0_value(scale[3])));
}

/* ---- bytes ---- */

AVX512_OPEN __m512i open_bytes(const char *q, __m512 scale) {
    __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)q));
    __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(q + 16)));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_cvtepi32_ps(high), scale),
                                        _mm512_mul_ps(_mm512_cvtepi32_ps(low), scale));
}
AVX512_OPEN Line open_int8(const Block *b, int i, __m512 values) {
    (void)values;
    Line line;
    for (int r = 0; r < 2; r++) {
        __m512 scale = _mm512_set1_ps(((const float *)b->tail)[2 * i + r]);
        for (int h = 0; h < 2; h++) {
            line.half[r][h] = open_bytes(b->bytes + (2 * i + r) * 64 + h * 32, scale);
        }
    }
    return line;
}

/* ---- plain rows ---- */

/* 32 values in their natural order to the order of line_column: groups of four move. */
AVX512_OPEN __m512i to_line_order(__m512i natural) {
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), natural);
}
/* Bit c: column c of row r lies in the matrix. */
AVX512_OPEN uint64_t inside(const Block *b, int r) {
    return r >= b->rows ? 0 : b->cols >= 64 ? ~0ull : (1ull << b->cols) - 1;
}
AVX512_OPEN __m512i half_f32(const char *p, __mmask32 in) {
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)in, p);
    __m512 high = _mm512_maskz_loadu_ps((__mmask16)(in >> 16), p + 64);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}
AVX512_OPEN __m512i half_bf16(const char *p, __mmask32 in) {
    return _mm512_maskz_loadu_epi16(in, p);
}
AVX512_OPEN __m512i half_f16(const char *p, __mmask32 in) {
    __m256i low = _mm256_maskz_loadu_epi16((__mmask16)in, p);
    __m256i high = _mm256_maskz_loadu_epi16((__mmask16)(in >> 16), p + 32);
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtph_ps(high), _mm512_cvtph_ps(low));
}
/* Whole blocks are read without masks. */
#define OPEN_ROWS(name, bytes_each)                                                                \
    AVX512_OPEN Line rows_##name(const char *n, const char *m, uint64_t in_n, uint64_t in_m) {     \
        Line line;                                                                                 \
        for (int h = 0; h < 2; h++) {                                                              \
            __mmask32 n_h = (__mmask32)(in_n >> 32 * h), m_h = (__mmask32)(in_m >> 32 * h);        \
            line.half[0][h] = to_line_order(half_##name(n + 32 * h * (bytes_each), n_h));          \
            line.half[1][h] = to_line_order(half_##name(m + 32 * h * (bytes_each), m_h));          \
        }                                                                                          \
        return line;                                                                               \
    }                                                                                              \
    AVX512_OPEN Line open_##name(const Block *b, int i, __m512 values) {                           \
        const char *n = b->bytes + 2 * i * b->ld;                                                  \
        (void)values;                                                                              \
        if (b->rows >= 32 && b->cols >= 64) return rows_##name(n, n + b->ld, ~0ull, ~0ull);        \
        return rows_##name(n, n + b->ld, inside(b, 2 * i), inside(b, 2 * i + 1));                  \
    }
OPEN_ROWS(f32, 4)
OPEN_ROWS(bf16, 2)
OPEN_ROWS(f16, 2)

/* What there is: name, the 16 values of its codes (any 16 where it has none). */
#define AVX512_FORMATS(X)                                                                          \
    X(f32, INT4_VALUE)                                                                             \
    X(bf16, INT4_VALUE)                                                                            \
    X(f16, INT4_VALUE)                                                                             \
    X(int8, INT4_VALUE)                                                                            \
    X(nf4, NF4_VALUE)                                                                              \
    X(nf4_bf16, NF4_VALUE)                                                                         \
    X(tq4, TQ4_VALUE)                                                                              \
    X(tq4_b64, TQ4_VALUE)                                                                          \
    X(int4_g32, INT4_VALUE)                                                                        \
    X(mxfp4, E2M1_VALUE)
#endif
