/* int8.h - one scale per row: value = q * scale, scale = largest magnitude / 127, q rounded to
 * nearest, ties to even.
 * Block: int8 [row][half][w]: column 32*half + line_column(w). Tail of a panel: float32 [row]. */
#ifndef QUANT_INT8_H
#define QUANT_INT8_H
#include "block.h"

enum { INT8_BLOCK_BYTES = PANEL_ROWS * BLOCK_COLS };

/* Runs of four columns stay together in the order of line_column: out[8*lane + 4*high + i] is
 * column 4*lane + 16*high + i. */
static inline void int8_order(const int8_t *columns, int8_t *words) {
    for (int lane = 0; lane < 4; lane++) {
        memcpy(words + 8 * lane, columns + 4 * lane, 4);
        memcpy(words + 8 * lane + 4, columns + 16 + 4 * lane, 4);
    }
}
static inline void int8_disorder(const int8_t *words, int8_t *columns) {
    for (int lane = 0; lane < 4; lane++) {
        memcpy(columns + 4 * lane, words + 8 * lane, 4);
        memcpy(columns + 16 + 4 * lane, words + 8 * lane + 4, 4);
    }
}

SIMD static void int8_round(const float *row, int n, float inverse, int8_t *q) {
    for (int c = 0; c < n; c++) {
        q[c] = (int8_t)round_into(row[c] * inverse, -127, 127);
    }
}

static void int8_pack(const float *rows, int n, int64_t cols, void *panel) {
    int64_t blocks = block_count(cols);
    int8_t *out = panel;
    float scale[PANEL_ROWS] = {0};
    memset(panel, 0, (size_t)(blocks * INT8_BLOCK_BYTES));
    for (int r = 0; r < n; r++) {
        scale[r] = row_largest(rows + r * cols, cols) / 127;
        float inverse = inverse_or_0(scale[r]);
        for (int64_t b = 0; b < blocks; b++) {
            int8_t q[BLOCK_COLS] = {0}, *at = out + b * INT8_BLOCK_BYTES + r * BLOCK_COLS;
            int8_round(rows + r * cols + b * BLOCK_COLS, block_width(cols, b * BLOCK_COLS), inverse,
                       q);
            int8_order(q, at);
            int8_order(q + HALF_COLS, at + HALF_COLS);
        }
    }
    memcpy(out + blocks * INT8_BLOCK_BYTES, scale, sizeof scale);
}

SIMD static void int8_scale(const int8_t *q, float scale, int64_t n, float *dst) {
    for (int64_t c = 0; c < n; c++) dst[c] = (float)q[c] * scale;
}

static void int8_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n, float *dst) {
    const int8_t *in = panel;
    float scale;
    memcpy(&scale, in + block_count(cols) * INT8_BLOCK_BYTES + r * 4, sizeof scale);
    for (int64_t c = 0; c < n; c += BLOCK_COLS) {
        const int8_t *at = in + (from + c) / BLOCK_COLS * INT8_BLOCK_BYTES + r * BLOCK_COLS;
        int8_t q[BLOCK_COLS];
        int8_disorder(at, q);
        int8_disorder(at + HALF_COLS, q + HALF_COLS);
        int8_scale(q, scale, block_width(n, c), dst + c);
    }
}
#endif
