/* outer.h - the kernels of outer.c, once per VEC (see vec.h): included by it alone. */
#include "vec.h"

/* out[r][column] += s * sum over t of p[t][r] x[t][column]: nr rows (p's, ldp from t to t + 1), nv
 * vectors of columns (from `col` on). Rows of x are asked for ahead: they lie in no pattern that
 * the machine knows. */
TARGET_INLINE void NAME(outer_block)(const int nr, const int nv, int64_t T, float s, const float *p,
                                     int64_t ldp, const float *const *x, int64_t col, float *out,
                                     int64_t ldout) {
    V sum[8][2];
    UNROLL for (int r = 0; r < nr; r++) {
        UNROLL for (int v = 0; v < nv; v++) sum[r][v] = NAME(all)(0);
    }
    for (int64_t t = 0; t < T; t++, p += ldp) {
        V right[2];
        UNROLL for (int v = 0; v < nv; v++) right[v] = NAME(load)(x[t] + col + v * VEC);
        UNROLL for (int v = 0; v < nv * VEC; v += 16) __builtin_prefetch(x[t + AHEAD] + col + v);
        UNROLL for (int r = 0; r < nr; r++) {
            V left = NAME(all)(p[r]);
            UNROLL for (int v = 0; v < nv; v++) sum[r][v] = NAME(fma)(left, right[v], sum[r][v]);
        }
    }
    V by = NAME(all)(s);
    UNROLL for (int r = 0; r < nr; r++) {
        UNROLL for (int v = 0; v < nv; v++) {
            float *to = out + r * ldout + v * VEC;
            NAME(store)(to, NAME(fma)(by, sum[r][v], NAME(load)(to)));
        }
    }
}

#define BLOCK(nr, nv)                                                                              \
    TARGET static void NAME(outer_block_##nr##_##nv)(int64_t T, float s, const float *p,           \
                                                     int64_t ldp, const float *const *x,           \
                                                     int64_t col, float *out, int64_t ldout) {     \
        NAME(outer_block)(nr, nv, T, s, p, ldp, x, col, out, ldout);                               \
    }
BLOCK(1, 1)
BLOCK(2, 1)
BLOCK(3, 1)
BLOCK(4, 1)
BLOCK(5, 1)
BLOCK(6, 1)
BLOCK(7, 1)
BLOCK(8, 1)
BLOCK(1, 2)
BLOCK(2, 2)
BLOCK(3, 2)
BLOCK(4, 2)
#if VEC == 16
BLOCK(5, 2)
BLOCK(6, 2)
BLOCK(7, 2)
BLOCK(8, 2)
#endif
#undef BLOCK

static const Outer NAME(outer) = {
    .lanes = VEC,
    .most = {0, 8, VEC == 16 ? 8 : 4},
    .block =
        {
            {NULL},
            {NULL, NAME(outer_block_1_1), NAME(outer_block_2_1), NAME(outer_block_3_1),
             NAME(outer_block_4_1), NAME(outer_block_5_1), NAME(outer_block_6_1),
             NAME(outer_block_7_1), NAME(outer_block_8_1)},
            {NULL, NAME(outer_block_1_2), NAME(outer_block_2_2), NAME(outer_block_3_2),
             NAME(outer_block_4_2),
#if VEC == 16
             NAME(outer_block_5_2), NAME(outer_block_6_2), NAME(outer_block_7_2),
             NAME(outer_block_8_2)
#endif
            },
        },
};
