/* verify_adapter.c - adapters as their engines read them: names and places are worked out here from
 * what PEFT and mlx-lm do with a file, not from what the writers do. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/files.h"
#include "../data/json.h"
#include "verify_factors.h"

/* ---- how a form spells names and orders values ---- */

/* What a value's place depends on: experts, rank, the matrix's other side. */
typedef struct Size {
    int64_t E, R, side; /* E 0: no experts */
} Size;
typedef int64_t (*PlaceFn)(Size z, int64_t e, int64_t side, int64_t j);

static int64_t peft_a(Size z, int64_t e, int64_t i, int64_t j) {
    return (e * z.R + j) * z.side + i;
}
static int64_t peft_b(Size z, int64_t e, int64_t o, int64_t j) {
    int64_t E = z.E ? z.E : 1;
    return (o * z.R + j) * E + e;
}
static int64_t mlx_a(Size z, int64_t e, int64_t i, int64_t j) {
    return z.E ? (e * z.R + j) * z.side + i : i * z.R + j;
}
static int64_t mlx_b(Size z, int64_t e, int64_t o, int64_t j) {
    return z.E ? (e * z.side + o) * z.R + j : j * z.side + o;
}

typedef struct Form {
    const char *format, *file;
    bool per_expert;   /* a tensor an expert */
    bool halves;       /* gate and up under names of their own */
    const char *a, *b; /* ends of names */
    PlaceFn place_a, place_b;
} Form;
static const Form forms[] = {
    {"peft", "adapter_model.safetensors", false, false, ".lora_A.weight", ".lora_B.weight", peft_a,
     peft_b},
    {"peft-per-expert", "adapter_model.safetensors", true, true, ".lora_A.weight", ".lora_B.weight",
     peft_a, peft_b},
    {"mlx", "adapters.safetensors", false, true, ".lora_a", ".lora_b", mlx_a, mlx_b},
};

/* ---- a file that was opened ---- */

typedef struct File {
    Verify *v;
    const Form *form;
    json_t *config;
    Weights *w;
    char *prefix; /* of names, before "layers." */
} File;

static void file_close(File *f) {
    json_decref(f->config);
    weights_close(f->w);
    mem_free(f->prefix);
}

static int file_open(File *f, Verify *v, const char *dir, Err *e) {
    *f = (File){.v = v, .form = forms};
    while (strcmp(f->form->format, v->cfg->format)) f->form++;
    char *config = files_join(dir, "adapter_config.json"), *path = files_join(dir, f->form->file);
    int bad = json_read_file(&f->config, config, e) || weights_open(&f->w, path, e);
    for (int i = 0; !bad && i < weights_count(f->w) && !f->prefix; i++) {
        const char *name = weights_at(f->w, i)->name, *at = strstr(name, "layers.");
        if (at) f->prefix = mem_copy_text(name), f->prefix[at - name] = 0;
    }
    if (!bad && !f->prefix) bad = err_set(e, "%s: holds no tensor of any layer", path);
    mem_free(config);
    mem_free(path);
    return bad ? -1 : 0;
}

static bool is_gate_up(const Site *s) { return strstr(s->row->hf, "gate_up_proj") != NULL; }
static int halves_of(const File *f, const Site *s) {
    return f->form->halves && is_gate_up(s) ? 2 : 1;
}

/* Whether PEFT wraps the experts once more outside of this parameter: down_proj lies outside. */
static bool wrapped(const Verify *v, const Site *s) {
    if (!is_gate_up(s)) return false;
    for (int i = 0; i < v->run.plan.n; i++) {
        const Site *o = &v->run.model->site[i];
        if (o->layer == s->layer && site_is_stack(o) && !is_gate_up(o) && v->run.plan.learn[i].rank)
            return true;
    }
    return false;
}

/* "experts.base_layer", "experts.3.up_proj", "experts.switch_glu.up_proj", "self_attn.q_proj". */
static void add_path(Buf *out, const File *f, const Site *s, int64_t expert, int half) {
    size_t n = strlen(s->row->hf);
    const char *leaf = site_is_stack(s) ? strrchr(s->row->hf, '.') + 1 : NULL;
    if (!leaf) {
        buf_add(out, s->row->hf, text_ends_with(s->row->hf, ".weight") ? n - 7 : n);
        return;
    }
    const char *word = !is_gate_up(s) ? leaf : half ? "up_proj" : "gate_proj";
    buf_add(out, s->row->hf, (size_t)(leaf - s->row->hf) - 1);
    if (f->form->per_expert)
        buf_printf(out, ".%ld.%s", (long)expert, word);
    else if (f->form->halves)
        buf_printf(out, ".switch_glu.%s", word);
    else if (wrapped(f->v, s))
        buf_add_text(out, ".base_layer");
}

static char *name_of(const File *f, const Site *s, int64_t expert, int half, const char *end) {
    Buf name = {0};
    buf_printf(&name, "%slayers.%d.", f->prefix, s->layer);
    add_path(&name, f, s, expert, half);
    buf_add_text(&name, end);
    return name.p;
}

static char *found_name(const void *ctx, const Site *s, int64_t expert, int half, bool is_a) {
    const File *f = ctx;
    return name_of(f, s, expert, half, is_a ? f->form->a : f->form->b);
}

/* ---- scale ---- */

/* A number of a pattern whose key is the end of a module's name, or preset. */
static double pattern(const json_t *patterns, const char *module, double preset) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)patterns, key, value) {
        size_t n = strlen(module), k = strlen(key);
        bool ends = n >= k && !strcmp(module + n - k, key) && (n == k || module[n - k - 1] == '.');
        if (ends && json_is_number(value)) return json_number_value(value);
    }
    return preset;
}

static double scale_in_file(const File *f, const Site *s) {
    const json_t *c = f->config;
    if (!strcmp(f->form->format, "mlx"))
        return json_number_value(json_object_get(json_object_get(c, "lora_parameters"), "scale"));
    Buf module = {0};
    buf_add_text(&module, s->name);
    if (text_ends_with(module.p, ".weight")) module.p[module.n - 7] = 0;
    double r = pattern(json_object_get(c, "rank_pattern"), module.p,
                       json_number_value(json_object_get(c, "r"))),
           alpha = pattern(json_object_get(c, "alpha_pattern"), module.p,
                           json_number_value(json_object_get(c, "lora_alpha")));
    buf_free(&module);
    return alpha / (json_is_true(json_object_get(c, "use_rslora")) ? sqrt(r) : r);
}

/* ---- what a file has of one site ---- */

/* How many values a tensor has, by its bytes: of a type that is none of ours a shape says nothing.
 */
static int64_t values_in(const WeightView *v) {
    return dtype_is_float(v->dtype) ? v->bytes / dtype_info[v->dtype].block_bytes : 0;
}

/* All values of a tensor that must be there with so many in two dimensions or three. */
static int take(const File *f, const char *name, int64_t n, float **out, Err *e) {
    WeightView *v = weights_find(f->w, name);
    if (!v) return err_set(e, "tensor %s is missing", name);
    if (!dtype_is_float(v->dtype))
        return err_set(e, "tensor %s is stored as %s, expected F32, F16 or BF16", name, v->stored);
    if (values_in(v) != n)
        return err_set(e, "tensor %s has %ld values, expected %ld", name, (long)values_in(v),
                       (long)n);
    v->read = true;
    *out = mem_alloc(sizeof **out * (size_t)n);
    dtype_info[v->dtype].to_f32(v->data, *out, n);
    return 0;
}

/* The rank that a file's A has: its values over those of a rank. PEFT's names of fused experts mean
 * what else is adapted, so they are looked for where the run has an adapter. */
static int64_t rank_in_file(const File *f, const Site *s, int half) {
    const Learn *l = &f->v->run.plan.learn[s - f->v->run.model->site];
    if (site_is_stack(s) && !f->form->halves && !l->rank) return 0;
    int64_t E = site_is_stack(s) && !f->form->per_expert ? s->base->dim[0] : 1;
    char *name = name_of(f, s, 0, half, f->form->a);
    const WeightView *v = weights_find(f->w, name);
    mem_free(name);
    if (v && !values_in(v)) return 1; /* whatever: take says what it is */
    return v ? values_in(v) / (E * tensor_cols(s->base)) : 0;
}

/* One tensor into (E, R, side) or (E, side, R). */
static int spread(const File *f, const Site *s, const char *name, Half *h, bool is_a, int64_t one,
                  Err *e) {
    Size z = {site_is_stack(s) && one < 0 ? h->E : 0, h->R, is_a ? h->I : h->O};
    int64_t from = one < 0 ? 0 : one, to = one < 0 ? h->E : one + 1;
    PlaceFn place = is_a ? f->form->place_a : f->form->place_b;
    float *values;
    TRY(take(f, name, (to - from) * h->R * z.side, &values, e));
    for (int64_t x = from; x < to; x++) {
        for (int64_t k = 0; k < z.side; k++) {
            for (int64_t j = 0; j < h->R; j++) {
                float value = values[place(z, x - from, k, j)];
                if (is_a)
                    h->a[(x * h->R + j) * z.side + k] = value;
                else
                    h->b[(x * z.side + k) * h->R + j] = value;
            }
        }
    }
    mem_free(values);
    return 0;
}

static int take_half(const File *f, const Site *s, int half, Half *h, Err *e) {
    int64_t experts = f->form->per_expert && site_is_stack(s) ? h->E : 1;
    h->a = mem_alloc(sizeof *h->a * (size_t)(h->E * h->R * h->I));
    h->b = mem_alloc(sizeof *h->b * (size_t)(h->E * h->R * h->O));
    for (int64_t x = 0; x < experts; x++) {
        int64_t one = f->form->per_expert && site_is_stack(s) ? x : -1;
        char *a = name_of(f, s, x, half, f->form->a), *b = name_of(f, s, x, half, f->form->b);
        int bad = spread(f, s, a, h, true, one, e) || spread(f, s, b, h, false, one, e);
        mem_free(a);
        mem_free(b);
        if (bad) return -1;
    }
    return 0;
}

static int find(const File *f, const Site *s, Found *out, Err *e) {
    *out = (Found){.name = found_name, .ctx = f};
    int n = halves_of(f, s);
    for (int h = 0; h < n; h++) {
        int64_t R = rank_in_file(f, s, h);
        if (!R && !h) return 0;
        if (!R) {
            char *name = name_of(f, s, 0, h, f->form->a);
            err_set(e, "tensor %s is missing", name);
            mem_free(name);
            return -1;
        }
        const int64_t *dim = s->base->dim;
        bool stack = site_is_stack(s);
        out->half[h] = (Half){.E = stack ? dim[0] : 1,
                              .R = R,
                              .I = dim[stack + 1],
                              .O = dim[stack] / n,
                              .scale = scale_in_file(f, s)};
        out->n = h + 1;
        TRY(take_half(f, s, h, &out->half[h], e));
    }
    return 0;
}

/* ---- against the run ---- */

/* PEFT's modules_to_save: the tensor as it now is. */
static int compare_whole(File *f, const Site *s, const char *name, Err *e) {
    int64_t n = tensor_numel(s->base), I = tensor_cols(s->base);
    float *values;
    TRY(take(f, name, n, &values, e));
    int bad = 0;
    for (int64_t k = 0; k < n && !bad; k++) {
        double should = (double)f32(*s->slot)[k];
        if (s->linear && s->linear->a)
            should = verify_change_of(s, NULL, 0, k / I, k % I, should, 0);
        if (!(fabs((double)values[k] - should) <= verify_half_ulp(should, DT_f32)))
            bad = err_set(e, "tensor %s: value %ld is %.9g, the run's is %.9g", name, (long)k,
                          (double)values[k], should);
    }
    mem_free(values);
    return bad;
}

static char *whole_name(const File *f, const Site *s) {
    Buf name = {0};
    buf_printf(&name, "%slayers.%d.%s", f->prefix, s->layer, s->row->hf);
    return name.p;
}

/* What has no adapter: whole, or folded into the projection's change by forms that save nothing. */
static int compare_other(File *f, int i, bool saved, Err *e) {
    Verify *v = f->v;
    const Site *s = &v->run.model->site[i];
    bool folded = f->form->halves && !strcmp(s->row->hf, "router.scale");
    if (!verify_changed(v, i)) return 0;
    if (!saved && !folded) return err_set(e, "tensor %s learned, and is missing", s->name);
    verify_applied(v, s);
    return 0;
}

static int compare_site(File *f, int i, Err *e) {
    Verify *v = f->v;
    const Site *s = &v->run.model->site[i];
    if (s->layer < 0) return 0;
    char *whole = whole_name(f, s);
    bool saved = weights_find(f->w, whole) != NULL;
    int bad = saved ? compare_whole(f, s, whole, e) : 0;
    mem_free(whole);
    if (bad) return -1;
    if (saved || !s->linear) return compare_other(f, i, saved, e);
    Found x;
    bad = find(f, s, &x, e);
    if (!bad && x.n) bad = verify_factors(v, s, &x, e);
    if (!bad && x.n && verify_changed(v, i)) verify_applied(v, s);
    bool meant = verify_changed(v, i) || (f->form->halves && verify_router_folds(v, s));
    if (!bad && !x.n && meant) {
        char *name = name_of(f, s, 0, 0, f->form->a);
        bad = err_set(e, "tensor %s is missing", name);
        mem_free(name);
    }
    found_free(&x);
    return bad;
}

int verify_adapter_compare(Verify *v, const char *path, Err *e) {
    File f;
    int bad = file_open(&f, v, path, e);
    for (int i = 0; i < v->run.plan.n && !bad; i++) {
        bad = compare_site(&f, i, e);
        if (bad) err_prefix(e, "%s/%s", path, f.form->file);
    }
    for (int i = 0; !bad && i < weights_count(f.w); i++) {
        const WeightView *w = weights_at(f.w, i);
        if (!w->read)
            bad = err_set(e, "%s: tensor %s is nothing that the run changed", w->file, w->name);
    }
    file_close(&f);
    return bad ? -1 : 0;
}

/* ---- the model with it ---- */

/* Halves side by side: the ranks of gate, then those of up; B has blocks of zeros. */
static void put(const Found *x, Tensor *a, Tensor *b) {
    int64_t R = tensor_cols(b), O = b->dim[b->n_dim - 2], I = tensor_cols(a), before = 0;
    memset(b->data, 0, (size_t)tensor_bytes(b));
    for (int h = 0; h < x->n; h++) {
        const Half *p = &x->half[h];
        for (int64_t e = 0; e < p->E; e++) {
            for (int64_t j = 0; j < p->R; j++)
                memcpy(f32(a) + (e * R + before + j) * I, p->a + (e * p->R + j) * I,
                       sizeof(float) * (size_t)I);
            for (int64_t o = 0; o < p->O; o++)
                memcpy(f32(b) + (e * O + h * p->O + o) * R + before, p->b + (e * p->O + o) * p->R,
                       sizeof(float) * (size_t)p->R);
        }
        before += p->R;
    }
}

static void plan_found(File *f, Plan *plan) {
    for (int i = 0; i < plan->n; i++) {
        const Site *s = &f->v->run.model->site[i];
        if (s->layer < 0) continue;
        char *whole = whole_name(f, s);
        plan->learn[i].full = weights_find(f->w, whole) != NULL;
        mem_free(whole);
        for (int h = 0; s->linear && !plan->learn[i].full && h < halves_of(f, s); h++)
            plan->learn[i].rank += (int)rank_in_file(f, s, h);
        if (plan->learn[i].rank) plan->learn[i].scale = (float)scale_in_file(f, s);
    }
}

static int fill_param(File *f, Session *out, const Param *p, Err *e) {
    const Site *s = &out->model->site[p->site];
    if (p->role == PARAM_LORA_B) return 0; /* with A */
    if (p->role == PARAM_LORA_A) {
        Found x;
        int bad = find(f, &f->v->run.model->site[p->site], &x, e);
        if (!bad) put(&x, s->linear->a, s->linear->b);
        found_free(&x);
        return bad;
    }
    char *name = whole_name(f, s);
    float *values = NULL;
    int bad = take(f, name, tensor_numel(p->tensor), &values, e);
    if (!bad) memcpy(p->tensor->data, values, (size_t)tensor_bytes(p->tensor));
    mem_free(values);
    mem_free(name);
    return bad;
}

int verify_adapter_reload(Verify *v, const char *path, Session *out, Err *e) {
    File f;
    Config base = *v->cfg; /* borrows what it points to */
    base.lora_model_dir = NULL;
    TRY(session_open_original(out, &base, e));
    int bad = file_open(&f, v, path, e);
    if (!bad) {
        plan_found(&f, &out->plan);
        params_close(&out->params);
        bad = params_open(&out->params, out->model, &out->plan, 0, e);
    }
    for (int i = 0; i < out->params.n && !bad; i++) {
        out->params.param[i].tensor->wants_grad = false;
        bad = fill_param(&f, out, &out->params.param[i], e);
    }
    file_close(&f);
    if (bad) session_close(out);
    return bad ? -1 : 0;
}
