/* combine: z[t] = sum_j weight[t,j] * y[row_of[t,j]], in the order of j
 *   dy[row_of[t,j]] = weight[t,j] * dz[t]      dweight[t,j] = <dz[t], y[row_of[t,j]]>
 * Every row belongs to one token, so tokens may go to different threads. */
#include "../rows.h"
#include "sample.h"

/* The rows of y that token i gathers: they lie in no pattern that the processor knows. */
static void fetch_rows(const float *y, const int32_t *row_of, int64_t i, int64_t T, int64_t k,
                       int64_t D) {
    for (int64_t j = i * k; i < T && j < (i + 1) * k; j++) row_fetch(y, row_of[j], T * k, D, D);
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    int64_t T = tensor_rows(n->out[0]), D = tensor_cols(n->out[0]);
    int64_t k = tensor_numel(n->in[2]) / T;
    const float *y = f32(n->in[0]), *w = f32(n->in[1]);
    const int32_t *row_of = i32(n->in[2]);
    float *z = f32(n->out[0]);
    FOR_ROWS(i, T, k * D) {
        const int32_t *row = row_of + i * k;
        fetch_rows(y, row_of, i + 1, T, k, D);
        row_scale(z + i * D, y + row[0] * D, w[i * k], D);
        for (int64_t j = 1; j < k; j++) row_add_scaled(z + i * D, y + row[j] * D, w[i * k + j], D);
    }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    int64_t T = tensor_rows(n->out[0]), D = tensor_cols(n->out[0]);
    int64_t k = tensor_numel(n->in[2]) / T;
    const float *y = f32(n->in[0]), *w = f32(n->in[1]), *dz = f32(n->out[0]->grad);
    const int32_t *row_of = i32(n->in[2]);
    float *dy = n->in[0]->wants_grad ? f32(n->in[0]->grad) : NULL;
    float *dw = n->in[1]->wants_grad ? f32(n->in[1]->grad) : NULL;
    FOR_ROWS(i, T, k * D) {
        if (dw) fetch_rows(y, row_of, i + 1, T, k, D);
        for (int64_t j = i * k; j < (i + 1) * k; j++) {
            if (dy) row_put_scaled(dy + row_of[j] * D, dz + i * D, w[j], D, n->fresh & 1);
            if (dw) dw[j] += (float)row_dot(dz + i * D, y + row_of[j] * D, D);
        }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    /* both learn; one expert a token; weights frozen; rows frozen; threads */
    int64_t T = i == 4 ? 90 : 5, k = i == 1 ? 1 : 3, D = i == 4 ? 70 : 6;
    Tensor *y = sample_2d(t, rng, T * k, D), *w = sample_2d(t, rng, T, k);
    Dispatch d = dispatch_by_expert(t, sample_choice(t, rng, T, k, 7), 7);
    if (i == 2) w->wants_grad = false;
    if (i == 3) y->wants_grad = false;
    return (OpCase){combine(t, y, w, d.row_of), i == 4};
}

const Op op_combine = {
    "combine", {fwd, CUDA(combine_fwd_cuda)}, {bwd, CUDA(combine_bwd_cuda)}, sample, NULL, 1, 0};

Tensor *combine(Tape *t, Tensor *y, Tensor *weight, Tensor *row_of) {
    CHECK(row_of->dtype == DT_i32 && tensor_numel(row_of) == tensor_numel(weight) &&
              tensor_rows(y) == tensor_numel(weight),
          "combine: %ld rows, %ld weights, %ld places", (long)tensor_rows(y),
          (long)tensor_numel(weight), (long)tensor_numel(row_of));
    Node *n = tape_node(t, &op_combine, 3, (Tensor *[]){y, weight, row_of});
    n->out[0] = tensor_2d(t->step, DT_f32, tensor_rows(weight), tensor_cols(y));
    return tape_run(t, n);
}
