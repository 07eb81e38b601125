/* softcap: z = cap*tanh(x/cap)        dx = dz * (1 - (z/cap)^2)      (Gemma 2 report, 2024) */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"

typedef struct Attr {
    float cap;
} Attr;

SIMD static void cap_piece(const float *restrict x, float cap, float *restrict z, int64_t n) {
    for (int64_t i = 0; i < n; i++) z[i] = cap * simd_tanh(x[i] / cap);
}
SIMD static void put_slope_piece(float *restrict dx, const float *restrict dz,
                                 const float *restrict z, float cap, int64_t n, bool set) {
    for (int64_t i = 0; i < n; i++) {
        float y = z[i] / cap;
        dx[i] = (set ? 0 : dx[i]) + dz[i] * ((1 - y) * (1 + y));
    }
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const float *x = f32(n->in[0]);
    float *z = f32(n->out[0]), cap = ATTR(n, Attr)->cap;
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) { cap_piece(x + at, cap, z + at, row_piece(at, numel)); }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    const float *z = f32(n->out[0]), *dz = f32(n->out[0]->grad);
    float *dx = f32(n->in[0]->grad), cap = ATTR(n, Attr)->cap;
    int64_t numel = tensor_numel(n->in[0]);
    FOR_PIECES(at, numel) {
        put_slope_piece(dx + at, dz + at, z + at, cap, row_piece(at, numel), n->fresh);
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    static const float cap[] = {30, 0.7f, 2}; /* nearly straight, mostly saturated, two pieces */
    Tensor *x = sample_2d(t, rng, i == 2 ? 130 : 3, i == 2 ? 129 : 7);
    return (OpCase){softcap(t, x, cap[i]), i == 2};
}

const Op op_softcap = {
    "softcap", {fwd, CUDA(softcap_fwd_cuda)}, {bwd, CUDA(softcap_bwd_cuda)}, sample, NULL, 1, 0};

Tensor *softcap(Tape *t, Tensor *x, float cap) {
    CHECK(cap > 0, "softcap: cap is %g", (double)cap);
    Node *n = tape_node(t, &op_softcap, 1, (Tensor *[]){x});
    ATTR(n, Attr)->cap = cap;
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
