/* base_format.c - see base_format.h. */
#include "base_format.h"
#include <string.h>
#include "../autograd/weight.h"

BaseWords base_words(const Config *cfg) {
    BaseWords w = {{[KIND_ATTENTION] = cfg->base_quantization_attention,
                    [KIND_DENSE] = cfg->base_quantization_dense,
                    [KIND_EXPERTS] = cfg->base_quantization_experts,
                    [KIND_EMBEDDINGS] = cfg->base_quantization_embeddings}};
    static const Kind by_default[] = {KIND_ATTENTION, KIND_DENSE, KIND_EXPERTS};
    for (size_t i = 0; i < COUNT_OF(by_default); i++)
        if (!w.word[by_default[i]]) w.word[by_default[i]] = cfg->base_quantization;
    for (int k = 0; k < KIND_COUNT; k++)
        if (w.word[k] && !strcmp(w.word[k], "none")) w.word[k] = NULL;
    return w;
}

bool base_words_any(const BaseWords *words) {
    for (int k = 0; k < KIND_COUNT; k++)
        if (words->word[k]) return true;
    return false;
}

static bool same_word(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }

void base_words_text(const BaseWords *words, Buf *out) {
    const char *const *w = words->word;
    if (w[KIND_EXPERTS] && same_word(w[KIND_EXPERTS], w[KIND_ATTENTION]) &&
        same_word(w[KIND_EXPERTS], w[KIND_DENSE]) && !w[KIND_EMBEDDINGS]) {
        buf_add_text(out, w[KIND_EXPERTS]);
        return;
    }
    size_t before = out->n;
    for (int k = 0; k < KIND_COUNT; k++)
        if (w[k]) buf_printf(out, "%s%s-%s", out->n > before ? "," : "", kind_name[k], w[k]);
}

json_t *base_words_json(const BaseWords *words) {
    json_t *out = json_object();
    for (int k = 0; k < KIND_COUNT; k++)
        if (words->word[k]) json_object_set_new(out, kind_name[k], json_string(words->word[k]));
    return out;
}

DType base_format(const BaseWords *words, const Site *s, DType stored, int64_t cols) {
    const char *word = s->row->flags & ROW_MAPPED ? words->word[s->row->kind] : NULL;
    DType d = word ? weight_format_of(word, stored, cols) : DT_COUNT;
    return d == DT_COUNT ? stored : d;
}

DType base_stored(const Model *m, const Site *s) {
    const WeightView *v = m->weights ? weights_find(m->weights, s->name) : NULL;
    return v ? v->dtype : model_stated_dtype(m);
}

bool base_changes(const BaseWords *words, const Model *m) {
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        int64_t dim[3];
        int n = site_dims(m, s, dim);
        DType stored = base_stored(m, s);
        if (base_format(words, s, stored, dim[n - 1]) != stored) return true;
    }
    return false;
}

bool base_is_quantised(const Config *cfg) {
    const BaseWords words = base_words(cfg);
    return base_words_any(&words);
}
