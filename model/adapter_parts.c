/* adapter_parts.c - see adapter_parts.h. */
#include "adapter_parts.h"
#include <math.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/safetensors.h"

Part *parts_add(PartList *list, char *name, int site, ParamRole role) {
    if (list->n == list->cap) {
        size_t was = sizeof *list->p * (size_t)list->cap;
        list->cap = list->cap ? 2 * list->cap : 64;
        list->p = mem_grow(list->p, was, sizeof *list->p * (size_t)list->cap);
    }
    Part *p = &list->p[list->n++];
    *p = (Part){
        .name = name, .site = site, .role = role, .expert = PART_ALL, .half = PART_ALL, .gain = 1};
    return p;
}

void parts_free(PartList *list) {
    for (int i = 0; i < list->n; i++) mem_free(list->p[i].name);
    mem_free(list->p);
    *list = (PartList){0};
}

void part_plain(Part *p, int64_t experts, int64_t rows, int64_t cols, bool turned) {
    bool stack = experts > 0;
    p->n[0] = stack ? experts : 1, p->n[1] = rows, p->n[2] = cols;
    p->step[0] = rows * cols;
    p->step[1] = turned ? 1 : cols;
    p->step[2] = turned ? rows : 1;
    p->n_dim = stack ? 3 : 2;
    p->dim[0] = experts;
    p->dim[stack] = turned ? cols : rows;
    p->dim[stack + 1] = turned ? rows : cols;
}

PartView part_view(const Part *p, float *data, int n_dim, const int64_t *dim, bool apart) {
    PartView v = {.at = data, .dim = {1, 1, 1}, .scale = 1};
    for (int i = 0; i < n_dim; i++) v.dim[3 - n_dim + i] = dim[i];
    v.step[0] = v.dim[1] * v.dim[2], v.step[1] = v.dim[2], v.step[2] = 1;
    if (p->expert != PART_ALL) v.at += p->expert * v.step[0], v.dim[0] = 1;
    if (p->half == PART_ALL) return v;
    int rank = p->role == PARAM_LORA_A ? 1 : 2;
    const int cut[] = {p->role == PARAM_LORA_B ? 1 : 0, apart ? rank : 0}; /* axes that halve */
    for (size_t i = 0; i < COUNT_OF(cut); i++) {
        if (!cut[i]) continue;
        v.dim[cut[i]] /= 2;
        v.at += p->half * v.dim[cut[i]] * v.step[cut[i]];
    }
    return v;
}

/* ---- out ---- */

typedef struct Source {
    const Part *part;
    PartView view;
} Source;

static float view_value(const PartView *v, const int64_t x[3]) {
    if (v->diagonal) return x[1] == x[2] ? 1 : 0;
    for (int i = 0; i < 3; i++)
        if (x[i] >= v->dim[i]) return 0;
    return v->scale * v->at[x[0] * v->step[0] + x[1] * v->step[1] + x[2] * v->step[2]];
}

/* Whether the file's values are memory's, in memory's order: most are. */
static bool runs_alike(const Part *p, const PartView *v) {
    bool alike = v->scale == 1 && !v->diagonal;
    for (int i = 0; i < 3; i++) {
        bool step = p->n[i] == 1 || p->step[i] == v->step[i];
        alike = alike && step && p->n[i] == v->dim[i];
    }
    return alike && part_numel(p) == p->n[0] * p->n[1] * p->n[2];
}

static int fill_part(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    const Source *s = ctx;
    const Part *p = s->part;
    float *out = dst;
    (void)e;
    if (runs_alike(p, &s->view)) {
        memcpy(dst, s->view.at + first, (size_t)n * sizeof *out);
        return 0;
    }
    for (int64_t k = 0; k < n; k++) {
        int64_t x[3];
        for (int i = 0; i < 3; i++) x[i] = p->n[i] > 1 ? (first + k) / p->step[i] % p->n[i] : 0;
        out[k] = view_value(&s->view, x);
    }
    return 0;
}

int parts_write(const char *path, const PartList *list, PartViewFn view, const void *ctx, Err *e) {
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)(list->n + 1));
    Source *source = mem_alloc(sizeof *source * (size_t)(list->n + 1));
    for (int i = 0; i < list->n; i++) {
        const Part *p = &list->p[i];
        source[i] = (Source){p, view(ctx, p)};
        entry[i] = (SafetensorsEntry){.name = p->name,
                                      .dtype = DT_f32,
                                      .n_dim = p->n_dim,
                                      .fill = fill_part,
                                      .ctx = &source[i]};
        memcpy(entry[i].dim, p->dim, sizeof p->dim);
    }
    int bad = safetensors_write(path, entry, list->n, NULL, 0, e);
    mem_free(entry);
    mem_free(source);
    return bad;
}

/* ---- in ---- */

static void shape_text(Buf *out, const int64_t *dim, int n) {
    buf_add_text(out, "[");
    for (int i = 0; i < n; i++) buf_printf(out, "%s%ld", i ? ", " : "", (long)dim[i]);
    buf_add_text(out, "]");
}

/* Dimensions of 1 in front may be left out. */
static bool same_shape(const Part *p, const WeightView *v) {
    for (int k = 1; k <= p->n_dim || k <= v->n_dim; k++) {
        int64_t is = k <= v->n_dim ? v->dim[v->n_dim - k] : 1,
                should = k <= p->n_dim ? p->dim[p->n_dim - k] : 1;
        if (is != should) return false;
    }
    return true;
}

static int check_part(const Part *p, const Plan *plan, Weights *w, const char *dir, Err *e) {
    WeightView *v = weights_find(w, p->name);
    if (!v) {
        return err_set(e, "%s: tensor %s is missing, which the rest of the adapter promises", dir,
                       p->name);
    }
    v->read = true;
    if (!same_shape(p, v)) {
        Buf has = {0}, want = {0};
        shape_text(&has, v->dim, v->n_dim);
        shape_text(&want, p->dim, p->n_dim);
        if (p->role == PARAM_WHOLE)
            err_set(e, "%s: tensor %s has shape %s, this model asks for %s; is it another model's?",
                    v->file, v->name, has.p, want.p);
        else
            err_set(e,
                    "%s: tensor %s has shape %s, this model and rank %d ask for %s; is it an "
                    "adapter of another model or rank?",
                    v->file, v->name, has.p, plan->learn[p->site].rank, want.p);
        buf_free(&has);
        buf_free(&want);
        return -1;
    }
    if (!dtype_is_float(v->dtype) && !(v->dtype != DT_COUNT && dtype_in_blocks(v->dtype)))
        return err_set(e, "%s: tensor %s is stored as %s; F32, F16 and BF16 can be read", v->file,
                       v->name, v->stored);
    return 0;
}

int parts_check(const PartList *list, const Plan *plan, Weights *w, const char *dir, Err *e) {
    for (int i = 0; i < list->n; i++) TRY(check_part(&list->p[i], plan, w, dir, e));
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        if (!v->read)
            return err_set(e,
                           "%s: tensor %s belongs to nothing that this adapter adapts in this "
                           "model; LoRA of the linears, experts and routers of layers can be read, "
                           "and routers saved whole",
                           v->file, v->name);
    }
    return 0;
}

int64_t part_numel(const Part *p) {
    int64_t n = 1;
    for (int k = 0; k < p->n_dim; k++) n *= p->dim[k];
    return n;
}

float *part_values(const Part *p, const WeightView *v) {
    int64_t n = part_numel(p);
    float *values = mem_alloc((size_t)n * sizeof *values);
    Tensor t = {.dtype = v->dtype, .n_dim = v->n_dim, .data = (void *)(uintptr_t)v->data};
    memcpy(t.dim, v->dim, sizeof v->dim);
    weight_values(&t, 0, n, values);
    return values;
}

static void scatter(const Part *p, const PartView *v, const float *from) {
    for (int64_t x = 0; x < p->n[0]; x++) {
        for (int64_t r = 0; r < p->n[1]; r++) {
            float *row = v->at + x * v->step[0] + r * v->step[1];
            const float *at = from + x * p->step[0] + r * p->step[1];
            for (int64_t c = 0; c < p->n[2]; c++) row[c * v->step[2]] = at[c * p->step[2]];
        }
    }
}

/* x such that x * by is y, where there is one: the quotient or a neighbour of it. */
static float undo_product(float y, float by) {
    const float q = y / by, tries[] = {q, nextafterf(q, 0), nextafterf(q, copysignf(INFINITY, q))};
    for (size_t i = 0; i < COUNT_OF(tries); i++)
        if (tries[i] * by == y) return tries[i];
    return q;
}

/* The file's values to memory's. A stack of experts lies in the file one after the other. */
static int undo_scales(const Part *p, const WeightView *v, float *values, Err *e) {
    int64_t all = part_numel(p), each = p->step[0];
    for (int64_t k = 0; k < all && p->gain != 1; k++) values[k] *= p->gain;
    for (int64_t k = 0; k < all && p->expert_scale; k++) {
        float by = f32(p->expert_scale)[k / each];
        if (values[k] == 0) continue;
        if (by == 0)
            return err_set(e,
                           "%s: tensor %s adapts expert %ld, whose outputs the model multiplies "
                           "with 0: llama.cpp alone can add to these",
                           v->file, v->name, (long)(k / each));
        values[k] = undo_product(values[k], by);
    }
    return 0;
}

static int read_part(const Part *p, const WeightView *v, Tensor *t, bool apart, Err *e) {
    PartView to = part_view(p, f32(t), t->n_dim, t->dim, apart);
    for (int k = 0; k < 3; k++)
        CHECK(p->n[k] <= to.dim[k], "%s: %ld values where %ld fit", p->name, (long)p->n[k],
              (long)to.dim[k]);
    float *values = part_values(p, v);
    int bad = undo_scales(p, v, values, e);
    if (!bad && !f32_all_finite(values, part_numel(p)))
        bad = err_set(e, "%s: tensor %s holds a NaN or infinity", v->file, v->name);
    if (!bad) scatter(p, &to, values);
    mem_free(values);
    return bad;
}

int parts_read(const PartList *list, Weights *w, ParamSet *ps, const bool *apart, Err *e) {
    for (int i = 0, k = 0; i < list->n; i++) {
        const Part *p = &list->p[i];
        for (int tried = 0; ps->param[k].site != p->site || ps->param[k].role != p->role; tried++) {
            CHECK(tried < ps->n, "%s belongs to no parameter", p->name);
            k = (k + 1) % ps->n;
        }
        const WeightView *v = weights_find(w, p->name);
        if (!v) return err_set(e, "tensor %s is missing", p->name);
        TRY(read_part(p, v, ps->param[k].tensor, apart && apart[p->site], e));
    }
    return 0;
}
