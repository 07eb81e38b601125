/* base_format.c - see base_format.h. */
#include "base_format.h"
#include <string.h>

static const char *word_of_kind(const Config *cfg, Kind kind) {
    const char *const named[KIND_COUNT] = {
        [KIND_EXPERTS] = cfg->base_quantization_experts,
        [KIND_ATTENTION] = cfg->base_quantization_attention,
        [KIND_DENSE] = cfg->base_quantization_dense,
        [KIND_EMBEDDINGS] = cfg->base_quantization_embeddings,
    };
    if (named[kind]) return named[kind];
    bool by_default = kind == KIND_EXPERTS || kind == KIND_ATTENTION || kind == KIND_DENSE;
    return by_default ? cfg->base_quantization : "none";
}

const char *base_word(const Config *cfg, const Site *s) {
    return s->row->flags & ROW_MAPPED ? word_of_kind(cfg, s->row->kind) : "none";
}

bool base_is_quantised(const Config *cfg) {
    for (int k = 0; k < KIND_COUNT; k++) {
        if (strcmp(word_of_kind(cfg, (Kind)k), "none")) return true;
    }
    return false;
}
