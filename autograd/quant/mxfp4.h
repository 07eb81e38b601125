/* mxfp4.h - MXFP4 of the OCP Microscaling specification 1.0: E2M1 values, 32 of them under one
 * power of two. The power is that of the largest magnitude less E2M1's own largest (2^2); values
 * round to nearest, ties to the even code, and saturate.
 * Block: lines (line.h), then the power as a byte e [row][half]: scale = 2^(e - 127). */
#ifndef QUANT_MXFP4_H
#define QUANT_MXFP4_H
#include "block.h"
#include "codebook.h"

enum { MXFP4_BLOCK_BYTES = BLOCK_LINES_BYTES + PANEL_ROWS * 2, E2M1_MAX_POWER = 2 };

SIMD_INLINE uint32_t e2m1_code(float x) {
    float a = simd_abs(x);
    uint32_t code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
                    (a >= 3.5f) + (a > 5.0f);
    return x < 0 ? code + 8 : code;
}

SIMD static void mxfp4_codes(const float (*v)[PANEL_ROWS], uint8_t *power,
                             uint8_t (*code)[PANEL_ROWS]) {
    float most[PANEL_ROWS], inverse[PANEL_ROWS];
    lanes_largest(v, HALF_COLS, most);
    FOR_LANES(r) {
        /* An exponent field is a power + 127 already. Not below 1: its inverse must be a number. */
        int32_t e = (int32_t)(f32_to_bits(most[r]) >> 23) - E2M1_MAX_POWER;
        e = e > 1 ? e : 1;
        power[r] = (uint8_t)e;
        inverse[r] = bits_to_f32((uint32_t)(254 - e) << 23);
    }
    for (int c = 0; c < HALF_COLS; c++) {
        FOR_LANES(r) code[c][r] = (uint8_t)e2m1_code(v[c][r] * inverse[r]);
    }
}

static void mxfp4_pack(const float *rows, int n, int64_t cols, void *panel) {
    char *out = panel;
    for (int64_t col = 0; col < cols; col += BLOCK_COLS, out += MXFP4_BLOCK_BYTES) {
        BlockValues v;
        BlockCodes code;
        uint8_t powers[PANEL_ROWS][2];
        block_gather(rows, n, cols, col, v);
        for (int half = 0; half < 2; half++) {
            uint8_t power[PANEL_ROWS];
            mxfp4_codes((const float(*)[PANEL_ROWS])(v + half * HALF_COLS), power,
                        code + half * HALF_COLS);
            FOR_LANES(r) powers[r][half] = power[r];
        }
        lines_pack((const uint8_t(*)[PANEL_ROWS])code, out);
        memcpy(out + BLOCK_LINES_BYTES, powers, sizeof powers);
    }
}

static void mxfp4_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n,
                       float *dst) {
    const char *at = (const char *)panel + from / BLOCK_COLS * MXFP4_BLOCK_BYTES;
    (void)cols;
    for (int64_t c = 0; c < n; c += BLOCK_COLS, at += MXFP4_BLOCK_BYTES) {
        const uint8_t *power = (const uint8_t *)at + BLOCK_LINES_BYTES + r * 2;
        float value[2][16];
        for (int half = 0; half < 2; half++)
            scaled_codebook(value[half], E2M1_VALUE, e8m0_value(power[half]));
        lines_open_n(at, r, value[0], value[1], n - c, dst + c);
    }
}
#endif
