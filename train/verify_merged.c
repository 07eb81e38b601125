/* verify_merged.c - a merged checkpoint against the base and what the run learned: every tensor, in
 * float64, to half a unit in the last place; what did not learn, and all that lies beside, byte by
 * byte. */
#include <math.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/side_files.h"
#include "verify.h"

static const Site *site_named(const Model *m, const char *name) {
    for (int i = 0; i < m->n_sites; i++)
        if (!strcmp(m->site[i].name, name)) return &m->site[i];
    /* a head that is stored although it is the embedding */
    return m->dims.tied && !strcmp(name, "lm_head.weight") ? &m->site[0] : NULL;
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void verify_exact_row(const Site *s, int64_t row, float *part, double *sum) {
    const Linear *l = s->linear;
    int64_t I = tensor_cols(s->base), O = s->base->n_dim > 1 ? s->base->dim[s->base->n_dim - 2] : 1;
    weight_values(*s->slot, row * I, I, part);
    for (int64_t i = 0; i < I; i++) sum[i] = (double)part[i];
    int64_t R = l && l->a ? tensor_cols(l->b) : 0;
    for (int64_t j = 0; j < R; j++) {
        double b = (double)l->s * (double)f32(l->b)[row * R + j];
        const float *a = f32(l->a) + (row / O * R + j) * I;
        for (int64_t i = 0; i < I; i++) sum[i] += b * (double)a[i];
    }
}

static int compare_values(const Site *s, const WeightView *v, Err *e) {
    int64_t I = tensor_cols(s->base), bad = -1, row = 0;
    float *part = mem_alloc(sizeof *part * (size_t)I), *is = mem_alloc(sizeof *is * (size_t)I);
    double *sum = mem_alloc(sizeof *sum * (size_t)I);
    for (row = 0; row < tensor_rows(s->base) && bad < 0; row++) {
        verify_exact_row(s, row, part, sum);
        dtype_info[v->dtype].to_f32((const char *)v->data + dtype_bytes(v->dtype, row * I), is, I);
        for (int64_t i = 0; i < I && bad < 0; i++)
            if (!(fabs((double)is[i] - sum[i]) <= verify_half_ulp(sum[i], v->dtype))) bad = i;
    }
    if (bad >= 0)
        err_set(e, "%s: tensor %s: value %ld is %.9g, the run's is %.9g", v->file, v->name,
                (long)((row - 1) * I + bad), (double)is[bad], sum[bad]);
    mem_free(part);
    mem_free(is);
    mem_free(sum);
    return bad >= 0 ? -1 : 0;
}

static DType wanted_type(const Verify *v, const Site *s, const WeightView *base) {
    if (s && v->cfg->save_dtype) return dtype_find(v->cfg->save_dtype);
    return s && !dtype_is_float(base->dtype) ? DT_bf16 : base->dtype;
}

static int compare_tensor(Verify *v, const WeightView *base, WeightView *w, Err *e) {
    const Site *s = site_named(v->run.model, base->name);
    bool shards = text_ends_with(base->file, ".safetensors");
    bool same = w->n_dim == base->n_dim;
    for (int i = 0; i < base->n_dim && same; i++) same = w->dim[i] == base->dim[i];
    if (!same) return err_set(e, "%s: tensor %s has another shape than the base", w->file, w->name);
    if (shards && strcmp(file_name(base->file), file_name(w->file)))
        return err_set(e, "%s: tensor %s is in %s of the base", w->file, w->name,
                       file_name(base->file));
    if (w->dtype != wanted_type(v, s, base) ||
        (w->dtype == DT_COUNT && strcmp(w->stored, base->stored)))
        return err_set(e, "%s: tensor %s is stored as %s, the base has %s", w->file, w->name,
                       w->stored, base->stored);
    bool changed = s && verify_changed(v, (int)(s - v->run.model->site));
    if (changed || w->dtype != base->dtype) {
        TRY(compare_values(s, w, e));
        verify_rounds_to(v, w->dtype);
    } else if (w->bytes != base->bytes || memcmp(w->data, base->data, (size_t)w->bytes)) {
        return err_set(e, "%s: tensor %s did not learn, and yet has other bytes than the base",
                       w->file, w->name);
    }
    if (changed && strcmp(w->name, "lm_head.weight")) verify_applied(v, s);
    return 0;
}

static int compare_tensors(Verify *v, Weights *w, const char *path, Err *e) {
    Weights *base = v->run.model->weights;
    for (int i = 0; i < weights_count(base); i++) {
        const WeightView *b = weights_at(base, i);
        WeightView *found = weights_find(w, b->name);
        bool codes = b->read && !site_named(v->run.model, b->name); /* scales of bitsandbytes' */
        if (codes && !found) continue;
        if (!found) return err_set(e, "%s: tensor %s is missing", path, b->name);
        found->read = true;
        TRY(compare_tensor(v, b, found, e));
    }
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *x = weights_at(w, i);
        if (!x->read) return err_set(e, "%s: tensor %s is none of the base", x->file, x->name);
    }
    return 0;
}

/* config.json says less where codes became plain weights. */
static int compare_side_files(const Verify *v, const char *path, Err *e) {
    SideFiles files;
    int bad = model_side_files(v->run.model, v->run.model->dir, &files, e);
    bool codes = session_base_is_packed(&v->run);
    for (int i = codes; i < files.n && !bad; i++) {
        Buf text = {0};
        const SideFile *f = &files.file[i];
        bad = side_files_read(path, f->name, &text, e);
        if (!bad && (text.n != f->text.n || (text.n && memcmp(text.p, f->text.p, text.n))))
            bad = err_set(e, "%s/%s is another than the base's", path, f->name);
        buf_free(&text);
    }
    side_files_free(&files);
    return bad;
}

int verify_merged_compare(Verify *v, const char *path, Err *e) {
    Weights *w = NULL;
    TRY(weights_open(&w, path, e));
    int bad = compare_tensors(v, w, path, e);
    weights_close(w);
    return bad ? -1 : compare_side_files(v, path, e);
}

int verify_merged_reload(Verify *v, const char *path, Session *out, Err *e) {
    Config merged = *v->cfg; /* borrows what it points to */
    merged.base_model = (char *)(uintptr_t)path;
    merged.lora_model_dir = NULL;
    return session_open_original(out, &merged, e);
}
