/* verify_gguf_lora.c - an adapter for llama.cpp as that reads it: every weight of the base file that
 * NAME.lora_a and NAME.lora_b name gets scale * B A, an expert its own. Names come from the model's
 * table, places from the file's own header. */
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/gguf.h"
#include "../model/gguf_out.h" /* the architecture's name */
#include "verify_factors.h"

typedef struct File {
    Verify *v;
    Gguf *g, *base;     /* base: what llama.cpp loads it beside */
    bool *read;         /* per tensor of g */
    double alpha;       /* 0: scales are 1 */
    const char *values; /* not NULL: this one's names in place of a site's */
} File;

static void file_close(File *f) {
    gguf_close(f->g);
    gguf_close(f->base);
    mem_free(f->read);
}

static int check_text(const Gguf *g, const char *key, const char *want, Err *e) {
    const char *is = "";
    size_t n = 0;
    TRY(gguf_get_text(g, key, &is, &n, e));
    if (text_is(is, n, want)) return 0;
    return err_set(e, "%s: %s is not \"%s\"", g->file, key, want);
}

static int file_open(File *f, Verify *v, const char *path, Err *e) {
    const char *beside = v->cfg->base_gguf ? v->cfg->base_gguf : v->cfg->base_model;
    *f = (File){.v = v};
    if (gguf_open(&f->g, path, e) || gguf_open(&f->base, beside, e)) return -1;
    f->read = mem_alloc(sizeof *f->read * (size_t)(f->g->n_entries + 1));
    TRY(check_text(f->g, "general.type", "adapter", e));
    TRY(check_text(f->g, "adapter.type", "lora", e));
    TRY(check_text(f->g, "general.architecture", v->run.model->family->gguf->architecture, e));
    return gguf_get_real(f->g, "adapter.lora.alpha", &f->alpha, e);
}

/* ---- names ---- */

static bool is_gate_up(const Site *s) { return !strcmp(s->row->hf, "experts.gate_up_proj"); }

/* Of the base's weight: half -1, or of gate and up apart. */
static char *weight_name(const Site *s, int half) {
    static const char *const apart[] = {"ffn_gate_exps.weight", "ffn_up_exps.weight"};
    Buf name = {0};
    buf_printf(&name, "blk.%d.%s", s->layer, half < 0 ? s->row->gguf : apart[half]);
    return name.p;
}

/* Whether the base has gate and up of this site as two. */
static int halves_of(const File *f, const Site *s) {
    char *whole = weight_name(s, -1);
    bool one = !is_gate_up(s) || gguf_find_entry(f->base, whole);
    mem_free(whole);
    return one ? 1 : 2;
}

static char *found_name(const void *ctx, const Site *s, int64_t expert, int half, bool is_a) {
    const File *f = ctx;
    Buf name = {0};
    (void)expert;
    char *weight = weight_name(s, halves_of(f, s) == 2 ? half : -1);
    if (f->values)
        buf_printf(&name, "blk.%d.%s", s->layer, f->values);
    else
        buf_add_text(&name, weight);
    buf_add_text(&name, is_a ? ".lora_a" : ".lora_b");
    mem_free(weight);
    return name.p;
}

/* ---- values ---- */

static const GgufEntry *take(File *f, const char *name) {
    const GgufEntry *t = gguf_find_entry(f->g, name);
    if (t) f->read[t - f->g->entry] = true;
    return t;
}

/* The tensor, of so many dimensions, the last of which is cols; rows and matrices as they are. */
static int check_shape(const char *name, const GgufEntry *t, int64_t E, int64_t rows, int64_t cols,
                       Err *e) {
    const int64_t want[] = {E, rows, cols};
    int n = E ? 3 : 2;
    bool same = t->n_dim == n && t->dtype == DT_f32;
    for (int i = 0; i < n && same; i++) same = t->dim[i] == want[3 - n + i];
    if (same) return 0;
    return err_set(e, "tensor %s is no F32 of %ld rows and %ld columns%s", name, (long)rows,
                   (long)cols, E ? " an expert" : "");
}

static float *floats(const Gguf *g, const GgufEntry *t) {
    float *out = mem_alloc((size_t)t->bytes);
    memcpy(out, gguf_entry_data(g, t), (size_t)t->bytes);
    return out;
}

/* llama.cpp refuses a pair whose base has no such weight, or another. */
static int check_base(const File *f, const Site *s, const char *tensor, const Half *h, Err *e) {
    char *name = mem_copy_text(tensor);
    *strrchr(name, '.') = 0;
    const GgufEntry *w = gguf_find_entry(f->base, name);
    bool stack = site_is_stack(s);
    bool same = w && w->n_dim == (stack ? 3 : 2) && w->dim[stack] == h->O &&
                w->dim[stack + 1] == h->I && (!stack || w->dim[0] == h->E);
    mem_free(name);
    if (same) return 0;
    return err_set(e, "tensor %s: %s has no weight of that name and shape", tensor, f->base->file);
}

static int take_pair(File *f, const Site *s, const char *name_a, const char *name_b, Half *h,
                     Err *e) {
    bool stack = site_is_stack(s);
    const GgufEntry *a = take(f, name_a), *b = take(f, name_b);
    if (!a || !b) return err_set(e, "tensor %s is missing", a ? name_b : name_a);
    const int64_t *dim = s->base->dim;
    *h = (Half){.E = stack ? dim[0] : 1,
                .R = a->n_dim > 1 ? a->dim[a->n_dim - 2] : 1,
                .I = dim[stack + 1],
                .O = dim[stack] / halves_of(f, s)};
    TRY(check_shape(name_a, a, stack ? h->E : 0, h->R, h->I, e));
    TRY(check_shape(name_b, b, stack ? h->E : 0, h->O, h->R, e));
    h->scale = f->alpha == 0 ? 1 : (double)((float)f->alpha / (float)h->R);
    h->a = floats(f->g, a);
    h->b = floats(f->g, b);
    return check_base(f, s, name_a, h, e);
}

/* x->n stays 0 where neither A nor B of any half is there. */
static int find(File *f, const Site *s, Found *x, Err *e) {
    *x = (Found){.name = found_name, .ctx = f};
    int n = halves_of(f, s), bad = 0;
    for (int h = 0; h < n && !bad; h++) {
        char *a = found_name(f, s, 0, h, true), *b = found_name(f, s, 0, h, false);
        bool there = gguf_find_entry(f->g, a) || gguf_find_entry(f->g, b);
        if (there || h) {
            bad = take_pair(f, s, a, b, &x->half[h], e);
            x->n = h + 1;
        }
        mem_free(a);
        mem_free(b);
        if (!there && !h) break;
    }
    return bad;
}

/* ---- against the run ---- */

static int missing(const File *f, const Site *s, Err *e) {
    char *name = found_name(f, s, 0, 0, true);
    err_set(e, "tensor %s is missing", name);
    mem_free(name);
    return -1;
}

/* llama.cpp's own product of down_proj is times this, ours is added after it. (E), on the heap; NULL:
 * of no other linear. */
static float *expert_scale(const Verify *v, const Site *s) {
    for (int i = 0; i < v->run.model->n_sites && !strcmp(s->row->hf, "experts.down_proj"); i++) {
        const Site *o = &v->run.model->site[i];
        if (o->layer != s->layer || strcmp(o->row->hf, "router.per_expert_scale")) continue;
        int64_t n = tensor_numel(o->base);
        float *by = mem_alloc(sizeof *by * (size_t)n);
        weight_values(o->base, 0, n, by);
        return by;
    }
    return NULL;
}

static int compare_linear(File *f, const Site *s, Err *e) {
    const Verify *v = f->v;
    int i = (int)(s - v->run.model->site);
    bool meant = verify_changed(v, i) || verify_router_folds(v, s);
    Found x;
    int bad = find(f, s, &x, e);
    float *by = expert_scale(v, s);
    x.by = by;
    if (!bad && x.n) bad = verify_factors(v, s, &x, e);
    if (!bad && !x.n && meant) bad = missing(f, s, e);
    mem_free(by);
    found_free(&x);
    return bad;
}

/* Keys that are values too, where the base has a weight for these all the same. */
static int compare_values(File *f, const Site *s, Err *e) {
    char name[64];
    bool keys = s->linear == &f->v->run.model->layer[s->layer].k;
    snprintf(name, sizeof name, "blk.%d.attn_v.weight", s->layer);
    if (!keys || !f->v->run.model->layer[s->layer].d.k_eq_v || !gguf_find_entry(f->base, name))
        return 0;
    f->values = "attn_v.weight";
    int bad = compare_linear(f, s, e);
    f->values = NULL;
    return bad;
}

static int compare_site(File *f, int i, Err *e) {
    const Site *s = &f->v->run.model->site[i];
    if (s->layer >= 0 && s->linear) {
        TRY(compare_linear(f, s, e));
        TRY(compare_values(f, s, e));
    }
    if (!verify_changed(f->v, i)) return 0;
    bool folded = !strcmp(s->row->hf, "router.scale"); /* into the router, which was compared */
    if (!folded && !(s->layer >= 0 && s->linear))
        return err_set(e, "tensor %s learned, and is missing", s->name);
    verify_applied(f->v, s);
    return 0;
}

static int compare_all(File *f, Err *e) {
    for (int i = 0; i < f->v->run.plan.n; i++) TRY(compare_site(f, i, e));
    for (int i = 0; i < f->g->n_entries; i++)
        if (!f->read[i])
            return err_set(e, "tensor %s is nothing that the run changed", f->g->entry[i].name);
    return 0;
}

int verify_gguf_lora_compare(Verify *v, const char *path, Err *e) {
    File f;
    int bad = file_open(&f, v, path, e);
    if (!bad) {
        bad = compare_all(&f, e);
        if (bad) err_prefix(e, "%s", path);
    }
    file_close(&f);
    return bad ? -1 : 0;
}

int verify_gguf_lora_reload(Verify *v, const char *path, Session *out, Err *e) {
    Config with = *v->cfg; /* borrows what it points to */
    with.lora_model_dir = (char *)(uintptr_t)path;
    with.lora_b_order = NULL;
    return session_open_original(out, &with, e);
}
