/* test_optimizer.c - AdamW with moments in 8 bits against the algorithm written down once more in
 * float64 with a plain search, and against AdamW. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "train/adamw_8bit.h"

enum { BLOCK = ADAMW_8BIT_BLOCK };

static void test_tables(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        float t[256];
        adamw_8bit_table(t, k == 0);
        for (int i = 1; i < 256; i++) assert_true(t[i] > t[i - 1]);
        assert_true(t[255] == 1 && t[k == 0 ? 127 : 0] == 0);
        for (int i = 0; i < 127 && k == 0; i++) assert_true(t[i] == -t[254 - i]);
        /* Within a decade the entries are equally far from one another, in a new one twice as many.
         */
        int at = k == 0 ? 128 : 1;
        for (int d = 0; d < 7; d++) {
            int parts = k == 0 ? 1 << d : 2 << d;
            for (int i = 0; i < parts; i++) {
                double want = pow(10, d - 6) * (0.1 + 0.9 * (i + 0.5) / parts);
                assert_true(fabs((double)t[at++] / want - 1) < 3e-7);
            }
        }
        assert_int_equal(at, 255);
    }
}

/* One moment of the model: real values as the codes give them back. */
typedef struct Model8 {
    double table[256];
    double *x;
} Model8;

static double nearest(const double *table, double x) {
    double best = table[0];
    for (int i = 1; i < 256; i++) {
        if (fabs(table[i] - x) < fabs(best - x)) best = table[i];
    }
    return best;
}

static double below_zero(const double *table) {
    double best = -1;
    for (int i = 0; i < 256; i++) {
        if (table[i] < 0 && table[i] > best) best = table[i];
    }
    return best;
}

static void round_moment(Model8 *m, int64_t n) {
    for (int64_t at = 0; at < n; at += BLOCK) {
        double most = 0;
        int64_t end = at + BLOCK < n ? at + BLOCK : n;
        for (int64_t i = at; i < end; i++) most = fmax(most, fabs(m->x[i]));
        for (int64_t i = at; i < end && most > 0; i++) {
            double to = nearest(m->table, m->x[i] / most);
            if (m->x[i] < 0 && to >= 0) to = below_zero(m->table);
            m->x[i] = to * most;
        }
    }
}

static void model_step(Model8 *m, Model8 *v, const OptimizerSettings *s, int64_t step, double lr,
                       int64_t n, double *w, const float *g) {
    double c1 = 1 - pow(s->beta1, (double)step), c2 = 1 - pow(s->beta2, (double)step);
    for (int64_t i = 0; i < n; i++) {
        double gi = (double)g[i];
        m->x[i] = s->beta1 * m->x[i] + (1 - s->beta1) * gi;
        v->x[i] = s->beta2 * v->x[i] + (1 - s->beta2) * gi * gi;
        w[i] -= lr * (m->x[i] / c1) / (sqrt(v->x[i] / c2) + s->epsilon);
        w[i] *= 1 - lr * s->weight_decay;
    }
    round_moment(m, n);
    round_moment(v, n);
}

/* Gradients whose size differs from stretch to stretch, and some that are 0. */
static void draw(Rng *r, float *g, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float size = powf(10, -(float)(i / 700 % 5));
        g[i] = rng_uniform(r) < 0.05 ? 0 : size * rng_normal(r);
    }
}

/* Both walk the same way: a value whose code falls to the other side of a border, for float32's
 * rounding, is a step of the table off, and is counted. */
static void test_against_float64(void **state) {
    (void)state;
    enum { N = 5000, STEPS = 20 };
    OptimizerSettings s = {0.1, 0.9, 0.999, 1e-8};
    static float w[N], g[N], table[256];
    static double wm[N], mx[N], vx[N];
    Model8 m = {.x = mx}, v = {.x = vx};
    void *moment[2] = {mem_alloc(adamw_8bit_bytes(N)), mem_alloc(adamw_8bit_bytes(N))};
    Rng r = {1, 2, 0};
    adamw_8bit_table(table, true);
    for (int i = 0; i < 256; i++) m.table[i] = (double)table[i];
    adamw_8bit_table(table, false);
    for (int i = 0; i < 256; i++) v.table[i] = (double)table[i];
    for (int i = 0; i < N; i++) w[i] = rng_normal(&r), wm[i] = (double)w[i];
    for (int step = 1; step <= STEPS; step++) {
        draw(&r, g, N);
        adamw_8bit_update(&s, step, 0.01, N, w, g, moment);
        model_step(&m, &v, &s, step, 0.01, N, wm, g);
    }
    const double bound = 2 * STEPS * 0x1p-24; /* two roundings of w a step */
    int off = 0;
    for (int i = 0; i < N; i++) off += fabs((double)w[i] - wm[i]) > bound * fmax(1, fabs(wm[i]));
    print_message("  %d of %d values are off after %d steps\n", off, N, STEPS);
    assert_true(off < N / 500);
    assert_true(adamw_8bit_finite(moment[0], N) && adamw_8bit_finite(moment[1], N));
    mem_free(moment[0]);
    mem_free(moment[1]);
}

static void test_small_tensors_are_adamw(void **state) {
    (void)state;
    enum { N = ADAMW_8BIT_LEAST - 1 };
    OptimizerSettings s = {0.1, 0.9, 0.999, 1e-8};
    static float a[N], b[N], g[N], m[4][N];
    assert_int_equal(adamw_8bit_bytes(N), sizeof m[0]);
    assert_int_equal(adamw_8bit_bytes(N + 1), N + 1 + 16 * 4);
    assert_int_equal(adamw_8bit_bytes(N + 2), N + 1 + 4 + 17 * 4);
    Rng r = {1, 2, 0};
    for (int step = 1; step <= 3; step++) {
        draw(&r, g, N);
        adamw_8bit_update(&s, step, 0.01, N, a, g, (void *[]){m[0], m[1]});
        adamw_update(&s, step, 0.01, N, b, g, (void *[]){m[2], m[3]});
    }
    assert_memory_equal(a, b, sizeof a);
    assert_memory_equal(m[0], m[2], 2 * sizeof m[0]);
}

/* Least squares: both come as near to the solution. */
static void test_learns_as_adamw(void **state) {
    (void)state;
    enum { N = 8192, STEPS = 300 };
    OptimizerSettings s = {0, 0.9, 0.999, 1e-8};
    static float w[2][N], g[N], m[2][N], target[N], slope[N];
    double loss[2];
    void *coded[2] = {mem_alloc(adamw_8bit_bytes(N)), mem_alloc(adamw_8bit_bytes(N))};
    Rng r = {3, 4, 0};
    for (int i = 0; i < N; i++)
        target[i] = rng_normal(&r), slope[i] = 0.5f + 0.5f * (float)rng_uniform(&r);
    for (int k = 0; k < 2; k++) {
        for (int step = 1; step <= STEPS; step++) {
            for (int i = 0; i < N; i++) g[i] = slope[i] * (w[k][i] - target[i]);
            double lr = 0.02 * (1 - (double)(step - 1) / STEPS);
            if (k)
                adamw_8bit_update(&s, step, lr, N, w[k], g, coded);
            else
                adamw_update(&s, step, lr, N, w[k], g, (void *[]){m[0], m[1]});
        }
        loss[k] = 0;
        for (int i = 0; i < N; i++) {
            double d = (double)(w[k][i] - target[i]);
            loss[k] += 0.5 * (double)slope[i] * d * d / N;
        }
    }
    print_message("  loss %.2e with moments in 8 bits, %.2e in 32 (%.2e at first)\n", loss[1],
                  loss[0], 0.375);
    assert_true(loss[1] < 1.1 * loss[0] + 1e-4);
    mem_free(coded[0]);
    mem_free(coded[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_against_float64),
        cmocka_unit_test(test_small_tensors_are_adamw),
        cmocka_unit_test(test_learns_as_adamw),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
