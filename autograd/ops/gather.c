/* gather: y[r] = x[token_of[r]], the rows of tokens sorted by expert
 *   dx[t] = sum_j dy[row_of[t,j]], in the order of j */
#include "../rows.h"
#include "sample.h"
#include <string.h>

static void fwd(Tape *t, Node *n) {
    (void)t;
    int64_t rows = tensor_rows(n->out[0]), D = tensor_cols(n->out[0]);
    const float *x = f32(n->in[0]);
    const int32_t *token_of = i32(n->in[1]);
    float *y = f32(n->out[0]);
    FOR_ROWS(r, rows, D) { memcpy(y + r * D, x + token_of[r] * D, (size_t)D * sizeof *y); }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    int64_t T = tensor_rows(n->in[0]), D = tensor_cols(n->in[0]);
    int64_t k = tensor_numel(n->in[2]) / T;
    const float *dy = f32(n->out[0]->grad);
    const int32_t *row_of = i32(n->in[2]);
    float *dx = f32(n->in[0]->grad);
    FOR_ROWS(i, T, k * D) {
        for (int64_t j = 0; j < k; j++) {
            row_put_scaled(dx + i * D, dy + row_of[i * k + j] * D, 1, D, n->fresh && j == 0);
        }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    int64_t T = i == 2 ? 90 : 5, k = i == 1 ? 1 : 3, D = i == 2 ? 64 : 6;
    Tensor *x = sample_2d(t, rng, T, D);
    Dispatch d = dispatch_by_expert(t, sample_choice(t, rng, T, k, 7), 7);
    return (OpCase){gather(t, x, d.token_of, d.row_of), i == 2};
}

const Op op_gather = {
    "gather", {fwd, CUDA(gather_fwd_cuda)}, {bwd, CUDA(gather_bwd_cuda)}, sample, NULL, 1};

Tensor *gather(Tape *t, Tensor *x, Tensor *token_of, Tensor *row_of) {
    int64_t T = tensor_rows(x), rows = tensor_numel(token_of);
    CHECK(token_of->dtype == DT_i32 && row_of->dtype == DT_i32 && tensor_numel(row_of) == rows &&
              T > 0 && rows % T == 0,
          "gather: %ld tokens, %ld rows, %ld places", (long)T, (long)rows,
          (long)tensor_numel(row_of));
    Node *n = tape_node(t, &op_gather, 3, (Tensor *[]){x, token_of, row_of});
    n->out[0] = tensor_2d(t->step, DT_f32, rows, tensor_cols(x));
    return tape_run(t, n);
}
