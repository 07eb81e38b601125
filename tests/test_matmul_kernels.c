/* test_matmul_kernels.c - the kernels of matmul_kernels.h, every instruction set and every format,
 * forward and backward, against sums in float64 of the same bfloat16 operands: of a format's cases
 * together, the largest error is at most twice that of plain code, one float32 sum after the other.
 * Weights, factors and results end where memory ends: reading or writing behind them is a fault. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>
#include "autograd/cpu.h"
#include "autograd/matmul_kernels.h"
#include "stored.h"

enum { SAMPLES = 5, EXTRA = 3 /* columns of the result beside those asked for */ };

static Rng rng = {11, 0, 0};
static uint64_t below(uint64_t n) { return rng_u64(&rng) % n; }
static float value(void) { return (float)rng_uniform(&rng) - 0.5f; }

/* ---- memory that ends at a page that must not be touched ---- */

typedef struct Guarded {
    char *map;
    size_t mapped;
    void *p;
} Guarded;

static Guarded guarded(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + page - 1) / page * page;
    Guarded g = {.mapped = used + page};
    g.map = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + used, page, PROT_NONE), 0);
    g.p = g.map + used - bytes;
    return g;
}
static void release(Guarded *g) { munmap(g->map, g->mapped); }

static Guarded random_floats(int64_t n) {
    Guarded g = guarded((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) ((float *)g.p)[i] = value();
    return g;
}

static float rounded(float x) { return bf16_to_f32(f32_to_bf16(x)); }

/* ---- operands ---- */

/* A stack of two matrices, of which the second is used. */
typedef struct Weight {
    Tensor t;
    Guarded bytes;
    float *value; /* of the second, rounded to bfloat16 */
} Weight;

static Weight weight_new(DType d, int64_t rows, int64_t cols) {
    Weight w = {.t = {.dtype = d, .n_dim = 3, .dim = {2, rows, cols}}};
    size_t bytes = (size_t)weight_bytes(d, 3, w.t.dim);
    w.bytes = guarded(bytes);
    w.t.data = w.bytes.p;
    w.value = mem_alloc((size_t)(2 * rows * cols) * 4);
    float *second = w.value + rows * cols;
    for (int64_t i = 0; i < rows * cols; i++) second[i] = value();
    store(d, w.value, 3, w.t.dim, &rng, w.t.data);
    for (int64_t r = 0; r < rows; r++) {
        float *row = w.value + r * cols;
        weight_open(&w.t, rows + r, 0, cols, row);
        for (int64_t c = 0; c < cols; c++) row[c] = rounded(row[c]);
    }
    return w;
}
static void weight_free(Weight *w) {
    release(&w->bytes);
    mem_free(w->value);
}

/* Rows of tokens, their first `cols` columns and behind them R low-rank ones, packed. */
typedef struct Tokens {
    float *x; /* (m, cols + R), rounded to bfloat16 */
    Guarded tiles;
    Packed packed;
} Tokens;

/* Where column k of token t stands in a right operand's tile (else a left one's). */
static int place(int64_t t, int64_t k, bool right) {
    if (!right) return (int)(t % 16 * 32 + k % 32);
    int r = 0;
    while (pair_column(r) != k % 32 / 2 * 2) r++;
    return r * 32 + (int)(t % 16) * 2 + (int)(k % 2);
}

static Tokens tokens_new(int64_t m, int64_t cols, int64_t R, bool right) {
    int64_t tiles = right ? (cols + 63) / 64 * 2 : (cols + 31) / 32, lora = (R + 31) / 32;
    int64_t wide = cols + R, bytes = (m + 15) / 16 * (tiles + lora) * TILE_BYTES;
    Tokens x = {mem_alloc((size_t)(m * wide) * 4), guarded((size_t)bytes), {0}};
    x.packed = (Packed){x.tiles.p, m, tiles + lora, lora};
    for (int64_t t = 0; t < m; t++) {
        for (int64_t i = 0; i < wide; i++) {
            float v = rounded(value());
            int64_t k = i < cols ? i : tiles * 32 + i - cols;
            x.x[t * wide + i] = v;
            ((uint16_t *)packed_tile(&x.packed, t / 16, k / 32))[place(t, k, right)] =
                f32_to_bf16(v);
        }
    }
    return x;
}
static void tokens_free(Tokens *x) {
    mem_free(x->x);
    release(&x->tiles);
}

/* ---- one case ---- */

typedef struct Case {
    const MatmulKernels *kernels;
    DType dtype;
    int64_t rows, cols, m, R;
    bool add;
} Case;

/* One value: summed exactly and by plain code, from what was there on. */
typedef struct Sum {
    double exact, size; /* size: of the terms' magnitudes */
    float plain;
    int64_t n;
} Sum;
static Sum sum_from(float was) { return (Sum){(double)was, fabs((double)was), was, 0}; }
static void sum_add(Sum *s, float a, float b) {
    double term = (double)a * (double)b;
    s->exact += term;
    s->size += fabs(term);
    s->plain += a * b;
    s->n++;
}

/* The largest errors of a format's cases, in the unit below. */
typedef struct Worst {
    double ours, plain;
} Worst;
static Worst forward_worst, backward_worst;

/* Roundings of a float32 sum of n terms are as likely up as down: their sum is about a root of n of
 * them, which is the unit. No value is off by more than 4; one term missing would be 1/n. */
static void check(const Case *c, const char *way, int64_t t, int64_t j, float got, const Sum *s,
                  Worst *worst) {
    double unit = sqrt((double)s->n) * 0x1p-24 * s->size, off = fabs((double)got - s->exact);
    if (!(off <= 4 * unit))
        fail_msg("%s of %s (%ld x %ld), %ld tokens, rank %ld: [%ld][%ld] is %.9g, not %.9g +- %.1g",
                 way, dtype_info[c->dtype].name, (long)c->rows, (long)c->cols, (long)c->m,
                 (long)c->R, (long)t, (long)j, (double)got, s->exact, 4 * unit);
    if (s->size == 0) return;
    worst->ours = fmax(worst->ours, off / unit);
    worst->plain = fmax(worst->plain, fabs((double)s->plain - s->exact) / unit);
}

/* Twice the error of plain code; half a unit is allowed in any case, for in few and short sums plain
 * code may happen to be all but exact. */
static void check_worst(const char *way, DType d, Worst *worst) {
    if (worst->ours > fmax(2 * worst->plain, 0.5))
        fail_msg("%s of %s, %s: off by %.2f roundings of a sum, plain code by %.2f", way,
                 dtype_info[d].name, isa_name[cpu_isa()], worst->ours, worst->plain);
    *worst = (Worst){0};
}

/* Results start as 1, 2, 3...: what is not to be written must stay, what is added to must count. */
static Guarded results_new(int64_t n) {
    Guarded g = guarded((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) ((float *)g.p)[i] = (float)(i % 1000);
    return g;
}

static int64_t sample(const Case *c, int s) {
    return s == 0 ? c->m - 1 : s == 1 ? 0 : (int64_t)below((uint64_t)c->m);
}

static void forward_case(const Case *c) {
    Weight w = weight_new(c->dtype, c->rows, c->cols);
    Tokens x = tokens_new(c->m, c->cols, c->R, true);
    Guarded b = random_floats(c->rows * c->R), y = results_new(c->m * (c->rows + EXTRA));
    int64_t ld = c->rows + EXTRA, wide = c->cols + c->R;
    float *Y = y.p, *B = b.p;
    char *scratch = aligned_alloc(64, (c->kernels->scratch_bytes + 63) / 64 * 64);
    c->kernels->begin();
    for (int64_t row = 0; row < c->rows; row += PANEL_ROWS) {
        int64_t left = c->rows - row;
        ForwardTask task = {
            .w = &w.t,
            .row = c->rows + row,
            .panel = dtype_is_packed(c->dtype) ? weight_panel(&w.t, 1, row / PANEL_ROWS) : NULL,
            .n = (int)(left < PANEL_ROWS ? left : PANEL_ROWS),
            .x = &x.packed,
            .b = c->R ? B + row * c->R : NULL,
            .R = c->R,
            .y = Y + row,
            .ldy = ld};
        c->kernels->forward(&task, scratch);
    }
    c->kernels->end();
    for (int s = 0; s < SAMPLES; s++) {
        int64_t t = sample(c, s);
        for (int64_t j = 0; j < c->rows; j++) {
            Sum sum = sum_from(0);
            for (int64_t i = 0; i < wide; i++)
                sum_add(&sum,
                        i < c->cols ? w.value[j * c->cols + i] : rounded(B[j * c->R + i - c->cols]),
                        x.x[t * wide + i]);
            check(c, "forward", t, j, Y[t * ld + j], &sum, &forward_worst);
        }
        for (int64_t j = c->rows; j < ld; j++)
            assert_true(Y[t * ld + j] == (float)((t * ld + j) % 1000));
    }
    free(scratch);
    tokens_free(&x);
    weight_free(&w);
    release(&b);
    release(&y);
}

static void backward_case(const Case *c) {
    Weight w = weight_new(c->dtype, c->rows, c->cols);
    Tokens dy = tokens_new(c->m, c->rows, c->R, false);
    Guarded a = random_floats(c->R * c->cols), dx = results_new(c->m * (c->cols + EXTRA));
    int64_t ld = c->cols + EXTRA, wide = c->rows + c->R;
    float *X = dx.p, *A = a.p;
    char *scratch = aligned_alloc(64, (c->kernels->scratch_bytes + 63) / 64 * 64);
    c->kernels->begin();
    for (int64_t col = 0; col < c->cols; col += BLOCK_COLS) {
        int64_t left = c->cols - col;
        BackwardTask task = {.w = &w.t,
                             .row = c->rows,
                             .rows = c->rows,
                             .panel = dtype_is_packed(c->dtype) ? weight_panel(&w.t, 1, 0) : NULL,
                             .col = col,
                             .n = (int)(left < BLOCK_COLS ? left : BLOCK_COLS),
                             .dy = &dy.packed,
                             .a = c->R ? A + col : NULL,
                             .R = c->R,
                             .lda = c->cols,
                             .dx = X + col,
                             .lddx = ld,
                             .add = c->add};
        c->kernels->backward(&task, scratch);
    }
    c->kernels->end();
    for (int s = 0; s < SAMPLES; s++) {
        int64_t t = sample(c, s);
        for (int64_t j = 0; j < c->cols; j++) {
            Sum sum = sum_from(c->add ? (float)((t * ld + j) % 1000) : 0);
            for (int64_t i = 0; i < wide; i++)
                sum_add(&sum,
                        i < c->rows ? w.value[i * c->cols + j]
                                    : rounded(A[(i - c->rows) * c->cols + j]),
                        dy.x[t * wide + i]);
            check(c, "backward", t, j, X[t * ld + j], &sum, &backward_worst);
        }
        for (int64_t j = c->cols; j < ld; j++)
            assert_true(X[t * ld + j] == (float)((t * ld + j) % 1000));
    }
    free(scratch);
    tokens_free(&dy);
    weight_free(&w);
    release(&a);
    release(&dx);
}

/* ---- all of them ---- */

static const int64_t widths[] = {704, 40, 96, 2816, 7, 24, 640, 2112};
static const int64_t widths_of_32[] = {768, 96, 256, 32, 2816, 160, 1024};
static const int64_t widths_of_256[] = {768, 256, 512, 2816, 1024};
static const int64_t heights[] = {64, 33, 7, 96, 40, 32, 65, 1, 160};
static const int64_t ranks[] = {0, 8, 1, 33, 300};
static const int64_t tokens[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,  14,  15,
                                 16, 17, 18, 20, 24, 27, 30, 31, 32, 33, 40, 64, 129, 300, 1024};
#define PICK(list, i) (list)[(size_t)(i) % COUNT_OF(list)]

/* Widths that a format's rows can have, of both directions. */
static int64_t width_of(DType d, size_t i) {
    if (!dtype_in_blocks(d)) return PICK(widths, i);
    return dtype_info[d].block_n == 32 ? PICK(widths_of_32, i) : PICK(widths_of_256, i);
}

/* Every format meets every width and height; ranks and numbers of tokens go round (their counts
 * have no common divisor). Every 16-bit format meets every number of tokens. */
static void all_cases(const MatmulKernels *k) {
    int n = 0;
    for (DType d = 0; d < DT_COUNT; d++) {
        if (!dtype_is_weight(d)) continue;
        for (size_t i = 0; i < 9; i++, n++) {
            Case c = {
                k,         d, PICK(heights, i), width_of(d, i), PICK(tokens, 7 * n), PICK(ranks, n),
                n % 2 == 0};
            if (c.rows * c.cols * c.m > (int64_t)1 << 22) c.m = 17 + n % 20;
            forward_case(&c);
            int64_t rows = c.rows;
            bool turns = c.dtype != DT_nf4_flat && dtype_takes_rows(c.dtype, rows);
            if (turns) c.rows = c.cols, c.cols = rows;
            backward_case(&c);
        }
        check_worst("forward", d, &forward_worst);
        check_worst("backward", d, &backward_worst);
    }
    for (size_t i = 0; i < COUNT_OF(tokens); i++) {
        Case c = {k, DT_bf16, 33, 72, tokens[i], PICK(ranks, i), i % 2 == 0};
        forward_case(&c);
        backward_case(&c);
    }
    check_worst("forward", DT_bf16, &forward_worst);
    check_worst("backward", DT_bf16, &backward_worst);
}

static void test_amx(void **state) {
    (void)state;
    if (cpu_isa() != ISA_AMX) {
        print_message("1 test skipped: no AMX here\n");
        skip();
    }
    all_cases(&matmul_amx);
}

static void test_vector(void **state) {
    (void)state;
    for (Isa isa = ISA_PLAIN; isa <= ISA_AVX512; isa++) {
        cpu_limit_isa(isa);
        if (cpu_isa() == isa)
            all_cases(&matmul_vector);
        else
            print_message("1 case skipped: no %s here\n", isa_name[isa]);
    }
    cpu_limit_isa(ISA_AMX);
}

int main(void) {
    const struct CMUnitTest all[] = {cmocka_unit_test(test_amx), cmocka_unit_test(test_vector)};
    return cmocka_run_group_tests(all, NULL, NULL);
}
