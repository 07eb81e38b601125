/* gguf_lora.c - see gguf_lora.h. Layout: NAME.lora_a (R,I) and NAME.lora_b (O,R), for experts
 * (E,R,I) and (E,O,R). Source: llama.cpp, src/llama-adapter.cpp and build_lora_mm, build_lora_mm_id
 * of src/llama-graph.cpp. */
#include "gguf_lora.h"
#include <string.h>
#include "../autograd/weight.h"
#include "../data/gguf.h"
#include "gguf_out.h"
#include "merge.h"

/* One weight of the base file and what is added to it. */
typedef struct Pair {
    const Linear *l;     /* its a, b; NULL: delta and the identity */
    int64_t E, O, I, R;  /* E 0: a matrix */
    int64_t row;         /* of l->b that is the weight's first */
    int64_t b_rows;      /* of l->b, a matrix (an expert) */
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
        dst[i] = p->l->s * f32(p->l->b)[(e * p->b_rows + p->row + o) * p->R + j];
        if (p->expert_scale) dst[i] *= p->expert_scale[e];
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
static const GgufEntry *base_weight(LoraFile *x, const char *name, int n_dim, const int64_t *dim,
                                    Err *e) {
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

static GgufName layer_name(int layer, const char *tail) {
    TensorRow row = {.gguf = tail};
    return gguf_site_name(&(Site){.row = &row, .layer = layer});
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
    if (gguf_find_entry(x->base, layer_name(s->layer, "ffn_gate_exps.weight").text)) {
        TRY(add_part(x, s, "ffn_gate_exps.weight", 0, F, e));
        return add_part(x, s, "ffn_up_exps.weight", F, F, e);
    }
    return add_part(x, s, s->row->gguf, 0, 2 * F, e);
}

static int add_experts_out(LoraFile *x, const Site *s, Err *e) {
    GgufName scale = layer_name(s->layer, "ffn_down_exps.scale");
    int64_t E = x->m->dims.n_experts;
    TRY(add_part(x, s, s->row->gguf, 0, x->m->dims.width, e));
    if (!gguf_find_entry(x->base, scale.text)) return 0;
    const GgufEntry *v = base_weight(x, scale.text, 1, &E, e);
    if (!v) return -1;
    x->pair[x->n - 1]->expert_scale = base_values(x, v);
    return 0;
}

/* Values are keys where a layer has no weight for them; llama.cpp does the same, unless the file
 * has one all the same. */
static int add_keys(LoraFile *x, const Site *s, Err *e) {
    int64_t dim[3];
    site_dims(x->m, s, dim);
    TRY(add_part(x, s, s->row->gguf, 0, dim[0], e));
    bool twice = x->m->layer[s->layer].d.k_eq_v &&
                 gguf_find_entry(x->base, layer_name(s->layer, "attn_v.weight").text);
    return twice ? add_part(x, s, "attn_v.weight", 0, dim[0], e) : 0;
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

static const char SCALE[] = "ffn_gate_inp.scale";
static bool is_router_scale(const Site *s) { return s->row->gguf && !strcmp(s->row->gguf, SCALE); }

/* The router as it now is, on inputs that the base still scales its own way, minus the base's: w'
 * diag(scale' / scale) - w. The scale that learned is new to the base. */
static int add_whole_router(LoraFile *x, const Site *s, Err *e) {
    const Layer *l = &x->m->layer[s->layer];
    int64_t E = x->m->dims.n_experts, D = x->m->dims.width;
    GgufName proj = layer_name(s->layer, s->row->gguf), scale = layer_name(s->layer, SCALE);
    const GgufEntry *w = base_weight(x, proj.text, 2, (int64_t[]){E, D}, e),
                    *u = w ? base_weight(x, scale.text, 1, &D, e) : NULL;
    if (!u) return -1;
    float *delta = mem_alloc(sizeof *delta * (size_t)(E * D)), *was = base_values(x, w),
          *by = base_values(x, u);
    site_values(s, 0, E * D, delta);
    int bad = 0;
    for (int64_t i = 0; i < E * D && !bad; i++) {
        double now = (double)f32(l->router_scale)[i % D], then = (double)by[i % D];
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
    const char *architecture = x->m->family->gguf->architecture;
    gguf_add_text(&x->file, "general.type", "adapter", strlen("adapter"));
    gguf_add_text(&x->file, "general.architecture", architecture, strlen(architecture));
    gguf_add_text(&x->file, "adapter.type", "lora", strlen("lora"));
    gguf_add_f32(&x->file, "adapter.lora.alpha", 0);
    for (int i = 0; i < plan->n; i++) TRY(add_site(x, plan, i, e));
    if (x->file.n_entries) return 0;
    return err_set(e, "export --format gguf-lora: the adapter changes nothing");
}

static int check_architecture(const LoraFile *x, Err *e) {
    const char *want = x->m->family->gguf->architecture, *is = "";
    size_t n = 0;
    TRY(gguf_get_text(x->base, "general.architecture", &is, &n, e));
    if (n == strlen(want) && !memcmp(is, want, n)) return 0;
    return err_set(e,
                   "%s is a file of the architecture \"%.*s\", the adapter's model is of %s; "
                   "name the GGUF file of that model in base_gguf",
                   x->base->file, n < 64 ? (int)n : 64, is, want);
}

int model_write_gguf_lora(const char *path, const Model *m, const Plan *plan, const char *base,
                          Err *e) {
    LoraFile x = {.m = m};
    if (!m->family->gguf)
        return err_set(e,
                       "export --format gguf-lora: models of the family %s have no names in GGUF; "
                       "export --format peft",
                       m->family->name);
    TRY(gguf_open(&x.base, base, e));
    int bad = check_architecture(&x, e) || add_all(&x, plan, e);
    if (!bad) bad = gguf_write(path, &x.file, e);
    lora_free(&x);
    return bad ? -1 : 0;
}
