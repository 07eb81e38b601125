/* rows.c - see rows.h. The copies per instruction set stay inside this file: a caller elsewhere
 * would have to agree with the compiler on their names. */
#include "rows.h"
#include "simd.h"

SIMD static void scale_row(float *restrict y, const float *restrict x, float s, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = s * x[i];
}
SIMD static void add_scaled_row(float *restrict y, const float *restrict x, float s, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += s * x[i];
}

/* Sixteen sums side by side on every instruction set (four registers of the baseline, one of
 * AVX-512), four of these to hide the latency of an addition. A run of 2048 values leaves 32
 * additions in each. */
enum { LANES = 16, RUN = 2048 };
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float Half __attribute__((vector_size(2 * LANES)));
typedef double Wide __attribute__((vector_size(4 * LANES)));
#define AT(p) (*(const Lanes *)(const void *)(p))

SIMD_INLINE double lanes_sum(const Lanes *a) {
    Half low = __builtin_shufflevector(*a, *a, 0, 1, 2, 3, 4, 5, 6, 7);
    Half high = __builtin_shufflevector(*a, *a, 8, 9, 10, 11, 12, 13, 14, 15);
    Wide w = __builtin_convertvector(low, Wide) + __builtin_convertvector(high, Wide);
    return ((w[0] + w[4]) + (w[2] + w[6])) + ((w[1] + w[5]) + (w[3] + w[7]));
}

/* Rows of up to SHORT values add up in float64 altogether: it costs little, and a tiny model then
 * differs from a reference by the reference's own rounding alone. */
enum { SHORT = 128 };
#define DEFINE_DOT(name, params, lanes_term, term)                                                 \
    SIMD static double name params {                                                               \
        double total = 0;                                                                          \
        int64_t i = 0;                                                                             \
        if (n <= SHORT) {                                                                          \
            double part[8] = {0};                                                                  \
            for (; i + 8 <= n; i += 8) {                                                           \
                for (int k = 0; k < 8; k++) part[k] += term(i + k);                                \
            }                                                                                      \
            for (int k = 0; k < 8; k++) total += part[k];                                          \
        }                                                                                          \
        while (n > SHORT && i + LANES <= n) {                                                      \
            Lanes sum[4] = {{0}, {0}, {0}, {0}};                                                   \
            int64_t end = i + RUN < n ? i + RUN : n;                                               \
            for (; i + 4 * LANES <= end; i += 4 * LANES) {                                         \
                for (int k = 0; k < 4; k++) sum[k] += lanes_term(i + k * LANES);                   \
            }                                                                                      \
            for (; i + LANES <= end; i += LANES) sum[0] += lanes_term(i);                          \
            Lanes all = (sum[0] + sum[1]) + (sum[2] + sum[3]);                                     \
            total += lanes_sum(&all);                                                              \
        }                                                                                          \
        for (; i < n; i++) total += term(i);                                                       \
        return total;                                                                              \
    }
#define TWO(i)        (AT(a + (i)) * AT(b + (i)))
#define THREE(i)      (AT(a + (i)) * AT(b + (i)) * AT(c + (i)))
#define TWO_WIDE(i)   ((double)a[i] * (double)b[i])
#define THREE_WIDE(i) ((double)a[i] * (double)b[i] * (double)c[i])
DEFINE_DOT(dot_row, (const float *a, const float *b, int64_t n), TWO, TWO_WIDE)
DEFINE_DOT(dot3_row, (const float *a, const float *b, const float *c, int64_t n), THREE, THREE_WIDE)

void row_scale(float *y, const float *x, float s, int64_t n) { scale_row(y, x, s, n); }
void row_add_scaled(float *y, const float *x, float s, int64_t n) { add_scaled_row(y, x, s, n); }
double row_dot(const float *a, const float *b, int64_t n) { return dot_row(a, b, n); }
double row_dot3(const float *a, const float *b, const float *c, int64_t n) {
    return dot3_row(a, b, c, n);
}
