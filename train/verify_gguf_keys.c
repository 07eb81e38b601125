/* verify_gguf_keys.c - what a GGUF file says of the model beside its tensors: the architecture's
 * numbers, tokenizer and chat template. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../data/gguf_side.h"
#include "../data/tokenizer.h"
#include "../model/gguf_out.h" /* the architecture's name */
#include "verify_gguf.h"

const LayerDims *verify_layer_of(const Model *m, bool sliding) {
    for (int i = 0; i < m->dims.n_layers; i++)
        if ((m->layer[i].d.window != 0) == sliding) return &m->layer[i].d;
    return NULL;
}

/* ---- numbers ---- */

/* What a key has to say: one number; or one a layer, where all are the same perhaps just that. */
typedef struct Want {
    const char *key; /* after "ARCHITECTURE." */
    bool must;
    double value;
    double (*of_layer)(const LayerDims *d); /* NULL: value */
} Want;

static double kv_heads(const LayerDims *d) { return d->n_kv; }
static double dense_width(const LayerDims *d) { return d->dense_width; }
static double is_sliding(const LayerDims *d) { return d->window != 0; }

static double number_at(const GgufValue *v, int64_t i) {
    bool real = v->type == GGUF_F32 || v->type == GGUF_F64;
    return real ? gguf_real_at(v, i) : (double)gguf_int_at(v, i);
}

static int wrong(const char *key, int layer, double is, double should, Err *e) {
    Buf of = {0};
    if (layer >= 0) buf_printf(&of, " for layer %d", layer);
    err_set(e, "%s is %.9g%s, the run's is %.9g", key, is, of.n ? of.p : "", should);
    buf_free(&of);
    return -1;
}

static int check_want(const GgufFile *f, const char *architecture, const Want *w, Err *e) {
    const Model *m = f->v->run.model;
    char key[128];
    snprintf(key, sizeof key, "%s.%s", architecture, w->key);
    const GgufValue *v = gguf_find(f->g, key);
    if (!v) return w->must ? err_set(e, "the key %s is missing", key) : 0;
    if (v->type == GGUF_TEXT || (v->array && (!w->of_layer || v->n < m->dims.n_layers)))
        return err_set(e, "%s is no number, or not one for each layer", key);
    for (int i = 0; i < (w->of_layer ? m->dims.n_layers : 1); i++) {
        double is = number_at(v, v->array ? i : 0),
               should = w->of_layer ? w->of_layer(&m->layer[i].d) : w->value;
        if ((float)is != (float)should) return wrong(key, w->of_layer ? i : -1, is, should, e);
    }
    return 0;
}

static int64_t stated_context(const Model *m) {
    const json_t *text = json_object_get(m->config, "text_config");
    return json_integer_value(
        json_object_get(json_is_object(text) ? text : m->config, "max_position_embeddings"));
}

static int lent_layers(const Model *m) {
    int n = 0;
    for (int i = 0; i < m->dims.n_layers; i++) n += m->layer[i].d.kv_from != i;
    return n;
}

enum { WANTS_MOST = 40 };
static int wants_of(const Model *m, Want out[WANTS_MOST]) {
    const Dims *d = &m->dims;
    const LayerDims *full = verify_layer_of(m, false), *some = verify_layer_of(m, true);
    int64_t context = stated_context(m);
    bool slides = some != NULL;
    if (!full) full = some;
    if (!some) some = full;
    const Want all[] = {
        {"block_count", true, d->n_layers, NULL},
        {"embedding_length", true, d->width, NULL},
        {"vocab_size", false, d->vocab, NULL},
        {"feed_forward_length", true, 0, dense_width},
        {"attention.head_count", true, d->n_heads, NULL},
        {"attention.head_count_kv", true, 0, kv_heads},
        {"attention.layer_norm_rms_epsilon", true, (double)d->norm.eps, NULL},
        {"attention.key_length", true, full->head_dim, NULL},
        {"attention.value_length", true, full->head_dim, NULL},
        {"attention.key_length_swa", slides, some->head_dim, NULL},
        {"attention.value_length_swa", slides, some->head_dim, NULL},
        {"attention.sliding_window_pattern", slides, 0, is_sliding},
        {"attention.shared_kv_layers", lent_layers(m) > 0, lent_layers(m), NULL},
        {"rope.freq_base", true, (double)full->rope.theta, NULL},
        {"rope.freq_base_swa", slides, (double)some->rope.theta, NULL},
        {"rope.dimension_count", false, full->head_dim, NULL},
        {"rope.dimension_count_swa", false, some->head_dim, NULL},
        {"rope.scaling.factor", full->rope.factor != 1, (double)full->rope.factor, NULL},
        {"final_logit_softcapping", d->softcap != 0, (double)d->softcap, NULL},
        {"embedding_length_per_layer_input", d->ple_width != 0, d->ple_width, NULL},
        {"expert_count", d->n_experts > 0, d->n_experts, NULL},
        {"expert_used_count", d->n_experts > 0, d->n_used, NULL},
        {"expert_feed_forward_length", d->n_experts > 0, d->expert_width, NULL},
    };
    int n = 0;
    for (size_t i = 0; i < COUNT_OF(all); i++) out[n++] = all[i];
    if (slides) out[n++] = (Want){"attention.sliding_window", true, some->window, NULL};
    if (context > 0) out[n++] = (Want){"context_length", true, (double)context, NULL};
    return n;
}

static int check_text(const Gguf *g, const char *key, const char *want, Err *e) {
    const char *is = "";
    size_t n = 0;
    TRY(gguf_get_text(g, key, &is, &n, e));
    if (text_is(is, n, want)) return 0;
    return err_set(e, "%s is not \"%s\"", key, want);
}

int verify_gguf_keys(const GgufFile *f, Err *e) {
    const char *architecture = f->v->run.model->family->gguf->architecture;
    const LayerDims *full = verify_layer_of(f->v->run.model, false);
    Want want[WANTS_MOST];
    int n = wants_of(f->v->run.model, want);
    TRY(check_text(f->g, "general.architecture", architecture, e));
    TRY(check_text(f->g, "general.type", "model", e));
    for (int i = 0; i < n; i++) TRY(check_want(f, architecture, &want[i], e));
    if (!full || full->rope.factor == 1) return 0;
    char key[128];
    snprintf(key, sizeof key, "%s.rope.scaling.type", architecture);
    return check_text(f->g, key, "linear", e);
}

/* ---- tokenizer ---- */

static int same_pieces(const Tokenizer *run, const Tokenizer *file, Err *e) {
    for (int32_t id = 0; id < tokenizer_size(run); id++) {
        const char *a = tokenizer_piece(run, id), *b = tokenizer_piece(file, id);
        if (a && (!b || strcmp(a, b)))
            return err_set(e, "tokenizer.ggml.tokens: token %ld is not the run's", (long)id);
    }
    return 0;
}

/* One made text; those with newlines are cut there by llama.cpp, whatever the vocabulary says. */
static int same_tokens(const Tokenizer *run, const Tokenizer *file, Rng *rng, Err *e) {
    enum { LONG = 24 };
    int32_t ids[LONG];
    Buf text = {0};
    Tokens a = {0}, b = {0};
    for (int i = 0; i < LONG; i++) ids[i] = (int32_t)(rng_u64(rng) % (uint64_t)tokenizer_size(run));
    tokenizer_decode(run, ids, LONG, true, &text);
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] == '\n') text.p[i] = ' ';
    int bad = tokenizer_encode(run, text.p ? text.p : "", text.n, false, &a, e) ||
              tokenizer_encode(file, text.p ? text.p : "", text.n, false, &b, e);
    if (!bad && (a.n != b.n || (a.n && memcmp(a.id, b.id, a.n * sizeof *a.id))))
        bad = err_set(e, "its tokenizer makes other tokens of a text than the run's");
    tokens_free(&a);
    tokens_free(&b);
    buf_free(&text);
    return bad;
}

/* Tokens that tokenizer_config.json names, as texts. */
static const char *named_token(const json_t *config, const char *name) {
    const json_t *token = json_object_get(config, name);
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

static int same_specials(const char *run, const char *file, Err *e) {
    static const char *const name[] = {"bos_token", "eos_token", "pad_token"};
    json_t *a = NULL, *b = NULL;
    int bad = side_files_json(run, "tokenizer_config.json", &a, e) ||
              side_files_json(file, "tokenizer_config.json", &b, e);
    for (size_t i = 0; i < COUNT_OF(name) && !bad; i++) {
        const char *x = named_token(a, name[i]), *y = named_token(b, name[i]);
        if (x && (!y || strcmp(x, y)))
            bad = err_set(e, "its %s is \"%s\", the run's is \"%s\"", name[i], y ? y : "", x);
    }
    json_decref(a);
    json_decref(b);
    return bad ? -1 : 0;
}

static int compare_tokenizers(const char *run, const char *path, Err *e) {
    enum { TEXTS = 64 };
    Tokenizer *a = NULL, *b = NULL;
    Rng rng = {17, 0, 0};
    int bad = tokenizer_open_model(&a, run, e) || tokenizer_open_model(&b, path, e);
    if (!bad) bad = same_pieces(a, b, e);
    for (int i = 0; i < TEXTS && !bad; i++) bad = same_tokens(a, b, &rng, e);
    tokenizer_close(a);
    tokenizer_close(b);
    return bad ? -1 : same_specials(run, path, e);
}

/* ---- chat template ---- */

/* chat_template.jinja, else what tokenizer_config.json has: a text, or several by name. */
static int template_of(const char *model, Buf *out, Err *e) {
    json_t *config = NULL;
    if (side_files_has(model, "chat_template.jinja"))
        return side_files_read(model, "chat_template.jinja", out, e);
    TRY(side_files_json(model, "tokenizer_config.json", &config, e));
    const json_t *given = json_object_get(config, "chat_template"), *text = given;
    for (size_t i = 0; i < json_array_size(given); i++) {
        const json_t *each = json_array_get(given, i);
        const char *name = json_string_value(json_object_get(each, "name"));
        if (name && !strcmp(name, "default")) text = json_object_get(each, "template");
    }
    if (json_is_string(text)) buf_add(out, json_string_value(text), json_string_length(text));
    json_decref(config);
    return 0;
}

static int compare_templates(const GgufFile *f, Err *e) {
    static const char key[] = "tokenizer.chat_template";
    Buf run = {0};
    const char *is = "";
    size_t n = 0;
    int bad = template_of(f->v->run.model->dir, &run, e) || gguf_get_text(f->g, key, &is, &n, e);
    if (!bad && (n != run.n || (n && memcmp(is, run.p, n))))
        bad = err_set(e, "the key %s %s", key,
                      gguf_find(f->g, key) ? "is not the run's" : "is missing");
    buf_free(&run);
    return bad ? -1 : 0;
}

int verify_gguf_texts(const GgufFile *f, Err *e) {
    const char *run = f->v->run.model->dir;
    if (!side_files_has(run, "tokenizer.json")) return 0;
    if (!gguf_side_has(f->g, "tokenizer.json"))
        return err_set(e, "the key tokenizer.ggml.tokens is missing");
    TRY(compare_tokenizers(run, f->path, e));
    return compare_templates(f, e);
}
