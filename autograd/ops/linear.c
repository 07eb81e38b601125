/* linear: y = x wT + s h bT,  h = l.x aT   x (T,I) w (O,I) y (T,O) a (R,I) b (O,R) h (T,R)
 *   dx += dy w    dw += dyT x    with g = s dy b (T,R):  db += s dyT h   da += gT l.x   dl.x += g a
 * Low-rank addition: Hu et al. 2021. A w that does not learn may be of any format and is opened
 * panel by panel, once for y and once for dx. */
#include "../gemm.h"
#include "../matmul.h"
#include "sample.h"

enum { X, W, LX, A, B, N_IN };
typedef struct Attr {
    float s;
} Attr;

static int64_t rank_of(const Node *n) { return n->in[A] ? n->in[A]->dim[0] : 0; }

/* ---- compute: bf16 ---- */

static Matmul matmul_of(const Node *n) {
    return (Matmul){.w = n->in[W],
                    .T = tensor_rows(n->in[X]),
                    .a = n->in[A],
                    .b = n->in[B],
                    .s = ATTR(n, Attr)->s};
}

static void fwd_bf16(Tape *t, Node *n) {
    Matmul m = matmul_of(n);
    const float *lx = m.a ? f32(n->in[LX]) : NULL;
    matmul_forward(t, &m, f32(n->in[X]), lx, m.a ? f32(n->saved[0]) : NULL, f32(n->out[0]));
}

static void bwd_bf16(Tape *t, Node *n) {
    Matmul m = matmul_of(n);
    const Tensor *x = n->in[X], *w = n->in[W];
    int64_t T = m.T, I = tensor_cols(x), O = w->dim[0];
    const float *dy = f32(n->out[0]->grad), *lx = m.a ? f32(n->in[LX]) : NULL;
    MatmulGrads g = {.dx = grad_of(x),
                     .dlx = grad_of(n->in[LX]),
                     .da = grad_of(n->in[A]),
                     .db = grad_of(n->in[B]),
                     .set_dx = n->fresh & 1u << X,
                     .set_dlx = n->fresh & 1u << LX};
    matmul_backward(t, &m, dy, lx, m.a ? f32(n->saved[0]) : NULL, &g);
    if (!w->wants_grad) return;
    size_t mark = arena_mark(t->step);
    gemm(true, false, O, I, T, 1, gemm_rounded(t, dy, T * O), O, gemm_rounded(t, f32(x), T * I), I,
         1, f32(w->grad), I);
    arena_release(t->step, mark);
}

static size_t scratch_bf16(const Node *n, bool back) {
    Matmul m = matmul_of(n);
    size_t bytes = matmul_scratch(&m, m.a && n->in[LX] != n->in[X], back), dw = 0;
    if (back && n->in[W]->wants_grad)
        dw =
            gemm_rounded_bytes(m.T * n->in[W]->dim[0]) + gemm_rounded_bytes(tensor_numel(n->in[X]));
    return bytes > dw ? bytes : dw;
}

/* ---- compute: f32 ---- */

static void fwd_f32(Tape *t, Node *n) {
    const Tensor *x = n->in[X];
    int64_t T = tensor_rows(x), I = tensor_cols(x), O = n->in[W]->dim[0], R = rank_of(n);
    float *y = f32(n->out[0]);
    gemm_times_weight_t(t, f32(x), T, n->in[W], y);
    if (!R) return;
    float *h = f32(n->saved[0]);
    gemm(false, true, T, R, I, 1, f32(n->in[LX]), I, f32(n->in[A]), I, 0, h, R);
    gemm(false, true, T, O, R, ATTR(n, Attr)->s, h, R, f32(n->in[B]), R, 1, y, O);
}

static void bwd_lora(Tape *t, Node *n, const float *dy) {
    const Tensor *lx = n->in[LX], *a = n->in[A], *b = n->in[B];
    int64_t T = tensor_rows(lx), I = tensor_cols(lx), O = b->dim[0], R = a->dim[0];
    float s = ATTR(n, Attr)->s;
    if (b->wants_grad)
        gemm(true, false, O, R, T, s, dy, O, f32(n->saved[0]), R, 1, f32(b->grad), R);
    if (!a->wants_grad && !lx->wants_grad) return;
    size_t mark = arena_mark(t->step);
    float *g = arena_push(t->step, (size_t)(T * R) * sizeof *g);
    gemm(false, false, T, R, O, s, dy, O, f32(b), R, 0, g, R);
    if (a->wants_grad) gemm(true, false, R, I, T, 1, g, R, f32(lx), I, 1, f32(a->grad), I);
    if (lx->wants_grad) gemm(false, false, T, I, R, 1, g, R, f32(a), I, 1, f32(lx->grad), I);
    arena_release(t->step, mark);
}

static void bwd_f32(Tape *t, Node *n) {
    Tensor *x = n->in[X], *w = n->in[W];
    int64_t T = tensor_rows(x), I = tensor_cols(x), O = w->dim[0];
    const float *dy = f32(n->out[0]->grad);
    node_clear_fresh(n);
    if (x->wants_grad) gemm_times_weight(t, dy, T, w, f32(x->grad));
    if (w->wants_grad) gemm(true, false, O, I, T, 1, dy, O, f32(x), I, 1, f32(w->grad), I);
    if (rank_of(n)) bwd_lora(t, n, dy);
}

/* A panel of w; turned rows; g. */
static size_t scratch_f32(const Node *n, bool back) {
    int64_t T = tensor_rows(n->in[X]);
    size_t bytes = gemm_weight_bytes(n->in[W]) + gemm_turned_bytes(n->in[W], T);
    size_t g = back ? (size_t)(T * rank_of(n)) * sizeof(float) + ARENA_ALIGN : 0;
    return bytes > g ? bytes : g;
}

static void fwd(Tape *t, Node *n) { (t->compute == COMPUTE_BF16 ? fwd_bf16 : fwd_f32)(t, n); }
static void bwd(Tape *t, Node *n) { (t->compute == COMPUTE_BF16 ? bwd_bf16 : bwd_f32)(t, n); }
static size_t scratch(const Tape *t, const Node *n, bool back) {
    return t->compute == COMPUTE_BF16 ? scratch_bf16(n, back) : scratch_f32(n, back);
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    static const struct {
        int T, I, O, R;
        DType w;
        bool w_learns, own_lx;
    } cases[] = {
        {5, 7, 6, 0, DT_f32, true, false},  /* full training */
        {5, 8, 3, 2, DT_f32, false, false}, /* LoRA on the same x */
        {6, 4, 5, 3, DT_bf16, false, true}, /* an x of its own (dropout), stored in bf16 */
        {7, 9, 4, 1, DT_f16, false, false},
        {2, 70, 3, 2, DT_bf16, false, false}, /* few rows: w is read as stored */
        {5, 64, 33, 2, DT_nf4, false, false}, /* whole blocks, a panel and a bit */
        {6, 72, 9, 2, DT_tq4, false, false},  /* turned; half a block */
        {2, 192, 5, 0, DT_tq4_b64, false, false},
        {3, 96, 4, 1, DT_int4_g32, false, true},
        {3, 40, 4, 0, DT_mxfp4, false, false},
        {4, 130, 3, 0, DT_int8, false, false},
        {4, 64, 3, 0, DT_nf4_bf16, false, false},
        {5, 37, 7, 1, DT_nf4_flat, false, false},
        {5, 96, 7, 2, DT_q4_0, false, false}, /* in blocks along the row */
        {2, 64, 5, 0, DT_q8_0, false, true},
        {3, 66, 2, 0, DT_f32, true, false},
    };
    int64_t T = cases[i].T, I = cases[i].I, O = cases[i].O, R = cases[i].R;
    Tensor *x = sample_2d(t, rng, T, I), *w = sample_2d(t, rng, O, I);
    w->wants_grad = cases[i].w_learns;
    w = sample_stored(t, w, cases[i].w);
    Lora l = {0};
    if (R) {
        Tensor *lx = cases[i].own_lx ? sample_2d(t, rng, T, I) : x;
        l = (Lora){lx, sample_2d(t, rng, R, I), sample_2d(t, rng, O, R), 0.75f};
    }
    return (OpCase){linear(t, x, w, l), i + 1 == (int)COUNT_OF(cases)};
}

const Op op_linear = {"linear",
                      {fwd, CUDA(linear_fwd_cuda)},
                      {bwd, CUDA(linear_bwd_cuda)},
                      sample,
                      scratch,
                      1u << X | 1u << LX,
                      0};

Tensor *linear(Tape *t, Tensor *x, Tensor *w, Lora l) {
    int64_t T = tensor_rows(x), I = tensor_cols(x), O = w->dim[0];
    CHECK(w->n_dim == 2 && tensor_cols(w) == I, "linear: x has %ld columns, w %ld", (long)I,
          (long)tensor_cols(w));
    CHECK(w->dtype == DT_f32 || !w->wants_grad, "linear: a %s weight cannot learn",
          dtype_info[w->dtype].name);
    Node *n = tape_node(t, &op_linear, N_IN, (Tensor *[]){x, w, l.x, l.a, l.b});
    if (l.a) {
        CHECK(l.x && l.b && l.a->n_dim == 2 && l.b->n_dim == 2, "linear: half a low-rank addition");
        CHECK(tensor_rows(l.x) == T && tensor_cols(l.x) == I && tensor_cols(l.a) == I &&
                  l.b->dim[0] == O && l.b->dim[1] == l.a->dim[0],
              "linear: a (%ld,%ld) and b (%ld,%ld) do not fit w (%ld,%ld)", (long)l.a->dim[0],
              (long)l.a->dim[1], (long)l.b->dim[0], (long)l.b->dim[1], (long)O, (long)I);
        n->saved[0] = tensor_2d(t->step, DT_f32, T, l.a->dim[0]);
    }
    ATTR(n, Attr)->s = l.s;
    n->out[0] = tensor_2d(t->step, DT_f32, T, O);
    return tape_run(t, n);
}
