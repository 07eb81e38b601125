/* head_loss: s * sum over rows t with labels[t] >= 0 of  lse(z) - z[label],  z = c(h[t] wT),
 * c(x) = cap * tanh(x / cap), or x where cap is 0.   h (T,D) w (V,D) labels (T) i32
 *   dx = s * (softmax(z) - onehot(label)) * (1 - (z/cap)^2)    dh = dx w    dw = dxT h
 * Only supervised rows are multiplied, some at a time, so that logits never exceed LOGIT_BYTES.
 * Both gradients are made while the logits are there (saved: dh (T,D), its supervised rows only;
 * dw (V,D)), and backward only scales them (Liger kernels; Hsu et al. 2024). */
#include "../gemm.h"
#include "../matmul.h"
#include "../rows.h"
#include "../simd.h"
#include "sample.h"
#include <math.h>
#include <string.h>

enum { H, W, LABELS, N_IN };
enum { ROWS_MAX = 256, LOGIT_BYTES = 256 << 20 };
enum { DH, DW }; /* saved */

typedef struct Attr {
    float cap, s;
} Attr;

SIMD static float largest(const float *x, int64_t n) { return simd_max(x, n, -INFINITY); }

/* Logits x become exp(z - max) * dz/dx; returns the sum of exp(z - max): float32 within a block,
 * double between blocks. */
SIMD static double exp_and_slope(float *x, int64_t n, float max, float cap) {
    enum { BLOCK = 1024 };
    float e[BLOCK], over_cap = cap > 0 ? 1 / cap : 0;
    double sum = 0;
    for (int64_t at = 0; at < n; at += BLOCK, x += BLOCK) {
        int64_t some = n - at < BLOCK ? n - at : BLOCK;
        for (int64_t i = 0; i < some && cap > 0; i++) {
            float u = simd_tanh(x[i] * over_cap);
            e[i] = simd_exp(cap * u - max);
            x[i] = e[i] * (1 - u * u);
        }
        for (int64_t i = 0; i < some && !(cap > 0); i++) x[i] = e[i] = simd_exp(x[i] - max);
        sum += (double)simd_sum(e, some);
    }
    return sum;
}

SIMD static void scale_gradient(float *x, int64_t n, float by) {
    for (int64_t i = 0; i < n; i++) x[i] *= by;
}

/* Loss of one row of logits, which become dx if wanted. The cap is monotonic: the largest logit has
 * the largest z. */
static double loss_row(float *x, int64_t V, int64_t label, const Attr *a, bool gradient) {
    float cap = a->cap, top = largest(x, V), z = x[label], slope = 1;
    if (cap > 0) {
        float u = simd_tanh(z * (1 / cap));
        z = cap * u;
        slope = 1 - u * u;
        top = cap * simd_tanh(top * (1 / cap));
    }
    double sum = exp_and_slope(x, V, top, cap), loss = log(sum) + (double)top - (double)z;
    if (gradient) {
        scale_gradient(x, V, (float)((double)a->s / sum));
        x[label] -= a->s * slope;
    }
    return loss;
}

/* What one chunk of supervised rows works on. */
typedef struct Chunk {
    int64_t n;
    const int32_t *row;     /* (n): their rows in h */
    float *h, *logits, *dh; /* (n,D), gathered where it is needed; (n,V); (n,D) */
} Chunk;

static void gather_rows(const Tensor *h, Chunk *c) {
    int64_t D = tensor_cols(h);
    for (int64_t i = 0; i < c->n; i++)
        memcpy(c->h + i * D, f32(h) + c->row[i] * D, (size_t)D * sizeof(float));
}

static Matmul matmul_of(const Node *n, const Chunk *c) {
    return (Matmul){.w = n->in[W], .T = c->n, .x_row = c->row, .x_rows = tensor_rows(n->in[H])};
}

/* logits = h wT */
static void multiply(Tape *t, const Node *n, const Chunk *c) {
    Matmul m = matmul_of(n, c);
    if (t->compute == COMPUTE_BF16)
        matmul_forward(t, &m, f32(n->in[H]), NULL, NULL, c->logits);
    else
        gemm_times_weight_t(t, c->h, c->n, n->in[W], c->logits);
}

/* dh = dx w, where dx are the logits by now. */
static void multiply_back(Tape *t, const Node *n, const Chunk *c) {
    int64_t D = n->in[W]->dim[1];
    Matmul m = matmul_of(n, c);
    if (t->compute == COMPUTE_BF16) {
        matmul_backward(t, &m, c->logits, NULL, NULL, &(MatmulGrads){.dx = c->dh, .set_dx = true});
    } else {
        memset(c->dh, 0, (size_t)(c->n * D) * sizeof(float));
        gemm_times_weight(t, c->logits, c->n, n->in[W], c->dh);
    }
}

/* dw += dxT h */
static void add_dw(Tape *t, const Node *n, const Chunk *c) {
    int64_t V = n->in[W]->dim[0], D = n->in[W]->dim[1];
    bool rounds = t->compute == COMPUTE_BF16;
    const float *dx = rounds ? gemm_rounded(t, c->logits, c->n * V) : c->logits;
    const float *h = rounds ? gemm_rounded(t, c->h, c->n * D) : c->h;
    gemm(true, false, V, D, c->n, 1, dx, V, h, D, 1, f32(n->saved[DW]), D);
}

static double run_chunk(Tape *t, Node *n, Chunk *c) {
    int64_t V = n->in[W]->dim[0], D = n->in[W]->dim[1];
    size_t mark = arena_mark(t->step);
    bool gradient = n->saved[DH] || n->saved[DW];
    double *loss = arena_push(t->step, (size_t)c->n * sizeof *loss), sum = 0;
    if (c->h) gather_rows(n->in[H], c);
    multiply(t, n, c);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < c->n; i++) {
        loss[i] =
            loss_row(c->logits + i * V, V, i32(n->in[LABELS])[c->row[i]], ATTR(n, Attr), gradient);
    }
    for (int64_t i = 0; i < c->n; i++) sum += loss[i];
    if (n->saved[DH]) {
        multiply_back(t, n, c);
        for (int64_t i = 0; i < c->n; i++)
            memcpy(f32(n->saved[DH]) + c->row[i] * D, c->dh + i * D, (size_t)D * sizeof(float));
    }
    if (n->saved[DW]) add_dw(t, n, c);
    arena_release(t->step, mark);
    return sum;
}

static int64_t supervised_rows(const Node *n, int32_t *row) {
    const int32_t *label = i32(n->in[LABELS]);
    int64_t V = n->in[W]->dim[0], some = 0;
    for (int64_t i = 0; i < tensor_rows(n->in[H]); i++) {
        CHECK(label[i] < V, "head_loss: label %d of row %ld, vocabulary of %ld", label[i], (long)i,
              (long)V);
        if (label[i] >= 0) row[some++] = (int32_t)i;
    }
    return some;
}

/* Rows of a chunk, where so many are supervised. */
static int64_t chunk_rows(const Node *n, int64_t supervised) {
    int64_t fit = LOGIT_BYTES / (n->in[W]->dim[0] * (int64_t)sizeof(float));
    return min64(min64(ROWS_MAX, fit > 1 ? fit : 1), supervised);
}

/* h is read where it is, unless it is multiplied by gemm. */
static bool gathers(const Tape *t, const Node *n) {
    return t->compute == COMPUTE_F32 || n->in[W]->wants_grad;
}

/* What the largest of a chunk's products takes. */
static size_t product_scratch(const Tape *t, const Node *n, int64_t rows) {
    const Tensor *w = n->in[W];
    Matmul m = matmul_of(n, &(Chunk){.n = rows});
    if (t->compute == COMPUTE_F32) return gemm_weight_bytes(w) + gemm_turned_bytes(w, rows);
    size_t y = matmul_scratch(&m, false, false), dh = 0, dw = 0;
    if (n->saved[DH]) dh = matmul_scratch(&m, false, true);
    if (n->saved[DW])
        dw = gemm_rounded_bytes(rows * w->dim[0]) + gemm_rounded_bytes(rows * w->dim[1]);
    size_t most = y > dh ? y : dh;
    return most > dw ? most : dw;
}

/* As many rows as if all were supervised; backward only scales. */
static size_t scratch(const Tape *t, const Node *n, bool back) {
    int64_t T = tensor_rows(n->in[H]), V = n->in[W]->dim[0], D = n->in[W]->dim[1];
    int64_t step = chunk_rows(n, T), values = step * (V + D + (gathers(t, n) ? D : 0));
    if (back) return 0;
    return (size_t)T * sizeof(int32_t) + (size_t)values * sizeof(float) +
           (size_t)step * sizeof(double) + 5 * ARENA_ALIGN + product_scratch(t, n, step);
}

static void fwd(Tape *t, Node *n) {
    int64_t T = tensor_rows(n->in[H]), V = n->in[W]->dim[0], D = n->in[W]->dim[1];
    size_t mark = arena_mark(t->step);
    int32_t *row = arena_push(t->step, (size_t)T * sizeof *row);
    int64_t some = supervised_rows(n, row), step = chunk_rows(n, some);
    Chunk c = {.logits = arena_push(t->step, (size_t)(step * V) * sizeof(float)),
               .dh = arena_push(t->step, (size_t)(step * D) * sizeof(float))};
    if (gathers(t, n)) c.h = arena_push(t->step, (size_t)(step * D) * sizeof(float));
    double sum = 0;
    if (n->saved[DW]) memset(n->saved[DW]->data, 0, (size_t)tensor_bytes(n->saved[DW]));
    for (int64_t at = 0; at < some; at += step) {
        c.n = min64(step, some - at);
        c.row = row + at;
        sum += run_chunk(t, n, &c);
    }
    f32(n->out[0])[0] = (float)(sum * (double)ATTR(n, Attr)->s);
    arena_release(t->step, mark);
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    float dloss = f32(n->out[0]->grad)[0];
    const int32_t *label = i32(n->in[LABELS]);
    int64_t T = tensor_rows(n->in[H]), V = n->in[W]->dim[0], D = n->in[W]->dim[1];
    if (n->saved[DH]) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < T; i++) {
            if (label[i] >= 0)
                row_add_scaled(f32(n->in[H]->grad) + i * D, f32(n->saved[DH]) + i * D, dloss, D);
        }
    }
    if (n->saved[DW]) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < V; i++)
            row_add_scaled(f32(n->in[W]->grad) + i * D, f32(n->saved[DW]) + i * D, dloss, D);
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    static const struct {
        int T, V, D;
        float cap;
        DType w;
        bool w_learns;
        int every; /* one row in so many is supervised; 0: none */
    } cases[] = {
        {6, 7, 5, 0, DT_f32, true, 2},    {7, 9, 4, 1.5f, DT_f32, true, 1},
        {6, 40, 3, 2, DT_bf16, false, 1}, {5, 6, 8, 0, DT_f16, false, 2},
        {6, 70, 64, 2, DT_nf4, false, 1}, {7, 5, 136, 0, DT_tq4, false, 2},
        {6, 9, 32, 2, DT_q8_0, false, 1}, {300, 3, 2, 1, DT_f32, true, 1}, /* two chunks */
        {4, 5, 3, 0, DT_f32, true, 0},
    };
    int64_t T = cases[i].T, V = cases[i].V, D = cases[i].D;
    Tensor *h = sample_2d(t, rng, T, D), *w = sample_2d(t, rng, V, D);
    Tensor *labels = tensor_1d(t->step, DT_i32, T);
    w->wants_grad = cases[i].w_learns;
    w = sample_stored(t, w, cases[i].w);
    for (int64_t j = 0; j < T; j++) {
        bool supervised = cases[i].every && j % cases[i].every == 0;
        i32(labels)[j] = supervised ? (int32_t)(rng_u64(rng) % (uint64_t)V) : -100;
    }
    return (OpCase){head_loss(t, h, w, labels, cases[i].cap, 0.25f), i + 1 == (int)COUNT_OF(cases)};
}

const Op op_head_loss = {"head_loss",
                         {fwd, CUDA(head_loss_fwd_cuda)},
                         {bwd, CUDA(head_loss_bwd_cuda)},
                         sample,
                         scratch,
                         0,
                         0};

Tensor *head_loss(Tape *t, Tensor *h, Tensor *w, Tensor *labels, float cap, float s) {
    CHECK(h->n_dim == 2 && w->n_dim == 2 && tensor_cols(h) == tensor_cols(w),
          "head_loss: h has %ld columns, w %ld", (long)tensor_cols(h), (long)tensor_cols(w));
    CHECK(labels->dtype == DT_i32 && tensor_numel(labels) == h->dim[0],
          "head_loss: %ld labels for %ld rows", (long)tensor_numel(labels), (long)h->dim[0]);
    CHECK(w->dtype == DT_f32 || !w->wants_grad, "head_loss: a %s weight cannot learn",
          dtype_info[w->dtype].name);
    Node *n = tape_node(t, &op_head_loss, N_IN, (Tensor *[]){h, w, labels});
    *ATTR(n, Attr) = (Attr){cap, s};
    if (tape_will_go_back(t, n) && h->wants_grad) n->saved[DH] = tensor_like(t->step, h);
    if (tape_will_go_back(t, n) && w->wants_grad) n->saved[DW] = tensor_like(t->step, w);
    n->out[0] = tensor_1d(t->step, DT_f32, 1);
    return tape_run(t, n);
}
