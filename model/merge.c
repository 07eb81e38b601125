/* merge.c - see merge.h. Every tensor of the base stays under its own name; what was learned is
 * added in float64 and rounded once. */
#include "merge.h"
#include <math.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/safetensors.h"

enum { BLOCK = 2048 };

/* One row of w + s * (b a): row of expert e, output o. */
static void add_delta(const Linear *l, int64_t row, int64_t from, int64_t n, double *dst) {
    int64_t O = l->w->dim[l->w->n_dim - 2], I = tensor_cols(l->w), R = tensor_cols(l->b),
            e = row / O;
    const float *b = f32(l->b) + row * R, *a = f32(l->a) + e * R * I + from;
    for (int64_t j = 0; j < R; j++) {
        double s = (double)l->s * (double)b[j];
        for (int64_t i = 0; i < n; i++) dst[i] += s * (double)a[j * I + i];
    }
}

/* n <= BLOCK values; was, if not NULL, gets those of the base. */
static void site_sums(const Site *s, int64_t first, int64_t n, double *dst, float *was) {
    const Tensor *w = *s->slot;
    int64_t I = tensor_cols(w);
    float part[BLOCK];
    weight_values(w, first, n, part);
    for (int64_t i = 0; i < n; i++) dst[i] = (double)part[i];
    if (was && w->data == s->base->data)
        memcpy(was, part, sizeof *was * (size_t)n);
    else if (was)
        weight_values(s->base, first, n, was);
    if (!s->linear || !s->linear->a) return;
    for (int64_t at = 0; at < n;) {
        int64_t row = (first + at) / I, from = (first + at) % I, k = min64(I - from, n - at);
        add_delta(s->linear, row, from, k, dst + at);
        at += k;
    }
}

/* To a float that rounds on to 16 bits as x itself would: cut off, its last bit set where anything
 * was cut ("round to odd"). */
static float for_rounding(double x) {
    float f = (float)x;
    if ((double)f == x || !isfinite(f)) return f;
    if (fabs((double)f) > fabs(x)) f = nextafterf(f, 0);
    return bits_to_f32(f32_to_bits(f) | 1);
}

static float nearest_float(double x) { return (float)x; }

static void values_as(const Site *s, int64_t first, int64_t n, float (*as)(double), float *dst) {
    double sum[BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t k = min64(n - at, BLOCK);
        site_sums(s, first + at, k, sum, NULL);
        for (int64_t i = 0; i < k; i++) dst[at + i] = as(sum[i]);
    }
}

void site_values(const Site *s, int64_t first, int64_t n, float *dst) {
    values_as(s, first, n, nearest_float, dst);
}

void site_values_to_round(const Site *s, int64_t first, int64_t n, float *dst) {
    values_as(s, first, n, for_rounding, dst);
}

typedef struct Source {
    const Site *site;
    DType dtype;
    MergeReport *report;
} Source;

/* Stored values that the sums round to. */
static void round_sums(const double *sum, int64_t n, DType d, void *dst) {
    float part[BLOCK];
    for (int64_t i = 0; i < n; i++) part[i] = d == DT_f32 ? (float)sum[i] : for_rounding(sum[i]);
    dtype_info[d].from_f32(part, dst, n);
}

static void count(MergeReport *r, const Site *s, DType d, const double *sum, const float *was,
                  const void *stored, int64_t n) {
    char before[BLOCK * 4];
    int64_t size = dtype_bytes(d, 1);
    MergeCount *c = &r->of[s->row->kind];
    dtype_info[d].from_f32(was, before, n);
    for (int64_t i = 0; i < n; i++) {
        if (sum[i] == (double)was[i]) continue;
        c->meant++;
        c->unchanged += !memcmp(before + i * size, (const char *)stored + i * size, (size_t)size);
    }
}

static int fill_site(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    const Source *src = ctx;
    double sum[BLOCK];
    float was[BLOCK];
    (void)e;
    for (int64_t at = 0; at < n; at += BLOCK) {
        int64_t k = min64(n - at, BLOCK);
        char *to = (char *)dst + dtype_bytes(src->dtype, at);
        site_sums(src->site, first + at, k, sum, src->report ? was : NULL);
        round_sums(sum, k, src->dtype, to);
        if (src->report) count(src->report, src->site, src->dtype, sum, was, to, k);
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

/* One tensor of the checkpoint as it is written. false: it is not. */
static bool merged_entry(SafetensorsEntry *x, Source *src, const Model *m, const WeightView *v,
                         DType save_dtype, MergeReport *report) {
    const Site *s = site_of_view(m, v->name);
    if (!s && v->read) return false; /* scales of bitsandbytes' codes */
    *x = (SafetensorsEntry){.name = v->name,
                            .dtype = v->dtype,
                            .stored = v->stored,
                            .n_dim = v->n_dim,
                            .data = v->data};
    memcpy(x->dim, v->dim, sizeof v->dim);
    if (s && !dtype_is_float(v->dtype)) x->dtype = DT_bf16; /* packed: no file has it */
    if (s && save_dtype != DT_COUNT) x->dtype = save_dtype;
    *src = (Source){s, x->dtype, s && site_changed(s) ? report : NULL};
    if (s && (site_changed(s) || x->dtype != v->dtype))
        x->data = NULL, x->fill = fill_site, x->ctx = src;
    return true;
}

/* In the base's own files, where it has such. */
static int write_weights(const char *dir, const SafetensorsEntry *entry, const char *const *file,
                         int n, Err *e) {
    bool shards = true;
    for (int i = 0; i < n; i++) shards &= text_ends_with(file[i], ".safetensors");
    return shards ? safetensors_write_files(dir, entry, file, n, e)
                  : safetensors_write_model(dir, entry, n, SAFETENSORS_SHARD_BYTES, e);
}

int model_write_merged(const char *dir, Model *m, DType save_dtype, MergeReport *report, Err *e) {
    int n = weights_count(m->weights), k = 0;
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)n);
    Source *src = mem_alloc(sizeof *src * (size_t)n);
    const char **file = mem_alloc(sizeof *file * (size_t)n);
    bool codes = false;
    for (int j = 0; j < n; j++) {
        const WeightView *v = weights_at(m->weights, j);
        const char *slash = strrchr(v->file, '/');
        if (!merged_entry(&entry[k], &src[k], m, v, save_dtype, report)) continue;
        codes |= src[k].site && !dtype_is_float(v->dtype);
        file[k++] = slash ? slash + 1 : v->file;
    }
    int bad = write_weights(dir, entry, file, k, e);
    mem_free(entry);
    mem_free(src);
    mem_free(file);
    if (bad) return -1;
    SideFiles files;
    bad = model_side_files(m, m->dir, &files, e);
    if (!bad && codes) drop_quantization(&files.file[0].text);
    if (!bad) bad = side_files_write(&files, dir, e);
    side_files_free(&files);
    return bad;
}
