/* geglu: y = gelu(g)*u  (Shazeer 2020), gelu(z) = 0.5 z (1 + tanh(v)),
 *   v = sqrt(2/pi) (z + 0.044715 z^3)  (Hendrycks and Gimpel 2016, the tanh form)
 *   dg = dy*u*gelu'(g)   du = dy*gelu(g)
 * Written with S = 1/(1 + exp(-2v)), because 0.5 (1 + tanh v) = S without its cancellation:
 *   gelu = z*S    gelu' = S + 2 z v' S (1-S),  v' = sqrt(2/pi) (1 + 3*0.044715 z^2) */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"

#define ROOT_2_BY_PI 0.79788456080286536f
#define CUBIC        0.044715f

SIMD_INLINE float gate_sigmoid(float z) {
    float v = ROOT_2_BY_PI * (z + CUBIC * z * z * z);
    return 1 / (1 + simd_exp(-2 * v));
}

SIMD static void geglu_row(const float *restrict g, const float *restrict u, float *restrict y,
                           int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = g[i] * gate_sigmoid(g[i]) * u[i];
}
/* dg and du: NULL where not wanted; set, or added to. Writes once the exponentials of a stretch are
 * known. */
enum { STRETCH = 256 };
SIMD static void put_back_row(const float *restrict g, const float *restrict u,
                              const float *restrict dy, float *restrict dg, float *restrict du,
                              int64_t n, bool set_g, bool set_u) {
    float gelu[STRETCH], slope[STRETCH];
    for (int64_t at = 0; at < n; at += STRETCH) {
        int64_t len = n - at < STRETCH ? n - at : STRETCH;
        for (int64_t i = 0; i < len; i++) {
            float z = g[at + i], s = gate_sigmoid(z);
            float dv = ROOT_2_BY_PI * (1 + 3 * CUBIC * z * z);
            gelu[i] = z * s;
            slope[i] = s + 2 * z * dv * (s * (1 - s));
        }
        if (dg) {
            for (int64_t i = 0; i < len; i++)
                dg[at + i] = (set_g ? 0 : dg[at + i]) + dy[at + i] * u[at + i] * slope[i];
        }
        if (du) {
            for (int64_t i = 0; i < len; i++)
                du[at + i] = (set_u ? 0 : du[at + i]) + dy[at + i] * gelu[i];
        }
    }
}

/* Where gate and up lie: two tensors, or the halves of one. */
typedef struct Halves {
    const float *g, *u;
    float *dg, *du;
    int64_t stride;
} Halves;

static Halves halves(const Node *n) {
    const Tensor *gate = n->in[0], *up = n->in[1];
    int64_t F = tensor_cols(n->out[0]);
    float *dg = grad_of(gate);
    if (up) return (Halves){f32(gate), f32(up), dg, grad_of(up), F};
    return (Halves){f32(gate), f32(gate) + F, dg, dg ? dg + F : NULL, 2 * F};
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    Halves h = halves(n);
    int64_t rows = tensor_rows(n->out[0]), F = tensor_cols(n->out[0]);
    float *y = f32(n->out[0]);
    FOR_ROWS(r, rows, F) {
        row_fetch(h.g, r + FETCH_AHEAD, rows, h.stride, F);
        row_fetch(h.u, r + FETCH_AHEAD, rows, h.stride, F);
        geglu_row(h.g + r * h.stride, h.u + r * h.stride, y + r * F, F);
    }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    Halves h = halves(n);
    int64_t rows = tensor_rows(n->out[0]), F = tensor_cols(n->out[0]);
    const float *dy = f32(n->out[0]->grad);
    bool set_g = n->fresh & 1, set_u = n->in[1] ? n->fresh & 2 : set_g;
    FOR_ROWS(r, rows, F) {
        int64_t at = r * h.stride;
        row_fetch(h.g, r + FETCH_AHEAD, rows, h.stride, F);
        row_fetch(h.u, r + FETCH_AHEAD, rows, h.stride, F);
        row_fetch(dy, r + FETCH_AHEAD, rows, F, F);
        put_back_row(h.g + at, h.u + at, dy + r * F, h.dg ? h.dg + at : NULL,
                     h.du ? h.du + at : NULL, F, set_g, set_u);
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    /* two tensors; halves of one; only up learns; only gate learns; long rows and threads */
    int64_t rows = i == 4 ? 60 : 4, F = i == 4 ? 300 : 6;
    if (i == 1) return (OpCase){geglu(t, sample_2d(t, rng, rows, 2 * F), NULL), false};
    Tensor *gate = sample_2d(t, rng, rows, F), *up = sample_2d(t, rng, rows, F);
    if (i == 2) gate->wants_grad = false;
    if (i == 3) up->wants_grad = false;
    return (OpCase){geglu(t, gate, up), i == 4};
}

const Op op_geglu = {
    "geglu", {fwd, CUDA(geglu_fwd_cuda)}, {bwd, CUDA(geglu_bwd_cuda)}, sample, NULL, 3, 0};

Tensor *geglu(Tape *t, Tensor *gate, Tensor *up) {
    CHECK(up != gate, "geglu: gate and up are one tensor");
    CHECK(up ? tensor_numel(up) == tensor_numel(gate) : tensor_cols(gate) % 2 == 0,
          "geglu: gate has %ld columns and %ld values, up %ld values", (long)tensor_cols(gate),
          (long)tensor_numel(gate), up ? (long)tensor_numel(up) : 0L);
    Node *n = tape_node(t, &op_geglu, 2, (Tensor *[]){gate, up});
    n->out[0] = up ? tensor_like(t->step, gate)
                   : tensor_2d(t->step, DT_f32, tensor_rows(gate), tensor_cols(gate) / 2);
    return tape_run(t, n);
}
