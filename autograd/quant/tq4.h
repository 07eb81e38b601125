/* tq4.h - TurboQuant at 4 bits: turned rows (turn.h) look normal whatever they held, so each value
 * takes the nearest of the normal distribution's 16 best values. value = scale * TQ4_VALUE[code].
 * Source: arXiv 2504.19874, without its second stage (an unbiased estimate is no use for weights).
 *   tq4: one scale per row. Block: lines (line.h). Tail of a panel: float32 scale [row].
 *   tq4_b64: one scale per row of a block, searched. Block: lines, then bfloat16 scale [row]. */
#ifndef QUANT_TQ4_H
#define QUANT_TQ4_H
#include "block.h"
#include "codebook.h"
#include <math.h>

/* Root of the mean square, in range whatever the row's: its largest magnitude is taken out first.
 */
SIMD static float row_sum_squares(const float *row, int64_t cols, float inverse) {
#define STEP(a, i) SIMD_ADD(a, (row[i] * inverse) * (row[i] * inverse))
    SIMD_REDUCE(cols, 0, STEP, SIMD_ADD);
#undef STEP
}
static float row_rms(const float *row, int64_t cols) {
    float most = row_largest(row, cols);
    return most * sqrtf(row_sum_squares(row, cols, inverse_or_0(most)) / (float)cols);
}

/* With the values q that w takes under scale, adds w.q and q.q of each row: the scale that loses
 * least with these codes is w.q / q.q, and the loss falls with (w.q)^2 / q.q. Both are even in w,
 * so magnitudes do. */
SIMD static void tq4_fit(const BlockValues v, int width, const float *scale, float *wq, float *qq) {
    float sum_wq[PANEL_ROWS] = {0}, sum_qq[PANEL_ROWS] = {0}, above[7][PANEL_ROWS];
    for (int i = 0; i < 7; i++) {
        FOR_LANES(r) above[i][r] = TQ4_ABOVE[i] * scale[r];
    }
    for (int c = 0; c < width; c++) {
        FOR_LANES(r) {
            float w = simd_abs(v[c][r]), q = TQ4_VALUE[8];
            for (int i = 0; i < 7; i++) {
                q += w > above[i][r] ? TQ4_VALUE[9 + i] - TQ4_VALUE[8 + i] : 0;
            }
            sum_wq[r] += w * q;
            sum_qq[r] += q * q;
        }
    }
    FOR_LANES(r) wq[r] += sum_wq[r];
    FOR_LANES(r) qq[r] += sum_qq[r];
}

SIMD static void tq4_codes(const BlockValues v, const float *scale, BlockCodes code) {
    float above[7][PANEL_ROWS];
    for (int i = 0; i < 7; i++) {
        FOR_LANES(r) above[i][r] = TQ4_ABOVE[i] * scale[r];
    }
    for (int c = 0; c < BLOCK_COLS; c++) {
        FOR_LANES(r) {
            float w = v[c][r], a = simd_abs(w);
            uint32_t step = 0;
            for (int i = 0; i < 7; i++) step += a > above[i][r];
            code[c][r] = (uint8_t)(w > 0 ? 8 + step : 7 - step);
        }
    }
}

static void tq4_pack(const float *rows, int n, int64_t cols, void *panel) {
    BlockValues v;
    BlockCodes code;
    float scale[PANEL_ROWS] = {0}, wq[PANEL_ROWS] = {0}, qq[PANEL_ROWS] = {0};
    char *out = panel;
    for (int r = 0; r < n; r++) scale[r] = row_rms(rows + r * cols, cols);
    for (int64_t col = 0; col < cols; col += BLOCK_COLS) {
        block_gather(rows, n, cols, col, v);
        tq4_fit(v, block_width(cols, col), scale, wq, qq);
    }
    FOR_LANES(r) scale[r] = wq[r] * inverse_or_0(qq[r]);
    for (int64_t col = 0; col < cols; col += BLOCK_COLS) {
        block_gather(rows, n, cols, col, v);
        tq4_codes(v, scale, code);
        lines_pack(code, out);
        out += BLOCK_LINES_BYTES;
    }
    memcpy(out, scale, sizeof scale);
}

static void tq4_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n, float *dst) {
    const char *in = panel;
    float scale, value[16];
    memcpy(&scale, in + block_count(cols) * BLOCK_LINES_BYTES + r * 4, sizeof scale);
    scaled_codebook(value, TQ4_VALUE, scale);
    const char *at = in + from / BLOCK_COLS * BLOCK_LINES_BYTES;
    for (int64_t c = 0; c < n; c += BLOCK_COLS, at += BLOCK_LINES_BYTES) {
        lines_open_n(at, r, value, value, n - c, dst + c);
    }
}

/* ---- a scale per block ---- */

enum { TQ4_TRIES = 25 };

/* Root mean squares of a block's rows. */
SIMD static void tq4_lanes_rms(const BlockValues v, int width, float *rms) {
    float most[PANEL_ROWS], inverse[PANEL_ROWS], sum[PANEL_ROWS] = {0};
    lanes_largest(v, width, most);
    FOR_LANES(r) inverse[r] = inverse_or_0(most[r]);
    for (int c = 0; c < width; c++) {
        FOR_LANES(r) sum[r] += (v[c][r] * inverse[r]) * (v[c][r] * inverse[r]);
    }
    FOR_LANES(r) rms[r] = most[r] * sqrtf(sum[r] / (float)width);
}

/* The best of 0.80, 0.82 .. 1.28 times the root mean square, then its best gain. */
SIMD static void tq4_search(const BlockValues v, int width, float *scale) {
    float rms[PANEL_ROWS], most[PANEL_ROWS] = {0};
    tq4_lanes_rms(v, width, rms);
    FOR_LANES(r) scale[r] = 0;
    for (int i = 0; i < TQ4_TRIES; i++) {
        float tried[PANEL_ROWS], wq[PANEL_ROWS] = {0}, qq[PANEL_ROWS] = {0};
        FOR_LANES(r) tried[r] = rms[r] * (0.80f + 0.02f * (float)i);
        tq4_fit(v, width, tried, wq, qq);
        FOR_LANES(r) {
            float gain = wq[r] / qq[r], gained = gain * (wq[r] * inverse_or_0(rms[r]));
            if (gained > most[r]) most[r] = gained, scale[r] = gain;
        }
    }
}

static void tq4_b64_pack(const float *rows, int n, int64_t cols, void *panel) {
    char *out = panel;
    for (int64_t col = 0; col < cols; col += BLOCK_COLS) {
        BlockValues v;
        BlockCodes code;
        float scale[PANEL_ROWS];
        uint16_t rounded[PANEL_ROWS];
        block_gather(rows, n, cols, col, v);
        tq4_search(v, block_width(cols, col), scale);
        FOR_LANES(r) {
            rounded[r] = bf16_finite(scale[r]);
            scale[r] = bf16_to_f32(rounded[r]);
        }
        tq4_codes(v, scale, code);
        lines_pack(code, out);
        memcpy(out + BLOCK_LINES_BYTES, rounded, sizeof rounded);
        out += BLOCK_LINES_BYTES + sizeof rounded;
    }
}

static void tq4_b64_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n,
                         float *dst) {
    enum { BLOCK = BLOCK_LINES_BYTES + PANEL_ROWS * 2 };
    const char *at = (const char *)panel + from / BLOCK_COLS * BLOCK;
    (void)cols;
    for (int64_t c = 0; c < n; c += BLOCK_COLS, at += BLOCK) {
        uint16_t scale;
        float value[16];
        memcpy(&scale, at + BLOCK_LINES_BYTES + r * 2, sizeof scale);
        scaled_codebook(value, TQ4_VALUE, bf16_to_f32(scale));
        lines_open_n(at, r, value, value, n - c, dst + c);
    }
}
#endif
