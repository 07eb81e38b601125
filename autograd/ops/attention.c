/* attention: y_j = softmax(scale q_j k_gT + mask) v_g  for each head j and its KV head g = j / (H/K).
 *   q, y (Tq, H*d)   k, v (Tk, K*d)   log-sum-exp of the scaled scores, saved: (Tq, H)
 *   P = exp(S - lse)   dP = dy vT   delta = rowsum(dy * y)   dS = scale * P * (dP - delta)
 *   dq += dS k   dk += dST q   dv += PT dy
 * By tiles with a running softmax, so that no T x T matrix exists and keys outside the window cost
 * nothing (Dao et al. 2022). This file: the op, and its float32 kernels. Forward, a task is a tile
 * of queries of one head. Backward, a task is a group of query heads of one KV head of one
 * sequence: it alone makes their dq and, tile after tile, their dk and dv. Under compute: bf16 the
 * operands of the products are rounded to bfloat16 where the machine has tiles for that
 * (attention_amx.c); everything else is float32 always. */
#include "attention.h"
#include "../simd.h"
#include "sample.h"
#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    TILE_Q = 64,
    TILE_K = 512,
    BWD_TASKS = 8 /* enough of them for the threads; more cost memory (see bwd) */
};

/* One tile: queries q0..q0+nq of a sequence against its keys k0..k0+nk. Query i of the tile sees
 * keys first(i)..last(i) of the sequence. */
typedef struct Tile {
    int64_t q0, nq, k0, nk;
    int64_t shift;  /* a query's position among the keys, less its own number */
    int64_t window; /* 0: none */
} Tile;

static Tile tile_of(const Seq *s, const Attr *a, int64_t q0) {
    return (Tile){
        .q0 = q0, .nq = min64(TILE_Q, s->nq - q0), .shift = s->nk - s->nq, .window = a->window};
}

/* The keys that row i of the tile sees, as columns [*from, *to) of the tile. */
SIMD_INLINE void tile_visible(const Tile *t, int64_t i, int64_t *from, int64_t *to) {
    int64_t at = t->q0 + i + t->shift, first = t->window ? at - t->window + 1 : 0;
    *from = first > t->k0 ? first - t->k0 : 0;
    *to = at + 1 - t->k0 < t->nk ? at + 1 - t->k0 : t->nk;
}

/* Goes to the next tile of keys that some of its queries see; k0 = nk = 0 at the start. */
static bool tile_next(Tile *t) {
    int64_t first_at = t->q0 + t->shift, end = first_at + t->nq;
    int64_t begin = t->window ? max64(0, first_at - t->window + 1) : 0;
    t->k0 = t->nk ? t->k0 + t->nk : begin;
    t->nk = min64(TILE_K, end - t->k0);
    return t->nk > 0;
}

/* Scores of a tile (nq, nk) become exp(score - max), 0 where unseen; max and sum of each row run
 * along, and what was summed up in acc (nq, d) so far is brought to the new max. */
SIMD static void softmax_tile(const Tile *t, float *s, float *max, float *sum, float *acc,
                              int64_t d) {
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t from, to;
        float *row = s + i * t->nk;
        tile_visible(t, i, &from, &to);
        if (from >= to) {
            for (int64_t j = 0; j < t->nk; j++) row[j] = 0;
            continue;
        }
        float m = simd_max(row + from, to - from, max[i]), fade = simd_exp(max[i] - m);
        for (int64_t j = 0; j < from; j++) row[j] = 0;
        for (int64_t j = from; j < to; j++) row[j] = simd_exp(row[j] - m);
        for (int64_t j = to; j < t->nk; j++) row[j] = 0;
        if (fade != 1) {
            for (int64_t c = 0; c < d; c++) acc[i * d + c] *= fade;
        }
        max[i] = m;
        sum[i] = sum[i] * fade + simd_sum(row + from, to - from);
    }
}

SIMD static void divide_rows(int64_t rows, int64_t d, const float *acc, const float *sum, float *y,
                             int64_t ldy) {
    for (int64_t i = 0; i < rows; i++) {
        float r = 1 / sum[i];
        for (int64_t c = 0; c < d; c++) y[i * ldy + c] = acc[i * d + c] * r;
    }
}

enum { FWD_ROWS = 2 * TILE_Q }; /* max and sum of the rows */

static void fwd_tile(const Node *n, const Seq *s, int64_t q0, int64_t head, float *scratch) {
    const Attr *a = ATTR(n, Attr);
    int64_t d = a->head_dim, H = a->n_head, ldq = H * d, ldk = a->n_kv * d;
    int64_t kv = head / (H / a->n_kv);
    float *max = scratch, *sum = max + TILE_Q, *score = scratch + FWD_ROWS,
          *acc = score + TILE_Q * TILE_K;
    const float *q = f32(n->in[Q]) + (s->q_at + q0) * ldq + head * d;
    const float *k = f32(n->in[K]) + s->k_at * ldk + kv * d,
                *v = f32(n->in[V]) + s->k_at * ldk + kv * d;
    Tile t = tile_of(s, a, q0);
    for (int64_t i = 0; i < t.nq; i++) {
        max[i] = -INFINITY;
        sum[i] = 0;
    }
    for (int64_t i = 0; i < t.nq * d; i++) acc[i] = 0;
    while (tile_next(&t)) {
        gemm_serial(false, true, t.nq, t.nk, d, a->scale, q, ldq, k + t.k0 * ldk, ldk, 0, score,
                    t.nk);
        softmax_tile(&t, score, max, sum, acc, d);
        gemm_serial(false, false, t.nq, d, t.nk, 1, score, t.nk, v + t.k0 * ldk, ldk, 1, acc, d);
    }
    divide_rows(t.nq, d, acc, sum, f32(n->out[0]) + (s->q_at + q0) * ldq + head * d, ldq);
    float *lse = f32(n->saved[0]) + (s->q_at + q0) * H + head;
    for (int64_t i = 0; i < t.nq; i++) lse[i * H] = max[i] + logf(sum[i]);
}

static void check_sequences(const Node *n) {
    for (int64_t i = 0; i < attention_n_seq(n); i++) {
        Seq s = attention_seq(n, i);
        CHECK(s.nq >= 0 && s.nk >= s.nq, "attention: sequence %ld has %ld queries, %ld keys",
              (long)i, (long)s.nq, (long)s.nk);
    }
    Seq last = attention_seq(n, attention_n_seq(n) - 1), first = attention_seq(n, 0);
    CHECK(first.q_at == 0 && first.k_at == 0 && last.q_at + last.nq == n->in[Q]->dim[0] &&
              last.k_at + last.nk == n->in[K]->dim[0],
          "attention: the sequences do not cover q and k");
}

/* A tile of queries of one sequence. */
typedef struct FwdTask {
    Seq s;
    int64_t q0;
} FwdTask;
static size_t fwd_tasks(const Node *n) { /* at most */
    return (size_t)(attention_n_seq(n) + n->in[Q]->dim[0] / TILE_Q + 1);
}
/* Values a thread works in. */
static int64_t fwd_room(const Attr *a) { return FWD_ROWS + TILE_Q * (TILE_K + a->head_dim); }

static size_t fwd_block_bytes(const Attr *a) {
    return (size_t)(fwd_room(a) * omp_get_max_threads()) * sizeof(float);
}

static void fwd(Tape *t, Node *n) {
    const Attr *a = ATTR(n, Attr);
    size_t mark = arena_mark(t->step);
    int64_t n_task = 0, room = fwd_room(a);
    check_sequences(n);
    if (attention_amx(n)) {
        attention_amx_fwd(t, n);
        return;
    }
    FwdTask *task = arena_push(t->step, fwd_tasks(n) * sizeof *task);
    for (int64_t i = 0; i < attention_n_seq(n); i++) {
        Seq s = attention_seq(n, i);
        for (int64_t q0 = 0; q0 < s.nq; q0 += TILE_Q) {
            task[n_task].s = s;
            task[n_task++].q0 = q0;
        }
    }
    float *block = arena_push(t->step, fwd_block_bytes(a));
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t head = 0; head < a->n_head; head++) {
        for (int64_t i = n_task - 1; i >= 0; i--) { /* the longest first */
            fwd_tile(n, &task[i].s, task[i].q0, head, block + room * omp_get_thread_num());
        }
    }
    arena_release(t->step, mark);
}

/* Scores (nq, nk) become P, and dP becomes dS. */
SIMD static void bwd_softmax_tile(const Tile *t, float *s, float *dp, const float *lse,
                                  const float *delta, int64_t H, float scale) {
    for (int64_t i = 0; i < t->nq; i++) {
        int64_t from, to;
        float *p = s + i * t->nk, *ds = dp + i * t->nk, shift = lse[i * H], mean = delta[i];
        tile_visible(t, i, &from, &to);
        if (from > to) from = to = max64(to, 0);
        for (int64_t j = 0; j < from; j++) p[j] = ds[j] = 0;
        for (int64_t j = from; j < to; j++) {
            p[j] = simd_exp(p[j] - shift);
            ds[j] = scale * p[j] * (ds[j] - mean);
        }
        for (int64_t j = to; j < t->nk; j++) p[j] = ds[j] = 0;
    }
}

SIMD static void row_dots(int64_t rows, int64_t d, const float *x, const float *y, int64_t ld,
                          float *out) {
    for (int64_t i = 0; i < rows; i++) out[i] = simd_dot(x + i * ld, y + i * ld, d);
}

enum { BWD_ROOM = TILE_Q + 2 * TILE_Q * TILE_K }; /* values a thread works in */

/* All tiles of one query head of one sequence: adds to the gradients. */
static void bwd_head(const Node *n, const Seq *s, int64_t head, float *dq, float *dk, float *dv,
                     float *scratch) {
    const Attr *a = ATTR(n, Attr);
    int64_t d = a->head_dim, H = a->n_head, ldq = H * d, ldk = a->n_kv * d;
    int64_t kv = head / (H / a->n_kv), at = s->q_at * ldq + head * d;
    float *delta = scratch, *score = delta + TILE_Q, *dp = score + TILE_Q * TILE_K;
    const float *q = f32(n->in[Q]) + at, *y = f32(n->out[0]) + at, *dy = f32(n->out[0]->grad) + at;
    const float *k = f32(n->in[K]) + s->k_at * ldk + kv * d,
                *v = f32(n->in[V]) + s->k_at * ldk + kv * d;
    const float *lse = f32(n->saved[0]) + s->q_at * H + head;
    for (int64_t q0 = 0; q0 < s->nq; q0 += TILE_Q) {
        Tile t = tile_of(s, a, q0);
        const float *qt = q + q0 * ldq, *dyt = dy + q0 * ldq;
        row_dots(t.nq, d, dyt, y + q0 * ldq, ldq, delta);
        while (tile_next(&t)) {
            const float *kt = k + t.k0 * ldk;
            gemm_serial(false, true, t.nq, t.nk, d, a->scale, qt, ldq, kt, ldk, 0, score, t.nk);
            gemm_serial(false, true, t.nq, t.nk, d, 1, dyt, ldq, v + t.k0 * ldk, ldk, 0, dp, t.nk);
            bwd_softmax_tile(&t, score, dp, lse + q0 * H, delta, H, a->scale);
            if (dv)
                gemm_serial(true, false, t.nk, d, t.nq, 1, score, t.nk, dyt, ldq, 1,
                            dv + t.k0 * ldk, ldk);
            if (dk)
                gemm_serial(true, false, t.nk, d, t.nq, 1, dp, t.nk, qt, ldq, 1, dk + t.k0 * ldk,
                            ldk);
            if (dq)
                gemm_serial(false, false, t.nq, d, t.nk, 1, dp, t.nk, kt, ldk, 1, dq + q0 * ldq,
                            ldq);
        }
    }
}

/* The query heads of a KV head are cut into `parts`, as many as make BWD_TASKS tasks. The first
 * part's gradients are dk and dv themselves, each other makes its own (Tk, K*d) sum; these are
 * added afterwards, in order. */
typedef struct Parts {
    int64_t n, heads; /* how many, and query heads in each */
    unsigned set;     /* bit i: the gradient of in[i] is set */
    float *sum[2];    /* of dk, dv: (n - 1, Tk, K*d); NULL where not wanted */
} Parts;

static float *part_grad(const Parts *p, const Node *n, int which, int64_t part) {
    const Tensor *x = n->in[which];
    if (!x->wants_grad) return NULL;
    return part ? p->sum[which - K] + (part - 1) * tensor_numel(x) : f32(x->grad);
}

/* Gradients to set. One that two inputs share is cleared, and both add to it. */
static unsigned sets_of(const Node *n) {
    if (n->in[Q] != n->in[K] && n->in[Q] != n->in[V] && n->in[K] != n->in[V]) return n->fresh;
    node_clear_fresh(n);
    return 0;
}

/* Of query heads [head, ...) of one sequence. */
static Grads task_grads(const Parts *p, const Node *n, const Seq *s, int64_t head, int64_t part) {
    const Attr *a = ATTR(n, Attr);
    int64_t d = a->head_dim, kv = head / (a->n_head / a->n_kv);
    int64_t q_at = s->q_at * a->n_head * d + head * d, k_at = s->k_at * a->n_kv * d + kv * d;
    float *dk = part_grad(p, n, K, part), *dv = part_grad(p, n, V, part);
    return (Grads){.dq = n->in[Q]->wants_grad ? f32(n->in[Q]->grad) + q_at : NULL,
                   .dk = dk ? dk + k_at : NULL,
                   .dv = dv ? dv + k_at : NULL,
                   .set_dq = p->set & 1u << Q,
                   .set_dk = part || p->set & 1u << K,
                   .set_dv = part || p->set & 1u << V};
}

static void clear_rows(float *x, int64_t rows, int64_t cols, int64_t ld) {
    for (int64_t i = 0; i < rows; i++) memset(x + i * ld, 0, (size_t)cols * sizeof(float));
}
void attention_clear_keys(const Grads *g, int64_t rows, int64_t d, int64_t ld) {
    if (g->dk && g->set_dk) clear_rows(g->dk, rows, d, ld);
    if (g->dv && g->set_dv) clear_rows(g->dv, rows, d, ld);
}

static Parts parts_of(const Node *n) {
    const Attr *a = ATTR(n, Attr);
    int64_t group = a->n_head / a->n_kv, tasks = max64(1, attention_n_seq(n) * a->n_kv);
    Parts p = {.heads = group};
    if (tasks < BWD_TASKS) {
        int64_t want = min64(group, (BWD_TASKS + tasks - 1) / tasks);
        p.heads = (group + want - 1) / want;
    }
    p.n = (group + p.heads - 1) / p.heads;
    return p;
}

static size_t part_bytes(const Parts *p, const Node *n, int which) {
    return (size_t)((p->n - 1) * tensor_numel(n->in[which])) * sizeof(float);
}

/* Bytes a thread works in, and how many threads there is work for. */
static size_t bwd_room(const Node *n) {
    return attention_amx(n) ? attention_amx_bwd_room(n) : BWD_ROOM * sizeof(float);
}
static int bwd_threads(const Node *n, const Parts *p) {
    int64_t tasks = attention_n_seq(n) * ATTR(n, Attr)->n_kv * p->n;
    return (int)min64(tasks, omp_get_max_threads());
}

/* Query heads [head, end) of one sequence. */
static void bwd_heads(const Node *n, const Seq *s, int64_t head, int64_t end, Grads g,
                      char *scratch) {
    const Attr *a = ATTR(n, Attr);
    int64_t d = a->head_dim;
    if (attention_amx(n)) {
        attention_amx_bwd(n, s, head, end, g, scratch);
        return;
    }
    if (g.dq && g.set_dq) clear_rows(g.dq, s->nq, (end - head) * d, a->n_head * d);
    attention_clear_keys(&g, s->nk, d, a->n_kv * d);
    for (int64_t j = head; j < end; j++) {
        float *dq = g.dq ? g.dq + (j - head) * d : NULL;
        bwd_head(n, s, j, dq, g.dk, g.dv, (float *)(void *)scratch);
    }
}

static void bwd(Tape *t, Node *n) {
    const Attr *a = ATTR(n, Attr);
    size_t mark = arena_mark(t->step);
    int64_t group = a->n_head / a->n_kv;
    Parts p = parts_of(n);
    p.set = sets_of(n);
    for (int which = K; which <= V; which++) {
        if (n->in[which]->wants_grad)
            p.sum[which - K] = arena_push(t->step, part_bytes(&p, n, which));
    }
    size_t room = bwd_room(n);
    int threads = bwd_threads(n, &p);
    char *block = arena_push(t->step, room * (size_t)threads);
#pragma omp parallel for schedule(dynamic) collapse(3) num_threads(threads)
    for (int64_t i = 0; i < attention_n_seq(n); i++) {
        for (int64_t kv = 0; kv < a->n_kv; kv++) {
            for (int64_t part = 0; part < p.n; part++) {
                Seq s = attention_seq(n, i);
                int64_t head = kv * group + part * p.heads;
                int64_t end = min64(head + p.heads, (kv + 1) * group);
                bwd_heads(n, &s, head, end, task_grads(&p, n, &s, head, part),
                          block + room * (size_t)omp_get_thread_num());
            }
        }
    }
    for (int which = K; which <= V; which++) {
        int64_t values = tensor_numel(n->in[which]);
        for (int64_t part = 1; part < p.n && n->in[which]->wants_grad; part++) {
            const float *from = part_grad(&p, n, which, part);
            float *to = f32(n->in[which]->grad);
#pragma omp parallel for schedule(static)
            for (int64_t i = 0; i < values; i++) to[i] += from[i];
        }
    }
    arena_release(t->step, mark);
}

/* The list of tiles (forward) or the sums of the parts (backward), and a block a thread. */
static size_t scratch(const Tape *t, const Node *n, bool back) {
    (void)t;
    if (!back) {
        return attention_amx(n) ? attention_amx_fwd_bytes(n)
                                : fwd_tasks(n) * sizeof(FwdTask) + ARENA_ALIGN +
                                      fwd_block_bytes(ATTR(n, Attr)) + ARENA_ALIGN;
    }
    Parts p = parts_of(n);
    size_t bytes = bwd_room(n) * (size_t)bwd_threads(n, &p) + ARENA_ALIGN;
    for (int which = K; which <= V; which++) {
        if (n->in[which]->wants_grad) bytes += part_bytes(&p, n, which) + ARENA_ALIGN;
    }
    return bytes;
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    enum { SEQS = 3 };
    static const struct {
        int H, K, d, window, q_at[SEQS + 1], k_at[SEQS + 1];
    } cases[] = {
        {1, 1, 4, 0, {0, 5, 5, 6}, {0, 5, 5, 6}},          /* lengths 5, 0 and 1 */
        {4, 2, 3, 0, {0, 3, 7, 7}, {0, 3, 7, 7}},          /* two heads to a KV head */
        {2, 1, 2, 3, {0, 7, 11, 12}, {0, 7, 11, 12}},      /* a window */
        {2, 1, 3, 0, {0, 2, 3, 3}, {0, 6, 11, 11}},        /* more keys than queries */
        {1, 1, 2, 4, {0, 2, 5, 5}, {0, 7, 14, 14}},        /* the same with a window */
        {2, 1, 2, 0, {0, 70, 70, 70}, {0, 530, 530, 530}}, /* several tiles both ways */
        {1, 1, 2, 66, {0, 134, 136, 136}, {0, 134, 136, 136}},
    };
    int64_t d = cases[i].d, Tq = cases[i].q_at[SEQS], Tk = cases[i].k_at[SEQS];
    Tensor *q = sample_2d(t, rng, Tq, cases[i].H * d);
    Tensor *k = sample_2d(t, rng, Tk, cases[i].K * d), *v = sample_2d(t, rng, Tk, cases[i].K * d);
    Tensor *q_at = tensor_1d(t->step, DT_i32, SEQS + 1),
           *k_at = tensor_1d(t->step, DT_i32, SEQS + 1);
    for (int s = 0; s <= SEQS; s++) {
        i32(q_at)[s] = cases[i].q_at[s];
        i32(k_at)[s] = cases[i].k_at[s];
    }
    Attend a = {.q_at = q_at,
                .k_at = k_at,
                .n_head = cases[i].H,
                .n_kv = cases[i].K,
                .head_dim = cases[i].d,
                .window = cases[i].window,
                .scale = 0.8f};
    return (OpCase){attention(t, q, k, v, a), i + 1 == (int)COUNT_OF(cases)};
}

const Op op_attention = {"attention",
                         {fwd, CUDA(attention_fwd_cuda)},
                         {bwd, CUDA(attention_bwd_cuda)},
                         sample,
                         scratch,
                         1 << Q | 1 << K | 1 << V,
                         0};

Tensor *attention(Tape *t, Tensor *q, Tensor *k, Tensor *v, Attend a) {
    CHECK(a.n_head > 0 && a.n_kv > 0 && a.head_dim > 0 && a.n_head % a.n_kv == 0 && a.window >= 0,
          "attention: %d heads, %d KV heads of %d, window %d", a.n_head, a.n_kv, a.head_dim,
          a.window);
    CHECK(tensor_cols(q) == (int64_t)a.n_head * a.head_dim &&
              tensor_cols(k) == (int64_t)a.n_kv * a.head_dim && tensor_cols(v) == tensor_cols(k) &&
              tensor_rows(k) == tensor_rows(v) && q->n_dim == 2 && k->n_dim == 2,
          "attention: q has %ld columns, k %ld, v %ld", (long)tensor_cols(q), (long)tensor_cols(k),
          (long)tensor_cols(v));
    CHECK(a.q_at->dtype == DT_i32 && a.k_at->dtype == DT_i32 && a.q_at->dim[0] >= 2 &&
              a.q_at->dim[0] == a.k_at->dim[0],
          "attention: sequence starts of %ld and %ld entries", (long)a.q_at->dim[0],
          (long)a.k_at->dim[0]);
    Node *n = tape_node(t, &op_attention, N_IN, (Tensor *[]){q, k, v, a.q_at, a.k_at});
    *ATTR(n, Attr) = (Attr){a.n_head, a.n_kv, a.head_dim, a.window, a.scale};
    n->saved[0] = tensor_2d(t->step, DT_f32, q->dim[0], a.n_head);
    n->out[0] = tensor_2d(t->step, DT_f32, q->dim[0], (int64_t)a.n_head * a.head_dim);
    return tape_run(t, n);
}
