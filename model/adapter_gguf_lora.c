/* adapter_gguf_lora.c - llama.cpp's form: one file that it loads beside a base GGUF file. It adds
 * low-rank products to products with weights, experts and routers included, and to nothing else.
 * Layout: NAME.lora_a (R,I) and NAME.lora_b (O,R), for experts (E,R,I) and (E,O,R); NAME is the
 * base's. What is added is times adapter.lora.alpha / R, or times 1 where that is 0. Source:
 * llama.cpp, src/llama-adapter.cpp and build_lora_mm, build_lora_mm_id of src/llama-graph.cpp.
 *
 * The base file decides the names: it has experts' gate and up as one tensor or as two. It
 * multiplies its own product of down_proj with a scale an expert before it adds the adapter's, the
 * model multiplies their sum: so B is times that scale in a file and without it in memory. A router
 * that was trained whole, or whose scale was, becomes an adapter of rank E (B the identity), which
 * is exact. All else that learned (per_expert_scale) is refused. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/files.h"
#include "../data/gguf.h"
#include "adapter_form.h"
#include "gguf_out.h"
#include "merge.h"

static const char A_END[] = ".lora_a", B_END[] = ".lora_b";
static const char GATE[] = "ffn_gate_exps.weight", UP[] = "ffn_up_exps.weight",
                  VALUES[] = "attn_v.weight", ROUTER_SCALE_NAME[] = "ffn_gate_inp.scale",
                  EXPERT_SCALE_NAME[] = "ffn_down_exps.scale";

static GgufName layer_name(int layer, const char *tail) {
    TensorRow row = {.gguf = tail};
    return gguf_site_name(&(Site){.row = &row, .layer = layer});
}

static const Site *layer_site(const Model *m, int layer, const char *tail) {
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        if (s->layer == layer && s->row->gguf && !strcmp(s->row->gguf, tail)) return s;
    }
    return NULL;
}

/* ======== out ======== */

/* One weight of the base file and what is added to it. */
typedef struct Pair {
    const Linear *l;     /* its a, b; NULL: delta and the identity */
    int64_t E, O, I, R;  /* E 0: a matrix */
    int64_t row;         /* of l->b that is the weight's first */
    int64_t b_rows;      /* of l->b, a matrix (an expert) */
    float fold;          /* what B is multiplied with; and each expert's too: */
    float *expert_scale; /* (E), or NULL; on the heap */
    float *delta;        /* (O,I), with l NULL; on the heap */
} Pair;

typedef struct LoraFile {
    const Model *m;
    Gguf *base;
    GgufOut file;
    Pair **pair; /* each on the heap: the file's tensors refer to them */
    int n;
} LoraFile;

static void lora_free(LoraFile *x) {
    for (int i = 0; i < x->n; i++) {
        mem_free(x->pair[i]->expert_scale);
        mem_free(x->pair[i]->delta);
        mem_free(x->pair[i]);
    }
    mem_free(x->pair);
    gguf_file_free(&x->file);
    gguf_close(x->base);
}

/* ---- values ---- */

static int fill_a(void *ctx, int64_t first, int64_t n, float *dst, Err *e) {
    const Pair *p = ctx;
    (void)e;
    memcpy(dst, (p->l ? f32(p->l->a) : p->delta) + first, (size_t)n * sizeof *dst);
    return 0;
}

static int fill_b(void *ctx, int64_t first, int64_t n, float *dst, Err *err) {
    const Pair *p = ctx;
    (void)err;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = first + i, j = at % p->R, o = at / p->R % p->O, e = at / p->R / p->O;
        if (!p->l) {
            dst[i] = o == j;
            continue;
        }
        dst[i] = p->fold * f32(p->l->b)[(e * p->b_rows + p->row + o) * p->R + j];
        if (p->expert_scale) dst[i] *= p->expert_scale[e]; /* rounded as reading undoes it */
    }
    return 0;
}

static void add_half(LoraFile *x, const char *weight, const char *half, Pair *p, int64_t rows,
                     int64_t cols, GgufFill fill) {
    GgufOutEntry t = {.dtype = DT_f32, .fill = fill, .ctx = p};
    Buf name = {0};
    buf_printf(&name, "%s.lora_%s", weight, half);
    CHECK(name.n <= GGUF_NAME_MAX, "the name %s is too long", name.p);
    memcpy(t.name, name.p, name.n + 1);
    buf_free(&name);
    if (p->E) t.dim[t.n_dim++] = p->E;
    t.dim[t.n_dim++] = rows;
    t.dim[t.n_dim++] = cols;
    gguf_add_entry(&x->file, &t);
}

/* pair is copied; what it has on the heap becomes x's. */
static Pair *add_pair(LoraFile *x, const char *weight, Pair pair) {
    size_t n = (size_t)x->n++, bytes = sizeof *x->pair;
    Pair *p = mem_alloc(sizeof *p);
    *p = pair;
    x->pair = mem_grow(x->pair, n * bytes, (n + 1) * bytes);
    x->pair[n] = p;
    add_half(x, weight, "a", p, p->R, p->I, fill_a);
    add_half(x, weight, "b", p, p->O, p->R, fill_b);
    return p;
}

/* ---- the base file ---- */

/* Its weight of this name, with the shape that it must have; NULL with a sentence. */
static const GgufEntry *base_weight(const LoraFile *x, const char *name, int n_dim,
                                    const int64_t *dim, Err *e) {
    const GgufEntry *v = gguf_find_entry(x->base, name);
    bool same = v && v->n_dim == n_dim;
    for (int i = 0; i < n_dim && same; i++) same = v->dim[i] == dim[i];
    if (same) return v;
    err_set(
        e,
        v ? "%s: tensor %s has another shape than in the adapter's model; name the GGUF file of "
            "that model in base_gguf"
          : "%s: tensor %s is missing, which the adapter changes; name the GGUF file of the "
            "adapter's model in base_gguf, or export --format gguf",
        x->base->file, name);
    return NULL;
}

/* Its values; on the heap. A file may align its tensors to less than their type asks for. */
static float *base_values(const LoraFile *x, const GgufEntry *v) {
    void *stored = mem_alloc((size_t)v->bytes);
    memcpy(stored, gguf_entry_data(x->base, v), (size_t)v->bytes);
    Tensor t = {.dtype = v->dtype, .n_dim = v->n_dim, .data = stored};
    memcpy(t.dim, v->dim, sizeof v->dim);
    int64_t n = tensor_numel(&t);
    float *out = mem_alloc(sizeof *out * (size_t)n);
    weight_values(&t, 0, n, out);
    mem_free(stored);
    return out;
}

/* ---- linears ---- */

/* The part [row, row + rows) of each of a linear's matrices is the weight `tail` of the layer. */
static int add_part(LoraFile *x, const Site *s, const char *tail, int64_t row, int64_t rows,
                    Err *e) {
    const Linear *l = s->linear;
    GgufName name = layer_name(s->layer, tail);
    int64_t dim[3];
    int n = site_dims(x->m, s, dim);
    int64_t O = dim[n - 2];
    dim[n - 2] = rows;
    if (!base_weight(x, name.text, n, dim, e)) return -1;
    add_pair(x, name.text,
             (Pair){.l = l,
                    .E = n == 3 ? dim[0] : 0,
                    .O = rows,
                    .I = dim[n - 1],
                    .R = tensor_cols(l->b),
                    .row = row,
                    .b_rows = O});
    return 0;
}

/* Gate and up stand in one tensor, or in two. */
static int add_experts_in(LoraFile *x, const Site *s, Err *e) {
    int64_t F = x->m->dims.expert_width;
    if (gguf_find_entry(x->base, layer_name(s->layer, GATE).text)) {
        TRY(add_part(x, s, GATE, 0, F, e));
        return add_part(x, s, UP, F, F, e);
    }
    return add_part(x, s, s->row->gguf, 0, 2 * F, e);
}

/* The base file's scales are the model's, or it is another model. */
static int check_expert_scale(const LoraFile *x, const char *name, const float *scale, Err *e) {
    if (!gguf_find_entry(x->base, name)) return 0;
    int64_t E = x->m->dims.n_experts;
    const GgufEntry *v = base_weight(x, name, 1, &E, e);
    if (!v) return -1;
    float *has = base_values(x, v);
    bool same = !memcmp(has, scale, sizeof *has * (size_t)E);
    mem_free(has);
    if (same) return 0;
    return err_set(e,
                   "%s: tensor %s has other values than the adapter's model; name the GGUF file of "
                   "that model in base_gguf",
                   x->base->file, name);
}

static int add_experts_out(LoraFile *x, const Site *s, Err *e) {
    const Site *by = layer_site(x->m, s->layer, EXPERT_SCALE_NAME);
    TRY(add_part(x, s, s->row->gguf, 0, x->m->dims.width, e));
    if (!by) return 0;
    int64_t E = x->m->dims.n_experts;
    float *scale = x->pair[x->n - 1]->expert_scale = mem_alloc(sizeof *scale * (size_t)E);
    weight_values(by->base, 0, E, scale);
    return check_expert_scale(x, layer_name(s->layer, EXPERT_SCALE_NAME).text, scale, e);
}

/* Values are keys where a layer has no weight for them; llama.cpp does the same, unless the file
 * has one all the same. */
static int add_keys(LoraFile *x, const Site *s, Err *e) {
    int64_t dim[3];
    site_dims(x->m, s, dim);
    TRY(add_part(x, s, s->row->gguf, 0, dim[0], e));
    bool twice = x->m->layer[s->layer].d.k_eq_v &&
                 gguf_find_entry(x->base, layer_name(s->layer, VALUES).text);
    return twice ? add_part(x, s, VALUES, 0, dim[0], e) : 0;
}

static int add_linear(LoraFile *x, const Site *s, Err *e) {
    const Layer *l = s->layer < 0 ? NULL : &x->m->layer[s->layer];
    int64_t dim[3];
    if (!l)
        return err_set(
            e,
            "export --format gguf-lora: llama.cpp adds no adapter to %s; export --format "
            "gguf",
            s->row->gguf);
    if (s->linear == &l->experts_in) return add_experts_in(x, s, e);
    if (s->linear == &l->experts_out) return add_experts_out(x, s, e);
    if (s->linear == &l->k) return add_keys(x, s, e);
    site_dims(x->m, s, dim);
    return add_part(x, s, s->row->gguf, 0, dim[0], e);
}

/* ---- routers ---- */

static bool is_router_scale(const Site *s) { return adapter_router_bits(s) == ROUTER_SCALE; }

/* The router as it now is, on inputs that the base still scales its own way (if at all), minus the
 * base's: w' diag(scale' / scale) - w. The scale that learned is new to the base. */
static int add_whole_router(LoraFile *x, const Site *s, Err *e) {
    const Layer *l = &x->m->layer[s->layer];
    int64_t E = x->m->dims.n_experts, D = x->m->dims.width;
    GgufName proj = layer_name(s->layer, s->row->gguf),
             scale = layer_name(s->layer, ROUTER_SCALE_NAME);
    const GgufEntry *w = base_weight(x, proj.text, 2, (int64_t[]){E, D}, e),
                    *u = w && l->router_scale ? base_weight(x, scale.text, 1, &D, e) : NULL;
    if (!w || (l->router_scale && !u)) return -1;
    float *delta = mem_alloc(sizeof *delta * (size_t)(E * D)), *was = base_values(x, w),
          *by = u ? base_values(x, u) : NULL;
    site_values(s, 0, E * D, delta);
    int bad = 0;
    for (int64_t i = 0; i < E * D && !bad; i++) {
        double now = u ? (double)f32(l->router_scale)[i % D] : 1, then = u ? (double)by[i % D] : 1;
        if (then == 0 && now != 0) bad = -1;
        delta[i] = (float)((double)delta[i] * (then == 0 ? 0 : now / then) - (double)was[i]);
    }
    mem_free(was);
    mem_free(by);
    if (bad) {
        mem_free(delta);
        return err_set(e,
                       "%s: %s has a zero where the adapter's router.scale has none, which no "
                       "adapter can express; export --format gguf",
                       x->base->file, scale.text);
    }
    add_pair(x, proj.text, (Pair){.O = E, .I = D, .R = E, .delta = delta});
    return 0;
}

/* A tensor that learned whole has another memory than the checkpoint's. */
static bool moved(const Site *s) {
    const Tensor *now = *s->slot;
    size_t bytes = sizeof(float) * (size_t)tensor_numel(s->base);
    float *was = mem_alloc(bytes);
    weight_values(s->base, 0, tensor_numel(s->base), was);
    bool differs = now->dtype == DT_f32 && memcmp(was, now->data, bytes);
    mem_free(was);
    return differs;
}

static int add_router(LoraFile *x, const Site *s, bool lora, Err *e) {
    bool whole = moved(s);
    for (int i = 0; i < x->m->n_sites && !whole; i++) {
        const Site *other = &x->m->site[i];
        whole = other->layer == s->layer && is_router_scale(other) && moved(other);
    }
    if (whole) return add_whole_router(x, s, e);
    return lora ? add_part(x, s, s->row->gguf, 0, x->m->dims.n_experts, e) : 0;
}

/* ---- all ---- */

static int add_site(LoraFile *x, const Plan *plan, int i, Err *e) {
    const Site *s = &x->m->site[i];
    const Learn *learn = &plan->learn[i];
    bool is_router = s->layer >= 0 && s->linear == &x->m->layer[s->layer].router;
    if (is_router) return add_router(x, s, learn->rank > 0, e);
    if (learn->rank) return add_linear(x, s, e);
    if (!(learn->full || learn->saved) || is_router_scale(s) || !moved(s)) return 0;
    return err_set(e,
                   "export --format gguf-lora: the adapter changes %s, to which llama.cpp adds no "
                   "adapter; export --format gguf",
                   s->name);
}

static int add_all(LoraFile *x, const Plan *plan, Err *e) {
    for (int i = 0; i < plan->n; i++) TRY(add_site(x, plan, i, e));
    if (x->file.n_entries) return 0;
    return err_set(e, "export --format gguf-lora: the adapter changes nothing");
}

/* The alpha from which every pair's scale follows; 0: there is none, or all scales are 1. */
static float common_alpha(const LoraFile *x, const Adapter *a) {
    const Pair *first = x->pair[0];
    if (!first->l) return 0;
    const float tries[] = {a->alpha, adapter_alpha(&(Adapter){0}, (int)first->R, first->l->s)};
    for (size_t i = 0; i < COUNT_OF(tries); i++) {
        bool gives = tries[i] != 0, ones = true;
        for (int k = 0; k < x->n && gives; k++) {
            const Pair *p = x->pair[k];
            gives = p->l && tries[i] / (float)p->R == p->l->s;
            ones &= p->l && p->l->s == 1;
        }
        if (gives) return ones ? 0 : tries[i];
    }
    return 0;
}

static void add_keys_of(LoraFile *x, const Adapter *a, bool keep) {
    const char *architecture = x->m->family->gguf->architecture;
    float alpha = keep ? common_alpha(x, a) : 0;
    for (int k = 0; k < x->n; k++) {
        Pair *p = x->pair[k];
        p->fold = alpha == 0 && p->l ? p->l->s : 1;
    }
    gguf_add_text(&x->file, "general.type", "adapter", strlen("adapter"));
    gguf_add_text(&x->file, "general.architecture", architecture, strlen(architecture));
    gguf_add_text(&x->file, "adapter.type", "lora", strlen("lora"));
    gguf_add_f32(&x->file, "adapter.lora.alpha", alpha);
}

static int check_architecture(const LoraFile *x, Err *e) {
    const char *want = x->m->family->gguf->architecture, *is = "";
    size_t n = 0;
    TRY(gguf_get_text(x->base, "general.architecture", &is, &n, e));
    if (text_is(is, n, want)) return 0;
    return err_set(e,
                   "%s is a file of the architecture \"%s\", the adapter's model is of %s; "
                   "name the GGUF file of that model in base_gguf",
                   x->base->file, gguf_word(is, n).text, want);
}

static int write_lora(const char *path, AdapterOut *how, Model *m, const ParamSet *ps,
                      const Plan *plan, const Adapter *a, Err *e) {
    LoraFile x = {.m = m};
    (void)ps;
    if (!m->family->gguf)
        return err_set(e,
                       "export --format gguf-lora: models of the family %s have no names in GGUF; "
                       "export --format peft",
                       m->family->name);
    CHECK(how->beside, "config_check.c lets a gguf-lora beside nothing pass");
    if (files_is_dir(how->beside))
        return err_set(e, "base_gguf: %s is a directory; name the GGUF file of the adapter's model",
                       how->beside);
    TRY(gguf_open(&x.base, how->beside, e));
    int bad = check_architecture(&x, e) || add_all(&x, plan, e);
    if (!bad) add_keys_of(&x, a, how->keep);
    if (!bad) bad = gguf_write(path, &x.file, e);
    lora_free(&x);
    return bad ? -1 : 0;
}

/* ======== in ======== */

static bool claims(const AdapterDir *d) { return d->gguf != NULL; }

/* A text of the file's keys; "" where there is none. */
static int key_must_be(const Gguf *g, const char *key, const char *want, Err *e) {
    const char *is = "";
    size_t n = 0;
    TRY(gguf_get_text(g, key, &is, &n, e));
    if (text_is(is, n, want)) return 0;
    return err_set(e, "%s: %s is \"%s\", and has to be \"%s\" in an adapter of this model", g->file,
                   key, gguf_word(is, n).text, want);
}

static int read_keys(Adapter *a, const Model *m, const Gguf *g, Err *e) {
    double alpha = 0;
    if (!m->family->gguf)
        return err_set(e, "%s: models of the family %s have no names in GGUF", g->file,
                       m->family->name);
    TRY(key_must_be(g, "general.type", "adapter", e));
    TRY(key_must_be(g, "adapter.type", "lora", e));
    TRY(key_must_be(g, "general.architecture", m->family->gguf->architecture, e));
    if (gguf_find(g, "adapter.alora.invocation_tokens"))
        return err_set(e,
                       "%s is an adapter that begins at certain tokens (aLoRA), which cannot be "
                       "read by this version",
                       g->file);
    TRY(gguf_get_real(g, "adapter.lora.alpha", &alpha, e));
    a->gguf_alpha = (float)alpha;
    if (isfinite(a->gguf_alpha)) return 0;
    return err_set(e, "%s: adapter.lora.alpha is no finite number", g->file);
}

static float scale_of(const Adapter *a, int64_t rank) {
    return a->gguf_alpha != 0 ? a->gguf_alpha / (float)rank : 1;
}

/* ---- what of the file is a site's ---- */

typedef struct Pairing {
    char *name; /* of the base's weight; on the heap */
    int half;
    int64_t rank;
} Pairing;

/* The rank that a weight's pair in the file has; 0: it has none. */
static int64_t pair_rank(Weights *w, const char *name, int64_t values_of_rank) {
    Buf a = {0};
    buf_printf(&a, "%s%s", name, A_END);
    const WeightView *v = weights_find(w, a.p);
    buf_free(&a);
    int64_t n = 1;
    for (int i = 0; v && i < v->n_dim; i++) n *= v->dim[i];
    return v && n / values_of_rank <= 1 << 20 ? n / values_of_rank : 0;
}

/* At most two: gate and up where the file has them apart; keys, and values that are keys. */
static int pairs_of(const Model *m, const Site *s, Weights *w, Pairing out[2]) {
    int64_t dim[3];
    bool stack = site_dims(m, s, dim) == 3, twice = site_halves(s) == 2;
    int64_t each = dim[stack + 1] * (stack ? dim[0] : 1);
    const Layer *l = &m->layer[s->layer];
    const char *tail[] = {s->row->gguf, NULL, NULL};
    if (twice && !pair_rank(w, layer_name(s->layer, tail[0]).text, each))
        tail[0] = NULL, tail[1] = GATE, tail[2] = UP;
    if (s->linear == &l->k && l->d.k_eq_v) tail[1] = VALUES;
    int n = 0;
    for (int i = 0; i < 3; i++) {
        if (!tail[i]) continue;
        GgufName name = layer_name(s->layer, tail[i]);
        int64_t rank = pair_rank(w, name.text, each);
        if (rank)
            out[n++] = (Pairing){mem_copy_text(name.text), i && twice ? i - 1 : PART_ALL, rank};
    }
    return n;
}

static char *tensor_name(const Pairing *p, const char *end) {
    Buf name = {0};
    buf_printf(&name, "%s%s", p->name, end);
    return name.p;
}

static void add_pairing(PartList *out, const Model *m, const Plan *plan, const Adapter *a, int site,
                        const Pairing *p) {
    const Site *s = &m->site[site];
    int64_t dim[3];
    bool stack = site_dims(m, s, dim) == 3, is_out = s->linear == &m->layer[s->layer].experts_out;
    int64_t E = stack ? dim[0] : 0, O = dim[stack] / (p->half == PART_ALL ? 1 : 2),
            I = dim[stack + 1];
    Part *x = parts_add(out, tensor_name(p, A_END), site, PARAM_LORA_A);
    x->half = p->half;
    part_plain(x, E, p->rank, I, false);
    x = parts_add(out, tensor_name(p, B_END), site, PARAM_LORA_B);
    x->half = p->half;
    part_plain(x, E, O, p->rank, false);
    float scale = scale_of(a, p->rank), site_scale = plan->learn[site].scale;
    if (scale != site_scale) x->gain = scale / site_scale; /* up is of another rank than gate */
    if (is_out) x->expert_scale = m->layer[s->layer].per_expert_scale;
}

static void parts(PartList *out, const Model *m, const Plan *plan, const Adapter *a, Weights *w) {
    for (int i = 0; i < plan->n; i++) {
        Pairing p[2];
        int n = plan->learn[i].rank ? pairs_of(m, &m->site[i], w, p) : 0;
        for (int k = 0; k < n; k++) {
            add_pairing(out, m, plan, a, i, &p[k]);
            mem_free(p[k].name);
        }
    }
}

/* ---- what is adapted ---- */

static bool same_values(Weights *w, const Pairing *p, const Pairing *q, const char *end) {
    char *x = tensor_name(p, end), *y = tensor_name(q, end);
    const WeightView *v = weights_find(w, x), *u = weights_find(w, y);
    bool same = v && u && v->dtype == u->dtype && v->bytes == u->bytes &&
                !memcmp(v->data, u->data, (size_t)v->bytes);
    mem_free(x);
    mem_free(y);
    return same;
}

static int plan_site(Plan *plan, const Adapter *a, const Model *m, Weights *w, int i, Err *e) {
    const Site *s = &m->site[i];
    Pairing p[2];
    if (s->layer < 0 || !s->linear || !s->row->gguf) return 0;
    int n = pairs_of(m, s, w, p), bad = 0;
    bool as_values = n == 2 && p[1].half == PART_ALL;
    if (n == 1 && s->linear == &m->layer[s->layer].k && text_ends_with(p[0].name, VALUES))
        bad = err_set(e,
                      "%s%s adapts values alone, which are keys in this layer of the model: give "
                      "the GGUF file that the adapter was made for as base_model",
                      p[0].name, A_END);
    if (as_values && !(same_values(w, &p[0], &p[1], A_END) && same_values(w, &p[0], &p[1], B_END)))
        bad = err_set(e,
                      "%s%s and %s%s differ, and values are keys in this layer of the model: give "
                      "the GGUF file that the adapter was made for as base_model",
                      p[0].name, A_END, p[1].name, A_END);
    if (n) plan->learn[i].rank = (int)p[0].rank, plan->learn[i].scale = scale_of(a, p[0].rank);
    for (int k = 0; k < n; k++) mem_free(p[k].name);
    return bad;
}

/* Adapters of embeddings and of the head have no place in memory. */
static int refuse_outside(const Model *m, Weights *w, Err *e) {
    for (const TensorRow *r = m->family->model_rows; r->hf; r++) {
        for (int i = 0; i < weights_count(w); i++) {
            const WeightView *v = weights_at(w, i);
            size_t n = r->gguf ? strlen(r->gguf) : 0;
            if (!n || strncmp(v->name, r->gguf, n) || v->name[n] != '.') continue;
            return err_set(e,
                           "%s: tensor %s adapts %s; this version adapts linears, experts and "
                           "routers of layers alone",
                           v->file, v->name, r->hf);
        }
    }
    return 0;
}

static int plan_lora(Plan *plan, Adapter *a, const Model *m, const AdapterDir *d, Err *e) {
    TRY(read_keys(a, m, d->gguf, e));
    TRY(refuse_outside(m, d->weights, e));
    for (int i = 0; i < plan->n; i++) {
        if (plan_site(plan, a, m, d->weights, i, e)) {
            err_prefix(e, "%s", d->path);
            return -1;
        }
    }
    return 0;
}

const AdapterForm adapter_form_gguf_lora = {.name = "gguf-lora",
                                            .even = true,
                                            .claims = claims,
                                            .plan = plan_lora,
                                            .parts = parts,
                                            .write = write_lora};
