/* add: z = x + s*y        dx = dz   dy = s*dz */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"

typedef struct Attr {
    float s;
} Attr;

SIMD static void add_piece(const float *restrict x, const float *restrict y, float s,
                           float *restrict z, int64_t n) {
    for (int64_t i = 0; i < n; i++) z[i] = x[i] + s * y[i];
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const float *x = f32(n->in[0]), *y = f32(n->in[1]);
    float *z = f32(n->out[0]), s = ATTR(n, Attr)->s;
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) { add_piece(x + at, y + at, s, z + at, row_piece(at, numel)); }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    const float *dz = f32(n->out[0]->grad);
    int64_t numel = tensor_numel(n->in[0]);
    for (int j = 0; j < 2; j++) { /* one after the other: x may be y */
        if (!n->in[j]->wants_grad || passed_on(n, j)) continue;
        float *d = f32(n->in[j]->grad), s = j == 0 ? 1 : ATTR(n, Attr)->s;
        bool set = n->fresh & 1u << j;
        FOR_PIECES(at, numel) { row_put_scaled(d + at, dz + at, s, row_piece(at, numel), set); }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    Tensor *x = sample_2d(t, rng, i == 2 ? 130 : 3, i == 2 ? 129 : 7); /* case 2: two pieces */
    if (i == 0) return (OpCase){add(t, x, x, -0.25f), false};
    return (OpCase){add(t, x, sample_2d(t, rng, x->dim[0], x->dim[1]), 0.3f), i == 2};
}

const Op op_add = {"add", {fwd, CUDA(add_fwd_cuda)}, {bwd, CUDA(add_bwd_cuda)}, sample, NULL, 3, 1};

Tensor *add(Tape *t, Tensor *x, Tensor *y, float s) {
    CHECK(tensor_numel(x) == tensor_numel(y), "add: x has %ld values, y has %ld",
          (long)tensor_numel(x), (long)tensor_numel(y));
    Node *n = tape_node(t, &op_add, 2, (Tensor *[]){x, y});
    ATTR(n, Attr)->s = s;
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
