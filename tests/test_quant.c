/* test_quant.c - the stored formats: what each format loses against theory; the layout of every
 * format read by its description, with none of its code; lattices found again; all shapes, all
 * magnitudes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "../autograd/quant/codebook.h"
#include "../autograd/turn.h"
#include "stored.h"

#define FOR_PACKED(d)                                                                              \
    for (DType d = 0; d < DT_COUNT; d++)                                                           \
        if (dtype_is_packed(d))

static Rng rng = {11, 5, 0};

static float *normals(int64_t n) {
    float *x = floats(n);
    for (int64_t i = 0; i < n; i++) x[i] = rng_normal(&rng);
    return x;
}

/* Squares of what w lost of values, relative to theirs. */
static double relative_loss(const Tensor *w, const float *values) {
    int64_t n = tensor_numel(w);
    float *opened = floats(n);
    double lost = 0, all = 0;
    weight_values(w, 0, n, opened);
    for (int64_t i = 0; i < n; i++) {
        double v = (double)values[i], gone = v - (double)opened[i];
        lost += gone * gone;
        all += v * v;
    }
    mem_free(opened);
    return all > 0 ? lost / all : lost;
}

/* ---- the layout, by its description in dtype.h and line.h ---------------------------------- */

/* The stored value of row r, column c of a panel, format by format. behind: what follows the lines
 * of the block; tail: what follows the panel's last block. */
static float value_at(DType d, const void *panel, int64_t cols, int r, int64_t c) {
    const PackedFormat *p = dtype_info[d].packed;
    const char *block = (const char *)panel + c / 64 * p->block_bytes, *behind = block + 1024;
    const char *tail = (const char *)panel + (cols + 63) / 64 * p->block_bytes;
    int k = (int)(c % 64), half = k / 32, code = code_at(block, r, k);
    switch (d) {
    case DT_int8:
        for (int w = 0; w < 32; w++) {
            if (line_column(w) == k % 32)
                return (float)(int8_t)block[r * 64 + half * 32 + w] * f32_at(tail, r);
        }
        return NAN;
    case DT_nf4:
        return NF4_VALUE[code] * f32_at(behind, r);
    case DT_nf4_bf16:
        return NF4_VALUE[code] * bf16_at(behind, r);
    case DT_tq4:
        return TQ4_VALUE[code] * f32_at(tail, r);
    case DT_tq4_b64:
        return TQ4_VALUE[code] * bf16_at(behind, r);
    case DT_int4_g32:
        return (float)(code - 8) * bf16_at(behind, 2 * r + half);
    case DT_mxfp4:
        return E2M1_VALUE[code] * ldexpf(1, (uint8_t)behind[2 * r + half] - 127);
    default:
        return NAN;
    }
}

static void test_layout(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 136 };
    float *x = normals(ROWS * COLS), row[COLS], again[COLS];
    FOR_PACKED(d) {
        Tensor w = stored_2d(d, x, ROWS, COLS);
        for (int r = 0; r < ROWS; r++) {
            weight_open(&w, r, 0, COLS, row);
            for (int c = 0; c < COLS; c++) {
                float want = value_at(d, weight_panel(&w, 0, r / 32), COLS, r % 32, c);
                if (row[c] != want)
                    fail_msg("%s: row %d, column %d opens as %g, stored %g", dtype_info[d].name, r,
                             c, (double)row[c], (double)want);
            }
            for (int from = 0; from < COLS; from += 64) {
                weight_open(&w, r, from, COLS - from, again);
                assert_memory_equal(again, row + from, sizeof *row * (size_t)(COLS - from));
                weight_open(&w, r, from, 1, again);
                assert_memory_equal(again, row + from, sizeof *row);
            }
            if (weight_is_turned(&w)) turn_rows_back(row, 1, COLS, COLS);
            weight_row(&w, r, again);
            assert_memory_equal(again, row, sizeof row);
        }
        mem_free(w.data);
    }
    mem_free(x);
}

enum { E = 3, STACK_ROWS = 33 };

/* Any values from anywhere, of any length, are those of the whole. */
static void check_ranges(const Tensor *w, const float *all) {
    int64_t numel = tensor_numel(w);
    for (int64_t first = 5; first < numel; first += 611) {
        int64_t n = first % 200 + 1;
        float part[200];
        if (first + n > numel) break;
        weight_values(w, first, n, part);
        assert_memory_equal(part, all + first, (size_t)n * sizeof *part);
    }
}

static void check_stack(DType d, int64_t cols) {
    const int64_t dim[] = {E, STACK_ROWS, cols}, n = STACK_ROWS * cols;
    float *x = normals(E * n), *row = floats(cols), *alone = floats(cols), *all = floats(E * n);
    Tensor w = stored(d, x, 3, dim, 0);
    weight_values(&w, 0, E * n, all);
    for (int e = 0; e < E && d != DT_nf4_flat; e++) {
        Tensor m = stored_2d(d, x + e * n, STACK_ROWS, cols);
        if (dtype_is_packed(d)) assert_memory_equal(weight_panel(&w, e, 0), m.data, 1024);
        for (int r = 0; r < STACK_ROWS; r++) {
            weight_row(&w, e * STACK_ROWS + r, row);
            weight_row(&m, r, alone);
            assert_memory_equal(row, alone, sizeof *row * (size_t)cols);
            assert_memory_equal(row, all + e * n + r * cols, sizeof *row * (size_t)cols);
        }
        mem_free(m.data);
    }
    check_ranges(&w, all);
    mem_free(w.data);
    mem_free(x);
    mem_free(row);
    mem_free(alone);
    mem_free(all);
}

/* A stack is its matrices, one after the other, whatever their rows. */
static void test_stack(void **state) {
    (void)state;
    for (DType d = 0; d < DT_COUNT; d++)
        if (is_written(d, 72) || is_written(d, 96)) check_stack(d, is_written(d, 72) ? 72 : 96);
}

/* Rows of blocks that others wrote: opened from any multiple of 32 and to any length, they are the
 * values that they are as a whole. (What values: test_gguf_blocks.c.) */
static void test_blocks(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 768 };
    for (DType d = 0; d < DT_COUNT; d++) {
        if (!dtype_is_weight(d) || !dtype_in_blocks(d)) continue;
        Tensor w = {.dtype = d, .n_dim = 2, .dim = {ROWS, COLS}};
        float all[ROWS * COLS], row[COLS];
        w.data = mem_alloc((size_t)tensor_bytes(&w));
        assert_int_equal(tensor_bytes(&w), dtype_bytes(d, ROWS * COLS));
        random_blocks(d, ROWS * COLS, &rng, w.data);
        weight_values(&w, 0, ROWS * COLS, all);
        check_ranges(&w, all);
        for (int from = 0; from < COLS; from += 64) {
            for (int n = 1; n <= COLS - from; n += 37) {
                weight_open(&w, 3, from, n, row);
                assert_memory_equal(row, all + 3 * COLS + from, sizeof *row * (size_t)n);
            }
        }
        mem_free(w.data);
    }
}

/* Every byte is set, whatever was there; filling up means nothing but must open as numbers. */
static void test_shapes(void **state) {
    (void)state;
    static const int64_t shape[][2] = {{1, 1},   {1, 64},  {2, 2},   {3, 37},  {31, 63},
                                       {32, 64}, {33, 65}, {5, 128}, {64, 96}, {37, 704}};
    for (size_t s = 0; s < COUNT_OF(shape); s++) {
        int64_t rows = shape[s][0], cols = shape[s][1];
        float *x = normals(rows * cols), *open = floats((cols + 63) / 64 * 64);
        for (DType d = 0; d < DT_COUNT; d++) {
            if (!is_written(d, cols)) continue;
            Tensor w = stored(d, x, 2, shape[s], 0xff), again = stored(d, x, 2, shape[s], 0);
            assert_memory_equal(w.data, again.data, (size_t)tensor_bytes(&w));
            double loss = relative_loss(&w, x);
            if (!(loss < 0.03))
                fail_msg("%s, %ld x %ld: loses %g", dtype_info[d].name, (long)rows, (long)cols,
                         loss);
            const void *last = dtype_is_packed(d) ? weight_panel(&w, 0, (rows - 1) / 32) : NULL;
            int64_t filled = (cols + 63) / 64 * 64;
            for (int r = 0; r < 32 && last; r++) {
                for (int64_t c = 0; c < filled; c++)
                    assert_true(isfinite(value_at(d, last, cols, r, c)));
                dtype_info[d].packed->open(last, r, cols, 0, cols, open);
            }
            mem_free(w.data);
            mem_free(again.data);
        }
        mem_free(x);
        mem_free(open);
    }
}

/* ---- what formats lose ----------------------------------------------------------------------- */

enum { ERROR_ROWS = 512, ERROR_COLS = 2816 };

static void gaussian(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = rng_normal(&rng);
}
static void student5(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double chi2 = 0;
        for (int k = 0; k < 5; k++) {
            double z = (double)rng_normal(&rng);
            chi2 += z * z;
        }
        x[i] = (float)((double)rng_normal(&rng) / sqrt(chi2 / 5));
    }
}

/* Relative squared errors that theory or other implementations have on such rows: integrals of the
 * quantiser over the density for tq4 (0.009501: Max, 1960), Monte Carlo by others for the rest. A
 * row's scale searched block by block, then rounded anew under it, does a little better than the
 * search alone. Sampling alone moves 1.4 million normal values by 0.3 %, Student's by 1 %. */
static const struct {
    DType d;
    double gaussian, within, student5, within5;
} losses[] = {
    {DT_tq4, 0.009501, 0.01, 0.00953, 0.03},     {DT_tq4_b64, 0.00701, 0.02, 0.00687, 0.03},
    {DT_nf4, 0.00848, 0.01, 0.01100, 0.03},      {DT_nf4_bf16, 0.00848, 0.01, 0.01100, 0.03},
    {DT_nf4_flat, 0.00848, 0.01, 0.01100, 0.03}, {DT_mxfp4, 0.01335, 0.02, 0.01588, 0.03},
    {DT_int8, 7e-5, 0.1, 3.5e-4, 0.2},
};

static void check_losses(const char *what, void (*fill)(float *, int64_t), bool student) {
    float *x = floats(ERROR_ROWS * ERROR_COLS);
    fill(x, ERROR_ROWS * ERROR_COLS);
    for (size_t i = 0; i < COUNT_OF(losses); i++) {
        Tensor w = stored_2d(losses[i].d, x, ERROR_ROWS, ERROR_COLS);
        double loss = relative_loss(&w, x);
        double want = student ? losses[i].student5 : losses[i].gaussian;
        double within = student ? losses[i].within5 : losses[i].within;
        print_message("%s %s: %.5f, expected %.5f\n", what, dtype_info[losses[i].d].name, loss,
                      want);
        if (!(fabs(loss / want - 1) < within))
            fail_msg("%s on %s rows loses %.5f, not %.5f", dtype_info[losses[i].d].name, what, loss,
                     want);
        mem_free(w.data);
    }
    mem_free(x);
}
static void test_losses(void **state) {
    (void)state;
    check_losses("normal", gaussian, false);
    check_losses("Student", student5, true);
}

/* What weight_pack adds up is what opening loses. */
static void test_report(void **state) {
    (void)state;
    enum { ROWS = 45, COLS = 200 };
    float *x = normals(ROWS * COLS), *copy = floats(ROWS * COLS);
    for (DType d = 0; d < DT_COUNT; d++) {
        if (!dtype_is_packed(d) && d != DT_nf4_flat) continue;
        Tensor w = stored_2d(d, x, ROWS, COLS);
        double error = 0, value = 0;
        memcpy(copy, x, sizeof *x * ROWS * COLS);
        if (d == DT_nf4_flat)
            weight_pack_flat(copy, ROWS * COLS, w.data, &error, &value);
        else
            weight_pack(d, copy, ROWS, COLS, w.data, &error, &value);
        /* the turn rounds: a few units in 2^24, of values 1/0.01 times what is lost */
        assert_true(fabs(error / value / relative_loss(&w, x) - 1) < 1e-3);
        mem_free(w.data);
    }
    mem_free(x);
    mem_free(copy);
}

/* Relative to the values, nothing changes with their magnitude. */
static void test_magnitudes(void **state) {
    (void)state;
    enum { ROWS = 3, COLS = 192, N = ROWS * COLS };
    float *x = normals(N), *y = floats(N);
    FOR_PACKED(d) {
        Tensor w = stored_2d(d, x, ROWS, COLS);
        double loss = relative_loss(&w, x);
        for (int power = -100; power <= 100; power += 50) {
            for (int i = 0; i < N; i++) y[i] = ldexpf(x[i], power);
            Tensor v = stored_2d(d, y, ROWS, COLS);
            double here = relative_loss(&v, y);
            if (!(fabs(here / loss - 1) < 1e-4))
                fail_msg("%s loses %g, at 2^%d %g", dtype_info[d].name, loss, power, here);
            mem_free(v.data);
        }
        mem_free(w.data);
    }
    mem_free(x);
    mem_free(y);
}

/* What is no weight must not crash, nor spoil another row; what is large or tiny but finite must
 * open as finite. Rows of zeros open as zeros. */
static void test_odd_values(void **state) {
    (void)state;
    enum { ROWS = 12, COLS = 128 };
    static const float odd[] = {0, NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, 1e-38f};
    float *x = normals(ROWS * COLS), row[COLS], plain[COLS];
    Tensor clean[DT_COUNT];
    FOR_PACKED(d) clean[d] = stored_2d(d, x, ROWS, COLS);
    for (size_t i = 0; i < COUNT_OF(odd); i++) {
        for (int c = 0; c < COLS; c++) x[i * COLS + (size_t)c] = c % 3 ? odd[i] : 0;
    }
    FOR_PACKED(d) {
        Tensor w = stored_2d(d, x, ROWS, COLS);
        for (int r = 0; r < ROWS; r++) {
            bool finite =
                r != 1 && r != 2 && r != 3 && (!weight_is_turned(&w) || (r != 4 && r != 5));
            weight_row(&w, r, row);
            for (int c = 0; c < COLS; c++) {
                if (finite) assert_true(isfinite(row[c]));
                if (r == 0) assert_true(row[c] == 0);
            }
            weight_row(&clean[d], r, plain);
            if (r >= (int)COUNT_OF(odd)) assert_memory_equal(row, plain, sizeof row);
        }
        mem_free(w.data);
        mem_free(clean[d].data);
    }
    mem_free(x);
}

/* ---- format by format ------------------------------------------------------------------------ */

/* Integers under one scale come back as they were. */
static void test_int8_exact(void **state) {
    (void)state;
    float x[255], row[255];
    for (int i = 0; i < 255; i++) x[i] = 0.25f * (float)(i - 127);
    Tensor w = stored_2d(DT_int8, x, 1, 255);
    weight_row(&w, 0, row);
    assert_memory_equal(row, x, sizeof x);
    mem_free(w.data);
}

/* Ties go to the even code, what is too large saturates. */
static void test_mxfp4_rounding(void **state) {
    (void)state;
    static const float from[32] = {0,      0.25f,  0.26f,  0.74f,  0.75f, 1.25f, 1.26f, 1.74f,
                                   1.75f,  2.5f,   2.51f,  3.49f,  3.5f,  5,     5.01f, 7.9f,
                                   -0.25f, -0.75f, -1.25f, -1.75f, -2.5f, -3.5f, -5,    -7.9f},
                       to[32] = {0, 0, 0.5f, 0.5f, 1, 1,  1.5f, 1.5f, 2,  2,  3,  3,
                                 4, 4, 6,    6,    0, -1, -1,   -2,   -2, -4, -4, -6};
    float x[32], row[32];
    for (int power = -30; power <= 30; power += 15) {
        for (int i = 0; i < 32; i++) x[i] = ldexpf(from[i], power);
        Tensor w = stored_2d(DT_mxfp4, x, 1, 32);
        weight_row(&w, 0, row);
        for (int i = 0; i < 32; i++) assert_true(row[i] == ldexpf(to[i], power));
        mem_free(w.data);
    }
}

/* Values of quantisation-aware training: bfloat16 of step * integer. The integers may use little
 * of -8..7. Opened and rounded to bfloat16 they must be what they were, bit for bit, where the step
 * is a bfloat16 itself; else within the rounding of the step. */
static void test_int4_lattices(void **state) {
    (void)state;
    enum { GROUPS = 4096, N = GROUPS * 32 };
    float *x = floats(N), *opened = floats(N);
    int wrong = 0, wide = 0;
    for (int exact = 0; exact < 2; exact++) {
        for (int g = 0; g < GROUPS; g++) {
            float step = (float)exp(4 * rng_uniform(&rng) - 8);
            int most = (int)(rng_u64(&rng) % 8) + 1; /* of the integers' magnitude */
            double spread = most * (0.2 + 0.5 * rng_uniform(&rng));
            if (exact) step = bf16_to_f32(f32_to_bf16(step));
            for (int i = 0; i < 32; i++) {
                double q = rint(spread * (double)rng_normal(&rng));
                q = fmin(fmax(q, -most), most < 8 ? most : 7);
                x[g * 32 + i] = bf16_to_f32(f32_to_bf16((float)(q * (double)step)));
            }
        }
        Tensor w = stored_2d(DT_int4_g32, x, GROUPS / 4, 128);
        weight_values(&w, 0, N, opened);
        for (int i = 0; i < N; i++) {
            float back = bf16_to_f32(f32_to_bf16(opened[i]));
            wrong += exact && back != x[i];
            /* a unit of the step's rounding (a neighbour may lose less in all) and half of the
             * value's */
            wide += fabsf(opened[i] - x[i]) > fabsf(x[i]) * 0x1.8p-7f;
        }
        mem_free(w.data);
    }
    mem_free(x);
    mem_free(opened);
    print_message("lattices: %d of %d values not found again, %d far off\n", wrong, N, wide);
    assert_int_equal(wrong, 0);
    assert_int_equal(wide, 0);
}

/* On values of no lattice it must beat the plain grid (Q4_0: 0.00738 on normal values). */
static void test_int4_normal(void **state) {
    (void)state;
    enum { ROWS = 128, COLS = 2048 };
    float *x = normals(ROWS * COLS);
    Tensor w = stored_2d(DT_int4_g32, x, ROWS, COLS);
    assert_true(relative_loss(&w, x) < 0.00738 * 0.92);
    mem_free(w.data);
    mem_free(x);
}

/* Thresholds lie midway, and tq4's values are where a best quantiser has them (Lloyd; Max, 1960):
 * each is the mean of the normal distribution between its thresholds. */
static void test_codebooks(void **state) {
    (void)state;
    for (int i = 0; i < 15; i++) {
        double middle = ((double)NF4_VALUE[i] + (double)NF4_VALUE[i + 1]) / 2;
        assert_true(fabs((double)NF4_ABOVE[i] - middle) < 0x1p-24);
    }
    for (int i = 0; i < 8; i++) {
        double a = i > 0 ? (double)TQ4_ABOVE[i - 1] : 0, b = i < 7 ? (double)TQ4_ABOVE[i] : 40;
        double mass = (erf(b / sqrt(2)) - erf(a / sqrt(2))) / 2;
        double mean = (exp(-a * a / 2) - exp(-b * b / 2)) / sqrt(2 * M_PI) / mass;
        assert_true(fabs((double)TQ4_VALUE[8 + i] - mean) < 3e-7);
        assert_true(TQ4_VALUE[7 - i] == -TQ4_VALUE[8 + i]);
        if (i < 7) {
            double middle = ((double)TQ4_VALUE[8 + i] + (double)TQ4_VALUE[9 + i]) / 2;
            assert_true(fabs((double)TQ4_ABOVE[i] - middle) < 3e-7);
        }
    }
}

static void test_words(void **state) {
    (void)state;
    assert_int_equal(weight_format_of("nf4", DT_bf16, 128), DT_nf4_bf16);
    assert_int_equal(weight_format_of("nf4", DT_f32, 128), DT_nf4);
    assert_int_equal(weight_format_of("nf4", DT_bf16, 37), DT_nf4_flat);
    assert_int_equal(weight_format_of("tq4", DT_bf16, 37), DT_tq4);
    assert_int_equal(weight_format_of("bf16", DT_f32, 64), DT_bf16);
    assert_int_equal(weight_format_of("none", DT_f32, 64), DT_COUNT);
    assert_int_equal(weight_format_of("i32", DT_f32, 64), DT_COUNT);
    assert_int_equal(weight_format_of(NULL, DT_f32, 64), DT_COUNT);
    assert_int_equal(weight_format_of("q8_0", DT_f32, 64), DT_COUNT);
    assert_true(dtype_is_weight(DT_nf4_flat) && !dtype_is_weight(DT_i32));
    assert_true(dtype_is_weight(DT_q4_k) && !dtype_is_float(DT_q4_k) && !dtype_is_packed(DT_q4_k));
    assert_true(dtype_takes_rows(DT_q6_k, 512) && !dtype_takes_rows(DT_q6_k, 128));
    assert_true(!dtype_is_weight(DT_COUNT) && !dtype_is_float(DT_tq4) && dtype_is_float(DT_f16));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),        cmocka_unit_test(test_stack),
        cmocka_unit_test(test_blocks),        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_losses),        cmocka_unit_test(test_report),
        cmocka_unit_test(test_magnitudes),    cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_int8_exact),    cmocka_unit_test(test_mxfp4_rounding),
        cmocka_unit_test(test_int4_lattices), cmocka_unit_test(test_int4_normal),
        cmocka_unit_test(test_words),         cmocka_unit_test(test_codebooks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
