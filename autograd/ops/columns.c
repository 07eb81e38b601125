/* columns: z[t] = x[t, from..from+n)        dx[t, from..from+n) = dz[t], the rest 0 */
#include "../rows.h"
#include "sample.h"
#include <string.h>

typedef struct Attr {
    int64_t from;
} Attr;

static void fwd(Tape *t, Node *n) {
    (void)t;
    int64_t rows = tensor_rows(n->in[0]), width = tensor_cols(n->in[0]);
    int64_t cols = tensor_cols(n->out[0]);
    const float *x = f32(n->in[0]) + ATTR(n, Attr)->from;
    float *z = f32(n->out[0]);
    FOR_ROWS(r, rows, cols) { memcpy(z + r * cols, x + r * width, (size_t)cols * sizeof *z); }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    int64_t rows = tensor_rows(n->in[0]), width = tensor_cols(n->in[0]);
    int64_t cols = tensor_cols(n->out[0]);
    const float *dz = f32(n->out[0]->grad);
    float *dx = f32(n->in[0]->grad) + ATTR(n, Attr)->from;
    FOR_ROWS(r, rows, cols) { row_add_scaled(dx + r * width, dz + r * cols, 1, cols); }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    static const int64_t rows[] = {4, 1, 150}, cols[] = {9, 5, 200}, from[] = {3, 0, 60},
                         len[] = {4, 5, 140}; /* the middle, all, many rows up to the end */
    return (OpCase){columns(t, sample_2d(t, rng, rows[i], cols[i]), from[i], len[i]), i == 2};
}

const Op op_columns = {
    "columns", {fwd, CUDA(columns_fwd_cuda)}, {bwd, CUDA(columns_bwd_cuda)}, sample, NULL, 0, 0};

Tensor *columns(Tape *t, Tensor *x, int64_t from, int64_t n_cols) {
    CHECK(from >= 0 && n_cols > 0 && from <= tensor_cols(x) - n_cols,
          "columns: %ld from %ld on, of %ld", (long)n_cols, (long)from, (long)tensor_cols(x));
    Node *n = tape_node(t, &op_columns, 1, (Tensor *[]){x});
    ATTR(n, Attr)->from = from;
    n->out[0] = tensor_2d(t->step, DT_f32, tensor_rows(x), n_cols);
    return tape_run(t, n);
}
