/* merge.c - see merge.h. Every tensor of the base stays under its own name; what was learned is
 * added in float32 and rounded once. */
#include "merge.h"
#include <string.h>
#include "../autograd/weight.h"
#include "../data/safetensors.h"

/* One row of w + s * (b a): row of expert e, output o. */
static void add_delta(const Linear *l, int64_t row, int64_t from, int64_t n, float *dst) {
    int64_t O = l->w->dim[l->w->n_dim - 2], I = tensor_cols(l->w), R = tensor_cols(l->b),
            e = row / O;
    const float *b = f32(l->b) + row * R, *a = f32(l->a) + e * R * I + from;
    for (int64_t j = 0; j < R; j++) {
        float s = l->s * b[j];
        for (int64_t i = 0; i < n; i++) dst[i] += s * a[j * I + i];
    }
}

void site_values(const Site *s, int64_t first, int64_t n, float *dst) {
    const Tensor *w = *s->slot;
    int64_t I = tensor_cols(w);
    weight_values(w, first, n, dst);
    if (!s->linear || !s->linear->a) return;
    for (int64_t at = 0; at < n;) {
        int64_t row = (first + at) / I, from = (first + at) % I,
                part = I - from < n - at ? I - from : n - at;
        add_delta(s->linear, row, from, part, dst + at);
        at += part;
    }
}

typedef struct Source {
    const Site *site;
    DType dtype;
} Source;

static int fill_site(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    const Source *src = ctx;
    float part[4096];
    (void)e;
    for (int64_t at = 0; at < n; at += (int64_t)COUNT_OF(part)) {
        int64_t k = n - at < (int64_t)COUNT_OF(part) ? n - at : (int64_t)COUNT_OF(part);
        site_values(src->site, first + at, k, part);
        dtype_info[src->dtype].from_f32(part, (char *)dst + dtype_bytes(src->dtype, at), k);
    }
    return 0;
}

static const Site *find_site(const Model *m, const char *name) {
    for (int i = 0; i < m->n_sites; i++) {
        if (!strcmp(m->site[i].name, name)) return &m->site[i];
    }
    return NULL;
}

/* A tied head stored a second time must follow its embedding. */
static const Site *site_of_view(const Model *m, const char *name) {
    const Site *s = find_site(m, name);
    if (!s && m->dims.tied && model_names_head(name)) s = &m->site[0];
    return s;
}

bool site_changed(const Site *s) {
    return (*s->slot)->data != s->base->data || (s->linear && s->linear->a);
}

/* config.json of weights that are no codes any more. */
static void drop_quantization(Buf *config) {
    json_t *json = json_loadb(config->p, config->n, 0, NULL);
    json_object_del(json, "quantization_config");
    json_object_del(json_object_get(json, "text_config"), "quantization_config");
    char *text = json_dumps(json, JSON_INDENT(2));
    CHECK(text, "a config.json that was read before is none now");
    config->n = 0;
    buf_printf(config, "%s\n", text);
    mem_free(text);
    json_decref(json);
}

int model_write_merged(const char *dir, Model *m, DType save_dtype, Err *e) {
    int n = weights_count(m->weights);
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)n);
    Source *src = mem_alloc(sizeof *src * (size_t)n);
    bool codes = false;
    int k = 0;
    for (int j = 0; j < n; j++) {
        const WeightView *v = weights_at(m->weights, j);
        const Site *s = site_of_view(m, v->name);
        codes |= s && !dtype_is_float(v->dtype);
        if (!s && v->read) continue; /* scales of bitsandbytes' codes */
        int i = k++;
        entry[i] = (SafetensorsEntry){.name = v->name,
                                      .dtype = v->dtype,
                                      .stored = v->stored,
                                      .n_dim = v->n_dim,
                                      .data = v->data};
        memcpy(entry[i].dim, v->dim, sizeof v->dim);
        if (s && !dtype_is_float(v->dtype)) entry[i].dtype = DT_bf16; /* packed: no file has it */
        if (s && save_dtype != DT_COUNT) entry[i].dtype = save_dtype;
        src[i] = (Source){s, entry[i].dtype};
        if (s && (site_changed(s) || entry[i].dtype != v->dtype))
            entry[i].data = NULL, entry[i].fill = fill_site, entry[i].ctx = &src[i];
    }
    int bad = safetensors_write_model(dir, entry, k, SAFETENSORS_SHARD_BYTES, e);
    mem_free(entry);
    mem_free(src);
    if (bad) return -1;
    SideFiles files;
    bad = model_side_files(m, m->dir, &files, e);
    if (!bad && codes) drop_quantization(&files.file[0].text);
    if (!bad) bad = side_files_write(&files, dir, e);
    side_files_free(&files);
    return bad;
}
