/* config_check.c - see config_check.h. A clash is a condition and a sentence in one table. */
#include "config_check.h"
#include <math.h>
#include <string.h>
#include "../data/gguf.h"

void text_list_add(TextList *list, const char *text) {
    size_t bytes = sizeof *list->p, n = (size_t)list->n++;
    list->p = mem_grow(list->p, bytes * n, bytes * (n + 1));
    list->p[n] = mem_copy_text(text);
}

bool text_list_has(const TextList *list, const char *text) {
    for (int i = 0; i < list->n; i++) {
        if (strcmp(list->p[i], text) == 0) return true;
    }
    return false;
}

void text_list_free(TextList *list) {
    for (int i = 0; i < list->n; i++) mem_free(list->p[i]);
    mem_free(list->p);
    *list = (TextList){0};
}

static bool text_list_drop(TextList *list, const char *text) {
    int kept = 0;
    for (int i = 0; i < list->n; i++) {
        if (strcmp(list->p[i], text) == 0) {
            mem_free(list->p[i]);
        } else {
            list->p[kept++] = list->p[i];
        }
    }
    bool dropped = kept < list->n;
    list->n = kept;
    return dropped;
}

static bool full_training(const Config *c) { return strcmp(c->adapter, "none") == 0; }
static bool fresh_lora(const Config *c) { return !full_training(c) && !c->lora_model_dir; }

void config_resolve(Config *cfg) {
    if (text_list_drop(&cfg->lora_target_modules, "router.proj") &&
        !text_list_has(&cfg->router_train, "lora")) {
        text_list_add(&cfg->router_train, "lora");
        cfg->given[CONFIG_router_train] = true;
    }
    if (!cfg->given[CONFIG_router_lora_r]) cfg->router_lora_r = cfg->lora_r;
    if (!cfg->given[CONFIG_router_learning_rate]) cfg->router_learning_rate = cfg->learning_rate;
    if (full_training(cfg) && cfg->trainable.n == 0) text_list_add(&cfg->trainable, "all");
    if ((cfg->eval_steps || cfg->evals_per_epoch) && cfg->val_set_size == 0 &&
        !cfg->test_datasets.n) {
        text_list_add(&cfg->warnings,
                      "eval_steps and evals_per_epoch do nothing without val_set_size or "
                      "test_datasets");
    }
}

/* The default names experts too, which the model may not have: session_open looks. */
static bool dropout_on_experts(const Config *c) {
    return fresh_lora(c) && c->lora_dropout > 0 && c->given[CONFIG_lora_target_parameters] &&
           c->lora_target_parameters.n;
}
static bool dora_on_experts(const Config *c) {
    return fresh_lora(c) && c->use_dora && c->lora_target_parameters.n;
}
static bool full_from_adapter(const Config *c) { return full_training(c) && c->lora_model_dir; }
static bool full_of_quantised(const Config *c) {
    const char *const words[] = {c->base_quantization, c->base_quantization_experts,
                                 c->base_quantization_attention, c->base_quantization_dense,
                                 c->base_quantization_embeddings};
    bool any = false;
    for (size_t i = 0; i < COUNT_OF(words); i++) any |= words[i] && strcmp(words[i], "none");
    return full_training(c) && any;
}
static bool full_with_router(const Config *c) { return full_training(c) && c->router_train.n; }
static bool lora_with_trainable(const Config *c) { return !full_training(c) && c->trainable.n; }
static bool router_twice(const Config *c) {
    return text_list_has(&c->router_train, "lora") && text_list_has(&c->router_train, "full");
}
static bool nothing_learns(const Config *c) {
    return fresh_lora(c) && !c->lora_target_modules.n && !c->lora_target_parameters.n &&
           !c->router_train.n;
}
static bool validation_twice(const Config *c) { return c->val_set_size > 0 && c->test_datasets.n; }
static bool validation_part_of_row(const Config *c) {
    return c->val_set_size > 1 && c->val_set_size != floor(c->val_set_size);
}
static bool evals_twice(const Config *c) { return c->eval_steps && c->evals_per_epoch; }
static bool warmup_twice(const Config *c) { return c->warmup_steps > 0 && c->warmup_ratio > 0; }
static bool resume_and_overwrite(const Config *c) {
    return c->resume_from_checkpoint && c->overwrite;
}
static bool is_empty(const char *path) { return path && !*path; }
static bool empty_path(const Config *c) {
    return is_empty(c->base_model) || is_empty(c->output_dir) || is_empty(c->output) ||
           is_empty(c->lora_model_dir) || is_empty(c->base_gguf) ||
           is_empty(c->resume_from_checkpoint) || is_empty(c->base_cache);
}
static bool lora_beside_nothing(const Config *c) {
    bool base_is_gguf = c->base_model && gguf_claims(c->base_model);
    return c->format && !strcmp(c->format, "gguf-lora") && !c->base_gguf && !base_is_gguf;
}
static bool prompt_twice(const Config *c) { return c->prompt && c->prompts; }

static const struct {
    bool (*clash)(const Config *);
    const char *sentence;
} rules[] = {
    {empty_path, "base_model, base_cache, base_gguf, output_dir, output, lora_model_dir or "
                 "resume_from_checkpoint is an "
                 "empty path"},
    {dropout_on_experts,
     "lora_dropout above 0 and lora_target_parameters exclude each other (experts take no "
     "dropout); set lora_dropout: 0 or lora_target_parameters: []"},
    {dora_on_experts,
     "use_dora and lora_target_parameters exclude each other (experts take no DoRA); set "
     "use_dora: false or lora_target_parameters: []"},
    {full_from_adapter,
     "adapter: none trains the weights themselves and cannot start from lora_model_dir; "
     "leave one of the two out"},
    {full_of_quantised,
     "adapter: none trains the weights themselves, which base_quantization freezes; set "
     "base_quantization: none or adapter: lora"},
    {full_with_router,
     "router.train goes with adapter: lora; with adapter: none name the routers' tensors in "
     "trainable"},
    {lora_with_trainable,
     "trainable goes with adapter: none; with adapter: lora set lora_target_modules, "
     "lora_target_parameters and router.train"},
    {router_twice,
     "router.train has both lora and full, which train the same weights; leave one out"},
    {nothing_learns,
     "lora_target_modules, lora_target_parameters and router.train are all empty: nothing "
     "would learn; name something in one of them"},
    {validation_twice,
     "val_set_size and test_datasets exclude each other: hold out a part of datasets, or "
     "name other files"},
    {validation_part_of_row,
     "val_set_size above 1 is a number of rows and has to be whole; below 1 it is a "
     "share"},
    {evals_twice, "eval_steps and evals_per_epoch exclude each other; leave one out"},
    {warmup_twice, "warmup_steps and warmup_ratio exclude each other; leave one out"},
    {resume_and_overwrite,
     "resume_from_checkpoint goes on with what output_dir holds, and overwrite throws it "
     "away; leave one out"},
    {lora_beside_nothing,
     "format: gguf-lora needs the GGUF file that llama.cpp is to load it beside: name it in "
     "base_gguf"},
    {prompt_twice, "prompt and prompts exclude each other; leave one out"},
};

/* A list of layers: all, last:N, or layer numbers. */
static int check_layers(const char *name, const TextList *layers, Err *e) {
    for (int i = 0; i < layers->n; i++) {
        const char *word = layers->p[i];
        const char *number = strncmp(word, "last:", 5) == 0 ? word + 5 : word;
        bool digits = *number && !number[strspn(number, "0123456789")] && strlen(number) < 7;
        bool whole = strcmp(word, "all") == 0 || (digits && number != word);
        if (whole ? layers->n == 1 : digits) continue;
        return err_set(e, "%s has \"%.64s\", expected all, last:N or a list of layer numbers", name,
                       word);
    }
    return 0;
}

int config_check(const Config *cfg, Err *e) {
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        if (rules[i].clash(cfg)) return err_set(e, "%s", rules[i].sentence);
    }
    TRY(check_layers("layers_to_transform", &cfg->layers_to_transform, e));
    return check_layers("router.layers", &cfg->router_layers, e);
}
