/* adapter_peft.c - PEFT's own form, which a run writes: fused experts. Its 2-D tensors hide how
 * they lie: lora_A (E*R, I) and lora_B (O, R*E) with the expert fastest since PEFT 0.19.1; with
 * inputs and outputs in each other's place before; and with the rank fastest in B where others
 * wrote them. */
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/safetensors.h"
#include "adapter_config.h"
#include "adapter_names.h"
#include "adapter_order.h"
#include "merge.h"

/* ---- tensors ---- */

bool adapter_router_summed(const Model *m, const Plan *plan, int site) {
    const Site *s = &m->site[site];
    if (s->row->kind != KIND_ROUTER || !s->linear || !plan->learn[site].rank) return false;
    for (int i = 0; i < m->n_sites; i++) {
        if (m->site[i].layer == s->layer && m->site[i].row->kind == KIND_ROUTER &&
            plan->learn[i].saved)
            return true;
    }
    return false;
}

/* A (E*R, I) and B (O, R*E); transposed: A (E*R, O) holds what belongs to the outputs, B (I, R*E)
 * what belongs to the inputs. */
static void fused_part(Part *p, const int64_t w[3], int64_t R, bool transposed, bool b_major) {
    int64_t E = w[0], O = w[1], I = w[2];
    bool in = p->role == PARAM_LORA_A;
    int64_t wide = in ? I : O; /* of memory's tensor, beside the rank */
    int rank = in ? 1 : 2, other = 3 - rank;
    p->n_dim = 2;
    p->n[0] = E, p->n[rank] = R, p->n[other] = wide;
    if (in != transposed) { /* rows e*R + j */
        p->dim[0] = E * R, p->dim[1] = wide;
        p->step[0] = R * wide, p->step[rank] = wide, p->step[other] = 1;
    } else { /* columns j*E + e, or e*R + j */
        p->dim[0] = wide, p->dim[1] = R * E;
        p->step[0] = b_major ? R : 1, p->step[rank] = b_major ? 1 : E, p->step[other] = R * E;
    }
}

/* The file's name of a transposed A is that of a B: what maps outputs is called lora_A there. */
static void add_lora_part(PartList *out, const Model *m, const Plan *plan, const Adapter *a,
                          int site, ParamRole role, bool transposed, bool b_major) {
    int64_t w[3];
    int n = site_dims(m, &m->site[site], w);
    bool turned = n == 3 && transposed;
    ParamRole called = !turned ? role : role == PARAM_LORA_A ? PARAM_LORA_B : PARAM_LORA_A;
    Part *p = parts_add(out, adapter_tensor_name(m, plan, a, site, called), site, role);
    int64_t R = plan->learn[site].rank;
    if (n == 3)
        fused_part(p, w, R, turned, b_major);
    else
        part_plain(p, 0, role == PARAM_LORA_A ? R : w[0], role == PARAM_LORA_A ? w[1] : R, false);
}

static void add_whole_part(PartList *out, const Model *m, char *name, int site) {
    int64_t w[3];
    int n = site_dims(m, &m->site[site], w);
    Part *p = parts_add(out, name, site, PARAM_WHOLE);
    p->n_dim = n;
    memcpy(p->dim, w, sizeof w);
    for (int i = 0; i < 3; i++) p->n[i] = i < 3 - n ? 1 : w[i - (3 - n)];
    p->step[0] = p->n[1] * p->n[2], p->step[1] = p->n[2], p->step[2] = 1;
}

/* In the order of the model's tensors. A router that is summed stands as one whole tensor. */
static void add_site(PartList *out, const Model *m, const Plan *plan, const Adapter *a, int i,
                     bool transposed, bool b_major) {
    const Learn *l = &plan->learn[i];
    bool sum = adapter_router_summed(m, plan, i);
    if (l->rank && !sum) {
        add_lora_part(out, m, plan, a, i, PARAM_LORA_A, transposed, b_major);
        add_lora_part(out, m, plan, a, i, PARAM_LORA_B, transposed, b_major);
    }
    if (l->full || l->saved || sum)
        add_whole_part(out, m, adapter_tensor_name(m, plan, a, i, PARAM_WHOLE), i);
}

static void parts(PartList *out, const Model *m, const Plan *plan, const Adapter *a, Weights *w) {
    for (int i = 0; i < plan->n; i++)
        add_site(out, m, plan, a, i, w && a->transposed, w && a->b_major);
}

/* ---- out ---- */

/* Memory of what is written: a set's weights or gradients. */
typedef struct Memory {
    const ParamSet *ps;
    const float *block;
    float *const *sum; /* per site: base and adapter together, for the router that is summed */
    const Model *m;
} Memory;

static PartView memory_view(const void *ctx, const Part *p) {
    const Memory *x = ctx;
    int64_t dim[3];
    if (x->sum && x->sum[p->site])
        return part_view(p, x->sum[p->site], site_dims(x->m, &x->m->site[p->site], dim), dim,
                         false);
    int k = 0;
    while (x->ps->param[k].site != p->site || x->ps->param[k].role != p->role) k++;
    const Param *q = &x->ps->param[k];
    return part_view(p, (float *)x->block + q->at, q->tensor->n_dim, q->tensor->dim, false);
}

int adapter_write(const char *dir, Model *m, const ParamSet *ps, const Plan *plan, const Adapter *a,
                  Err *e) {
    PartList list = {0};
    float **sum = mem_alloc(sizeof *sum * (size_t)plan->n);
    for (int i = 0; i < plan->n; i++) {
        if (!adapter_router_summed(m, plan, i)) continue;
        int64_t n = site_numel(m, &m->site[i]);
        sum[i] = mem_alloc(sizeof **sum * (size_t)n);
        site_values(&m->site[i], 0, n, sum[i]);
    }
    parts(&list, m, plan, a, NULL);
    char *path = files_join(dir, adapter_form_peft.file);
    int bad = parts_write(path, &list, memory_view, &(Memory){ps, ps->weight, sum, m}, e);
    mem_free(path);
    for (int i = 0; i < plan->n; i++) mem_free(sum[i]);
    mem_free(sum);
    parts_free(&list);
    if (bad) return -1;
    TRY(adapter_write_json(dir, "adapter_config.json", adapter_config_json(m, plan, a, false), e));
    return adapter_write_json(dir, "moesmith.json", adapter_manifest_json(m, plan, a), e);
}

static int write_peft(const char *path, AdapterOut *how, Model *m, const ParamSet *ps,
                      const Plan *plan, const Adapter *a, Err *e) {
    (void)how;
    return adapter_write(path, m, ps, plan, a, e);
}

int params_write_grads(const char *path, Model *m, const ParamSet *ps, const Plan *plan,
                       const Adapter *a, Err *e) {
    PartList list = {0};
    for (int i = 0; i < ps->n; i++) {
        const Param *p = &ps->param[i];
        if (!p->learns) continue;
        if (!a)
            add_whole_part(&list, m, mem_copy_text(m->site[p->site].name), p->site);
        else if (p->role == PARAM_WHOLE)
            add_whole_part(&list, m, adapter_tensor_name(m, plan, a, p->site, p->role), p->site);
        else
            add_lora_part(&list, m, plan, a, p->site, p->role, false, false);
    }
    int bad = parts_write(path, &list, memory_view, &(Memory){ps, ps->grad, NULL, m}, e);
    parts_free(&list);
    return bad;
}

/* ---- in ---- */

static bool claims(const AdapterDir *d) {
    (void)d;
    return true;
}

static int refuse_stacked(Weights *w, Err *e) {
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        if (v->n_dim != 3 || !strstr(v->name, ".experts.")) continue;
        return err_set(
            e,
            "%s: tensor %s has 3 dimensions: the adapter is in the expert-major layout (E, r, "
            "in)/(E, out, r); PEFT's fused layout is 2-D, (E*r, in)/(out, r*E)",
            v->file, v->name);
    }
    return 0;
}

static int plan_site(Plan *plan, const Adapter *a, const Model *m, const PeftConfig *c, Weights *w,
                     int i, Err *e) {
    const Site *s = &m->site[i];
    Learn *l = &plan->learn[i];
    if (s->layer < 0 || !peft_layer_named(c->layers, s->layer)) return 0;
    if (peft_list_saves(c->saved, s)) {
        l->full = l->saved = true;
        return 0;
    }
    bool in = false;
    if (!s->linear) return 0;
    if (site_is_parameter(s))
        in = peft_list_names(c->parameters, s);
    else if (json_is_array(c->modules))
        in = peft_list_names(c->modules, s);
    else { /* a regular expression or "all-linear": the file tells */
        char *name = adapter_tensor_name(m, plan, a, i, PARAM_LORA_A);
        in = weights_find(w, name) != NULL;
        mem_free(name);
    }
    if (!in) return 0;
    int out = site_is_parameter(s) ? 0 : peft_excludes(c, m, s, e);
    if (out) return out < 0 ? -1 : 0;
    float alpha;
    TRY(peft_site_numbers(c, a, m, s, &l->rank, &alpha, e));
    l->scale = adapter_scale(a, l->rank, alpha);
    return 0;
}

static bool version_before_0_19_1(const char *v) {
    int a = 0, b = 0, c = 0;
    if (!v || sscanf(v, "%d.%d.%d", &a, &b, &c) < 2) return false;
    return a == 0 && (b < 19 || (b == 19 && c < 1));
}

/* Whether a site's two tensors have the shapes of one orientation. */
static bool shapes_fit(const Model *m, const Plan *plan, const Adapter *a, Weights *w, int site,
                       bool transposed) {
    PartList list = {0};
    bool fit = true;
    add_site(&list, m, plan, a, site, transposed, false);
    for (int i = 0; i < list.n; i++) {
        const Part *p = &list.p[i];
        const WeightView *v = weights_find(w, p->name);
        fit &= v && v->n_dim == 2 && v->dim[0] == p->dim[0] && v->dim[1] == p->dim[1];
    }
    parts_free(&list);
    return fit;
}

/* Which of inputs and outputs lora_A has. Wherever a projection's sizes differ its shapes tell, for
 * all of the file; where none does, the version that wrote it. */
static int find_orientation(Adapter *a, const Model *m, const Plan *plan, const PeftConfig *c,
                            const AdapterDir *d, Err *e) {
    const char *square = NULL;
    for (int i = 0; i < plan->n; i++) {
        if (!site_is_parameter(&m->site[i]) || !plan->learn[i].rank) continue;
        bool new = shapes_fit(m, plan, a, d->weights, i, false),
             old = shapes_fit(m, plan, a, d->weights, i, true);
        a->transposed |= old && !new;
        if (new != old) return 0;
        if (new) square = m->site[i].name;
    }
    if (!square) return 0;
    a->transposed = version_before_0_19_1(c->version);
    if (c->version || d->manifest) return 0;
    return err_set(e,
                   "%s: with as many inputs as outputs the orientation of lora_A of %s cannot be "
                   "seen, and %s names no peft_version; add the version that wrote it",
                   d->path, square, c->file);
}

/* The key and moesmith.json may name the order; what is said need not be guessed. */
static int said_order(const AdapterDir *d, const char **order, Err *e) {
    const char *note = json_string_value(json_object_get(d->manifest, "expert_lora_b_order"));
    *order = d->b_order ? d->b_order : note;
    if (!d->b_order || !note || !strcmp(d->b_order, note)) return 0;
    return err_set(e, "lora_b_order %s contradicts %s/moesmith.json, which says %s: leave it out",
                   d->b_order, d->path, note);
}

static int find_column_order(Adapter *a, const Model *m, const Plan *plan, const AdapterDir *d,
                             Err *e) {
    OrderSigns signs = {0};
    const char *example = NULL, *order;
    TRY(said_order(d, &order, e));
    if (order) {
        a->b_major = !strcmp(order, "expert_major");
        return 0;
    }
    for (int i = 0; i < plan->n; i++) {
        if (!site_is_parameter(&m->site[i]) || !plan->learn[i].rank) continue;
        char *name = adapter_tensor_name(m, plan, a, i, PARAM_LORA_B);
        const WeightView *v = weights_find(d->weights, name);
        mem_free(name);
        bool whole = v && v->n_dim == 2 && dtype_is_float(v->dtype) &&
                     v->dim[1] == (int64_t)plan->learn[i].rank * m->dims.n_experts;
        if (whole) order_add(&signs, v, m->dims.n_experts, plan->learn[i].rank), example = v->name;
    }
    if (!order_looks_expert_major(&signs)) return 0;
    return err_set(e,
                   "%s: the columns of lora_B of the experts (%s, ...) look expert-major (column "
                   "e*r + j); PEFT's order is expert-fastest (column j*E + e): say which it is "
                   "with lora_b_order: expert_major or expert_fastest",
                   d->path, example);
}

/* moesmith.json tells which parts of a saved router learn. */
static void apply_manifest(Plan *plan, Adapter *a, const Model *m, const json_t *manifest) {
    const json_t *train = json_object_get(manifest, "router_train");
    if (!json_is_array(train)) return;
    a->router_summed = json_list_has(train, "lora");
    const char *proj = a->router_summed ? "lora" : "full";
    for (int i = 0; i < plan->n; i++) {
        const Site *s = &m->site[i];
        if (s->row->kind != KIND_ROUTER || !plan->learn[i].saved) continue;
        plan->learn[i].full = json_list_has(train, s->linear ? proj : strrchr(s->name, '.') + 1);
    }
}

static int plan_peft(Plan *plan, Adapter *a, const Model *m, const AdapterDir *d, Err *e) {
    PeftConfig c;
    TRY(peft_config_read(&c, a, d, e));
    TRY(refuse_stacked(d->weights, e));
    TRY(peft_names_prefix(a, d->weights, d->path, e));
    /* backwards: names depend on what is wrapped later */
    for (int i = plan->n - 1; i >= 0; i--) TRY(plan_site(plan, a, m, &c, d->weights, i, e));
    TRY(find_orientation(a, m, plan, &c, d, e));
    TRY(find_column_order(a, m, plan, d, e));
    apply_manifest(plan, a, m, d->manifest);
    return 0;
}

static json_t *config(const Model *m, const Plan *plan, const Adapter *a) {
    return adapter_config_json(m, plan, a, false);
}

const AdapterForm adapter_form_peft = {.name = "peft",
                                       .file = "adapter_model.safetensors",
                                       .claims = claims,
                                       .plan = plan_peft,
                                       .parts = parts,
                                       .write = write_peft,
                                       .config = config};
