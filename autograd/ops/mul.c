/* mul: z = x*y        dx = dz*y   dy = dz*x */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"

SIMD static void mul_piece(const float *restrict x, const float *restrict y, float *restrict z,
                           int64_t n) {
    for (int64_t i = 0; i < n; i++) z[i] = x[i] * y[i];
}
SIMD static void add_product_piece(float *restrict d, const float *restrict dz,
                                   const float *restrict other, int64_t n) {
    for (int64_t i = 0; i < n; i++) d[i] += dz[i] * other[i];
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const float *x = f32(n->in[0]), *y = f32(n->in[1]);
    float *z = f32(n->out[0]);
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) { mul_piece(x + at, y + at, z + at, row_piece(at, numel)); }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    const float *dz = f32(n->out[0]->grad);
    int64_t numel = tensor_numel(n->in[0]);
    for (int j = 0; j < 2; j++) { /* one after the other: x may be y */
        if (!n->in[j]->wants_grad) continue;
        const float *other = f32(n->in[1 - j]);
        float *d = f32(n->in[j]->grad);
        FOR_PIECES(at, numel) {
            add_product_piece(d + at, dz + at, other + at, row_piece(at, numel));
        }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    Tensor *x = sample_2d(t, rng, i == 2 ? 130 : 3, i == 2 ? 129 : 7); /* case 2: two pieces */
    if (i == 0) return (OpCase){mul(t, x, x), false};
    return (OpCase){mul(t, x, sample_2d(t, rng, x->dim[0], x->dim[1])), i == 2};
}

const Op op_mul = {"mul", {fwd, CUDA(mul_fwd_cuda)}, {bwd, CUDA(mul_bwd_cuda)}, sample, NULL, 0, 0};

Tensor *mul(Tape *t, Tensor *x, Tensor *y) {
    CHECK(tensor_numel(x) == tensor_numel(y), "mul: x has %ld values, y has %ld",
          (long)tensor_numel(x), (long)tensor_numel(y));
    Node *n = tape_node(t, &op_mul, 2, (Tensor *[]){x, y});
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
