/* pack.h - rows of float32 as the bfloat16 tiles that the kernels of matmul_kernels.h multiply. */
#ifndef PACK_H
#define PACK_H
#include "matmul_kernels.h"

/* Rows to be packed: row i is x[at[i]] (at NULL: x[i]), cols values, times s. */
typedef struct Rows {
    const float *x;
    const int32_t *at;
    int64_t cols;
    float s;
} Rows;

/* p->m rows become tiles first..first+n-1 of p's token tiles, right operands or left ones; what
 * fills them up is zero. turned: room for TILE_TOKENS rows of pack_strip(r->cols) values; the rows
 * are turned on the way (turn.h). NULL: they are not. Serial. */
void pack_rows(const Packed *p, int64_t first, int64_t n, const Rows *r, bool right, float *turned);

/* Columns that are turned together, in whole blocks of a weight. */
int64_t pack_strip(int64_t cols);
#endif
