/* gguf_base.c - see gguf_base.h. */
#include "gguf_base.h"
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"

/* ---- the config ---- */

enum { LAYERS_MOST = 1000 }; /* before anything is made for each */

typedef struct Key {
    char text[160];
} Key;

/* "ARCHITECTURE.key"; the architecture is one of ours, so it is short. */
static Key full_key(const Gguf *g, const char *key) {
    const char *arch = "";
    size_t n = 0;
    Err ignored;
    Key full;
    gguf_get_text(g, "general.architecture", &arch, &n, &ignored);
    snprintf(full.text, sizeof full.text, "%.*s.%s", (int)n, arch, key);
    return full;
}

static int must_have(const Gguf *g, const char *key, Err *e) {
    if (gguf_find(g, key)) return 0;
    return err_set(e, "%s: the key %s is missing, which such a model needs", g->file, key);
}

static int config_key(json_t *config, const Gguf *g, const GgufConfigKey *k, Err *e) {
    Key key = full_key(g, k->gguf);
    int64_t whole = 0;
    double real = 0;
    if (k->must) TRY(must_have(g, key.text, e));
    if (!gguf_find(g, key.text)) return 0;
    if (k->type == GGUF_CONFIG_INT) {
        TRY(gguf_get_int(g, key.text, 0, INT32_MAX, &whole, e));
        json_object_set_new(config, k->hf, json_integer(whole));
    } else {
        TRY(gguf_get_real(g, key.text, &real, e));
        json_t *number = json_real(real);
        if (!number) return err_set(e, "%s: %s is no finite number", g->file, key.text);
        json_object_set_new(config, k->hf, number);
    }
    return 0;
}

int gguf_config_keys(json_t *config, const Gguf *g, const GgufConfigKey *keys, size_t n, Err *e) {
    for (size_t i = 0; i < n; i++) TRY(config_key(config, g, &keys[i], e));
    return 0;
}

int gguf_config_real(const Gguf *g, const char *key, double *out, Err *e) {
    return gguf_get_real(g, full_key(g, key).text, out, e);
}

int gguf_config_rope_factor(const Gguf *g, double *factor, Err *e) {
    Key key = full_key(g, "rope.scaling.type");
    const char *type = "linear";
    size_t n = strlen(type);
    *factor = 1;
    TRY(gguf_get_text(g, key.text, &type, &n, e));
    if (text_is(type, n, "none")) return 0;
    TRY(gguf_config_real(g, "rope.scaling.factor", factor, e));
    if (*factor == 1 || text_is(type, n, "linear")) return 0;
    return err_set(e, "%s: %s is \"%s\"; none and linear can be read", g->file, key.text,
                   gguf_word(type, n).text);
}

int gguf_config_layers(json_t *config, const Gguf *g, int *n_layers, Err *e) {
    Key key = full_key(g, "block_count");
    int64_t n = 0;
    TRY(must_have(g, key.text, e));
    TRY(gguf_get_int(g, key.text, 1, LAYERS_MOST, &n, e));
    *n_layers = (int)n;
    return json_object_set_new(config, "num_hidden_layers", json_integer(n));
}

int gguf_config_per_layer(const Gguf *g, const char *name, int n_layers, int64_t *out, Err *e) {
    Key key = full_key(g, name);
    const GgufValue *list = gguf_find(g, key.text);
    int64_t one = 0;
    TRY(must_have(g, key.text, e));
    if (!list->array) TRY(gguf_get_int(g, key.text, 0, INT32_MAX, &one, e));
    if (list->array) TRY(gguf_get_array(g, key.text, GGUF_INTS, &list, e));
    if (list->array && list->n < n_layers)
        return err_set(e, "%s: %s has %ld entries for %d layers", g->file, key.text, (long)list->n,
                       n_layers);
    for (int i = 0; i < n_layers; i++) {
        out[i] = list->array ? gguf_int_at(list, i) : one;
        if (out[i] < 0 || out[i] > INT32_MAX)
            return err_set(e, "%s: %s is %ld for layer %d", g->file, key.text, (long)out[i], i);
    }
    return 0;
}

int gguf_config_layer_types(json_t *config, const Gguf *g, int n_layers, int every, Err *e) {
    Key key = full_key(g, "attention.sliding_window_pattern");
    const GgufValue *v = gguf_find(g, key.text);
    int64_t period = every;
    json_t *types = json_array();
    json_object_set_new(config, "layer_types", types);
    if (v && v->array) {
        TRY(gguf_get_array(g, key.text, GGUF_INTS, &v, e));
        if (v->n < n_layers)
            return err_set(e, "%s: %s has %ld entries for %d layers", g->file, key.text, (long)v->n,
                           n_layers);
    } else {
        TRY(gguf_get_int(g, key.text, 1, INT32_MAX, &period, e));
    }
    for (int i = 0; i < n_layers; i++) {
        bool full = v && v->array ? !gguf_int_at(v, i) : (i + 1) % period == 0;
        json_array_append_new(types, json_string(full ? "full_attention" : "sliding_attention"));
    }
    return 0;
}

int gguf_config_common(json_t *config, const Gguf *g, Err *e) {
    static const struct {
        const char *hf, *gguf;
    } ids[] = {{"bos_token_id", "tokenizer.ggml.bos_token_id"},
               {"eos_token_id", "tokenizer.ggml.eos_token_id"},
               {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
    static const GgufConfigKey keys[] = {
        {"max_position_embeddings", "context_length", GGUF_CONFIG_INT, false}};
    const GgufEntry *embed = gguf_find_entry(g, "token_embd.weight");
    if (!embed || embed->n_dim != 2)
        return err_set(e, "%s: tensor token_embd.weight is missing, or no matrix", g->file);
    json_object_set_new(config, "vocab_size", json_integer(embed->dim[0]));
    json_object_set_new(config, "tie_word_embeddings",
                        json_boolean(!gguf_find_entry(g, "output.weight")));
    for (size_t i = 0; i < COUNT_OF(ids); i++) {
        int64_t id = -1;
        TRY(gguf_get_int(g, ids[i].gguf, 0, INT32_MAX, &id, e));
        if (id >= 0) json_object_set_new(config, ids[i].hf, json_integer(id));
    }
    return gguf_config_keys(config, g, keys, COUNT_OF(keys), e);
}

/* ---- names ---- */

static const char BLOCK[] = "blk.", GATE[] = "ffn_gate_exps.weight", UP[] = "ffn_up_exps.weight",
                  GATE_UP[] = "ffn_gate_up_exps.weight", ROPE[] = "rope_freqs.weight";

/* The rest of "blk.N.REST" with its N; NULL: not such a name. */
static const char *in_block(const char *name, int *layer) {
    int used = 0;
    if (sscanf(name, "blk.%9d.%n", layer, &used) != 1 || !used || *layer < 0) return NULL;
    return name + used;
}

static const TensorRow *row_of(const Model *m, const char *name, int *layer) {
    const char *rest = in_block(name, layer);
    const TensorRow *r = rest ? m->family->layer_rows : m->family->model_rows;
    while (r->hf && (!r->gguf || strcmp(r->gguf, rest ? rest : name))) r++;
    if (!rest) *layer = -1;
    return r->hf ? r : NULL;
}

static const char *hf_name(const Model *m, const TensorRow *r, int layer) {
    Buf name = {0};
    if (!model_names_head(r->hf)) buf_add_text(&name, "model.");
    if (layer >= 0) buf_printf(&name, "layers.%d.", layer);
    buf_add_text(&name, r->hf);
    return weights_keep(m->weights, name.p);
}

/* ---- values ---- */

/* A norm without its plus, in memory of its own. */
static void subtract_plus(const Model *m, WeightView *v) {
    int64_t n = v->bytes / dtype_info[v->dtype].block_bytes;
    float *own = weights_keep(m->weights, mem_alloc((size_t)n * sizeof *own));
    dtype_info[v->dtype].to_f32(v->data, own, n);
    for (int64_t i = 0; i < n; i++) own[i] -= m->dims.norm.plus;
    v->data = own;
    v->dtype = DT_f32;
    v->stored = dtype_info[DT_f32].gguf;
    v->bytes = n * (int64_t)sizeof *own;
}

/* Experts whose gate (E,F,D) and up (E,F,D) are stored apart: (E,2F,D), expert by expert, in memory
 * of its own. */
static int join_experts(Weights *w, WeightView *gate, WeightView *up, const char *name, Err *e) {
    bool alike = gate->dtype == up->dtype && gate->n_dim == 3 && up->n_dim == 3 &&
                 !memcmp(gate->dim, up->dim, sizeof gate->dim);
    if (!alike)
        return err_set(e,
                       "%s: tensors %s and %s are not of one shape and type, so they cannot be "
                       "joined",
                       gate->file, gate->name, up->name);
    WeightView joined = *gate;
    size_t each = (size_t)(gate->bytes / gate->dim[0]);
    char *own = weights_keep(w, mem_alloc(2 * (size_t)gate->bytes));
    for (int64_t i = 0; i < gate->dim[0]; i++) {
        memcpy(own + 2 * (size_t)i * each, (const char *)gate->data + (size_t)i * each, each);
        memcpy(own + (2 * (size_t)i + 1) * each, (const char *)up->data + (size_t)i * each, each);
    }
    joined.name = name;
    joined.data = own;
    joined.bytes *= 2;
    joined.dim[1] *= 2;
    gate->read = up->read = true;
    weights_add(w, &joined, 1);
    return 0;
}

static int join_all_experts(Model *m, Err *e) {
    int joined = 0;
    for (int i = 0; i < m->dims.n_layers; i++) {
        char gate[64], up[64], both[64];
        snprintf(gate, sizeof gate, "%s%d.%s", BLOCK, i, GATE);
        snprintf(up, sizeof up, "%s%d.%s", BLOCK, i, UP);
        snprintf(both, sizeof both, "%s%d.%s", BLOCK, i, GATE_UP);
        WeightView *g = weights_find(m->weights, gate), *u = weights_find(m->weights, up);
        if (!g || !u || weights_find(m->weights, both)) continue;
        TRY(join_experts(m->weights, g, u, weights_keep_text(m->weights, both), e));
        TRY(weights_sort(m->weights, e));
        joined++;
    }
    if (joined)
        buf_printf(&m->notes,
                   "gate and up of the experts of %d layers are stored apart: joined in memory\n",
                   joined);
    return 0;
}

int gguf_base_rename(Model *m, Err *e) {
    TRY(join_all_experts(m, e));
    for (int i = 0; i < weights_count(m->weights); i++) {
        WeightView *v = weights_at(m->weights, i);
        int layer;
        const TensorRow *r = row_of(m, v->name, &layer);
        bool norm = r && r->kind == KIND_NORMS && !(r->flags & ROW_BUFFER);
        if (norm && m->dims.norm.plus != 0 && dtype_is_float(v->dtype)) subtract_plus(m, v);
        if (!strcmp(v->name, ROPE)) v->read = true; /* the config has what it says */
        if (r) v->name = hf_name(m, r, layer);
    }
    return weights_sort(m->weights, e);
}
