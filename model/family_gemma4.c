/* family_gemma4.c - Gemma 4's text decoder in all its variants: experts beside a dense MLP
 * (26B-A4B), dense (31B, 12B), per-layer embeddings with shared keys and values (E2B, E4B).
 * Source: Transformers 5.23, models/gemma4/modeling_gemma4.py and configuration_gemma4.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "stream.h"

#define L(field) offsetof(Layer, field)
#define M(field) offsetof(Model, field)

/* Big matrices are used as stored, small ones opened to float32 when loading; a router is a linear
 * that stays float32, and torch calls the layer's scalar a buffer: it never learns. */
#define BIG    (ROW_LINEAR | ROW_MAPPED)
#define LINEAR ROW_LINEAR
#define SMALL  0
#define BUFFER ROW_BUFFER

/* clang-format off */
static const TensorRow layer_rows[] = {
    {"input_layernorm.weight",              "attn_norm.weight",             L(input_norm),          KIND_NORMS,      HAS_ALWAYS,  SMALL,  {DIM_D}},
    {"self_attn.q_proj.weight",             "attn_q.weight",                L(q),                   KIND_ATTENTION,  HAS_ALWAYS,  BIG,    {DIM_Q, DIM_D}},
    {"self_attn.k_proj.weight",             "attn_k.weight",                L(k),                   KIND_ATTENTION,  HAS_OWN_KV,  BIG,    {DIM_KV, DIM_D}},
    {"self_attn.v_proj.weight",             "attn_v.weight",                L(v),                   KIND_ATTENTION,  HAS_OWN_V,   BIG,    {DIM_KV, DIM_D}},
    {"self_attn.o_proj.weight",             "attn_output.weight",           L(o),                   KIND_ATTENTION,  HAS_ALWAYS,  BIG,    {DIM_D, DIM_Q}},
    {"self_attn.q_norm.weight",             "attn_q_norm.weight",           L(q_norm),              KIND_NORMS,      HAS_ALWAYS,  SMALL,  {DIM_HEAD}},
    {"self_attn.k_norm.weight",             "attn_k_norm.weight",           L(k_norm),              KIND_NORMS,      HAS_OWN_KV,  SMALL,  {DIM_HEAD}},
    {"post_attention_layernorm.weight",     "post_attention_norm.weight",   L(post_attention_norm), KIND_NORMS,      HAS_ALWAYS,  SMALL,  {DIM_D}},
    {"pre_feedforward_layernorm.weight",    "ffn_norm.weight",              L(pre_mlp_norm),        KIND_NORMS,      HAS_ALWAYS,  SMALL,  {DIM_D}},
    {"mlp.gate_proj.weight",                "ffn_gate.weight",              L(gate),                KIND_DENSE,      HAS_ALWAYS,  BIG,    {DIM_DENSE, DIM_D}},
    {"mlp.up_proj.weight",                  "ffn_up.weight",                L(up),                  KIND_DENSE,      HAS_ALWAYS,  BIG,    {DIM_DENSE, DIM_D}},
    {"mlp.down_proj.weight",                "ffn_down.weight",              L(down),                KIND_DENSE,      HAS_ALWAYS,  BIG,    {DIM_D, DIM_DENSE}},
    {"post_feedforward_layernorm.weight",   "post_ffw_norm.weight",         L(post_mlp_norm),       KIND_NORMS,      HAS_ALWAYS,  SMALL,  {DIM_D}},
    {"router.proj.weight",                  "ffn_gate_inp.weight",          L(router),              KIND_ROUTER,     HAS_EXPERTS, LINEAR, {DIM_E, DIM_D}},
    {"router.scale",                        "ffn_gate_inp.scale",           L(router_scale),        KIND_ROUTER,     HAS_EXPERTS, SMALL,  {DIM_D}},
    {"router.per_expert_scale",             "ffn_down_exps.scale",          L(per_expert_scale),    KIND_ROUTER,     HAS_EXPERTS, SMALL,  {DIM_E}},
    {"experts.gate_up_proj",                "ffn_gate_up_exps.weight",      L(experts_in),          KIND_EXPERTS,    HAS_EXPERTS, BIG,    {DIM_E, DIM_2F, DIM_D}},
    {"experts.down_proj",                   "ffn_down_exps.weight",         L(experts_out),         KIND_EXPERTS,    HAS_EXPERTS, BIG,    {DIM_E, DIM_D, DIM_F}},
    {"post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight",       L(post_dense_norm),     KIND_NORMS,      HAS_EXPERTS, SMALL,  {DIM_D}},
    {"pre_feedforward_layernorm_2.weight",  "pre_ffw_norm_2.weight",        L(pre_experts_norm),    KIND_NORMS,      HAS_EXPERTS, SMALL,  {DIM_D}},
    {"post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight",       L(post_experts_norm),   KIND_NORMS,      HAS_EXPERTS, SMALL,  {DIM_D}},
    {"per_layer_input_gate.weight",         "inp_gate.weight",              L(ple_gate),            KIND_EMBEDDINGS, HAS_PLE,     BIG,    {DIM_PLE, DIM_D}},
    {"per_layer_projection.weight",         "proj.weight",                  L(ple_proj),            KIND_EMBEDDINGS, HAS_PLE,     BIG,    {DIM_D, DIM_PLE}},
    {"post_per_layer_input_norm.weight",    "post_norm.weight",             L(ple_norm),            KIND_NORMS,      HAS_PLE,     SMALL,  {DIM_D}},
    {"layer_scalar",                        "layer_output_scale.weight",    L(scalar),              KIND_NORMS,      HAS_ALWAYS,  BUFFER, {DIM_ONE}},
    {0},
};

static const TensorRow model_rows[] = {
    {"embed_tokens.weight",                 "token_embd.weight",            M(embed),               KIND_EMBEDDINGS, HAS_ALWAYS,  BIG,    {DIM_V, DIM_D}},
    {"embed_tokens_per_layer.weight",       "per_layer_token_embd.weight",  M(ple_table),           KIND_EMBEDDINGS, HAS_PLE,     BIG,    {DIM_PLE_V, DIM_PLE_ALL}},
    {"per_layer_model_projection.weight",   "per_layer_model_proj.weight",  M(ple_model_proj),      KIND_EMBEDDINGS, HAS_PLE,     BIG,    {DIM_PLE_ALL, DIM_D}},
    {"per_layer_projection_norm.weight",    "per_layer_proj_norm.weight",   M(ple_norm),            KIND_NORMS,      HAS_PLE,     SMALL,  {DIM_PLE}},
    {"norm.weight",                         "output_norm.weight",           M(norm),                KIND_NORMS,      HAS_ALWAYS,  SMALL,  {DIM_D}},
    {"lm_head.weight",                      "output.weight",                M(head),                KIND_EMBEDDINGS, HAS_HEAD,    BIG,    {DIM_V, DIM_D}},
    {0},
};
/* clang-format on */

static const char *const ignored[] = {"vision_tower.", "embed_vision.",          "audio_tower.",
                                      "embed_audio.",  "multi_modal_projector.", NULL};

/* ---- config.json ---- */

static bool knows(const json_t *c) {
    const char *type = json_string_value(json_object_get(c, "model_type"));
    return type && (!strcmp(type, "gemma4_text") || !strcmp(type, "gemma4_unified_text"));
}

/* A whole number of the config; absent or null: its default in configuration_gemma4.py. */
static int config_int(const json_t *c, const char *key, int preset, int least, int *out, Err *e) {
    const json_t *v = json_object_get(c, key);
    *out = preset;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_integer(v) || json_integer_value(v) < least || json_integer_value(v) > 1 << 28) {
        return err_set(e, "config.json: \"%s\" should be a whole number of at least %d", key,
                       least);
    }
    *out = (int)json_integer_value(v);
    return 0;
}

static int config_float(const json_t *c, const char *key, float preset, float *out, Err *e) {
    const json_t *v = json_object_get(c, key);
    *out = preset;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_number(v)) return err_set(e, "config.json: \"%s\" should be a number", key);
    *out = (float)json_number_value(v);
    return 0;
}

static bool config_bool(const json_t *c, const char *key, bool preset) {
    const json_t *v = json_object_get(c, key);
    return json_is_boolean(v) ? json_is_true(v) : preset;
}

/* Rotary numbers of one layer type; "proportional" turns only the first partial_rotary_factor of
 * the pairs, with the whole head size as the exponent's denominator. */
static int rope_of(const json_t *c, bool full, int n_heads, int head_dim, Rope *r, Err *e) {
    const json_t *all = json_object_get(c, "rope_parameters");
    const char *layer = full ? "full_attention" : "sliding_attention";
    const json_t *p = json_object_get(all, layer);
    float theta = 0, part = 0, factor = 1;
    if (all && !json_is_null(all) && !json_is_object(p)) {
        return err_set(e, "config.json: \"rope_parameters\" lacks \"%s\"", layer);
    }
    const char *type = json_string_value(json_object_get(p, "rope_type"));
    if (!type) type = full ? "proportional" : "default";
    TRY(config_float(p, "rope_theta", full ? 1e6f : 1e4f, &theta, e));
    TRY(config_float(p, "partial_rotary_factor", full ? 0.25f : 1.0f, &part, e));
    TRY(config_float(p, "factor", 1, &factor, e));
    bool proportional = !strcmp(type, "proportional");
    if (!proportional && strcmp(type, "default")) {
        return err_set(
            e, "config.json: rope_type \"%s\" of %s layers is not known (default, proportional)",
            type, layer);
    }
    if (factor != 1 || theta <= 0 || part <= 0 || part > 1) {
        return err_set(e,
                       "config.json: rope_parameters of %s layers are out of range (rope_theta %g, "
                       "partial_rotary_factor %g, factor %g)",
                       layer, (double)theta, (double)part, (double)factor);
    }
    int n_angles = proportional ? (int)(part * (float)head_dim / 2) : head_dim / 2;
    *r = (Rope){n_heads, head_dim, n_angles, theta};
    return 0;
}

static int refuse_unknown(const json_t *c, Err *e) {
    const char *act = json_string_value(json_object_get(c, "hidden_activation"));
    const char *bid = json_string_value(json_object_get(c, "use_bidirectional_attention"));
    if (act && strcmp(act, "gelu_pytorch_tanh")) {
        return err_set(
            e, "config.json: hidden_activation \"%s\" is not known for Gemma 4 (gelu_pytorch_tanh)",
            act);
    }
    if (config_bool(c, "attention_bias", false))
        return err_set(e, "config.json: attention_bias: true is not supported for Gemma 4");
    if (bid && !strcmp(bid, "all"))
        return err_set(
            e, "config.json: use_bidirectional_attention \"all\" is no causal language model");
    return 0;
}

/* Full layers have another head size and number of KV heads: said by global_* keys, or layer by
 * layer in per_layer_config. */
static int layer_dims(Model *m, const json_t *c, int i, Err *e) {
    LayerDims *d = &m->layer[i].d;
    const json_t *types = json_object_get(c, "layer_types"),
                 *per = json_object_get(c, "per_layer_config");
    const char *type = json_string_value(json_array_get(types, (size_t)i));
    bool full = type ? !strcmp(type, "full_attention") : (i + 1) % 6 == 0;
    int global_dim, global_kv, window;
    if (type && !full && strcmp(type, "sliding_attention")) {
        return err_set(e,
                       "config.json: layer_types[%d] is \"%s\" (sliding_attention, full_attention)",
                       i, type);
    }
    if (i == m->dims.n_layers - 1) full = true;
    TRY(config_int(c, "num_key_value_heads", 4, 1, &d->n_kv, e));
    TRY(config_int(c, "head_dim", 256, 2, &d->head_dim, e));
    TRY(config_int(c, "sliding_window", 512, 1, &window, e));
    d->k_eq_v = full && config_bool(c, "attention_k_eq_v", false);
    if (json_is_object(per)) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        const json_t *own = json_object_get(per, key);
        TRY(config_int(own, "head_dim", d->head_dim, 2, &d->head_dim, e));
        TRY(config_int(own, "num_key_value_heads", d->n_kv, 1, &d->n_kv, e));
        TRY(config_int(own, "sliding_window", window, 1, &window, e));
    } else if (full) {
        TRY(config_int(c, "global_head_dim", 512, 2, &global_dim, e));
        TRY(config_int(c, "num_global_key_value_heads", d->n_kv, 1, &global_kv, e));
        d->head_dim = global_dim;
        if (d->k_eq_v) d->n_kv = global_kv;
    }
    if (m->dims.n_heads % d->n_kv || d->head_dim % 2) {
        return err_set(e,
                       "config.json: layer %d has %d heads of size %d over %d key-value heads; the "
                       "heads must divide evenly and have even size",
                       i, m->dims.n_heads, d->head_dim, d->n_kv);
    }
    d->window = full ? 0 : window;
    return rope_of(c, full, m->dims.n_heads, d->head_dim, &d->rope, e);
}

/* Layers from n_layers - num_kv_shared_layers on read the keys and values of the last layer before
 * them that has its own and the same attention type. */
static int share_kv(Model *m, const json_t *c, Err *e) {
    int shared, width, L = m->dims.n_layers;
    TRY(config_int(c, "num_kv_shared_layers", 0, 0, &shared, e));
    TRY(config_int(c, "intermediate_size", 9216, 1, &width, e));
    bool wide = config_bool(c, "use_double_wide_mlp", false);
    for (int i = 0; i < L; i++) {
        LayerDims *d = &m->layer[i].d;
        d->kv_from = i, d->dense_width = width;
        if (i < L - shared) continue;
        int from = L - shared - 1;
        while (from >= 0 && (m->layer[from].d.window == 0) != (d->window == 0)) from--;
        if (from < 0)
            return err_set(e,
                           "config.json: num_kv_shared_layers %d leaves no layer of the type of "
                           "layer %d to share from",
                           shared, i);
        d->kv_from = from;
        m->layer[from].lends_kv = true;
        if (wide) d->dense_width *= 2;
    }
    return 0;
}

static int dims(Model *m, const json_t *c, Err *e) {
    Dims *d = &m->dims;
    TRY(refuse_unknown(c, e));
    TRY(config_int(c, "vocab_size", 262144, 1, &d->vocab, e));
    TRY(config_int(c, "hidden_size", 2304, 1, &d->width, e));
    TRY(config_int(c, "num_attention_heads", 8, 1, &d->n_heads, e));
    TRY(config_int(c, "pad_token_id", 0, 0, &d->pad_id, e));
    TRY(config_int(c, "hidden_size_per_layer_input", 256, 0, &d->ple_width, e));
    if (json_is_null(json_object_get(c, "hidden_size_per_layer_input"))) d->ple_width = 0;
    TRY(config_int(c, "vocab_size_per_layer_input", 262144, 1, &d->ple_vocab, e));
    TRY(config_float(c, "rms_norm_eps", 1e-6f, &d->eps, e));
    TRY(config_float(c, "final_logit_softcapping", 0, &d->softcap, e));
    d->tied = config_bool(c, "tie_word_embeddings", true);
    if (config_bool(c, "enable_moe_block", false)) {
        TRY(config_int(c, "num_experts", 0, 1, &d->n_experts, e));
        TRY(config_int(c, "top_k_experts", 0, 1, &d->n_used, e));
        TRY(config_int(c, "moe_intermediate_size", 0, 1, &d->expert_width, e));
        if (!d->expert_width)
            TRY(config_int(c, "expert_intermediate_size", 0, 1, &d->expert_width, e));
        if (!d->n_experts || d->n_used < 1 || d->n_used > d->n_experts || !d->expert_width) {
            return err_set(e,
                           "config.json: enable_moe_block needs num_experts, top_k_experts (at "
                           "most num_experts) and moe_intermediate_size; found %d, %d, %d",
                           d->n_experts, d->n_used, d->expert_width);
        }
    }
    const json_t *types = json_object_get(c, "layer_types");
    if (json_is_array(types) && (int)json_array_size(types) != d->n_layers) {
        return err_set(e, "config.json: %zu layer_types for %d layers", json_array_size(types),
                       d->n_layers);
    }
    for (int i = 0; i < d->n_layers; i++) TRY(layer_dims(m, c, i, e));
    return share_kv(m, c, e);
}

/* ---- forward ---- */

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

/* Keys turned and normed, values normed: the layer's own, or those an earlier layer lends. */
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
    *k = rope(t, rmsnorm(t, k0, r->l->k_norm, NULL, d->head_dim, r->m->dims.eps), r->angles, turn);
    *v = rmsnorm(t, v0, NULL, NULL, d->head_dim, r->m->dims.eps);
    if (!cache) return;
    *k = cache_append(t, cache->k[r->index], cache->len, *k);
    *v = cache_append(t, cache->v[r->index], cache->len, *v);
}

static Tensor *attention_part(const Run *r, Tape *t, Tensor *x, Tensor *k, Tensor *v, Tensor *a) {
    const Layer *l = r->l;
    const LayerDims *d = &l->d;
    const Dims *m = &r->m->dims;
    Tensor *q = linear_forward(r->m, t, &l->q, a); /* (T, H*d) */
    q = rope(t, rmsnorm(t, q, l->q_norm, NULL, d->head_dim, m->eps), r->angles, d->rope);
    Attend see = {r->pass->q_at, r->pass->k_at, m->n_heads, d->n_kv, d->head_dim, d->window, 1};
    Tensor *o = attention(t, q, k, v, see);
    o = linear_forward(r->m, t, &l->o, o);
    return rmsnorm(t, o, l->post_attention_norm, x, m->width, m->eps);
}

static Tensor *dense_part(const Run *r, Tape *t, Tensor *x) {
    const Layer *l = r->l;
    Tensor *n = rmsnorm(t, x, l->pre_mlp_norm, NULL, r->m->dims.width, r->m->dims.eps);
    Tensor *h = geglu(t, linear_forward(r->m, t, &l->gate, n), linear_forward(r->m, t, &l->up, n));
    return linear_forward(r->m, t, &l->down, h);
}

/* to + what the experts add. The router reads the raw residual stream; experts its norm. (T,D) */
static Tensor *experts_part(const Run *r, Tape *t, Tensor *x, Tensor *to) {
    const Layer *l = r->l;
    const Dims *m = &r->m->dims;
    Tensor *n = rmsnorm(t, x, l->router_scale, NULL, m->width, m->eps);
    /* The reference scales n; its product is linear, and narrower. */
    Tensor *logits =
        scale(t, router_forward(r->m, t, &l->router, n), 1 / sqrtf((float)m->width)); /* (T,E) */
    Tensor *weight = route(t, logits, r->choice, l->per_expert_scale, (RouteSpec){m->n_used, true});
    if (r->m->on_route && !t->replay && !t->dry)
        r->m->on_route(r->m->on_route_ctx, r->index, logits, r->choice, weight);
    Dispatch d = dispatch_by_expert(t, r->choice, m->n_experts);
    Tensor *h = rmsnorm(t, x, l->pre_experts_norm, NULL, m->width, m->eps);
    h = geglu(t, experts_forward(r->m, t, &l->experts_in, h, d), NULL); /* (T*k, F) */
    h = experts_forward(r->m, t, &l->experts_out, h, (Dispatch){.off = d.off});
    return rmsnorm(t, combine(t, h, weight, d.row_of), l->post_experts_norm, to, m->width, m->eps);
}

/* This layer's slice of the per-layer embeddings gates the stream once more. */
static Tensor *ple_part(const Run *r, Tape *t, Tensor *x, Tensor *ple) {
    const Layer *l = r->l;
    int64_t D = r->m->dims.ple_width;
    Tensor *g =
        geglu(t, linear_forward(r->m, t, &l->ple_gate, x), columns(t, ple, r->index * D, D));
    g = linear_forward(r->m, t, &l->ple_proj, g);
    return rmsnorm(t, g, l->ple_norm, x, r->m->dims.width, r->m->dims.eps);
}

static void block(Tape *t, void *ctx, Tensor *const *in, Tensor **out) {
    const Run *r = ctx;
    const Layer *l = r->l;
    const Dims *m = &r->m->dims;
    Tensor *x = in[IN_X], *k, *v;
    r->m->dropout_step = r->pass->dropout_step;
    if (!t->dry) stream_enter(r->m->stream, r->index, t->replay);
    Tensor *a = rmsnorm(t, x, l->input_norm, NULL, m->width, m->eps);
    keys_values(r, t, a, in, &k, &v);
    x = attention_part(r, t, x, k, v, a);
    Tensor *f = dense_part(r, t, x);
    if (m->n_experts) {
        f = rmsnorm(t, f, l->post_dense_norm, NULL, m->width, m->eps);
        f = experts_part(r, t, x, f);
    }
    x = rmsnorm(t, f, l->post_mlp_norm, x, m->width, m->eps);
    if (m->ple_width) x = ple_part(r, t, x, in[IN_PLE]);
    out[OUT_X] = scale(t, x, f32(l->scalar)[0]);
    out[OUT_K] = k, out[OUT_V] = v;
}

/* Per-layer embeddings of all layers: (T, L*P). */
static Tensor *ple_all(Model *m, Tape *t, Tensor *ids, Tensor *h) {
    const Dims *d = &m->dims;
    if (!t->dry) stream_rows(m->stream, m->ple_table.w, ids);
    Tensor *look = embed(t, m->ple_table.w, ids, sqrtf((float)d->ple_width), d->pad_id);
    Tensor *proj =
        scale(t, linear_forward(m, t, &m->ple_model_proj, h), 1 / sqrtf((float)d->width));
    proj = rmsnorm(t, proj, m->ple_norm, NULL, d->ple_width, d->eps);
    return scale(t, add(t, look, proj, 1), sqrtf(0.5f));
}

/* Layers of one attention type share their angles. */
static Tensor *layer_angles(const Model *m, Tape *t, Tensor *pos, Tensor **made, int i) {
    const Rope *r = &m->layer[i].d.rope;
    for (int j = 0; j < i; j++) {
        const Rope *x = &m->layer[j].d.rope;
        if (x->head_dim == r->head_dim && x->n_angles == r->n_angles && x->theta == r->theta)
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

static void hidden(Model *m, Tape *t, const Batch *b, int n, Cache *cache, Tensor **out) {
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
        out[c] = rmsnorm(t, pass[c].x, m->norm, NULL, d->width, d->eps);
}

const Family family_gemma4 = {"gemma4", knows, dims, layer_rows, model_rows, ignored, hidden};
