/* verb_init.c - random weights for a config.json: the start of a new model, or something to
 * measure with. Norms and scales are 1; the query and key norms d^-1/4, since Gemma's attention has
 * no scale of its own; linears normal with 1/sqrt(inputs); the router 1, since it divides its input
 * by sqrt(D) itself; embeddings initializer_range. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/json.h"
#include "../data/safetensors.h"
#include "../model/params.h"
#include "progress.h"
#include "session.h"
#include "verbs.h"

typedef struct Fill {
    const Model *m;
    int site;
    DType dtype;
    uint64_t seed;
    float mean, deviation;
} Fill;

static void choose_numbers(Fill *f, const Site *s) {
    int64_t dim[3];
    int n = site_dims(f->m, s, dim);
    double range = 0.02;
    Err ignored;
    json_get_real(f->m->config, "initializer_range", &range, "config.json", &ignored);
    bool qk = site_matches(s, "q_norm") || site_matches(s, "k_norm");
    f->mean = s->linear ? 0 : qk ? powf((float)dim[0], -0.25f) : 1;
    if (!s->linear) return;
    f->deviation = s->layer < 0 && s->row->kind == KIND_EMBEDDINGS ? (float)range
                   : s->row->kind == KIND_ROUTER                   ? 1
                                                                   : 1 / sqrtf((float)dim[n - 1]);
}

static int fill_random(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    const Fill *f = ctx;
    (void)e;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < n; block += 256) {
        float part[256];
        int64_t k = n - block < 256 ? n - block : 256;
        for (int64_t i = 0; i < k; i++) {
            Rng r = {f->seed, (uint64_t)f->site, 2 * (uint64_t)(first + block + i)};
            part[i] = f->mean + (f->deviation > 0 ? f->deviation * rng_normal(&r) : 0);
        }
        dtype_info[f->dtype].from_f32(part, (char *)dst + dtype_bytes(f->dtype, block), k);
    }
    return 0;
}

static DType stored_dtype(const Config *cfg, const Model *m) {
    const char *said = json_string_value(json_object_get(m->config, "dtype"));
    if (!said) said = json_string_value(json_object_get(m->config, "torch_dtype"));
    if (cfg->save_dtype) return dtype_find(cfg->save_dtype);
    if (said && !strcmp(said, "bfloat16")) return DT_bf16;
    if (said && !strcmp(said, "float16")) return DT_f16;
    return DT_f32;
}

static int write_weights(const Config *cfg, const Model *m, const char *dir, Err *e) {
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)m->n_sites);
    Fill *fill = mem_alloc(sizeof *fill * (size_t)m->n_sites);
    for (int i = 0; i < m->n_sites; i++) {
        fill[i] = (Fill){m, i, stored_dtype(cfg, m), (uint64_t)cfg->seed, 0, 0};
        choose_numbers(&fill[i], &m->site[i]);
        entry[i] = (SafetensorsEntry){
            .name = m->site[i].name, .dtype = fill[i].dtype, .fill = fill_random, .ctx = &fill[i]};
        entry[i].n_dim = site_dims(m, &m->site[i], entry[i].dim);
    }
    int bad = safetensors_write_model(dir, entry, m->n_sites, SAFETENSORS_SHARD_BYTES, e);
    mem_free(entry);
    mem_free(fill);
    return bad;
}

static int copy_beside(const char *from_dir, const char *to, Err *e) {
    static const char *const names[] = {
        "config.json",         "tokenizer.json",          "tokenizer_config.json",
        "chat_template.jinja", "special_tokens_map.json", "generation_config.json"};
    int bad = 0;
    for (size_t i = 0; i < COUNT_OF(names) && !bad; i++) {
        char *src = files_join(from_dir, names[i]), *dst = files_join(to, names[i]);
        if (files_exists(src)) bad = files_copy(src, dst, e);
        mem_free(src);
        mem_free(dst);
    }
    return bad;
}

static int init_into(const Config *cfg, const Model *m, json_t *result, Err *e) {
    DirOut out;
    char *from = files_is_dir(cfg->base_model) ? mem_copy_text(cfg->base_model)
                                               : files_parent(cfg->base_model);
    int bad = files_dir_begin(&out, cfg->output, e);
    if (!bad) {
        bad = write_weights(cfg, m, out.temp, e) || copy_beside(from, out.temp, e) ||
              files_dir_commit(&out, e);
        if (bad) files_dir_abort(&out);
    }
    mem_free(from);
    int64_t n = 0;
    for (int i = 0; i < m->n_sites; i++) n += site_numel(m, &m->site[i]);
    json_object_set_new(result, "output", json_string(cfg->output));
    json_object_set_new(result, "parameters", json_integer(n));
    if (!bad)
        progress_say(NULL, "wrote %s: %d tensors, %.2f M parameters", cfg->output, m->n_sites,
                     (double)n / 1e6);
    return bad;
}

int verb_init(const Config *cfg, json_t *result, Err *e) {
    Model *m;
    TRY(output_check(cfg, e));
    TRY(model_open_shapes(&m, cfg->base_model, e));
    int bad = init_into(cfg, m, result, e);
    model_close(m);
    return bad;
}
