/* verify_gguf.c - a merged model as llama.cpp's file: every tensor against float64 W + sBA by what
 * its format says; what did not learn and is stored as in the base, byte by byte; then the keys. */
#include "verify_gguf.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/gguf_writer.h" /* the words of gguf_type */
#include "verify_blocks.h"

/* ---- how a tensor has to be stored ---- */

/* gguf_type is the format of linears, experts and embeddings, of these Q8_0 instead of four bits;
 * left out, the base's. What is not to be written so, bf16; the rest, float32. */
static DType wanted_type(const Verify *v, const Site *s, bool changed) {
    DType asked = gguf_find_dtype(v->cfg->gguf_type), base = s->base->dtype,
          d = asked == DT_COUNT ? base : asked;
    bool four_bits = asked == DT_q4_0 || asked == DT_mxfp4_gguf;
    if (!(s->row->flags & ROW_MAPPED)) return DT_f32;
    if (!changed && d == base && *dtype_info[base].gguf) return base;
    if (four_bits && s->row->kind == KIND_EMBEDDINGS) d = DT_q8_0;
    bool written =
        *dtype_info[d].gguf && dtype_info[d].from_f32 && dtype_takes_rows(d, tensor_cols(s->base));
    return written ? d : DT_bf16;
}

/* ---- values ---- */

static int differs(const Site *s, const char *name, int64_t row, int64_t col, double is,
                   double should, Err *e) {
    Buf where = {0};
    int64_t O = s->base->n_dim > 1 ? s->base->dim[s->base->n_dim - 2] : 1;
    if (s->base->n_dim == 3) buf_printf(&where, "expert %ld, ", (long)(row / O));
    err_set(e, "tensor %s: %srow %ld, column %ld is %.9g, the run's is %.9g", name,
            where.n ? where.p : "", (long)(row % O), (long)col, is, should);
    buf_free(&where);
    return -1;
}

/* What rounding took of a matrix, over its size. */
typedef struct Lost {
    double error, size;
} Lost;

static void end_matrix(Verify *v, Lost *x) {
    if (x->size > 0) v->rounded = fmax(v->rounded, sqrt(x->error / x->size));
    *x = (Lost){0};
}

static int compare_row(const Site *s, const char *name, const Tensor *stored, int64_t row,
                       const double *exact, float *is, Lost *lost, Err *e) {
    int64_t I = tensor_cols(stored);
    const char *at = (const char *)stored->data + dtype_bytes(stored->dtype, row * I);
    int64_t bad = verify_stored_values(stored->dtype, at, exact, I);
    weight_values(stored, row * I, I, is);
    if (bad >= 0) return differs(s, name, row, bad, (double)is[bad], exact[bad], e);
    for (int64_t i = 0; i < I; i++) {
        double off = (double)is[i] - exact[i];
        lost->error += off * off, lost->size += exact[i] * exact[i];
    }
    return 0;
}

static int compare_values(Verify *v, const Site *s, const char *name, const Tensor *stored,
                          Err *e) {
    int64_t I = tensor_cols(s->base), O = s->base->n_dim > 1 ? s->base->dim[s->base->n_dim - 2] : 1;
    double plus = s->row->kind == KIND_NORMS ? (double)v->run.model->dims.norm.plus : 0;
    float *part = mem_alloc(sizeof *part * (size_t)I);
    double *exact = mem_alloc(sizeof *exact * (size_t)I);
    Lost lost = {0};
    int bad = 0;
    for (int64_t row = 0; row < tensor_rows(s->base) && !bad; row++) {
        verify_exact_row(s, row, part, exact);
        for (int64_t i = 0; i < I; i++) exact[i] += plus;
        bad = compare_row(s, name, stored, row, exact, part, &lost, e);
        if (row % O == O - 1) end_matrix(v, &lost);
    }
    mem_free(part);
    mem_free(exact);
    return bad;
}

/* ---- tensors ---- */

static int check_shape(const Site *s, const GgufEntry *t, DType want, Err *e) {
    bool same = t->n_dim == s->base->n_dim;
    for (int i = 0; i < t->n_dim && same; i++) same = t->dim[i] == s->base->dim[i];
    if (!same) return err_set(e, "tensor %s has another shape than the run's", t->name);
    if (t->dtype == want) return 0;
    return err_set(e, "tensor %s is stored as %s, expected %s", t->name, dtype_info[t->dtype].gguf,
                   dtype_info[want].gguf);
}

static int compare_site(GgufFile *f, int i, Err *e) {
    const Site *s = &f->v->run.model->site[i];
    bool changed = verify_changed(f->v, i),
         plus = s->row->kind == KIND_NORMS && f->v->run.model->dims.norm.plus != 0;
    char name[96];
    int layer = s->layer;
    if (layer < 0)
        snprintf(name, sizeof name, "%s", s->row->gguf);
    else
        snprintf(name, sizeof name, "blk.%d.%s", layer, s->row->gguf);
    const GgufEntry *t = gguf_find_entry(f->g, name);
    if (!t) return err_set(e, "tensor %s is missing", name);
    f->read[t - f->g->entry] = true;
    TRY(check_shape(s, t, wanted_type(f->v, s, changed), e));
    const void *data = gguf_entry_data(f->g, t);
    if (!changed && t->dtype == s->base->dtype && !plus) {
        if (memcmp(data, s->base->data, (size_t)t->bytes))
            return err_set(e, "tensor %s did not learn, and yet has other bytes than the base",
                           name);
        return 0;
    }
    Tensor stored = {.dtype = t->dtype, .n_dim = t->n_dim, .data = (void *)(uintptr_t)data};
    memcpy(stored.dim, t->dim, sizeof stored.dim);
    TRY(compare_values(f->v, s, name, &stored, e));
    if (changed) verify_applied(f->v, s);
    return 0;
}

/* What the angles of full layers are divided by: 1 those that turn, the others by so much that they
 * do not. Of models whose config leaves some out. */
static int compare_rope(GgufFile *f, Err *e) {
    static const char name[] = "rope_freqs.weight";
    const GgufEntry *t = gguf_find_entry(f->g, name);
    const LayerDims *full = verify_layer_of(f->v->run.model, false);
    bool some_stay = full && full->rope.n_angles < full->head_dim / 2;
    if (!t) return some_stay ? err_set(e, "tensor %s is missing", name) : 0;
    f->read[t - f->g->entry] = true;
    bool good = full && t->dtype == DT_f32 && t->n_dim == 1 && t->dim[0] == full->head_dim / 2;
    for (int64_t i = 0; good && i < t->dim[0]; i++) {
        float by;
        memcpy(&by, (const char *)gguf_entry_data(f->g, t) + i * 4, sizeof by);
        good = i < full->rope.n_angles ? by == 1 : by >= 1e29f;
    }
    return good ? 0 : err_set(e, "tensor %s has not the run's rotary angles", name);
}

static int compare_all(GgufFile *f, Err *e) {
    for (int i = 0; i < f->v->run.model->n_sites; i++) TRY(compare_site(f, i, e));
    TRY(compare_rope(f, e));
    for (int i = 0; i < f->g->n_entries; i++)
        if (!f->read[i]) return err_set(e, "tensor %s is none of the model's", f->g->entry[i].name);
    TRY(verify_gguf_keys(f, e));
    return verify_gguf_texts(f, e);
}

int verify_gguf_compare(Verify *v, const char *path, Err *e) {
    GgufFile f = {.v = v, .path = path};
    if (!v->run.model->family->gguf)
        return err_set(e, "models of the family %s have no names in GGUF",
                       v->run.model->family->name);
    TRY(gguf_open(&f.g, path, e));
    f.read = mem_alloc(sizeof *f.read * (size_t)(f.g->n_entries + 1));
    int bad = compare_all(&f, e);
    if (bad) err_prefix(e, "%s", path);
    mem_free(f.read);
    gguf_close(f.g);
    return bad ? -1 : 0;
}

int verify_gguf_reload(Verify *v, const char *path, Session *out, Err *e) {
    return verify_merged_reload(v, path, out, e);
}
