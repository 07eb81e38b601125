/* family_gemma4.c - Gemma 4's text decoder in all its variants: experts beside a dense MLP
 * (26B-A4B), dense (31B, 12B), per-layer embeddings with shared keys and values (E2B, E4B).
 * Source: Transformers 5.23, models/gemma4/modeling_gemma4.py and configuration_gemma4.py. */
#include <stdio.h>
#include <string.h>
#include "decoder.h"
#include "family_config.h"
#include "gguf_base.h"
#include "gguf_out.h"

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

/* Rotary numbers of one layer type; "proportional" turns only the first partial_rotary_factor of
 * the pairs, with the whole head size as the exponent's denominator. */
static int rope_of(const json_t *c, bool full, int n_heads, int head_dim, Rope *r, Err *e) {
    const json_t *all = json_object_get(c, "rope_parameters");
    const char *layer = full ? "full_attention" : "sliding_attention";
    const json_t *p = json_object_get(all, layer);
    float theta = 0, part = 0, factor = 1;
    if (all && !json_is_null(all) && !json_is_object(p)) {
        return err_set(e, "\"rope_parameters\" lacks \"%s\"", layer);
    }
    const char *type = json_string_value(json_object_get(p, "rope_type"));
    if (!type) type = full ? "proportional" : "default";
    TRY(config_float(p, "rope_theta", full ? 1e6f : 1e4f, &theta, e));
    TRY(config_float(p, "partial_rotary_factor", full ? 0.25f : 1.0f, &part, e));
    TRY(config_float(p, "factor", 1, &factor, e));
    bool proportional = !strcmp(type, "proportional");
    if (!proportional && strcmp(type, "default")) {
        return err_set(e, "rope_type \"%s\" of %s layers is not known (default, proportional)",
                       type, layer);
    }
    if (factor != 1 || theta <= 0 || part <= 0 || part > 1) {
        return err_set(e,
                       "rope_parameters of %s layers are out of range (rope_theta %g, "
                       "partial_rotary_factor %g, factor %g)",
                       layer, (double)theta, (double)part, (double)factor);
    }
    int n_angles = proportional ? (int)(part * (float)head_dim / 2) : head_dim / 2;
    *r = (Rope){n_heads, head_dim, n_angles, theta, 1};
    return 0;
}

static int refuse_unknown(const json_t *c, Err *e) {
    const char *act = json_string_value(json_object_get(c, "hidden_activation"));
    const char *bid = json_string_value(json_object_get(c, "use_bidirectional_attention"));
    if (act && strcmp(act, "gelu_pytorch_tanh")) {
        return err_set(e, "hidden_activation \"%s\" is not known for Gemma 4 (gelu_pytorch_tanh)",
                       act);
    }
    if (config_bool(c, "attention_bias", false))
        return err_set(e, "attention_bias: true is not supported for Gemma 4");
    if (bid && !strcmp(bid, "all"))
        return err_set(e, "use_bidirectional_attention \"all\" is no causal language model");
    return 0;
}

/* Full layers have another head size and number of KV heads: said by global_* keys, or layer by
 * layer in per_layer_config. */
static int layer_dims(Model *m, const json_t *c, int i, Err *e) {
    LayerDims *d = &m->layer[i].d;
    const json_t *per = json_object_get(c, "per_layer_config");
    bool full;
    int global_dim, global_kv, window;
    TRY(config_is_full(c, i, (i + 1) % 6 == 0, &full, e));
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
    TRY(config_check_heads(m, i, e));
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
                           "num_kv_shared_layers %d leaves no layer of the type of "
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
    TRY(config_float(c, "rms_norm_eps", 1e-6f, &d->norm.eps, e));
    TRY(config_float(c, "final_logit_softcapping", 0, &d->softcap, e));
    d->attention_scale = 1; /* the query norm has learned it */
    d->norm_values = true;
    d->tied = config_bool(c, "tie_word_embeddings", true);
    if (config_bool(c, "enable_moe_block", false)) {
        TRY(config_int(c, "num_experts", 0, 1, &d->n_experts, e));
        TRY(config_int(c, "top_k_experts", 0, 1, &d->n_used, e));
        TRY(config_int(c, "moe_intermediate_size", 0, 1, &d->expert_width, e));
        if (!d->expert_width)
            TRY(config_int(c, "expert_intermediate_size", 0, 1, &d->expert_width, e));
        if (!d->n_experts || d->n_used < 1 || d->n_used > d->n_experts || !d->expert_width) {
            return err_set(e,
                           "enable_moe_block needs num_experts, top_k_experts (at "
                           "most num_experts) and moe_intermediate_size; found %d, %d, %d",
                           d->n_experts, d->n_used, d->expert_width);
        }
    }
    TRY(config_check_layer_types(c, d->n_layers, e));
    for (int i = 0; i < d->n_layers; i++) TRY(layer_dims(m, c, i, e));
    return share_kv(m, c, e);
}

/* ---- a GGUF file's metadata as such a config.json ---- */

static const GgufConfigKey gguf_keys[] = {
    {"hidden_size", "embedding_length", GGUF_CONFIG_INT, true},
    {"num_attention_heads", "attention.head_count", GGUF_CONFIG_INT, true},
    {"head_dim", "attention.key_length_swa", GGUF_CONFIG_INT, true},
    {"global_head_dim", "attention.key_length", GGUF_CONFIG_INT, true},
    {"sliding_window", "attention.sliding_window", GGUF_CONFIG_INT, true},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", GGUF_CONFIG_REAL, true},
    {"num_kv_shared_layers", "attention.shared_kv_layers", GGUF_CONFIG_INT, false},
    {"hidden_size_per_layer_input", "embedding_length_per_layer_input", GGUF_CONFIG_INT, true},
    {"final_logit_softcapping", "final_logit_softcapping", GGUF_CONFIG_REAL, false},
    {"num_experts", "expert_count", GGUF_CONFIG_INT, false},
    {"top_k_experts", "expert_used_count", GGUF_CONFIG_INT, false},
    {"moe_intermediate_size", "expert_feed_forward_length", GGUF_CONFIG_INT, false},
};

static bool gguf_is_full(const json_t *config, int layer) {
    const json_t *types = json_object_get(config, "layer_types");
    return !strcmp(json_string_value(json_array_get(types, (size_t)layer)), "full_attention");
}

/* Keys and values of sliding layers, and of full ones where these differ. A full layer without
 * values of its own uses its keys. */
static int gguf_heads(json_t *config, const Gguf *g, int n_layers, Err *e) {
    int64_t *kv = mem_alloc(sizeof *kv * (size_t)n_layers), of[2] = {0};
    bool bad = gguf_config_per_layer(g, "attention.head_count_kv", n_layers, kv, e), uneven = false;
    for (int i = 0; i < n_layers && !bad; i++) {
        int full = gguf_is_full(config, i);
        uneven |= of[full] && of[full] != kv[i];
        of[full] = kv[i];
    }
    mem_free(kv);
    if (bad) return -1;
    if (uneven)
        return err_set(e,
                       "%s: gemma4.attention.head_count_kv differs among layers of one type, which "
                       "Gemma 4 does not do",
                       g->file);
    json_object_set_new(config, "num_key_value_heads", json_integer(of[0] ? of[0] : of[1]));
    json_object_set_new(config, "num_global_key_value_heads", json_integer(of[1] ? of[1] : of[0]));
    for (int i = 0; i < n_layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_v.weight", i);
        if (!gguf_is_full(config, i)) continue;
        json_object_set_new(config, "attention_k_eq_v", json_boolean(!gguf_find_entry(g, name)));
        break;
    }
    return 0;
}

/* Layers that read another's keys and values may have an MLP twice as wide. */
static int gguf_widths(json_t *config, const Gguf *g, int n_layers, Err *e) {
    int64_t *width = mem_alloc(sizeof *width * (size_t)n_layers);
    int bad = gguf_config_per_layer(g, "feed_forward_length", n_layers, width, e);
    int64_t first = bad ? 0 : width[0], last = bad ? 0 : width[n_layers - 1];
    mem_free(width);
    if (bad) return -1;
    json_object_set_new(config, "intermediate_size", json_integer(first));
    json_object_set_new(config, "use_double_wide_mlp", json_boolean(last != first));
    return 0;
}

/* rope_freqs divides the frequencies of full layers: by 1 those that turn, by 1e30 the others. */
static int gguf_turning_part(const Gguf *g, double *part, Err *e) {
    const GgufEntry *t = gguf_find_entry(g, "rope_freqs.weight");
    int64_t n = 0;
    *part = 0.25;
    if (!t) return 0;
    bool good = t->dtype == DT_f32 && t->n_dim == 1;
    for (int64_t i = 0; i < t->dim[0] && good; i++) {
        float by;
        memcpy(&by, (const char *)gguf_entry_data(g, t) + i * 4, sizeof by);
        good = i == n ? by == 1 || by >= 1e29f : by >= 1e29f;
        n += by == 1;
    }
    if (!good || !n)
        return err_set(e,
                       "%s: tensor rope_freqs.weight is not some values of 1 and then values of "
                       "1e30, as Gemma 4's is",
                       g->file);
    *part = (double)n / (double)t->dim[0];
    return 0;
}

static int gguf_rope(json_t *config, const Gguf *g, Err *e) {
    double full = 1e6, sliding = 1e4, part, factor;
    TRY(gguf_config_real(g, "rope.freq_base", &full, e));
    TRY(gguf_config_real(g, "rope.freq_base_swa", &sliding, e));
    TRY(gguf_config_rope_factor(g, &factor, e));
    TRY(gguf_turning_part(g, &part, e));
    json_t *rope =
        json_pack("{s:{s:s, s:f, s:f, s:f}, s:{s:s, s:f}}", "full_attention", "rope_type",
                  "proportional", "rope_theta", full, "partial_rotary_factor", part, "factor",
                  factor, "sliding_attention", "rope_type", "default", "rope_theta", sliding);
    if (!rope) return err_set(e, "%s: gemma4.rope.freq_base is no number", g->file);
    return json_object_set_new(config, "rope_parameters", rope);
}

static int config_from_gguf(json_t *config, const Gguf *g, Err *e) {
    const GgufEntry *ple = gguf_find_entry(g, "per_layer_token_embd.weight");
    json_object_set_new(config, "architectures", json_pack("[s]", "Gemma4ForCausalLM"));
    json_object_set_new(config, "model_type", json_string("gemma4_text"));
    json_object_set_new(config, "hidden_activation", json_string("gelu_pytorch_tanh"));
    TRY(gguf_config_common(config, g, e));
    TRY(gguf_config_keys(config, g, gguf_keys, COUNT_OF(gguf_keys), e));
    int n_layers;
    TRY(gguf_config_layers(config, g, &n_layers, e));
    TRY(gguf_config_layer_types(config, g, n_layers, 6, e));
    TRY(gguf_heads(config, g, n_layers, e));
    TRY(gguf_widths(config, g, n_layers, e));
    bool moe = json_integer_value(json_object_get(config, "num_experts")) > 0;
    json_object_set_new(config, "enable_moe_block", json_boolean(moe));
    json_object_set_new(config, "vocab_size_per_layer_input", json_integer(ple ? ple->dim[0] : 1));
    return gguf_rope(config, g, e);
}

const Family family_gemma4 = {"gemma4",         30,          knows,   dims,
                              layer_rows,       model_rows,  ignored, decoder_hidden,
                              config_from_gguf, &gguf_gemma4};
