/* matmul.h - products with stored weights under compute: bf16. Both operands are bfloat16 (weights
 * of any format are opened to bfloat16 on the fly, panel by panel; activations are rounded once
 * when packed), sums are float32. One stored copy serves forward and backward. Linear layers are
 * one group of rows, experts are E groups.
 *
 * The low-rank addition rides along: y = x wT + s h bT, h = lx aT, is one product whose inner side
 * is longer by the rank. Work is dealt as (group, panel) tasks that own what they write: the same
 * inputs give the same bits whatever the threads. */
#ifndef MATMUL_H
#define MATMUL_H
#include "tape.h"

typedef struct Matmul {
    const Tensor *w;      /* (O,I), or (E,O,I) with off */
    const int32_t *off;   /* (E+1): rows off[e]..off[e+1]-1 meet w[e]; NULL: all rows meet w */
    int64_t T;            /* rows of y */
    const int32_t *x_row; /* (T): the row of x that row t reads; NULL: t itself */
    int64_t x_rows;       /* with x_row: rows of x */
    const Tensor *a, *b;  /* f32 (R,I) and (O,R), or (E,R,I) and (E,O,R); NULL: none */
    float s;
} Matmul;

/* y (T,O) = x wT + s h bT. x is float32 with I columns. With a: h (T,R) = lx aT is written, where
 * lx is x (the same pointer) or another input of the same shape (after dropout; without x_row). */
void matmul_forward(Tape *t, const Matmul *m, const float *x, const float *lx, float *h, float *y);

/* Whatever is not NULL is added to: dx (T,I) += dy w (one row per row of y, also with x_row), dlx
 * += s (dy b) a, da += (s dy b)T lx, db += s dyT h. dlx may be dx. lx is only read for da, h for
 * db. */
typedef struct MatmulGrads {
    float *dx, *dlx, *da, *db;
    bool set_dx, set_dlx; /* it holds nothing yet: it is set (dx, where they are one) */
} MatmulGrads;
void matmul_backward(Tape *t, const Matmul *m, const float *dy, const float *lx, const float *h,
                     const MatmulGrads *g);

/* Bytes of t->step that matmul_forward (back: matmul_backward) takes and gives back, at most,
 * whatever the groups' sizes. Only shapes of m are read. own_lx: lx is not x. */
size_t matmul_scratch(const Matmul *m, bool own_lx, bool back);
#endif
