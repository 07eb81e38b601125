/* verb_init.c - random weights for a config.json: the start of a new model, or something to
 * measure with. Norms and scales multiply by 1; the query and key norms by d^-1/4 where attention
 * has no scale of its own (Gemma 4); linears normal with 1/sqrt(inputs); the router 1, since it
 * divides its input by sqrt(D) itself; embeddings initializer_range. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/amount.h"
#include "../data/base_file.h"
#include "../data/files.h"
#include "../data/safetensors.h"
#include "base_build.h"
#include "normals.h"
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

/* A field of config.json's text model, else of config.json itself. */
static const json_t *config_value(const Model *m, const char *key) {
    const json_t *text = json_object_get(json_object_get(m->config, "text_config"), key);
    return text && !json_is_null(text) ? text : json_object_get(m->config, key);
}

static void choose_numbers(Fill *f, const Site *s) {
    int64_t dim[3];
    int n = site_dims(f->m, s, dim);
    double range = 0.02;
    const json_t *said = config_value(f->m, "initializer_range");
    if (json_is_number(said)) range = json_number_value(said);
    bool qk = site_matches(s, "q_norm") || site_matches(s, "k_norm");
    qk = qk && f->m->dims.attention_scale == 1;
    f->mean = s->linear ? 0 : qk ? powf((float)dim[0], -0.25f) : 1;
    if (s->row->kind == KIND_NORMS) f->mean -= f->m->dims.norm.plus;
    if (!s->linear) return;
    f->deviation = s->layer < 0 && s->row->kind == KIND_EMBEDDINGS ? (float)range
                   : s->row->kind == KIND_ROUTER                   ? 1
                                                                   : 1 / sqrtf((float)dim[n - 1]);
}

enum { PART = 512 };

/* k <= PART values from value `first` on, as they are stored. */
static void make_part(const Fill *f, int64_t first, int64_t k, void *dst) {
    float part[PART];
    normals_fill(f->seed, (uint64_t)f->site, first, k, f->mean, f->deviation, part);
    dtype_info[f->dtype].from_f32(part, dst, k);
}

static int fill_random(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    const Fill *f = ctx;
    (void)e;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < n; at += PART)
        make_part(f, first + at, min64(PART, n - at), (char *)dst + dtype_bytes(f->dtype, at));
    return 0;
}

/* Per site; on the heap. */
static Fill *choose_fills(const Config *cfg, const Model *m) {
    DType stored = cfg->save_dtype ? dtype_find(cfg->save_dtype) : model_stated_dtype(m);
    Fill *fill = mem_alloc(sizeof *fill * (size_t)m->n_sites);
    for (int i = 0; i < m->n_sites; i++) {
        fill[i] = (Fill){m, i, stored, (uint64_t)cfg->seed, 0, 0};
        choose_numbers(&fill[i], &m->site[i]);
    }
    return fill;
}

static int write_weights(const Config *cfg, const Model *m, const char *dir, Err *e) {
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)m->n_sites);
    Fill *fill = choose_fills(cfg, m);
    for (int i = 0; i < m->n_sites; i++) {
        entry[i] = (SafetensorsEntry){
            .name = m->site[i].name, .dtype = fill[i].dtype, .fill = fill_random, .ctx = &fill[i]};
        entry[i].n_dim = site_dims(m, &m->site[i], entry[i].dim);
    }
    int bad = safetensors_write_model(dir, entry, m->n_sites, SAFETENSORS_SHARD_BYTES, e);
    mem_free(entry);
    mem_free(fill);
    return bad;
}

/* So much that no disk holds it, and bytes cannot be counted in 64 bits much further on. */
static const int64_t VALUES_MAX = (int64_t)1 << 44;

static int count_values(const Config *cfg, const Model *m, int64_t *all, Err *e) {
    *all = 0;
    for (int i = 0; i < m->n_sites; i++) {
        int64_t dim[3], n = 1;
        int k = site_dims(m, &m->site[i], dim);
        bool over = false;
        for (int j = 0; j < k; j++) over |= __builtin_mul_overflow(n, dim[j], &n);
        over |= __builtin_add_overflow(*all, n, all) || *all > VALUES_MAX;
        if (over)
            return err_set(
                e,
                "base_model %s: with the sizes it gives, %s would bring the model beyond "
                "%ld billion parameters; correct them",
                cfg->base_model, m->site[i].name, (long)(VALUES_MAX / 1000000000));
    }
    return 0;
}

static int init_dir(const Config *cfg, const Model *m, const SideFiles *files, Err *e) {
    DirOut out;
    TRY(files_dir_begin(&out, cfg->output, e));
    if (write_weights(cfg, m, out.temp, e) || side_files_write(files, out.temp, e) ||
        files_dir_commit(&out, e)) {
        files_dir_abort(&out);
        return -1;
    }
    return 0;
}

/* ---- straight into a base file ---- */

static DType random_stored(void *ctx, int site) { return ((const Fill *)ctx)[site].dtype; }

/* The values that a directory would hold. */
static int random_values(void *ctx, int site, int64_t first, int64_t n, float *dst, Err *e) {
    const Fill *f = &((const Fill *)ctx)[site];
    float stored[PART];
    (void)e;
    for (int64_t at = 0; at < n; at += PART) {
        int64_t k = min64(PART, n - at);
        make_part(f, first + at, k, stored);
        dtype_info[f->dtype].to_f32(stored, dst + at, k);
    }
    return 0;
}

static int init_base(const Config *cfg, const Model *m, const SideFiles *files, json_t *result,
                     Err *e) {
    const int64_t before[KIND_COUNT] = {0};
    bool busy;
    Fill *fill = choose_fills(cfg, m);
    char key[64];
    snprintf(key, sizeof key, "init, seed %ld", (long)cfg->seed);
    BaseJob job = {.model = m,
                   .words = base_words(cfg),
                   .source = {fill, random_stored, random_values, NULL, NULL},
                   .files = files,
                   .source_key = key,
                   .path = cfg->output,
                   .doing = "making"};
    int bad = base_build(&job, &busy, e);
    if (!bad && busy) bad = err_set(e, "another run is writing %s right now", cfg->output);
    mem_free(fill);
    return bad ? -1 : base_report(cfg->output, m, before, result, e);
}

static int check_output(const Config *cfg, Err *e) {
    TRY(output_check(cfg, base_file_claims(cfg->output) ? OUTPUT_FILE : OUTPUT_DIR, e));
    if (!base_is_quantised(cfg) || base_file_claims(cfg->output)) return 0;
    err_set(e, "init with base_quantization writes one file: give --output NAME.h5, not %s",
            cfg->output);
    return CONFIG_REFUSED;
}

static int init_model(const Config *cfg, const Model *m, const SideFiles *files, json_t *result,
                      Err *e) {
    int64_t n;
    double began = seconds_now();
    TRY(count_values(cfg, m, &n, e));
    if (base_file_claims(cfg->output))
        TRY(init_base(cfg, m, files, result, e));
    else
        TRY(init_dir(cfg, m, files, e));
    json_object_set_new(result, "output", json_string(cfg->output));
    json_object_set_new(result, "parameters", json_integer(n));
    json_object_set_new(result, "seconds", json_real(seconds_now() - began));
    progress_say(NULL, "wrote %s: %d tensors, %s parameters", cfg->output, m->n_sites,
                 amount_count((double)n).text);
    return 0;
}

int verb_init(const Config *cfg, json_t *result, Err *e) {
    Model *m;
    SideFiles files;
    int bad = check_output(cfg, e);
    if (bad) return bad;
    TRY(model_open_shapes(&m, cfg->base_model, e));
    bad = model_side_files(m, cfg->base_model, &files, e) || init_model(cfg, m, &files, result, e);
    side_files_free(&files);
    model_close(m);
    return bad ? -1 : 0;
}
