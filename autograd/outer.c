/* outer.c - the gradients of thin matrices: outer_add of matmul_kernels.h. */
#include "matmul_kernels.h"

void outer_add(int64_t T, int64_t R, int64_t I, float s, const float *p, const float *x,
               int64_t ldx, const int32_t *x_row, float *out, int64_t ldout, bool transposed) {
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + (x_row ? x_row[t] : t) * ldx;
        for (int64_t r = 0; r < R; r++) {
            float f = s * p[t * R + r];
            if (transposed) {
                for (int64_t i = 0; i < I; i++) out[i * ldout + r] += f * row[i];
            } else {
                for (int64_t i = 0; i < I; i++) out[r * ldout + i] += f * row[i];
            }
        }
    }
}
