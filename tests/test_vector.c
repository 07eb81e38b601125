/* test_vector.c - the kernels that choose their instruction set, with each that this machine has:
 * outer_add against float64, and products that must not depend on what their scratch held before.
 * (Their values: test_matmul_kernels.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "autograd/cpu.h"
#include "autograd/matmul_kernels.h"
#include "stored.h"

static Rng rng = {17, 0, 0};

static float *random_floats(int64_t n) {
    float *x = mem_alloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = rng_normal(&rng);
    return x;
}

/* ISA_PLAIN, and those above it that the machine has. */
static void for_each_isa(void (*run)(void)) {
    for (Isa isa = ISA_PLAIN; isa <= ISA_AVX512; isa++) {
        cpu_limit_isa(isa);
        if (cpu_isa() == isa) {
            run();
        } else {
            print_message("1 case skipped: no %s here\n", isa_name[isa]);
        }
    }
    cpu_limit_isa(ISA_AMX);
}

/* ---- outer_add ---- */

typedef struct Outer {
    int64_t T, R, I;
    bool gathered, transposed;
} Outer;

/* Exactly as long as they must be: the sanitizers see what runs over. */
static void outer_case(const Outer *c) {
    const float s = 0.37f;
    int64_t gap = c->transposed ? c->R + 3 : c->I + 3, rows = c->transposed ? c->I : c->R;
    int64_t x_rows = c->T + 5, ldx = c->I + 2, n = (rows - 1) * gap + (gap - 3);
    float *p = random_floats(c->T * c->R), *x = random_floats((x_rows - 1) * ldx + c->I);
    float *out = random_floats(n), *was = mem_alloc((size_t)n * sizeof *was);
    int32_t *x_row = mem_alloc((size_t)c->T * sizeof *x_row);
    memcpy(was, out, (size_t)n * sizeof *was);
    for (int64_t t = 0; t < c->T; t++) {
        x_row[t] = c->gathered ? (int32_t)(rng_u64(&rng) % (uint64_t)x_rows) : (int32_t)t;
    }
    outer_add(c->T, c->R, c->I, s, p, x, ldx, c->gathered ? x_row : NULL, out, gap, c->transposed);
    for (int64_t at = 0; at < n; at++) {
        int64_t row = at / gap, col = at % gap, r = c->transposed ? col : row;
        int64_t i = c->transposed ? row : col;
        if (r >= c->R || i >= c->I) {
            assert_true(out[at] == was[at]);
            continue;
        }
        double sum = (double)was[at], size = fabs(sum);
        for (int64_t t = 0; t < c->T; t++) {
            double term = (double)s * (double)p[t * c->R + r] * (double)x[x_row[t] * ldx + i];
            sum += term;
            size += fabs(term);
        }
        /* Roundings are as likely up as down. A missing term would be about size / T. */
        double most = 4 * sqrt((double)c->T + 2) * 0x1p-24 * size;
        if (!(fabs((double)out[at] - sum) <= most)) {
            fail_msg("%s: T %ld, R %ld, I %ld%s%s: [%ld][%ld] is %.9g, not %.9g",
                     isa_name[cpu_isa()], (long)c->T, (long)c->R, (long)c->I,
                     c->gathered ? ", gathered" : "", c->transposed ? ", transposed" : "", (long)r,
                     (long)i, (double)out[at], sum);
        }
    }
    mem_free(p);
    mem_free(x);
    mem_free(out);
    mem_free(was);
    mem_free(x_row);
}

static void outer_cases(void) {
    static const int64_t tokens[] = {1, 2, 7, 255, 256, 300},
                         ranks[] = {1, 2, 5, 8, 16, 33, 64, 70};
    static const int64_t widths[] = {1, 3, 7, 16, 24, 40, 96, 128, 131, 200};
    int n = 0;
    for (size_t r = 0; r < COUNT_OF(ranks); r++) {
        for (size_t i = 0; i < COUNT_OF(widths); i++, n++) {
            Outer c = {tokens[n % 6], ranks[r], widths[i], n / 2 % 2, n % 2};
            outer_case(&c);
            c.transposed = !c.transposed;
            outer_case(&c);
        }
    }
    float one = 1;
    outer_add(0, 1, 1, 1, NULL, NULL, 1, NULL, &one, 1, false);
    assert_true(one == 1);
}

static void test_outer(void **state) {
    (void)state;
    for_each_isa(outer_cases);
}

/* ---- products and their scratch ---- */

typedef struct Case {
    DType dtype;
    int64_t rows, cols, m, R;
} Case;

static Tensor weight_new(DType d, int64_t rows, int64_t cols) {
    Tensor w = {.dtype = d, .n_dim = 2, .dim = {rows, cols}};
    float *value = random_floats(rows * cols);
    w.data = mem_alloc((size_t)weight_bytes(d, 2, w.dim));
    store(d, value, 2, w.dim, &rng, w.data);
    mem_free(value);
    return w;
}

/* Tiles of m tokens: k bfloat16 columns, whichever their order (all that is no padding is set). */
static Packed packed_new(int64_t m, int64_t cols, int64_t R, bool right) {
    int64_t n_lora = (R + 31) / 32, n_k = (cols + 63) / 64 * 2 + n_lora;
    Packed p = {mem_alloc((size_t)((m + 15) / 16 * n_k * TILE_BYTES)), m, n_k, n_lora};
    for (int64_t t = 0; t < m; t++) {
        for (int64_t k = 0; k < n_k * 32; k++) {
            bool lora = k >= (n_k - n_lora) * 32;
            if (lora ? k - (n_k - n_lora) * 32 >= R : k >= cols) continue;
            int r = 0;
            while (right && pair_column(r) != k % 32 / 2 * 2) r++;
            int64_t at = right ? r * 32 + t % 16 * 2 + k % 2 : t % 16 * 32 + k % 32;
            ((uint16_t *)(void *)packed_tile(&p, t / 16, k / 32))[at] =
                f32_to_bf16(rng_normal(&rng));
        }
    }
    return p;
}

/* One panel forward (or one strip of columns backward), its scratch first full of NaN, then of
 * what the run before left. */
static void scratch_case(const Case *c, bool back) {
    int64_t rows = back ? c->cols : c->rows, cols = back ? c->rows : c->cols;
    Tensor w = weight_new(c->dtype, rows, cols);
    Packed x = packed_new(c->m, back ? rows : cols, c->R, !back);
    float *factor = random_floats(c->rows * c->R + 1), *y[2];
    void *scratch = aligned_alloc(64, (matmul_vector.scratch_bytes + 63) / 64 * 64);
    const void *panel = dtype_is_packed(c->dtype) ? weight_panel(&w, 0, 0) : NULL;
    memset(scratch, 0xff, matmul_vector.scratch_bytes);
    for (int i = 0; i < 2; i++) {
        y[i] = mem_alloc((size_t)(c->m * c->rows) * sizeof **y);
        if (back) {
            BackwardTask task = {.w = &w,
                                 .rows = rows,
                                 .panel = panel,
                                 .n = (int)c->rows,
                                 .dy = &x,
                                 .a = c->R ? factor : NULL,
                                 .R = c->R,
                                 .lda = c->rows,
                                 .dx = y[i],
                                 .lddx = c->rows};
            matmul_vector.backward(&task, scratch);
        } else {
            ForwardTask task = {.w = &w,
                                .panel = panel,
                                .n = (int)c->rows,
                                .x = &x,
                                .b = c->R ? factor : NULL,
                                .R = c->R,
                                .y = y[i],
                                .ldy = c->rows};
            matmul_vector.forward(&task, scratch);
        }
    }
    for (int64_t i = 0; i < c->m * c->rows; i++) {
        if (!isfinite(y[0][i]) || y[0][i] != y[1][i]) {
            fail_msg("%s %s, %s: inner %ld, %ld tokens, rank %ld: value %ld is %g, then %g",
                     dtype_info[c->dtype].name, back ? "backward" : "forward", isa_name[cpu_isa()],
                     (long)c->cols, (long)c->m, (long)c->R, (long)i, (double)y[0][i],
                     (double)y[1][i]);
        }
    }
    free(scratch);
    mem_free(w.data);
    mem_free(x.tile);
    mem_free(factor);
    mem_free(y[0]);
    mem_free(y[1]);
}

static void scratch_cases(void) {
    static const int64_t inner[] = {704, 96, 40, 24, 7, 2112, 129}, ranks[] = {0, 1, 8, 33};
    static const int64_t outer[] = {32, 7, 24, 31, 1};
    int n = 0;
    for (DType d = 0; d < DT_COUNT; d++) {
        if (!dtype_is_weight(d)) continue;
        for (int64_t m = 1; m <= 40; m += d % 3 + 1, n++) {
            Case c = {d, outer[n % 5], inner[n % 7], m == 40 ? 500 : m, ranks[n % 4]};
            if (c.m * c.cols > 1 << 17) c.cols = 129;
            if (dtype_in_blocks(c.dtype)) c.cols = 256, c.rows = 256;
            scratch_case(&c, false);
            scratch_case(&c, true);
        }
    }
}

static void test_scratch(void **state) {
    (void)state;
    for_each_isa(scratch_cases);
}

int main(void) {
    const struct CMUnitTest all[] = {cmocka_unit_test(test_outer), cmocka_unit_test(test_scratch)};
    return cmocka_run_group_tests(all, NULL, NULL);
}
