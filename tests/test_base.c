/* test_base.c - the ground floor: memory, random numbers, and the rounding of number formats
 * against every value there is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../autograd/base.h"
#include "../autograd/dtype.h"
#include "../autograd/simd.h"
#include "../autograd/tensor.h"

/* ---- arena, heap, text ------------------------------------------------------------------------
 */

static void test_arena(void **state) {
    (void)state;
    Arena a;
    Err e;
    assert_int_equal(arena_open(&a, 1 << 20, &e), 0);
    char *first = arena_push(&a, 1), *second = arena_push(&a, 100);
    assert_int_equal((uintptr_t)first % 64, 0);
    assert_int_equal(second - first, 64);
    size_t mark = arena_mark(&a);
    char *third = arena_push_zero(&a, 5000);
    for (int i = 0; i < 5000; i++) assert_int_equal(third[i], 0);
    size_t peak = a.peak;
    memset(third, 1, 5000);
    arena_release(&a, mark);
    assert_int_equal(a.top, mark);
    assert_int_equal(a.peak, peak);
    assert_ptr_equal(arena_push_zero(&a, 10), third); /* the same place, clean again */
    for (int i = 0; i < 10; i++) assert_int_equal(third[i], 0);
    assert_int_equal(a.peak, peak);
    arena_release(&a, 0);
    assert_non_null(arena_push(&a, 1 << 20)); /* all of it fits */
    arena_close(&a);
    arena_close(&a);                                       /* twice does no harm */
    assert_int_equal(arena_open(&a, SIZE_MAX / 2, &e), 0); /* less than asked, but some */
    assert_true(a.cap >= (size_t)64 << 20 && a.cap < SIZE_MAX / 2);
    arena_close(&a);
}

static void test_heap_and_text(void **state) {
    (void)state;
    unsigned char *p = mem_alloc(10);
    for (int i = 0; i < 10; i++) assert_int_equal(p[i], 0);
    memset(p, 7, 10);
    p = mem_grow(p, 10, 3000);
    for (int i = 0; i < 3000; i++) assert_int_equal(p[i], i < 10 ? 7 : 0);
    mem_free(p);
    mem_free(mem_alloc(0));

    Buf b = {0};
    for (int i = 0; i < 500; i++) buf_printf(&b, "%d,", i);
    buf_add(&b, "", 0);
    buf_add(&b, "a\0b", 3); /* bytes, not text */
    buf_add_text(&b, "end");
    assert_int_equal(b.n, 10 * 2 + 90 * 3 + 400 * 4 + 6);
    assert_int_equal(b.p[b.n], 0);
    assert_int_equal(strncmp(b.p, "0,1,2,", 6), 0);
    assert_string_equal(b.p + b.n - 3, "end");
    buf_free(&b);
    assert_null(b.p);
}

static void test_err(void **state) {
    (void)state;
    Err e;
    char big[3 * sizeof e.text];
    assert_int_equal(err_set(&e, "found %d", 3), -1);
    assert_int_equal(err_prefix(&e, "file %s", "x"), -1);
    assert_string_equal(e.text, "file x: found 3");
    memset(big, 'y', sizeof big);
    big[sizeof big - 1] = 0;
    err_set(&e, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
    err_prefix(&e, "%s", big);
    assert_int_equal(strlen(e.text), sizeof e.text - 1);
}

/* ---- random numbers ---------------------------------------------------------------------------
 */

/* The n-th number depends on seed, stream and n alone, so a stream taken up again goes on. */
static void test_rng_counter(void **state) {
    (void)state;
    static const uint64_t golden[][4] = {
        /* seed, stream, n, and what Python's integers give for the formula of base.h */
        {0ull, 0ull, 0ull, 0x33fe8bd4f9c57863ull},
        {5ull, 9ull, 0ull, 0xedc03e7e59383eaeull},
        {5ull, 9ull, 1ull, 0x8b308cd6b27edc3dull},
        {18446744073709551615ull, 1099511627776ull, 123456789012ull, 0x399132afc04ab1d0ull},
    };
    for (size_t i = 0; i < COUNT_OF(golden); i++) {
        assert_true(rng_at(golden[i][0], golden[i][1], golden[i][2]) == golden[i][3]);
    }
    Rng a = {.seed = 5, .stream = 9}, b = a;
    for (int i = 0; i < 1000; i++) {
        assert_true(rng_at(5, 9, (uint64_t)i) == rng_u64(&a));
        if (i == 500) b.n = a.n;
        if (i > 500) assert_true(rng_u64(&b) == rng_at(5, 9, (uint64_t)i));
    }
    assert_true(rng_at(5, 9, 0) != rng_at(5, 10, 0) && rng_at(5, 9, 0) != rng_at(6, 9, 0));
}

/* n draws in k equal cells: chi-square has mean k-1 and variance 2(k-1); 6 deviations. Each bit
 * is set n/2 times, 6 deviations of sqrt(n)/2. */
static void test_rng_uniform(void **state) {
    (void)state;
    enum { N = 200000, K = 256 };
    static int cell[K], bit[64];
    Rng r = {.seed = 1, .stream = 2};
    for (int i = 0; i < N; i++) {
        double u = rng_uniform(&r);
        uint64_t v = rng_at(3, 4, (uint64_t)i);
        assert_true(u > 0 && u < 1);
        cell[(int)(u * K)]++;
        for (int j = 0; j < 64; j++) bit[j] += (int)(v >> j & 1);
    }
    double chi = 0;
    for (int i = 0; i < K; i++) {
        double d = cell[i] - (double)N / K;
        chi += d * d / ((double)N / K);
    }
    assert_true(fabs(chi - (K - 1)) < 6 * sqrt(2.0 * (K - 1)));
    for (int j = 0; j < 64; j++) assert_true(fabs(bit[j] - N / 2.0) < 6 * sqrt(N) / 2);
}

/* Moments of n normals: deviations of mean, variance and fourth moment are sqrt(1/n), sqrt(2/n),
 * sqrt(96/n). */
static void test_rng_normal(void **state) {
    (void)state;
    enum { N = 200000 };
    double m1 = 0, m2 = 0, m4 = 0;
    Rng r = {.seed = 4};
    for (int i = 0; i < N; i++) {
        double v = (double)rng_normal(&r);
        m1 += v / N;
        m2 += v * v / N;
        m4 += v * v * v * v / N;
    }
    assert_true(fabs(m1) < 6 * sqrt(1.0 / N));
    assert_true(fabs(m2 - 1) < 6 * sqrt(2.0 / N));
    assert_true(fabs(m4 - 3) < 6 * sqrt(96.0 / N));
}

/* ---- number formats -----------------------------------------------------------------------------
 */

/* A small float by its definition: sign, exponent field of e bits, mantissa of m bits. */
static double decode(uint32_t h, int e, int m) {
    int bias = (1 << (e - 1)) - 1, field = (int)(h >> m) & ((1 << e) - 1);
    double man = (double)(h & ((1u << m) - 1)), sign = h >> (e + m) & 1 ? -1 : 1;
    if (field == (1 << e) - 1) return man != 0 ? NAN : sign * INFINITY;
    if (field == 0) return sign * ldexp(man, 1 - bias - m);
    return sign * ldexp(ldexp(1, m) + man, field - bias - m);
}

typedef struct Half {
    int e, m;
    float (*open)(uint16_t);
    uint16_t (*close)(float);
} Half;
static const Half HALVES[] = {{8, 7, bf16_to_f32, f32_to_bf16}, {5, 10, f16_to_f32, f32_to_f16}};

static void test_halves_open(void **state) {
    (void)state;
    for (size_t k = 0; k < COUNT_OF(HALVES); k++) {
        const Half *f = &HALVES[k];
        for (uint32_t h = 0; h < 65536; h++) {
            double want = decode(h, f->e, f->m);
            float got = f->open((uint16_t)h);
            uint16_t back = f->close(got);
            if (isnan(want)) {
                assert_true(isnan(got) && isnan(f->open(back)));
                continue;
            }
            assert_true((double)got == want && !signbit(got) == !signbit(want));
            assert_int_equal(back, h); /* a value of the format rounds to itself */
        }
    }
    for (uint32_t h = 0; h < 65536; h++) { /* the branch-free form opens the same bits */
        assert_true(f32_to_bits(simd_f16((uint16_t)h)) == f32_to_bits(f16_to_f32((uint16_t)h)));
    }
}

/* Between every two neighbours a < b: everything below the middle goes to a, above it to b, the
 * middle to the even one. Beyond the largest the next step would be 2^(max+1): half way there,
 * infinity begins. */
static void test_halves_round(void **state) {
    (void)state;
    for (size_t k = 0; k < COUNT_OF(HALVES); k++) {
        const Half *f = &HALVES[k];
        uint16_t infinity = (uint16_t)(((1u << f->e) - 1) << f->m);
        for (uint16_t h = 0; h < infinity; h++) {
            double a = decode(h, f->e, f->m), b = decode(h + 1u, f->e, f->m);
            if (isinf(b)) b = 2 * decode(h, f->e, f->m) - decode(h - 1u, f->e, f->m);
            float middle = (float)((a + b) / 2); /* exact: one more bit of mantissa */
            assert_true((double)middle == (a + b) / 2);
            uint16_t even = h & 1 ? (uint16_t)(h + 1) : h, next = (uint16_t)(h + 1);
            assert_int_equal(f->close(middle), even);
            assert_int_equal(f->close(nextafterf(middle, 0)), h);
            assert_int_equal(f->close(nextafterf(middle, INFINITY)), next);
            assert_int_equal(f->close(-middle), even | 0x8000);
            assert_int_equal(f->close(-nextafterf(middle, INFINITY)), next | 0x8000);
        }
        assert_int_equal(f->close(INFINITY), infinity);
        assert_int_equal(f->close(-INFINITY), infinity | 0x8000);
    }
}

/* NaNs of every payload stay NaN, and quiet. */
static void test_halves_nan(void **state) {
    (void)state;
    for (size_t k = 0; k < COUNT_OF(HALVES); k++) {
        for (int bit = 0; bit < 23; bit++) {
            uint16_t h = HALVES[k].close(bits_to_f32(0x7f800000u | 1u << bit));
            assert_true(isnan(HALVES[k].open(h)));
            assert_true(h >> (HALVES[k].m - 1) & 1);
        }
    }
}

/* Rows of the table agree with the single values, at every length. */
static void test_dtype_rows(void **state) {
    (void)state;
    enum { N = 67 };
    float x[N], y[N];
    uint16_t h[N + 1];
    int32_t v[N];
    Rng r = {.seed = 2};
    for (int n = 0; n <= N; n++) {
        for (int i = 0; i < n; i++) x[i] = 100 * rng_normal(&r);
        for (size_t k = 0; k < COUNT_OF(HALVES); k++) {
            const DTypeInfo *d = &dtype_info[k == 0 ? DT_bf16 : DT_f16];
            h[n] = 0x1234;
            d->from_f32(x, h, n);
            d->to_f32(h, y, n);
            for (int i = 0; i < n; i++) {
                assert_int_equal(h[i], HALVES[k].close(x[i]));
                assert_true(y[i] == HALVES[k].open(h[i]));
            }
            assert_int_equal(h[n], 0x1234);
        }
        dtype_info[DT_f32].from_f32(x, y, n);
        assert_memory_equal(x, y, (size_t)n * sizeof *x);
        dtype_info[DT_i32].from_f32(x, v, n);
        for (int i = 0; i < n; i++) assert_int_equal(v[i], (int32_t)x[i]);
    }
    assert_int_equal(dtype_bytes(DT_bf16, 10), 20);
    assert_int_equal(dtype_find("f16"), DT_f16);
    assert_int_equal(dtype_find("f17"), DT_COUNT);
    assert_int_equal(dtype_find(NULL), DT_COUNT);
}

/* ---- vectorisable exp and tanh -----------------------------------------------------------------
 */

static double ulps_off(float got, double want) {
    double ulp = ldexp(1, want == 0 ? -149 : (int)fmax(ilogb(want) - 23, -149));
    return fabs((double)got - want) / ulp;
}

/* Over a grid of some 2^19 floats of every exponent, the promises of simd.h. */
static void test_simd_functions(void **state) {
    (void)state;
    for (uint32_t u = 0; u < 0x7f800000u; u += 4099) {
        for (int sign = 0; sign < 2; sign++) {
            float x = bits_to_f32(u | (uint32_t)sign << 31);
            double e = exp((double)x);
            if (x <= 88.72f && x >= -103.9f) assert_true(ulps_off(simd_exp(x), e) <= 1.5);
            if (x > 88.73f) assert_true(isinf(simd_exp(x)));
            if (x < -104.0f) assert_true(simd_exp(x) == 0);
            assert_true(ulps_off(simd_tanh(x), tanh((double)x)) <= 2);
        }
    }
    assert_true(isinf(simd_exp(INFINITY)) && simd_exp(-INFINITY) == 0 && isnan(simd_exp(NAN)));
    assert_true(simd_tanh(INFINITY) == 1 && simd_tanh(-INFINITY) == -1 && isnan(simd_tanh(NAN)));
}

/* ---- tensors --------------------------------------------------------------------------------- */

static void test_tensor(void **state) {
    (void)state;
    Arena a;
    Err e;
    assert_int_equal(arena_open(&a, 1 << 20, &e), 0);
    Tensor *x = tensor_3d(&a, DT_bf16, 2, 3, 5), *y = tensor_like(&a, x);
    assert_int_equal(tensor_numel(x), 30);
    assert_int_equal(tensor_rows(x), 6);
    assert_int_equal(tensor_cols(x), 5);
    assert_int_equal(tensor_bytes(x), 60);
    assert_int_equal(y->dtype, DT_f32);
    assert_int_equal(tensor_bytes(y), 120);
    assert_false(y->wants_grad);
    assert_null(y->grad);
    assert_int_equal(tensor_rows(tensor_1d(&a, DT_i32, 4)), 1);
    assert_int_equal(tensor_numel(tensor_2d(&a, DT_f32, 0, 4)), 0);
    arena_close(&a);
}

/* Pages become resident when they are touched, huge ones whole; nothing else counts. */
static void test_resident(void **state) {
    (void)state;
    enum { BYTES = 24 << 20 };
    Arena a;
    Err e;
    assert_int_equal(arena_open(&a, (size_t)1 << 30, &e), 0);
    assert_int_equal(arena_resident(&a, 0), 0);
    assert_true(arena_resident(&a, 1) > 0 && arena_resident(&a, BYTES) >= BYTES);
    assert_true(arena_resident(&a, BYTES) <= BYTES + ((size_t)32 << 20));
    assert_int_equal(arena_resident(&a, a.cap), a.cap);
    size_t before = mem_resident();
    memset(arena_push(&a, BYTES), 1, BYTES);
    size_t grown = mem_resident() - before;
#ifndef __SANITIZE_ADDRESS__
    assert_true(grown > BYTES - ((size_t)1 << 20));
    assert_true(grown < arena_resident(&a, BYTES) + ((size_t)1 << 20));
#else
    (void)grown;
#endif
    arena_close(&a);
    assert_true(mem_peak() >= before + BYTES - ((size_t)1 << 20));
    assert_true(mem_peak() >= mem_resident());
}

/* A dry run writes a header here and there and nothing between. */
static void test_sparse(void **state) {
    (void)state;
    enum { HEADERS = 100 };
    Arena a;
    Err e;
    assert_int_equal(arena_open(&a, (size_t)1 << 32, &e), 0);
    arena_set_sparse(&a, true);
    size_t before = mem_resident();
    for (int i = 0; i < HEADERS; i++) {
        memset(arena_push(&a, 100), 1, 100);
        arena_push(&a, (size_t)8 << 20);
    }
    size_t grown = mem_resident() - before;
    arena_release(&a, 0);
    arena_set_sparse(&a, false);
    size_t left = mem_resident() - before;
#ifndef __SANITIZE_ADDRESS__
    assert_true(grown < (size_t)4 << 20);
    assert_true(left < grown);
#else
    (void)grown, (void)left;
#endif
    arena_close(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_resident),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_heap_and_text),
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_rng_counter),
        cmocka_unit_test(test_rng_uniform),
        cmocka_unit_test(test_rng_normal),
        cmocka_unit_test(test_halves_open),
        cmocka_unit_test(test_halves_round),
        cmocka_unit_test(test_halves_nan),
        cmocka_unit_test(test_dtype_rows),
        cmocka_unit_test(test_simd_functions),
        cmocka_unit_test(test_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
