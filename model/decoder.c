/* decoder.c - see decoder.h. What one generation lacks shows as an absent tensor (no experts, no
 * per-layer embeddings, no layer scalar) or as a number of Dims, and costs the others nothing.
 * Source: Transformers 5.23, models/gemma3/modeling_gemma3.py and models/gemma4/modeling_gemma4.py;
 * their embedding scale sqrt(D) is rounded to bfloat16 in bfloat16 models, here it never is. */
#include "decoder.h"
#include <math.h>
#include <string.h>
#include "stream.h"

/* One batch on its way through the layers. */
typedef struct Pass {
    Tensor *pos, *q_at, *k_at; /* i32 (T), (rows + 1), (rows + 1) */
    Tensor **angles;           /* per layer */
    uint64_t dropout_step;
    Cache *cache;
    Tensor *x, *ple;               /* the stream (T,D) so far; (T, L*P) or NULL */
    Tensor *lent_k[2], *lent_v[2]; /* by sliding, full */
} Pass;

/* One layer's view of it: what its segment reads beside its inputs. */
typedef struct Run {
    Model *m;
    Layer *l;
    int index;
    const Pass *pass;
    Tensor *angles; /* (T, 2*n_angles) */
    Tensor *choice; /* i32 (T,k): kept outside, so that a replay routes the same */
} Run;
enum { IN_X, IN_PLE, IN_K, IN_V, IN_COUNT };
enum { OUT_X, OUT_K, OUT_V, OUT_COUNT };

/* The first len rows of a cache. */
static Tensor *cache_view(Tape *t, Tensor *store, int64_t len) {
    return tensor_over(t->step, DT_f32, 2, (int64_t[]){len, tensor_cols(store)}, store->data);
}

/* New keys (or values) go behind those of earlier tokens; the result shows all of them. */
static Tensor *cache_append(Tape *t, Tensor *store, int64_t len, const Tensor *x) {
    memcpy(f32(store) + len * tensor_cols(x), x->data, (size_t)tensor_bytes(x));
    return cache_view(t, store, len + tensor_rows(x));
}

/* Keys turned and normed, values (where the model says so) normed: the layer's own, or those an
 * earlier layer lends. */
static void keys_values(const Run *r, Tape *t, Tensor *a, Tensor *const *in, Tensor **k,
                        Tensor **v) {
    const LayerDims *d = &r->l->d;
    Cache *cache = r->pass->cache;
    int64_t rows = tensor_rows(a);
    if (d->kv_from != r->index) {
        *k = cache ? cache_view(t, cache->k[d->kv_from], cache->len + rows) : in[IN_K];
        *v = cache ? cache_view(t, cache->v[d->kv_from], cache->len + rows) : in[IN_V];
        return;
    }
    Rope turn = d->rope;
    turn.n_head = d->n_kv;
    Tensor *k0 = linear_forward(r->m, t, &r->l->k, a); /* (T, K*d) */
    Tensor *v0 = d->k_eq_v ? k0 : linear_forward(r->m, t, &r->l->v, a);
    *k = rope(t, rmsnorm(t, k0, r->l->k_norm, NULL, d->head_dim, r->m->dims.norm), r->angles, turn);
    *v = r->m->dims.norm_values ? rmsnorm(t, v0, NULL, NULL, d->head_dim, r->m->dims.norm) : v0;
    if (!cache) return;
    *k = cache_append(t, cache->k[r->index], cache->len, *k);
    *v = cache_append(t, cache->v[r->index], cache->len, *v);
}

static Tensor *attention_part(const Run *r, Tape *t, Tensor *x, Tensor *k, Tensor *v, Tensor *a) {
    const Layer *l = r->l;
    const LayerDims *d = &l->d;
    const Dims *m = &r->m->dims;
    Tensor *q = linear_forward(r->m, t, &l->q, a); /* (T, H*d) */
    q = rope(t, rmsnorm(t, q, l->q_norm, NULL, d->head_dim, m->norm), r->angles, d->rope);
    Attend see = {r->pass->q_at, r->pass->k_at, m->n_heads,        d->n_kv,
                  d->head_dim,   d->window,     m->attention_scale};
    Tensor *o = attention(t, q, k, v, see);
    o = linear_forward(r->m, t, &l->o, o);
    return rmsnorm(t, o, l->post_attention_norm, x, m->width, m->norm);
}

static Tensor *dense_part(const Run *r, Tape *t, Tensor *x) {
    const Layer *l = r->l;
    Tensor *n = rmsnorm(t, x, l->pre_mlp_norm, NULL, r->m->dims.width, r->m->dims.norm);
    Tensor *h = geglu(t, linear_forward(r->m, t, &l->gate, n), linear_forward(r->m, t, &l->up, n));
    return linear_forward(r->m, t, &l->down, h);
}

/* to + what the experts add. The router reads the raw residual stream; experts its norm. (T,D) */
static Tensor *experts_part(const Run *r, Tape *t, Tensor *x, Tensor *to) {
    const Layer *l = r->l;
    const Dims *m = &r->m->dims;
    Tensor *n = rmsnorm(t, x, l->router_scale, NULL, m->width, m->norm);
    /* The reference scales n; its product is linear, and narrower. */
    Tensor *logits =
        scale(t, router_forward(r->m, t, &l->router, n), 1 / sqrtf((float)m->width)); /* (T,E) */
    Tensor *weight = route(t, logits, r->choice, l->per_expert_scale, (RouteSpec){m->n_used, true});
    if (r->m->on_route && !t->replay && !t->dry)
        r->m->on_route(r->m->on_route_ctx, r->index, logits, r->choice, weight);
    Dispatch d = dispatch_by_expert(t, r->choice, m->n_experts);
    Tensor *h = rmsnorm(t, x, l->pre_experts_norm, NULL, m->width, m->norm);
    h = geglu(t, experts_forward(r->m, t, &l->experts_in, h, d), NULL); /* (T*k, F) */
    h = experts_forward(r->m, t, &l->experts_out, h, (Dispatch){.off = d.off});
    return rmsnorm(t, combine(t, h, weight, d.row_of), l->post_experts_norm, to, m->width, m->norm);
}

/* This layer's slice of the per-layer embeddings gates the stream once more. */
static Tensor *ple_part(const Run *r, Tape *t, Tensor *x, Tensor *ple) {
    const Layer *l = r->l;
    int64_t D = r->m->dims.ple_width;
    Tensor *g =
        geglu(t, linear_forward(r->m, t, &l->ple_gate, x), columns(t, ple, r->index * D, D));
    g = linear_forward(r->m, t, &l->ple_proj, g);
    return rmsnorm(t, g, l->ple_norm, x, r->m->dims.width, r->m->dims.norm);
}

static void block(Tape *t, void *ctx, Tensor *const *in, Tensor **out) {
    const Run *r = ctx;
    const Layer *l = r->l;
    const Dims *m = &r->m->dims;
    Tensor *x = in[IN_X], *k, *v;
    r->m->dropout_step = r->pass->dropout_step;
    if (!t->dry) stream_enter(r->m->stream, r->index, t->replay);
    Tensor *a = rmsnorm(t, x, l->input_norm, NULL, m->width, m->norm);
    keys_values(r, t, a, in, &k, &v);
    x = attention_part(r, t, x, k, v, a);
    Tensor *f = dense_part(r, t, x);
    if (m->n_experts) {
        f = rmsnorm(t, f, l->post_dense_norm, NULL, m->width, m->norm);
        f = experts_part(r, t, x, f);
    }
    x = rmsnorm(t, f, l->post_mlp_norm, x, m->width, m->norm);
    if (m->ple_width) x = ple_part(r, t, x, in[IN_PLE]);
    out[OUT_X] = l->scalar ? scale(t, x, f32(l->scalar)[0]) : x;
    out[OUT_K] = k, out[OUT_V] = v;
}

/* Per-layer embeddings of all layers: (T, L*P). */
static Tensor *ple_all(Model *m, Tape *t, Tensor *ids, Tensor *h) {
    const Dims *d = &m->dims;
    if (!t->dry) stream_rows(m->stream, m->ple_table.w, ids);
    Tensor *look = embed(t, m->ple_table.w, ids, sqrtf((float)d->ple_width), d->pad_id);
    Tensor *proj =
        scale(t, linear_forward(m, t, &m->ple_model_proj, h), 1 / sqrtf((float)d->width));
    proj = rmsnorm(t, proj, m->ple_norm, NULL, d->ple_width, d->norm);
    return scale(t, add(t, look, proj, 1), sqrtf(0.5f));
}

/* Layers of one attention type share their angles. */
static Tensor *layer_angles(const Model *m, Tape *t, Tensor *pos, Tensor **made, int i) {
    const Rope *r = &m->layer[i].d.rope;
    for (int j = 0; j < i; j++) {
        const Rope *x = &m->layer[j].d.rope;
        if (x->head_dim == r->head_dim && x->n_angles == r->n_angles && x->theta == r->theta &&
            x->factor == r->factor)
            return made[j];
    }
    return rope_angles(t, pos, *r);
}

/* Where a batch's tokens stand, and their embeddings. */
static void begin(Model *m, Tape *t, const Batch *b, Pass *p) {
    const Dims *d = &m->dims;
    int64_t T = batch_tokens(b), past = p->cache ? p->cache->len : 0;
    Tensor *ids = tensor_over(t->step, DT_i32, 1, &T, b->ids);
    p->pos = tensor_1d(t->step, DT_i32, T);
    p->angles = arena_push(t->step, sizeof *p->angles * (size_t)d->n_layers);
    p->k_at = p->q_at = tensor_over(t->step, DT_i32, 1, (int64_t[]){b->n_rows + 1}, b->at);
    for (int i = 0; i < b->n_rows && !t->dry; i++) {
        for (int32_t j = b->at[i]; j < b->at[i + 1]; j++)
            i32(p->pos)[j] = (int32_t)past + j - b->at[i];
    }
    if (p->cache) {
        p->k_at = tensor_1d(t->step, DT_i32, 2);
        i32(p->k_at)[0] = 0;
        i32(p->k_at)[1] = (int32_t)(past + T);
    }
    m->dropout_step = p->dropout_step;
    if (!t->dry) stream_rows(m->stream, m->embed.w, ids);
    p->x = embed(t, m->embed.w, ids, sqrtf((float)d->width), d->pad_id);
    if (d->ple_width) p->ple = ple_all(m, t, ids, p->x);
}

static void layer(Model *m, Tape *t, int i, Pass *p, bool recompute) {
    Layer *l = &m->layer[i];
    Run *r = arena_push(t->step, sizeof *r);
    int full = l->d.window == 0;
    int64_t T = tensor_rows(p->x);
    p->angles[i] = layer_angles(m, t, p->pos, p->angles, i);
    *r = (Run){m, l, i, p, p->angles[i], NULL};
    if (m->dims.n_experts) r->choice = tensor_2d(t->step, DT_i32, T, m->dims.n_used);
    Tensor *in[IN_COUNT] = {p->x, p->ple, NULL, NULL},
           *out[OUT_COUNT] = {tensor_like(t->step, p->x), NULL, NULL};
    if (l->d.kv_from != i && !p->cache) in[IN_K] = p->lent_k[full], in[IN_V] = p->lent_v[full];
    bool lends = l->lends_kv && !p->cache;
    if (lends) {
        int64_t kv = (int64_t)l->d.n_kv * l->d.head_dim;
        out[OUT_K] = p->lent_k[full] = tensor_2d(t->step, DT_f32, T, kv);
        out[OUT_V] = p->lent_v[full] = tensor_2d(t->step, DT_f32, T, kv);
    }
    tape_segment(t, block, r, recompute, IN_COUNT, in, lends ? OUT_COUNT : 1, out);
    p->x = out[OUT_X];
}

void decoder_hidden(Model *m, Tape *t, const Batch *b, int n, Cache *cache, Tensor **out) {
    const Dims *d = &m->dims;
    Pass *pass = arena_push(t->step, sizeof *pass * (size_t)n);
    bool recompute = m->recompute || n > 1 || m->stream;
    CHECK(n == 1 || !cache, "%d batches share a cache", n);
    for (int c = 0; c < n; c++)
        pass[c] = (Pass){.dropout_step = m->dropout_step + (uint64_t)c, .cache = cache};
    if (!t->dry) stream_begin(m->stream, !t->paused);
    for (int c = n - 1; c >= 0; c--) begin(m, t, &b[c], &pass[c]);
    for (int i = 0; i < d->n_layers; i++) {
        for (int c = n - 1; c >= 0; c--) layer(m, t, i, &pass[c], recompute);
    }
    if (cache) cache->len += batch_tokens(b);
    for (int c = n - 1; c >= 0; c--)
        out[c] = rmsnorm(t, pass[c].x, m->norm, NULL, d->width, d->norm);
}
