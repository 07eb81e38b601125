/* gemm.h - matrix products on row-major float32, and weights of any format as their operand: the
 * whole of compute: f32. (Products under compute: bf16: matmul.h.)
 *
 * How work is split depends on shapes alone, never on timing or on the number of threads, and
 * every sum has one order: the same inputs give the same bits. */
#ifndef GEMM_H
#define GEMM_H
#include "tape.h"

/* c (m,n) = alpha * op(a) op(b) + beta * c, where op transposes if ta / tb is set: a is stored
 * (m,k) or, transposed, (k,m); b (k,n) or (n,k). lda, ldb, ldc: distance between stored rows. Any
 * of m, n, k may be 0. With beta 0, c need not be set. */
void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
          int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* The same on the calling thread alone, for use inside parallel regions. */
void gemm_serial(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* A copy of n values, rounded to bfloat16, from t->step (the caller marks and releases), and its
 * bytes: an operand of what compute: bf16 multiplies here, the gradients of weights that learn. */
const float *gemm_rounded(Tape *t, const float *p, int64_t n);
size_t gemm_rounded_bytes(int64_t n);

/* Bytes of t->step that a product with all of w takes. */
size_t gemm_weight_bytes(const Tensor *w);

/* Weights of turned formats (turn.h) are opened as they are stored: x must be turned, and dx turned
 * back. gemm_times_weight_t and gemm_times_weight do that themselves.
 * gemm_turned: x (m,I) as such a w's operand: a turned copy from t->step, or x itself. */
const float *gemm_turned(Tape *t, const Tensor *w, const float *x, int64_t m);
/* Where dx (m,I) += dy w is to be gathered: zeros from t->step, or dx itself; and then: what was
 * gathered is turned back and added to dx. */
float *gemm_turned_dx(Tape *t, const Tensor *w, float *dx, int64_t m);
void gemm_turned_add(const Tensor *w, float *gathered, float *dx, int64_t m);
/* Bytes of t->step that either takes. */
size_t gemm_turned_bytes(const Tensor *w, int64_t m);

/* A piece of a weight as float32: rows lie ld values apart. */
typedef struct GemmPanel {
    const float *p;
    int64_t ld;
} GemmPanel;
/* True if pieces of w must be opened into scratch; else they are read where they are. */
bool gemm_needs_scratch(const Tensor *w);
/* Rows [r0,r1) and columns [c0,c1) of w (leading dims taken together) opened to float32. scratch
 * holds (r1-r0)*(c1-c0) values, or is NULL where none is needed. c0: a multiple of BLOCK_COLS where
 * w is packed. Serial. */
GemmPanel gemm_open(const Tensor *w, int64_t r0, int64_t r1, int64_t c0, int64_t c1,
                    float *scratch);

/* A product with few rows (generation) is bound by reading w, and reads it as it is stored.
 * True if m rows are that few and w's format has such a kernel. */
bool gemm_few(const Tensor *w, int64_t m);
/* y[i*ldy + r-r0] = x[i] . w[r] for r in [r0,r1), i in [0,m), where gemm_few says so; x (m,I).
 * Serial. */
void gemm_few_rows(const Tensor *w, int64_t r0, int64_t r1, const float *x, int64_t m, float *y,
                   int64_t ldy);

/* Products with a whole weight w (O,I), opened panel by panel, never as a whole. Parallel; scratch
 * from t->step, given back. */
void gemm_times_weight_t(Tape *t, const float *x, int64_t m, const Tensor *w,
                         float *y); /* y (m,O) = x wT */
void gemm_times_weight(Tape *t, const float *dy, int64_t m, const Tensor *w,
                       float *dx); /* dx (m,I) += dy w */
#endif
