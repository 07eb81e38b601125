/* gguf_gemma.c - Gemma's architecture keys as llama.cpp reads them. Its graph knows two kinds of
 * layers, sliding and full, and one number of each sort for all layers of a kind: a config.json
 * that says more is refused. Source: llama.cpp, conversion/gemma.py and src/models/gemma4.cpp. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "gguf_out.h"

typedef struct Key {
    char text[96];
} Key;

static Key key(const Model *m, const char *name) {
    Key k;
    snprintf(k.text, sizeof k.text, "%s.%s", m->family->gguf->architecture, name);
    return k;
}

static void add_u32(GgufOut *g, const Model *m, const char *name, int64_t value) {
    gguf_add_u32(g, key(m, name).text, (uint32_t)value);
}
static void add_f32(GgufOut *g, const Model *m, const char *name, float value) {
    gguf_add_f32(g, key(m, name).text, value);
}

/* The first layer of a kind; NULL: there is none. */
static const LayerDims *first_of(const Model *m, bool sliding) {
    for (int i = 0; i < m->dims.n_layers; i++) {
        if ((m->layer[i].d.window != 0) == sliding) return &m->layer[i].d;
    }
    return NULL;
}

static int cannot(const Model *m, int layer, const char *what, Err *e) {
    return err_set(e,
                   "export --format gguf: layer %d has %s, which llama.cpp's %s cannot run; export "
                   "--format merged",
                   layer, what, m->family->gguf->architecture);
}

/* llama.cpp lets the sharing layers read the last two that have keys of their own: sliding, then
 * full. */
static int shared_from(int own, bool sliding) { return own - (sliding ? 2 : 1); }

static int check_layers(const Model *m, int own, Err *e) {
    for (int i = 0; i < m->dims.n_layers; i++) {
        const LayerDims *d = &m->layer[i].d, *like = first_of(m, d->window != 0);
        bool sliding = d->window != 0;
        if (d->head_dim != like->head_dim || d->window != like->window)
            return cannot(m, i, "another head size or window than others of its kind", e);
        if (d->rope.theta != like->rope.theta || d->rope.n_angles != like->rope.n_angles ||
            d->rope.factor != like->rope.factor)
            return cannot(m, i, "other rotary numbers than others of its kind", e);
        if (sliding && (d->rope.n_angles != d->head_dim / 2 || d->rope.factor != 1))
            return cannot(m, i, "a sliding window and partial or scaled rotary embeddings", e);
        if (d->kv_from != i && d->kv_from != shared_from(own, sliding))
            return cannot(m, i,
                          "keys and values lent by another layer than the last but one or the last "
                          "that has some",
                          e);
    }
    return 0;
}

/* One number where all layers agree, else one a layer. */
static void add_per_layer(GgufOut *g, const Model *m, const char *name, size_t offset) {
    int n = m->dims.n_layers;
    uint32_t *value = mem_alloc(sizeof *value * (size_t)n);
    bool same = true;
    for (int i = 0; i < n; i++) {
        value[i] = (uint32_t) * (const int *)((const char *)&m->layer[i].d + offset);
        same &= value[i] == value[0];
    }
    if (same)
        gguf_add_u32(g, key(m, name).text, value[0]);
    else
        gguf_add_u32s(g, key(m, name).text, value, (size_t)n);
    mem_free(value);
}

static void add_pattern(GgufOut *g, const Model *m) {
    int n = m->dims.n_layers;
    bool *sliding = mem_alloc(sizeof *sliding * (size_t)n);
    for (int i = 0; i < n; i++) sliding[i] = m->layer[i].d.window != 0;
    gguf_add_bools(g, key(m, "attention.sliding_window_pattern").text, sliding, (size_t)n);
    mem_free(sliding);
}

static int64_t context_length(const Model *m) {
    const json_t *text = json_object_get(m->config, "text_config");
    const json_t *n =
        json_object_get(json_is_object(text) ? text : m->config, "max_position_embeddings");
    return json_is_integer(n) && json_integer_value(n) > 0 ? json_integer_value(n) : 131072;
}

static void add_sizes(GgufOut *g, const Model *m) {
    const Dims *d = &m->dims;
    add_u32(g, m, "vocab_size", d->vocab);
    add_u32(g, m, "context_length", context_length(m));
    add_u32(g, m, "embedding_length", d->width);
    add_u32(g, m, "block_count", d->n_layers);
    add_per_layer(g, m, "feed_forward_length", offsetof(LayerDims, dense_width));
    add_u32(g, m, "attention.head_count", d->n_heads);
    add_per_layer(g, m, "attention.head_count_kv", offsetof(LayerDims, n_kv));
    add_f32(g, m, "attention.layer_norm_rms_epsilon", d->norm.eps);
    if (d->softcap != 0) add_f32(g, m, "final_logit_softcapping", d->softcap);
}

static void add_heads(GgufOut *g, const Model *m) {
    const LayerDims *full = first_of(m, false), *sliding = first_of(m, true);
    if (!sliding) sliding = full;
    if (!full) full = sliding;
    add_u32(g, m, "attention.key_length", full->head_dim);
    add_u32(g, m, "attention.value_length", full->head_dim);
    add_u32(g, m, "attention.key_length_swa", sliding->head_dim);
    add_u32(g, m, "attention.value_length_swa", sliding->head_dim);
    add_u32(g, m, "attention.sliding_window", max64(sliding->window, 1));
    add_pattern(g, m);
    add_f32(g, m, "rope.freq_base", full->rope.theta);
    add_f32(g, m, "rope.freq_base_swa", sliding->rope.theta);
    add_u32(g, m, "rope.dimension_count", full->head_dim);
    add_u32(g, m, "rope.dimension_count_swa", sliding->head_dim);
    if (full->rope.factor == 1) return;
    gguf_add_text(g, key(m, "rope.scaling.type").text, "linear", strlen("linear"));
    add_f32(g, m, "rope.scaling.factor", full->rope.factor);
}

/* rope_freqs.weight: what the angles of full layers are divided by. Pairs that stay are divided by
 * so much that they do. */
static int fill_rope_freqs(void *ctx, int64_t first, int64_t n, float *dst, Err *e) {
    const LayerDims *full = first_of(ctx, false);
    (void)e;
    for (int64_t i = 0; i < n; i++) dst[i] = first + i < full->rope.n_angles ? 1 : 1e30f;
    return 0;
}

static void add_rope_freqs(GgufOut *g, const Model *m) {
    GgufOutEntry t = {.name = "rope_freqs.weight",
                      .dtype = DT_f32,
                      .n_dim = 1,
                      .dim = {first_of(m, false)->head_dim / 2},
                      .fill = fill_rope_freqs,
                      .ctx = (void *)(uintptr_t)m};
    gguf_add_entry(g, &t);
}

static int gemma4_keys(GgufOut *g, const Model *m, Err *e) {
    const Dims *d = &m->dims;
    int own = 0;
    while (own < d->n_layers && m->layer[own].d.kv_from == own) own++;
    TRY(check_layers(m, own, e));
    if (d->ple_width && d->ple_vocab != d->vocab)
        return err_set(e,
                       "export --format gguf: the model has %d per-layer embeddings and %d "
                       "embeddings, llama.cpp wants as many; export --format merged",
                       d->ple_vocab, d->vocab);
    add_sizes(g, m);
    add_heads(g, m);
    add_u32(g, m, "attention.shared_kv_layers", d->n_layers - own);
    add_u32(g, m, "embedding_length_per_layer_input", d->ple_width);
    if (d->n_experts) {
        add_u32(g, m, "expert_count", d->n_experts);
        add_u32(g, m, "expert_used_count", d->n_used);
        add_u32(g, m, "expert_feed_forward_length", d->expert_width);
    }
    add_rope_freqs(g, m);
    return 0;
}

/* llama.cpp has no key for it: 1 / sqrt(head size), and the 27B's by its number of layers. */
static float gemma3_scale(const Model *m) {
    const Dims *d = &m->dims;
    int under = d->n_layers == 62 ? d->width / d->n_heads : m->layer[0].d.head_dim;
    return 1 / sqrtf((float)under);
}

static int gemma3_keys(GgufOut *g, const Model *m, Err *e) {
    TRY(check_layers(m, m->dims.n_layers, e));
    for (int i = 0; i < m->dims.n_layers; i++) {
        if (m->layer[i].d.head_dim != m->layer[0].d.head_dim)
            return cannot(m, i, "another head size", e);
    }
    if (fabsf(m->dims.attention_scale - gemma3_scale(m)) > 1e-6f)
        return cannot(m, 0, "a query_pre_attn_scalar other than its head size", e);
    add_sizes(g, m);
    add_heads(g, m);
    return 0;
}

const GgufForm gguf_gemma3 = {"gemma3", GGUF_BY_SCORES, gemma3_keys};
const GgufForm gguf_gemma4 = {"gemma4", GGUF_BY_MERGES, gemma4_keys};
