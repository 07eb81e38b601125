/* dropout: z = x * keep/(1-p)        dx = dz * keep/(1-p)      (Srivastava et al. 2014)
 * Whether value i is kept depends on (seed, stream, i) alone: nothing is saved, and backward and
 * a replay draw the same. */
#include "../rows.h"
#include "sample.h"

typedef struct Attr {
    float p;
    uint64_t seed, stream;
} Attr;

/* The factor of value i: uniform in [0,1) with 53 bits, kept when p or above. */
static inline float factor(const Attr *a, int64_t i) {
    double u = (double)(rng_at(a->seed, a->stream, (uint64_t)i) >> 11) * 0x1p-53;
    return u >= (double)a->p ? 1 / (1 - a->p) : 0;
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const Attr *a = ATTR(n, Attr);
    const float *x = f32(n->in[0]);
    float *z = f32(n->out[0]);
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) {
        int64_t end = at + row_piece(at, numel);
        for (int64_t i = at; i < end; i++) z[i] = x[i] * factor(a, i);
    }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    const Attr *a = ATTR(n, Attr);
    const float *dz = f32(n->out[0]->grad);
    float *dx = f32(n->in[0]->grad);
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) {
        int64_t end = at + row_piece(at, numel);
        for (int64_t i = at; i < end; i++) dx[i] += dz[i] * factor(a, i);
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    static const float p[] = {0.3f, 0, 0.9f};
    Tensor *x = sample_2d(t, rng, i == 2 ? 130 : 5, i == 2 ? 129 : 7);
    return (OpCase){dropout(t, x, p[i], 11, 22), i == 2};
}

const Op op_dropout = {
    "dropout", {fwd, CUDA(dropout_fwd_cuda)}, {bwd, CUDA(dropout_bwd_cuda)}, sample, NULL, 0, 0};

Tensor *dropout(Tape *t, Tensor *x, float p, uint64_t seed, uint64_t stream) {
    CHECK(p >= 0 && p < 1, "dropout: p is %g", (double)p);
    Node *n = tape_node(t, &op_dropout, 1, (Tensor *[]){x});
    *ATTR(n, Attr) = (Attr){p, seed, stream};
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
