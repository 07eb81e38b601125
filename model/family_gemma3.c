/* family_gemma3.c - Gemma 3's text decoder (270M, 1B, and the text of 4B, 12B, 27B): dense, five
 * sliding layers to one full. Against Gemma 4: norms weigh by 1 + w, attention divides by
 * sqrt(query_pre_attn_scalar), values are not normed, and a layer's result is not scaled.
 * Source: Transformers 5.23, models/gemma3/modeling_gemma3.py and configuration_gemma3.py. */
#include <math.h>
#include <string.h>
#include "decoder.h"
#include "family_config.h"
#include "gguf_base.h"
#include "gguf_out.h"

#define L(field) offsetof(Layer, field)
#define M(field) offsetof(Model, field)

/* Big matrices are used as stored, small ones opened to float32 when loading. */
#define BIG   (ROW_LINEAR | ROW_MAPPED)
#define SMALL 0

/* clang-format off */
static const TensorRow layer_rows[] = {
    {"input_layernorm.weight",            "attn_norm.weight",            L(input_norm),          KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_D}},
    {"self_attn.q_proj.weight",           "attn_q.weight",               L(q),                   KIND_ATTENTION,  HAS_ALWAYS, BIG,   {DIM_Q, DIM_D}},
    {"self_attn.k_proj.weight",           "attn_k.weight",               L(k),                   KIND_ATTENTION,  HAS_ALWAYS, BIG,   {DIM_KV, DIM_D}},
    {"self_attn.v_proj.weight",           "attn_v.weight",               L(v),                   KIND_ATTENTION,  HAS_ALWAYS, BIG,   {DIM_KV, DIM_D}},
    {"self_attn.o_proj.weight",           "attn_output.weight",          L(o),                   KIND_ATTENTION,  HAS_ALWAYS, BIG,   {DIM_D, DIM_Q}},
    {"self_attn.q_norm.weight",           "attn_q_norm.weight",          L(q_norm),              KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_HEAD}},
    {"self_attn.k_norm.weight",           "attn_k_norm.weight",          L(k_norm),              KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_HEAD}},
    {"post_attention_layernorm.weight",   "post_attention_norm.weight",  L(post_attention_norm), KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_D}},
    {"pre_feedforward_layernorm.weight",  "ffn_norm.weight",             L(pre_mlp_norm),        KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_D}},
    {"mlp.gate_proj.weight",              "ffn_gate.weight",             L(gate),                KIND_DENSE,      HAS_ALWAYS, BIG,   {DIM_DENSE, DIM_D}},
    {"mlp.up_proj.weight",                "ffn_up.weight",               L(up),                  KIND_DENSE,      HAS_ALWAYS, BIG,   {DIM_DENSE, DIM_D}},
    {"mlp.down_proj.weight",              "ffn_down.weight",             L(down),                KIND_DENSE,      HAS_ALWAYS, BIG,   {DIM_D, DIM_DENSE}},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight",        L(post_mlp_norm),       KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_D}},
    {0},
};

static const TensorRow model_rows[] = {
    {"embed_tokens.weight",               "token_embd.weight",           M(embed),               KIND_EMBEDDINGS, HAS_ALWAYS, BIG,   {DIM_V, DIM_D}},
    {"norm.weight",                       "output_norm.weight",          M(norm),                KIND_NORMS,      HAS_ALWAYS, SMALL, {DIM_D}},
    {"lm_head.weight",                    "output.weight",               M(head),                KIND_EMBEDDINGS, HAS_HEAD,   BIG,   {DIM_V, DIM_D}},
    {0},
};
/* clang-format on */

static const char *const ignored[] = {"vision_tower.", "multi_modal_projector.", NULL};

static bool knows(const json_t *c) {
    const char *type = json_string_value(json_object_get(c, "model_type"));
    return type && !strcmp(type, "gemma3_text");
}

/* ---- config.json ---- */

/* Rotary numbers of one layer type. Transformers 5 writes them per type into rope_parameters; until
 * then rope_theta and rope_scaling meant the full layers, rope_local_base_freq the sliding ones. */
static int rope_of(const json_t *c, bool full, int n_heads, int head_dim, Rope *r, Err *e) {
    const char *layer = full ? "full_attention" : "sliding_attention";
    const json_t *p = json_object_get(json_object_get(c, "rope_parameters"), layer),
                 *scaling = full ? json_object_get(c, "rope_scaling") : NULL;
    float theta, factor;
    if (!json_is_object(scaling)) scaling = p;
    TRY(config_float(c, full ? "rope_theta" : "rope_local_base_freq", full ? 1e6f : 1e4f, &theta,
                     e));
    TRY(config_float(p, "rope_theta", theta, &theta, e));
    TRY(config_float(scaling, "factor", 1, &factor, e));
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    if (!type) type = json_string_value(json_object_get(scaling, "type"));
    bool linear = type && !strcmp(type, "linear");
    if (type && !linear && strcmp(type, "default")) {
        return err_set(e, "rope_type \"%s\" of %s layers is not known (default, linear)", type,
                       layer);
    }
    if (!(theta > 0) || !(factor > 0)) {
        return err_set(e,
                       "the rotary numbers of %s layers are out of range (rope_theta "
                       "%g, factor %g)",
                       layer, (double)theta, (double)factor);
    }
    *r = (Rope){n_heads, head_dim, head_dim / 2, theta, linear ? factor : 1};
    return 0;
}

static int refuse_unknown(const json_t *c, Err *e) {
    static const char *const flags[] = {"attention_bias", "use_bidirectional_attention"};
    const char *act = json_string_value(json_object_get(c, "hidden_activation"));
    const json_t *cap = json_object_get(c, "attn_logit_softcapping");
    if (act && strcmp(act, "gelu_pytorch_tanh")) {
        return err_set(e, "hidden_activation \"%s\" is not known for Gemma 3 (gelu_pytorch_tanh)",
                       act);
    }
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        if (config_bool(c, flags[i], false))
            return err_set(e, "%s: true is not supported for Gemma 3", flags[i]);
    }
    if (cap && !json_is_null(cap))
        return err_set(e, "attn_logit_softcapping is not supported for Gemma 3");
    return 0;
}

static int layer_dims(Model *m, const json_t *c, int i, Err *e) {
    LayerDims *d = &m->layer[i].d;
    int every;
    bool full;
    TRY(config_int(c, "sliding_window_pattern", 6, 1, &every, e));
    TRY(config_is_full(c, i, (i + 1) % every == 0, &full, e));
    TRY(config_int(c, "num_key_value_heads", 4, 1, &d->n_kv, e));
    TRY(config_int(c, "head_dim", 256, 2, &d->head_dim, e));
    TRY(config_int(c, "intermediate_size", 9216, 1, &d->dense_width, e));
    TRY(config_int(c, "sliding_window", 4096, 1, &d->window, e));
    TRY(config_check_heads(m, i, e));
    if (full) d->window = 0;
    d->kv_from = i;
    return rope_of(c, full, m->dims.n_heads, d->head_dim, &d->rope, e);
}

static int dims(Model *m, const json_t *c, Err *e) {
    Dims *d = &m->dims;
    float scalar;
    TRY(refuse_unknown(c, e));
    TRY(config_int(c, "vocab_size", 262208, 1, &d->vocab, e));
    TRY(config_int(c, "hidden_size", 2304, 1, &d->width, e));
    TRY(config_int(c, "num_attention_heads", 8, 1, &d->n_heads, e));
    TRY(config_int(c, "pad_token_id", 0, 0, &d->pad_id, e));
    TRY(config_float(c, "rms_norm_eps", 1e-6f, &d->norm.eps, e));
    TRY(config_float(c, "final_logit_softcapping", 0, &d->softcap, e));
    TRY(config_float(c, "query_pre_attn_scalar", 256, &scalar, e));
    if (!(scalar > 0)) {
        return err_set(e, "\"query_pre_attn_scalar\" should be above 0, not %g", (double)scalar);
    }
    d->norm.plus = 1;
    d->attention_scale = (float)(1 / sqrt((double)scalar));
    d->tied = config_bool(c, "tie_word_embeddings", true);
    TRY(config_check_layer_types(c, d->n_layers, e));
    for (int i = 0; i < d->n_layers; i++) TRY(layer_dims(m, c, i, e));
    return 0;
}

/* ---- a GGUF file's metadata as such a config.json ---- */

static const GgufConfigKey gguf_keys[] = {
    {"hidden_size", "embedding_length", GGUF_CONFIG_INT, true},
    {"intermediate_size", "feed_forward_length", GGUF_CONFIG_INT, true},
    {"num_attention_heads", "attention.head_count", GGUF_CONFIG_INT, true},
    {"num_key_value_heads", "attention.head_count_kv", GGUF_CONFIG_INT, true},
    {"head_dim", "attention.key_length", GGUF_CONFIG_INT, true},
    {"sliding_window", "attention.sliding_window", GGUF_CONFIG_INT, true},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", GGUF_CONFIG_REAL, true},
    {"final_logit_softcapping", "final_logit_softcapping", GGUF_CONFIG_REAL, false},
};

/* llama.cpp knows the scale of 27B by its layers; everywhere else it is the head size. */
enum { LAYERS_OF_27B = 62 };

static int gguf_scalar(json_t *config, int n_layers, Err *e) {
    int head_dim, width, heads;
    TRY(config_int(config, "head_dim", 256, 2, &head_dim, e));
    TRY(config_int(config, "hidden_size", 2304, 1, &width, e));
    TRY(config_int(config, "num_attention_heads", 8, 1, &heads, e));
    int scalar = n_layers == LAYERS_OF_27B ? width / heads : head_dim;
    return json_object_set_new(config, "query_pre_attn_scalar", json_integer(scalar));
}

/* Scaling means the full layers alone. */
static int gguf_rope(json_t *config, const Gguf *g, Err *e) {
    double full = 1e6, sliding = 1e4, factor;
    TRY(gguf_config_real(g, "rope.freq_base", &full, e));
    TRY(gguf_config_real(g, "rope.freq_base_swa", &sliding, e));
    TRY(gguf_config_rope_factor(g, &factor, e));
    json_t *rope =
        json_pack("{s:{s:s, s:f, s:f}, s:{s:s, s:f}}", "full_attention", "rope_type",
                  factor == 1 ? "default" : "linear", "rope_theta", full, "factor", factor,
                  "sliding_attention", "rope_type", "default", "rope_theta", sliding);
    if (!rope) return err_set(e, "%s: gemma3.rope.freq_base or its like is no number", g->file);
    return json_object_set_new(config, "rope_parameters", rope);
}

static int config_from_gguf(json_t *config, const Gguf *g, Err *e) {
    int n_layers;
    json_object_set_new(config, "architectures", json_pack("[s]", "Gemma3ForCausalLM"));
    json_object_set_new(config, "model_type", json_string("gemma3_text"));
    json_object_set_new(config, "hidden_activation", json_string("gelu_pytorch_tanh"));
    TRY(gguf_config_common(config, g, e));
    TRY(gguf_config_keys(config, g, gguf_keys, COUNT_OF(gguf_keys), e));
    TRY(gguf_config_layers(config, g, &n_layers, e));
    TRY(gguf_config_layer_types(config, g, n_layers, 6, e));
    TRY(gguf_scalar(config, n_layers, e));
    return gguf_rope(config, g, e);
}

const Family family_gemma3 = {"gemma3",         26,          knows,   dims,
                              layer_rows,       model_rows,  ignored, decoder_hidden,
                              config_from_gguf, &gguf_gemma3};
