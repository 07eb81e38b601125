/* gemm.c - see gemm.h. OpenBLAS multiplies, on one thread per call; the panels here are what the
 * threads share. */
#include "gemm.h"
#include "blas.h"
#include "rows.h"
#include "simd.h"
#include "turn.h"
#include "weight.h"
#include <cblas.h>
#include <limits.h>
#include <omp.h>
#include <string.h>
#undef I /* of complex.h, which cblas.h brings along; here I is a number of inputs */

enum {
    PANEL_MAX = 256,         /* rows or columns of a product that one thread takes at a time */
    WEIGHT_ROWS = 1024,      /* rows of a weight opened at a time, shared by all threads */
    FEW_ROWS = 4,            /* of x: up to here a weight is read as it is stored */
    FEW_ROWS_PANEL = 64,     /* rows of a weight a thread takes at a time in gemm_few_rows */
    ROUND_CHUNK = 1 << 14,   /* values a thread rounds at a time */
    SERIAL_BELOW = 64 * 1024 /* multiplications not worth waking the other threads for */
};

/* ---- float32 products ---------------------------------------------------------------------- */

static void clear_or_scale(int64_t m, int64_t n, float beta, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++) {
        if (beta == 0)
            memset(c + i * ldc, 0, (size_t)n * sizeof *c);
        else
            for (int64_t j = 0; j < n; j++) c[i * ldc + j] *= beta;
    }
}

/* Products of matrices this small run in float64: it costs little at that size, and a tiny model
 * then differs from a reference by the reference's own rounding alone. */
enum { EXACT_VALUES = 128 * 128 };
static bool is_small(int64_t m, int64_t n, int64_t k) {
    return m * k <= EXACT_VALUES && k * n <= EXACT_VALUES && m * n <= EXACT_VALUES;
}

SIMD static void widen(const float *src, double *dst, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = (double)src[i];
}
SIMD static void narrow_row(const double *src, float beta, float *dst, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[i] = (float)(src[i] + (beta == 0 ? 0 : (double)beta * (double)dst[i]));
    }
}
static void gemm_small(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                       float *c, int64_t ldc) {
    static _Thread_local double wide_a[EXACT_VALUES], wide_b[EXACT_VALUES], wide_c[EXACT_VALUES];
    int64_t rows_a = ta ? k : m, cols_a = ta ? m : k, rows_b = tb ? n : k, cols_b = tb ? k : n;
    for (int64_t i = 0; i < rows_a; i++) widen(a + i * lda, wide_a + i * cols_a, cols_a);
    for (int64_t i = 0; i < rows_b; i++) widen(b + i * ldb, wide_b + i * cols_b, cols_b);
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)m, (int)n, (int)k, (double)alpha, wide_a, (int)cols_a, wide_b, (int)cols_b, 0,
                wide_c, (int)n);
    for (int64_t i = 0; i < m; i++) narrow_row(wide_c + i * n, beta, c + i * ldc, n);
}

void gemm_serial(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    CHECK(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX &&
              ldc <= INT_MAX,
          "gemm: %ld x %ld x %ld is beyond 32 bits", (long)m, (long)n, (long)k);
    if (m <= 0 || n <= 0) return;
    if (k <= 0) {
        clear_or_scale(m, n, beta, c, ldc);
        return;
    }
    blas_single_thread();
    if (is_small(m, n, k)) {
        gemm_small(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    /* OpenBLAS would pack all of b for a product of one row; a matrix-vector product does not. */
    if (m == 1) {
        if (beta == 0) memset(c, 0, (size_t)n * sizeof *c);
        cblas_sgemv(CblasRowMajor, tb ? CblasNoTrans : CblasTrans, (int)(tb ? n : k),
                    (int)(tb ? k : n), alpha, b, (int)ldb, a, ta ? (int)lda : 1,
                    beta == 0 ? 1 : beta, c, 1);
        return;
    }
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)m, (int)n, (int)k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* At least four panels where there is anything to split, in steps of 16 (a vector). */
static int64_t panel_of(int64_t n) {
    int64_t quarter = ((n + 3) / 4 + 15) & ~(int64_t)15;
    return min64(quarter, PANEL_MAX);
}

void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
          int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    bool by_row = m >= n;
    int64_t whole = by_row ? m : n;
    if (m <= 0 || n <= 0) return;
    if ((double)m * (double)n * (double)k < SERIAL_BELOW) {
        gemm_serial(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    int64_t panel = panel_of(whole), n_panel = (whole + panel - 1) / panel;
#pragma omp parallel for schedule(dynamic)
    for (int64_t p = 0; p < n_panel; p++) {
        int64_t at = p * panel, some = min64(panel, whole - at);
        if (by_row) {
            gemm_serial(ta, tb, some, n, k, alpha, a + (ta ? at : at * lda), lda, b, ldb, beta,
                        c + at * ldc, ldc);
        } else {
            gemm_serial(ta, tb, m, some, k, alpha, a, lda, b + (tb ? at * ldb : at), ldb, beta,
                        c + at, ldc);
        }
    }
}

/* ---- opening weights ------------------------------------------------------------------------ */

/* How one stored value becomes float32. */
#define OPENINGS(X)                                                                                \
    X(f32, float, v)                                                                               \
    X(bf16, uint16_t, bf16_to_f32(v))                                                              \
    X(f16, uint16_t, simd_f16(v))

/* The dot product keeps 64 partial sums: enough independent chains to hide the latency of adding.
 */
enum { LANES = 64 };
#define X(name, Stored, opened)                                                                    \
    SIMD static void open_##name(const void *src, float *dst, int64_t n) {                         \
        const Stored *s = src;                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                          \
            Stored v = s[i];                                                                       \
            dst[i] = opened;                                                                       \
        }                                                                                          \
    }                                                                                              \
    SIMD static float dot_##name(const void *src, const float *x, int64_t n) {                     \
        const Stored *s = src;                                                                     \
        float sum[LANES] = {0};                                                                    \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= n; i += LANES) {                                                       \
            for (int64_t l = 0; l < LANES; l++) {                                                  \
                Stored v = s[i + l];                                                               \
                sum[l] += x[i + l] * opened;                                                       \
            }                                                                                      \
        }                                                                                          \
        for (; i < n; i++) {                                                                       \
            Stored v = s[i];                                                                       \
            sum[i % LANES] += x[i] * opened;                                                       \
        }                                                                                          \
        for (int half = LANES / 2; half > 0; half /= 2) {                                          \
            for (int l = 0; l < half; l++) sum[l] += sum[l + half];                                \
        }                                                                                          \
        return sum[0];                                                                             \
    }
OPENINGS(X)
#undef X

typedef struct Opening {
    void (*open)(const void *src, float *dst, int64_t n);
    float (*dot)(const void *src, const float *x, int64_t n);
} Opening;

/* A format without a line here is opened by weight_open. */
static const Opening openings[DT_COUNT] = {
    [DT_f32] = {open_f32, dot_f32},
    [DT_bf16] = {open_bf16, dot_bf16},
    [DT_f16] = {open_f16, dot_f16},
};

SIMD static void round_values(const float *src, float *dst, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = simd_bf16(src[i]);
}

const float *gemm_rounded(Tape *t, const float *p, int64_t n) {
    float *q = arena_push(t->step, (size_t)n * sizeof *q);
#pragma omp parallel for schedule(static) if (n > ROUND_CHUNK)
    for (int64_t i = 0; i < n; i += ROUND_CHUNK) {
        round_values(p + i, q + i, min64(ROUND_CHUNK, n - i));
    }
    return q;
}

size_t gemm_rounded_bytes(int64_t n) { return (size_t)n * sizeof(float) + ARENA_ALIGN; }

bool gemm_needs_scratch(const Tensor *w) { return w->dtype != DT_f32; }

/* ---- turned formats ---- */

enum { TURN_ROWS = 16 }; /* that a thread turns at a time */

size_t gemm_turned_bytes(const Tensor *w, int64_t m) {
    if (!weight_is_turned(w)) return 0;
    return (size_t)(m * tensor_cols(w)) * sizeof(float) + ARENA_ALIGN;
}

const float *gemm_turned(Tape *t, const Tensor *w, const float *x, int64_t m) {
    int64_t I = tensor_cols(w);
    if (!weight_is_turned(w)) return x;
    float *turned = arena_push(t->step, (size_t)(m * I) * sizeof *turned);
#pragma omp parallel for schedule(static) if (m * I > ROUND_CHUNK)
    for (int64_t i = 0; i < m; i += TURN_ROWS) {
        int64_t some = min64(TURN_ROWS, m - i);
        memcpy(turned + i * I, x + i * I, (size_t)(some * I) * sizeof *turned);
        turn_rows(turned + i * I, some, I, I);
    }
    return turned;
}

float *gemm_turned_dx(Tape *t, const Tensor *w, float *dx, int64_t m) {
    if (!weight_is_turned(w)) return dx;
    return arena_push_zero(t->step, (size_t)(m * tensor_cols(w)) * sizeof *dx);
}

void gemm_turned_add(const Tensor *w, float *gathered, float *dx, int64_t m) {
    int64_t I = tensor_cols(w);
    if (gathered == dx) return;
#pragma omp parallel for schedule(static) if (m * I > ROUND_CHUNK)
    for (int64_t i = 0; i < m; i += TURN_ROWS) {
        int64_t some = min64(TURN_ROWS, m - i);
        turn_rows_back(gathered + i * I, some, I, I);
        row_add_scaled(dx + i * I, gathered + i * I, 1, some * I);
    }
}

static const char *weight_at(const Tensor *w, int64_t row, int64_t col) {
    return (const char *)w->data + dtype_bytes(w->dtype, row * tensor_cols(w) + col);
}

GemmPanel gemm_open(const Tensor *w, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                    float *scratch) {
    int64_t cols = tensor_cols(w), n = c1 - c0;
    if (!gemm_needs_scratch(w)) return (GemmPanel){f32(w) + r0 * cols + c0, cols};
    for (int64_t r = r0; r < r1; r++) {
        float *row = scratch + (r - r0) * n;
        if (openings[w->dtype].open)
            openings[w->dtype].open(weight_at(w, r, c0), row, n);
        else
            weight_open(w, r, c0, n, row);
    }
    return (GemmPanel){scratch, n};
}

bool gemm_few(const Tensor *w, int64_t m) { return m <= FEW_ROWS && openings[w->dtype].dot; }

void gemm_few_rows(const Tensor *w, int64_t r0, int64_t r1, const float *x, int64_t m, float *y,
                   int64_t ldy) {
    int64_t I = tensor_cols(w);
    for (int64_t r = r0; r < r1; r++) {
        for (int64_t i = 0; i < m; i++) {
            y[i * ldy + r - r0] = openings[w->dtype].dot(weight_at(w, r, 0), x + i * I, I);
        }
    }
}

/* ---- products with a whole weight ----------------------------------------------------------- */

/* All threads open rows [r0,r1) together, so that none of it is opened twice. */
static GemmPanel open_together(const Tensor *w, int64_t r0, int64_t r1, float *scratch) {
    int64_t I = tensor_cols(w), step = 16;
    if (!scratch) return gemm_open(w, r0, r1, 0, I, NULL);
#pragma omp parallel for schedule(static)
    for (int64_t r = r0; r < r1; r += step) {
        gemm_open(w, r, min64(r + step, r1), 0, I, scratch + (r - r0) * I);
    }
    return (GemmPanel){scratch, I};
}

size_t gemm_weight_bytes(const Tensor *w) {
    if (!gemm_needs_scratch(w)) return 0;
    return (size_t)(min64(tensor_rows(w), WEIGHT_ROWS) * tensor_cols(w)) * sizeof(float) +
           ARENA_ALIGN;
}

static float *weight_scratch(Tape *t, const Tensor *w, int64_t rows) {
    if (!gemm_needs_scratch(w)) return NULL;
    return arena_push(t->step, (size_t)(rows * tensor_cols(w)) * sizeof(float));
}

void gemm_times_weight_t(Tape *t, const float *x, int64_t m, const Tensor *w, float *y) {
    int64_t O = tensor_rows(w), I = tensor_cols(w);
    if (gemm_few(w, m)) {
#pragma omp parallel for schedule(static) if (O * I > SERIAL_BELOW)
        for (int64_t r = 0; r < O; r += FEW_ROWS_PANEL) {
            gemm_few_rows(w, r, min64(r + FEW_ROWS_PANEL, O), x, m, y + r, O);
        }
        return;
    }
    size_t mark = arena_mark(t->step);
    int64_t rows = gemm_needs_scratch(w) ? min64(O, WEIGHT_ROWS) : O;
    float *scratch = weight_scratch(t, w, rows);
    x = gemm_turned(t, w, x, m);
    for (int64_t r = 0; r < O; r += rows) {
        int64_t some = min64(rows, O - r);
        GemmPanel p = open_together(w, r, r + some, scratch);
        gemm(false, true, m, some, I, 1, x, I, p.p, p.ld, 0, y + r, O);
    }
    arena_release(t->step, mark);
}

void gemm_times_weight(Tape *t, const float *dy, int64_t m, const Tensor *w, float *dx) {
    int64_t O = tensor_rows(w), I = tensor_cols(w);
    size_t mark = arena_mark(t->step);
    int64_t rows = gemm_needs_scratch(w) ? min64(O, WEIGHT_ROWS) : O;
    float *scratch = weight_scratch(t, w, rows), *out = gemm_turned_dx(t, w, dx, m);
    for (int64_t r = 0; r < O; r += rows) {
        int64_t some = min64(rows, O - r);
        GemmPanel p = open_together(w, r, r + some, scratch);
        gemm(false, false, m, I, some, 1, dy + r, O, p.p, p.ld, 1, out, I);
    }
    gemm_turned_add(w, out, dx, m);
    arena_release(t->step, mark);
}
