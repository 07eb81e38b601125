/* block.h - what the encoders of the packed formats share. A block is worked on with its rows side
 * by side (column-major): every step is then 32 equal lanes without a reduction, and each row's
 * result depends on that row alone. Included by dtype.c only. */
#ifndef QUANT_BLOCK_H
#define QUANT_BLOCK_H
#include "../simd.h"
#include "line.h"

enum { BLOCK_LINES_BYTES = LINES * LINE_BYTES, HALF_COLS = BLOCK_COLS / 2 };
typedef float BlockValues[BLOCK_COLS][PANEL_ROWS];
typedef uint8_t BlockCodes[BLOCK_COLS][PANEL_ROWS];
#define FOR_LANES(r) for (int r = 0; r < PANEL_ROWS; r++)

static inline int64_t block_count(int64_t cols) { return (cols + BLOCK_COLS - 1) / BLOCK_COLS; }
static inline int block_width(int64_t cols, int64_t col) {
    return cols - col < BLOCK_COLS ? (int)(cols - col) : BLOCK_COLS;
}

/* Columns [col, col + 64) of n rows; what is not there is 0. */
SIMD static void block_gather(const float *rows, int n, int64_t cols, int64_t col, BlockValues v) {
    int width = block_width(cols, col);
    if (n < PANEL_ROWS || width < BLOCK_COLS) memset(v, 0, sizeof(BlockValues));
    for (int r = 0; r < n; r++) {
        const float *row = rows + r * cols + col;
        for (int c = 0; c < width; c++) v[c][r] = row[c];
    }
}

SIMD_INLINE float simd_abs(float x) { return bits_to_f32(f32_to_bits(x) & 0x7fffffff); }

/* Largest magnitude of a row; NaN counts as nothing. */
SIMD static float row_largest(const float *row, int64_t cols) {
#define STEP(a, i) SIMD_LARGER(a, simd_abs(row[i]))
    SIMD_REDUCE(cols, 0, STEP, SIMD_LARGER);
#undef STEP
}

/* Largest magnitudes of n columns, row by row; NaN counts as nothing. */
SIMD_INLINE void lanes_largest(const float (*v)[PANEL_ROWS], int n, float *largest) {
    FOR_LANES(r) largest[r] = 0;
    for (int c = 0; c < n; c++) {
        FOR_LANES(r) {
            float a = simd_abs(v[c][r]);
            largest[r] = a > largest[r] ? a : largest[r];
        }
    }
}

/* 1/x, or 0 where x is so small that the inverse is none: such values count as zero. */
SIMD_INLINE float inverse_or_0(float x) { return x > 1e-37f ? 1 / x : 0; }

/* To bfloat16, never to infinity: infinity times a code of 0 is no number. */
SIMD_INLINE uint16_t bf16_finite(float x) {
    uint16_t h = f32_to_bf16(x), magnitude = h & 0x7fff;
    return magnitude >= 0x7f80 ? (uint16_t)((h & 0x8000) | 0x7f7f) : h;
}

/* x to the nearest integer, ties to even, then into low..high (within +-2^22, as x must be). NaN
 * becomes one of them. Adding 1.5 * 2^23 leaves the integer in the low bits; integers are clamped
 * without a care for NaN. */
SIMD_INLINE int32_t round_into(float x, int32_t low, int32_t high) {
    const float magic = 12582912.0f;
    int32_t q = (int32_t)(f32_to_bits(x + magic) - f32_to_bits(magic));
    q = q > low ? q : low;
    return q < high ? q : high;
}

/* The 16 lines of a block. Two rows' codes of a column are neighbouring bytes, so a word is two
 * columns' 16-bit pairs, one shifted by a nibble. */
SIMD static void lines_pack(const BlockCodes code, void *lines) {
    uint16_t word[LINE_WORDS][LINES];
    for (int w = 0; w < LINE_WORDS; w++) {
        uint16_t low[LINES], high[LINES];
        memcpy(low, code[line_column(w)], sizeof low);
        memcpy(high, code[HALF_COLS + line_column(w)], sizeof high);
        for (int i = 0; i < LINES; i++) word[w][i] = (uint16_t)(low[i] | high[i] << 4);
    }
    uint16_t *out = lines;
    for (int i = 0; i < LINES; i++) {
        for (int w = 0; w < LINE_WORDS; w++) out[i * LINE_WORDS + w] = word[w][i];
    }
}

/* One row of a block, its codes looked up: those of the first 32 columns in low, of the rest in
 * high. dst: 64 values. */
SIMD static void lines_open(const void *lines, int r, const float *low, const float *high,
                            float *dst) {
    const uint16_t *line = (const uint16_t *)lines + r / 2 * LINE_WORDS;
    int shift = r % 2 * 8;
    for (int w = 0; w < LINE_WORDS; w += 4) {
        float *at = dst + line_column(w);
        for (int i = 0; i < 4; i++) {
            unsigned pair = line[w + i] >> shift;
            at[i] = low[pair & 15];
            at[HALF_COLS + i] = high[pair >> 4 & 15];
        }
    }
}
/* The first n <= 64 of them. */
static inline void lines_open_n(const void *lines, int r, const float *low, const float *high,
                                int64_t n, float *dst) {
    float whole[BLOCK_COLS];
    if (n >= BLOCK_COLS) {
        lines_open(lines, r, low, high, dst);
        return;
    }
    lines_open(lines, r, low, high, whole);
    memcpy(dst, whole, (size_t)n * sizeof *dst);
}
static inline void scaled_codebook(float *dst, const float *value, float scale) {
    for (int i = 0; i < 16; i++) dst[i] = value[i] * scale;
}
#endif
