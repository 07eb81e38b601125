/* nf4.h - NormalFloat 4 of QLoRA, with bitsandbytes' codes bit for bit: each 64 values are divided
 * by their largest magnitude (absmax) and take the nearest of 16 values.
 * Block: lines (line.h), then absmax [row], as float32 (nf4) or bfloat16 (nf4_bf16: nothing is
 * lost where the checkpoint is bfloat16). */
#ifndef QUANT_NF4_H
#define QUANT_NF4_H
#include "block.h"
#include "codebook.h"

SIMD static void nf4_codes(const BlockValues v, const float *absmax, BlockCodes code) {
    float inverse[PANEL_ROWS];
    FOR_LANES(r) inverse[r] = nf4_inverse(absmax[r]);
    for (int c = 0; c < BLOCK_COLS; c++) {
        FOR_LANES(r) code[c][r] = nf4_code(v[c][r] * inverse[r]);
    }
}
SIMD static void nf4_absmax(const BlockValues v, float *absmax) {
    lanes_largest(v, BLOCK_COLS, absmax);
}

static void nf4_pack_as(const float *rows, int n, int64_t cols, void *panel, bool bf16) {
    char *out = panel;
    for (int64_t col = 0; col < cols; col += BLOCK_COLS) {
        BlockValues v;
        BlockCodes code;
        float absmax[PANEL_ROWS];
        uint16_t rounded[PANEL_ROWS];
        block_gather(rows, n, cols, col, v);
        nf4_absmax(v, absmax);
        if (bf16) {
            FOR_LANES(r) {
                rounded[r] = bf16_finite(absmax[r]);
                absmax[r] = bf16_to_f32(rounded[r]);
            }
        }
        nf4_codes(v, absmax, code);
        lines_pack(code, out);
        out += BLOCK_LINES_BYTES;
        size_t scales = bf16 ? sizeof rounded : sizeof absmax;
        memcpy(out, bf16 ? (void *)rounded : (void *)absmax, scales);
        out += scales;
    }
}
static void nf4_pack(const float *rows, int n, int64_t cols, void *panel) {
    nf4_pack_as(rows, n, cols, panel, false);
}
static void nf4_bf16_pack(const float *rows, int n, int64_t cols, void *panel) {
    nf4_pack_as(rows, n, cols, panel, true);
}

static inline void nf4_open_as(const void *panel, int r, int64_t from, int64_t n, float *dst,
                               bool bf16) {
    size_t scale_bytes = bf16 ? 2 : 4, block = BLOCK_LINES_BYTES + PANEL_ROWS * scale_bytes;
    const char *at = (const char *)panel + (size_t)(from / BLOCK_COLS) * block;
    for (int64_t c = 0; c < n; c += BLOCK_COLS, at += block) {
        const char *scale = at + BLOCK_LINES_BYTES + (size_t)r * scale_bytes;
        float absmax, value[16];
        uint16_t half;
        memcpy(bf16 ? (void *)&half : (void *)&absmax, scale, scale_bytes);
        if (bf16) absmax = bf16_to_f32(half);
        scaled_codebook(value, NF4_VALUE, absmax);
        lines_open_n(at, r, value, value, n - c, dst + c);
    }
}
static void nf4_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n, float *dst) {
    (void)cols;
    nf4_open_as(panel, r, from, n, dst, false);
}
static void nf4_bf16_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n,
                          float *dst) {
    (void)cols;
    nf4_open_as(panel, r, from, n, dst, true);
}
#endif
