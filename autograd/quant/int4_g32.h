/* int4_g32.h - integers -8..7 with one scale per 32 values: value = scale * (code - 8). Meant for
 * checkpoints trained to lie on such a lattice (quantisation-aware training), which it recovers:
 * their step is the signed largest value over a small integer, not always over 8.
 * Block: lines (line.h), then bfloat16 scale [row][half]. */
#ifndef QUANT_INT4_G32_H
#define QUANT_INT4_G32_H
#include "block.h"
#include "codebook.h"

enum { INT4_BLOCK_BYTES = BLOCK_LINES_BYTES + PANEL_ROWS * 2 * 2, INT4_ZERO = 8 };

/* What the value of largest magnitude may stand for, in steps. First the lattices: it is itself on
 * one (1, 2 and 3 are 4 and 6 in finer steps; -8 has no opposite, below that the sign is free).
 * Then steps between, for values on none. */
static const float INT4_TOP[] = {4, 6, 5, 7, -8, -7.5f, 7.5f, -7, -8.5f, 6.5f, 7.25f, -7.25f};

SIMD_INLINE float int4_round(float x) { return (float)round_into(x, -8, 7); }

/* The values of largest magnitude, with their signs, of a half's 32 columns. */
SIMD static void int4_tops(const float (*v)[PANEL_ROWS], float *top) {
    FOR_LANES(r) top[r] = 0;
    for (int c = 0; c < HALF_COLS; c++) {
        FOR_LANES(r) top[r] = simd_abs(v[c][r]) > simd_abs(top[r]) ? v[c][r] : top[r];
    }
}

/* w.q and q.q of each row, w (in units of its top) being rounded to q with so many steps a top. */
SIMD static void int4_fit(const float (*w)[PANEL_ROWS], float steps, float *wq, float *qq) {
    float sum_wq[PANEL_ROWS] = {0}, sum_qq[PANEL_ROWS] = {0};
    for (int c = 0; c < HALF_COLS; c++) {
        FOR_LANES(r) {
            float q = int4_round(w[c][r] * steps);
            sum_wq[r] += w[c][r] * q;
            sum_qq[r] += q * q;
        }
    }
    memcpy(wq, sum_wq, sizeof sum_wq);
    memcpy(qq, sum_qq, sizeof sum_qq);
}

SIMD_INLINE float int4_inverse(float x) { return x < 0 ? -inverse_or_0(-x) : inverse_or_0(x); }

/* In units of the tops, whose inverses are given. */
SIMD static void int4_normalise(const float (*v)[PANEL_ROWS], const float *inverse,
                                float (*w)[PANEL_ROWS]) {
    for (int c = 0; c < HALF_COLS; c++) {
        FOR_LANES(r) w[c][r] = v[c][r] * inverse[r];
    }
}

/* Squares of what is lost with a scale, in units of 1 / inverse, the opened value being rounded to
 * bfloat16: on values that were rounded themselves, the true step alone loses nothing. */
SIMD static void int4_loss(const float (*v)[PANEL_ROWS], const float *scale, const float *inverse,
                           float *loss) {
    float sum[PANEL_ROWS] = {0}, over[PANEL_ROWS];
    FOR_LANES(r) over[r] = int4_inverse(scale[r]);
    for (int c = 0; c < HALF_COLS; c++) {
        FOR_LANES(r) {
            float opened = int4_round(v[c][r] * over[r]) * scale[r];
            uint32_t bits = f32_to_bits(opened);
            bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000; /* to bfloat16; no NaN here */
            float lost = (bits_to_f32(bits) - v[c][r]) * inverse[r];
            sum[r] += lost * lost;
        }
    }
    memcpy(loss, sum, sizeof sum);
}

/* The scales (bfloat16) of a half. Of steps that fit alike the first wins: rounding noise must not
 * choose a finer lattice than there is. */
SIMD static void int4_search(const float (*v)[PANEL_ROWS], uint16_t *scale) {
    const float much = 1 + 1e-6f;
    float top[PANEL_ROWS], inverse[PANEL_ROWS], best[PANEL_ROWS] = {0}, most[PANEL_ROWS] = {0};
    float w[HALF_COLS][PANEL_ROWS];
    int4_tops(v, top);
    FOR_LANES(r) inverse[r] = int4_inverse(top[r]);
    int4_normalise(v, inverse, w);
    for (size_t i = 0; i < sizeof INT4_TOP / sizeof *INT4_TOP; i++) {
        float wq[PANEL_ROWS], qq[PANEL_ROWS];
        int4_fit((const float(*)[PANEL_ROWS])w, INT4_TOP[i], wq, qq);
        FOR_LANES(r) {
            float gain = wq[r] * inverse_or_0(qq[r]);
            if (gain * wq[r] > most[r] * much) most[r] = gain * wq[r], best[r] = gain * top[r];
        }
    }
    /* The step is known to within its own rounding: it or a neighbour. */
    uint16_t nearest[PANEL_ROWS];
    float least[PANEL_ROWS];
    FOR_LANES(r) {
        scale[r] = nearest[r] = bf16_finite(best[r]);
        least[r] = 3.4e38f;
    }
    for (int i = 0; i < 3; i++) {
        static const int away[] = {0, -1, 1};
        uint16_t near[PANEL_ROWS];
        float opened[PANEL_ROWS], loss[PANEL_ROWS];
        FOR_LANES(r) {
            bool inside = (nearest[r] & 0x7fff) > 0 && (nearest[r] & 0x7fff) < 0x7f7f;
            near[r] = (uint16_t)(nearest[r] + (inside ? away[i] : 0));
            opened[r] = bf16_to_f32(near[r]);
        }
        int4_loss(v, opened, inverse, loss);
        FOR_LANES(r) {
            if (loss[r] < least[r]) least[r] = loss[r], scale[r] = near[r];
        }
    }
}

SIMD static void int4_codes(const float (*v)[PANEL_ROWS], const uint16_t *scale,
                            uint8_t (*code)[PANEL_ROWS]) {
    float over[PANEL_ROWS];
    FOR_LANES(r) over[r] = int4_inverse(bf16_to_f32(scale[r]));
    for (int c = 0; c < HALF_COLS; c++) {
        FOR_LANES(r) { code[c][r] = (uint8_t)(round_into(v[c][r] * over[r], -8, 7) + INT4_ZERO); }
    }
}

static void int4_g32_pack(const float *rows, int n, int64_t cols, void *panel) {
    char *out = panel;
    for (int64_t col = 0; col < cols; col += BLOCK_COLS, out += INT4_BLOCK_BYTES) {
        BlockValues v;
        BlockCodes code;
        uint16_t scales[PANEL_ROWS][2];
        block_gather(rows, n, cols, col, v);
        for (int half = 0; half < 2; half++) {
            uint16_t scale[PANEL_ROWS];
            const float(*at)[PANEL_ROWS] = (const float(*)[PANEL_ROWS])(v + half * HALF_COLS);
            int4_search(at, scale);
            int4_codes(at, scale, code + half * HALF_COLS);
            FOR_LANES(r) scales[r][half] = scale[r];
        }
        lines_pack((const uint8_t(*)[PANEL_ROWS])code, out);
        memcpy(out + BLOCK_LINES_BYTES, scales, sizeof scales);
    }
}

static void int4_g32_open(const void *panel, int r, int64_t cols, int64_t from, int64_t n,
                          float *dst) {
    const char *at = (const char *)panel + from / BLOCK_COLS * INT4_BLOCK_BYTES;
    (void)cols;
    for (int64_t c = 0; c < n; c += BLOCK_COLS, at += INT4_BLOCK_BYTES) {
        uint16_t scale[2];
        float value[2][16];
        memcpy(scale, at + BLOCK_LINES_BYTES + (size_t)r * sizeof scale, sizeof scale);
        for (int half = 0; half < 2; half++)
            scaled_codebook(value[half], INT4_VALUE, bf16_to_f32(scale[half]));
        lines_open_n(at, r, value[0], value[1], n - c, dst + c);
    }
}
#endif
