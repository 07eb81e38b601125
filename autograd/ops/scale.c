/* scale: z = s*x        dx = s*dz */
#include "../rows.h"
#include "sample.h"

typedef struct Attr {
    float s;
} Attr;

static void fwd(Tape *t, Node *n) {
    (void)t;
    const float *x = f32(n->in[0]);
    float *z = f32(n->out[0]), s = ATTR(n, Attr)->s;
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) { row_scale(z + at, x + at, s, row_piece(at, numel)); }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    const float *dz = f32(n->out[0]->grad);
    float *dx = f32(n->in[0]->grad), s = ATTR(n, Attr)->s;
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) {
        row_put_scaled(dx + at, dz + at, s, row_piece(at, numel), n->fresh & 1);
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    Tensor *x = sample_2d(t, rng, i ? 130 : 3, i ? 129 : 7); /* case 1: two pieces */
    return (OpCase){scale(t, x, -1.7f), i == 1};
}

const Op op_scale = {
    "scale", {fwd, CUDA(scale_fwd_cuda)}, {bwd, CUDA(scale_bwd_cuda)}, sample, NULL, 1, 0};

Tensor *scale(Tape *t, Tensor *x, float s) {
    Node *n = tape_node(t, &op_scale, 1, (Tensor *[]){x});
    ATTR(n, Attr)->s = s;
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
