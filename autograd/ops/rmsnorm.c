/* rmsnorm, over runs of cols values (Zhang and Sennrich 2019), with the gain u = plus + w:
 *   r = 1/sqrt(mean(x^2) + eps)   y = x*r*u, or to + x*r*u
 *   dx = r*g - x * r^3 * mean(g*x),  g = u*dy        dw = sum over runs of dy*x*r      dto = dy
 * A row of x may hold several runs: the heads of a query, each normed by itself. */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"
#include <math.h>

enum { X, W, TO, N_IN };
typedef struct Attr {
    int64_t cols;
    Norm norm;
} Attr;

/* saved[0]: r of every run; saved[1]: u where it is not w itself. NULL: ones. */
static const float *gain(const Node *n) {
    const Tensor *u = n->saved[1] ? n->saved[1] : n->in[W];
    return u ? f32(u) : NULL;
}
static void make_gain(Node *n) {
    const Attr *a = ATTR(n, Attr);
    for (int64_t j = 0; j < a->cols; j++) f32(n->saved[1])[j] = a->norm.plus + f32(n->in[W])[j];
}

SIMD static void norm_run(const float *restrict x, const float *restrict w, float r,
                          float *restrict y, int64_t n) {
    for (int64_t j = 0; j < n; j++) y[j] = x[j] * r * w[j];
}
SIMD static void norm_run_to(const float *restrict x, const float *restrict w, float r,
                             const float *restrict to, float *restrict y, int64_t n) {
    for (int64_t j = 0; j < n; j++) y[j] = to[j] + x[j] * r * w[j];
}
/* dx = (set) or += r*w*dy - c*x; w NULL: ones */
SIMD static void put_dx_run(float *restrict dx, const float *restrict x, const float *restrict w,
                            const float *restrict dy, float r, float c, int64_t n, bool set) {
    if (!w) {
        for (int64_t j = 0; j < n; j++) dx[j] = (set ? 0 : dx[j]) + (r * dy[j] - c * x[j]);
    } else {
        for (int64_t j = 0; j < n; j++) dx[j] = (set ? 0 : dx[j]) + (r * (w[j] * dy[j]) - c * x[j]);
    }
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const Attr *a = ATTR(n, Attr);
    int64_t cols = a->cols, runs = tensor_numel(n->in[X]) / cols;
    if (n->saved[1]) make_gain(n);
    const float *x = f32(n->in[X]), *w = gain(n);
    const float *to = n->in[TO] ? f32(n->in[TO]) : NULL;
    float *y = f32(n->out[0]), *inverse = f32(n->saved[0]);
    FOR_ROWS(i, runs, cols) {
        const float *xi = x + i * cols;
        row_fetch(x, i + FETCH_AHEAD, runs, cols, cols);
        if (to) row_fetch(to, i + FETCH_AHEAD, runs, cols, cols);
        float r = (float)(1 / sqrt(row_dot(xi, xi, cols) / (double)cols + (double)a->norm.eps));
        inverse[i] = r;
        if (to) {
            norm_run_to(xi, w, r, to + i * cols, y + i * cols, cols);
        } else if (w) {
            norm_run(xi, w, r, y + i * cols, cols);
        } else {
            row_scale(y + i * cols, xi, r, cols);
        }
    }
}

/* dw[from..from+len): threads share the columns; every column adds its runs in order. */
enum { COLUMNS = 32 };
static void add_dw(const float *x, const float *dy, const float *inverse, int64_t runs,
                   int64_t cols, int64_t from, float *dw) {
    double sum[COLUMNS] = {0};
    int64_t len = cols - from < COLUMNS ? cols - from : COLUMNS;
    for (int64_t i = 0; i < runs; i++) {
        const float *xi = x + i * cols + from, *di = dy + i * cols + from;
        for (int64_t j = 0; j < len; j++) sum[j] += (double)(di[j] * (xi[j] * inverse[i]));
    }
    for (int64_t j = 0; j < len; j++) dw[from + j] += (float)sum[j];
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    int64_t cols = ATTR(n, Attr)->cols, runs = tensor_numel(n->in[X]) / cols;
    const float *x = f32(n->in[X]), *w = gain(n);
    const float *dy = f32(n->out[0]->grad), *inverse = f32(n->saved[0]);
    if (n->in[X]->wants_grad) {
        float *dx = f32(n->in[X]->grad);
        FOR_ROWS(i, runs, cols) {
            const float *xi = x + i * cols, *di = dy + i * cols;
            row_fetch(x, i + FETCH_AHEAD, runs, cols, cols);
            row_fetch(dy, i + FETCH_AHEAD, runs, cols, cols);
            double r = (double)inverse[i];
            double s = w ? row_dot3(di, w, xi, cols) : row_dot(di, xi, cols);
            float c = (float)(s / (double)cols * r * r * r);
            put_dx_run(dx + i * cols, xi, w, di, inverse[i], c, cols, n->fresh & 1);
        }
    }
    if (n->in[TO] && n->in[TO]->wants_grad && !passed_on(n, TO)) {
        float *dto = f32(n->in[TO]->grad);
        int64_t values = runs * cols;
        FOR_PIECES(at, values) {
            row_put_scaled(dto + at, dy + at, 1, row_piece(at, values), n->fresh & 1u << TO);
        }
    }
    if (n->in[W] && n->in[W]->wants_grad) {
        float *dw = f32(n->in[W]->grad);
        int64_t tasks = (cols + COLUMNS - 1) / COLUMNS;
        FOR_ROWS(i, tasks, runs * COLUMNS) { add_dw(x, dy, inverse, runs, cols, i * COLUMNS, dw); }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    /* one run a row; several (heads); no weight; frozen weight; frozen x; threads; added; around 1;
     * around 1, several, added */
    static const int64_t rows[] = {3, 4, 3, 2, 3, 60, 4, 3, 4},
                         cols[] = {8, 5, 40, 70, 6, 300, 36, 9, 12};
    static const int runs[] = {1, 3, 2, 1, 1, 1, 1, 1, 2};
    Tensor *x = sample_2d(t, rng, rows[i], cols[i] * runs[i]);
    Tensor *w = i == 2 ? NULL : sample_1d(t, rng, cols[i]);
    if (i == 3) w->wants_grad = false;
    if (i == 4) x->wants_grad = false;
    Tensor *to = i == 6 || i == 8 ? sample_2d(t, rng, rows[i], cols[i] * runs[i]) : NULL;
    return (OpCase){rmsnorm(t, x, w, to, cols[i], (Norm){1e-6f, i >= 7}), i == 8};
}

const Op op_rmsnorm = {"rmsnorm",
                       {fwd, CUDA(rmsnorm_fwd_cuda)},
                       {bwd, CUDA(rmsnorm_bwd_cuda)},
                       sample,
                       NULL,
                       1u << X | 1u << TO,
                       1u << TO};

Tensor *rmsnorm(Tape *t, Tensor *x, Tensor *w, Tensor *to, int64_t cols, Norm norm) {
    CHECK(cols > 0 && tensor_cols(x) % cols == 0, "rmsnorm: runs of %ld in rows of %ld", (long)cols,
          (long)tensor_cols(x));
    CHECK(!w || (w->dtype == DT_f32 && tensor_numel(w) == cols),
          "rmsnorm: runs of %ld, w has %ld values, %s", (long)cols, (long)tensor_numel(w),
          dtype_info[w->dtype].name);
    CHECK(!to || (w && tensor_numel(to) == tensor_numel(x)),
          "rmsnorm: x has %ld values, to %ld, or no "
          "w",
          (long)tensor_numel(x), (long)tensor_numel(to));
    Node *n = tape_node(t, &op_rmsnorm, N_IN, (Tensor *[]){x, w, to});
    *ATTR(n, Attr) = (Attr){cols, norm};
    n->saved[0] = tensor_1d(t->step, DT_f32, tensor_numel(x) / cols);
    if (w && norm.plus != 0) n->saved[1] = tensor_1d(t->step, DT_f32, cols);
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
