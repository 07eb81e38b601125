/* adamw_8bit.c - see adamw_8bit.h. A moment of n values is n codes, filled up to a multiple of 4,
 * then a float32 a block. The step itself is taken with the moments as they were before rounding,
 * and weight decay follows it. Source of the table, the order of operations and the rule that a
 * first moment keeps its sign: bitsandbytes 0.50. */
#include "adamw_8bit.h"
#include <math.h>
#include <string.h>

enum { BLOCK = ADAMW_8BIT_BLOCK };

/* Seven decades, 10^-6 .. 1; each has twice the entries of the one below, the middles of equal
 * parts of [0.1, 1] times the decade (with both signs half as many, and each again negative); then
 * 0 and 1. In float32 throughout. */
void adamw_8bit_table(float table[256], bool both_signs) {
    static const float decade[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1};
    float *up = table + (both_signs ? 127 : 0), *down = up;
    *up++ = 0;
    for (int i = 0; i < (int)COUNT_OF(decade); i++) {
        int parts = both_signs ? 1 << i : 2 << i;
        float width = (1 - 0.1f) / (float)parts, edge = 0.1f;
        for (int k = 1; k <= parts; k++) {
            float next =
                k < (parts + 1) / 2 ? 0.1f + width * (float)k : 1 - width * (float)(parts - k);
            float middle = decade[i] * ((edge + next) / 2);
            *up++ = middle;
            if (both_signs) *--down = -middle;
            edge = next;
        }
    }
    *up = 1;
}

/* Both tables, and where one entry's values end and the next one's begin. */
typedef struct Tables {
    float value[2][256], border[2][256];
} Tables;

static void make_tables(Tables *t) {
    for (int k = 0; k < 2; k++) {
        adamw_8bit_table(t->value[k], k == 0);
        for (int i = 0; i < 255; i++)
            t->border[k][i] = (t->value[k][i] + t->value[k][i + 1]) * 0.5f;
        t->border[k][255] = INFINITY;
    }
}

/* The nearest entry: as many as there are borders below x. */
static uint8_t code_of(const float *border, float x) {
    int i = 0;
    for (int half = 128; half; half /= 2) i += border[i + half - 1] < x ? half : 0;
    return (uint8_t)i;
}

static void open_block(const float *table, const uint8_t *code, float most, int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++) x[i] = table[code[i]] * most;
}

static float close_block(const Tables *t, int k, const float *x, int64_t n, uint8_t *code) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    for (int64_t i = 0; i < n; i++) {
        code[i] = code_of(t->border[k], most > 0 ? x[i] / most : 0);
        if (x[i] < 0 && t->value[k][code[i]] >= 0) code[i]--; /* 0 would lose the sign */
    }
    return most;
}

static size_t codes_bytes(int64_t n) { return ((size_t)n + 3) / 4 * 4; }

size_t adamw_8bit_bytes(int64_t n) {
    if (n < ADAMW_8BIT_LEAST) return (size_t)n * 4;
    return codes_bytes(n) + (size_t)((n + BLOCK - 1) / BLOCK) * 4;
}

static float *most_of(void *moment, int64_t n) {
    return (float *)(void *)((char *)moment + codes_bytes(n));
}

bool adamw_8bit_finite(const void *moment, int64_t n) {
    const float *x = moment;
    int64_t count = n;
    if (n >= ADAMW_8BIT_LEAST)
        x = most_of((void *)(uintptr_t)moment, n), count = (n + BLOCK - 1) / BLOCK;
    return f32_all_finite(x, count);
}

/* m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
 * w += -lr sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + sqrt(1-b2^t) eps);  w -= lr*wd*w */
void adamw_8bit_update(const OptimizerSettings *s, int64_t step, double lr, int64_t n, float *w,
                       const float *g, void *const *moment) {
    if (n < ADAMW_8BIT_LEAST) {
        adamw_update(s, step, lr, n, w, g, moment);
        return;
    }
    Tables t;
    make_tables(&t);
    uint8_t *code[2] = {moment[0], moment[1]};
    float *most[2] = {most_of(moment[0], n), most_of(moment[1], n)};
    double c1 = 1 - pow(s->beta1, (double)step), c2 = sqrt(1 - pow(s->beta2, (double)step));
    float size = (float)(-lr * c2 / c1), eps = (float)(c2 * s->epsilon),
          keep = (float)(1 - lr * s->weight_decay);
    float b1 = (float)s->beta1, b2 = (float)s->beta2, a1 = (float)(1 - s->beta1),
          a2 = (float)(1 - s->beta2);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < n; at += BLOCK) {
        float m[BLOCK], v[BLOCK];
        int64_t some = n - at < BLOCK ? n - at : BLOCK, b = at / BLOCK;
        open_block(t.value[0], code[0] + at, most[0][b], some, m);
        open_block(t.value[1], code[1] + at, most[1][b], some, v);
        for (int64_t i = 0; i < some; i++) {
            float gi = g[at + i];
            m[i] = b1 * m[i] + a1 * gi;
            v[i] = b2 * v[i] + a2 * gi * gi;
            w[at + i] = (w[at + i] + size * (m[i] / (sqrtf(v[i]) + eps))) * keep;
        }
        most[0][b] = close_block(&t, 0, m, some, code[0] + at);
        most[1][b] = close_block(&t, 1, v, some, code[1] + at);
    }
}
