/* matmul_kernels.h - what matmul.c and the kernels of each instruction set agree on: how operands
 * are packed, and what one task is. Only matmul*.c include it.
 *
 * A tile is TILE_BYTES: 16 rows of 32 bfloat16.
 *   Forward, yT = w xT: w is the left operand, 16 rows of w by 32 columns. x is packed as the right
 *   one: a tile holds 32 columns k of 16 tokens; its dword 16*r + m is the pair of columns
 *   (pair_column(r), pair_column(r) + 1) of token m. The order of pairs is the one in which a line
 *   of a packed block opens (see quant/line.h), so that nothing is shuffled per weight.
 *   Backward, dx = dy w: dy is the left operand, a tile is 16 tokens by 32 columns in natural order;
 *   w is the right one: two neighbouring rows of w interleaved.
 * Tokens and columns that fill up the last tile are zero. Behind the tiles of its columns
 * (ceil(I/64)*2 of x, ceil(O/32) of dy) a token tile has ceil(R/32) tiles with the low-rank input
 * (s*h forward, s*dy b backward). */
#ifndef MATMUL_KERNELS_H
#define MATMUL_KERNELS_H
#include "tensor.h"
#include <stddef.h>

enum { TILE_TOKENS = 16, TILE_COLS = 32, TILE_BYTES = 1024 };

/* Column (0..31, even) of the first value of pair r of a packed x tile. */
static inline int pair_column(int r) {
    int lane = r / 4, i = r % 4 * 2;
    return i < 2 * 2 ? 4 * lane + i : 16 + 4 * lane + i - 4;
}

/* The packed rows of one group. */
typedef struct Packed {
    char *tile;     /* 64-byte aligned */
    int64_t m;      /* tokens */
    int64_t n_k;    /* tiles along the columns, low-rank ones included */
    int64_t n_lora; /* of them low-rank, at the end */
} Packed;
static inline char *packed_tile(const Packed *p, int64_t token_tile, int64_t k) {
    return p->tile + (token_tile * p->n_k + k) * TILE_BYTES;
}

/* Rows [row, row + n) of y's columns: y[t][0..n) = x[t] . w[row + 0..n) + xlora[t] . b[0..n) for
 * all m tokens. The rows are panels of one matrix (row % 32 == 0 within it), one after the other.
 */
typedef struct ForwardTask {
    const Tensor *w;
    int64_t row;       /* of w, leading dims together */
    const void *panel; /* packed formats: the first one's bytes */
    int64_t n;
    const Packed *x;
    const float *b; /* (n, R) rows of b; NULL: none */
    int64_t R;
    float *y; /* of token 0, column 0 */
    int64_t ldy;
} ForwardTask;

/* Columns [col, col + n) of dx: dx[t][0..n) (+)= dy[t] . w[:, col..col+n) + dylora[t] . a[:, ...).
 * col: a multiple of BLOCK_COLS, whose blocks are met one column of them after the other. */
typedef struct BackwardTask {
    const Tensor *w;
    int64_t row, rows; /* the matrix: rows [row, row + rows) of w */
    const void *panel; /* packed formats: its first panel */
    int64_t col, n;
    const Packed *dy;
    const float *a; /* (R, lda): already at column col; NULL: none */
    int64_t R, lda;
    float *dx; /* of token 0, already at column col */
    int64_t lddx;
    bool add; /* else dx is set */
} BackwardTask;

/* One per instruction set; w may be of any format with a weight_open. begin and end stand around
 * the tasks of a thread; scratch is the thread's own, 64-byte aligned. */
typedef struct MatmulKernels {
    void (*begin)(void), (*end)(void);
    void (*forward)(const ForwardTask *, void *scratch);
    void (*backward)(const BackwardTask *, void *scratch);
    size_t scratch_bytes;
} MatmulKernels;
extern const MatmulKernels matmul_amx, matmul_vector; /* vector: AVX-512, AVX2 or plain C */

/* out (R, I) += pT x, or with transposed out (I, R): p (T,R), x (T,I) at rows x_row[t] (NULL: t),
 * ldx and ldout apart, times s. Float32, one fixed order. Serial. */
void outer_add(int64_t T, int64_t R, int64_t I, float s, const float *p, const float *x,
               int64_t ldx, const int32_t *x_row, float *out, int64_t ldout, bool transposed);
#endif
