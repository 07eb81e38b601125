/* adapter_even.c - see adapter_even.h. */
#include "adapter_even.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/files.h"
#include "adapter_config.h"
#include "merge.h"

/* How a site is written. */
typedef enum Written { NOTHING, AS_LEARNED, AS_CHANGE, AS_ZERO } Written;
typedef struct EvenSite {
    Written how;
    bool apart;
    float *change; /* of AS_CHANGE: (O,I), by how much the weight became another */
} EvenSite;
typedef struct Even {
    const AdapterForm *form;
    const Model *m;
    Plan plan; /* one rank, one scale */
    Adapter adapter;
    EvenSite *site;
    float *fold; /* per site: what B is multiplied with */
} Even;

static void even_free(Even *v) {
    for (int i = 0; i < v->plan.n && v->site; i++) mem_free(v->site[i].change);
    mem_free(v->site);
    mem_free(v->fold);
    plan_free(&v->plan);
}

/* ---- routers that learned otherwise than by low rank ---- */

static const Site *router_scale(const Model *m, int layer) {
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        if (s->layer == layer && adapter_router_bits(s) == ROUTER_SCALE) return s;
    }
    return NULL;
}

static bool changed(const Site *s) {
    int64_t n = tensor_numel(s->base);
    float *was = mem_alloc((size_t)n * 4), *is = mem_alloc((size_t)n * 4);
    weight_values(s->base, 0, n, was);
    site_values(s, 0, n, is);
    bool other = memcmp(was, is, (size_t)n * 4) != 0;
    mem_free(was);
    mem_free(is);
    return other;
}

/* W' diag(scale' / scale) - W: the router reads scale * x, so its scale belongs to its columns.
 * NULL where a zero cannot become another number that way. */
static float *router_change(const Site *proj, const Site *scale) {
    int64_t n = tensor_numel(proj->base), I = tensor_cols(proj->base);
    float *is = mem_alloc((size_t)n * 4), *was = mem_alloc((size_t)n * 4),
          *ratio = mem_alloc((size_t)I * 8), *old = ratio + I;
    site_values(proj, 0, n, is);
    weight_values(proj->base, 0, n, was);
    for (int64_t c = 0; c < I; c++) ratio[c] = old[c] = 1;
    if (scale) {
        site_values(scale, 0, I, ratio);
        weight_values(scale->base, 0, I, old);
    }
    bool possible = true;
    for (int64_t k = 0; k < n; k++) {
        int64_t c = k % I;
        double by = old[c] == ratio[c] ? 1 : (double)ratio[c] / (double)old[c];
        possible &= isfinite(by) != 0;
        is[k] = (float)((double)is[k] * by - (double)was[k]);
    }
    mem_free(was);
    mem_free(ratio);
    if (possible) return is;
    mem_free(is);
    return NULL;
}

static int refuse(const Even *v, const Site *s, const char *why, Err *e) {
    return err_set(e, "%s %s, which the form %s cannot carry; peft and merged can", s->name, why,
                   v->form->name);
}

static int take_router(Even *v, const Plan *plan, int i, Err *e) {
    const Site *s = &v->m->site[i], *scale = router_scale(v->m, s->layer);
    bool rescaled = scale && changed(scale);
    if (!rescaled && !plan->learn[i].full && !plan->learn[i].saved) {
        v->site[i].how = plan->learn[i].rank ? AS_LEARNED : NOTHING;
        return 0;
    }
    if (!rescaled && !changed(s)) return 0;
    v->site[i].change = router_change(s, rescaled ? scale : NULL);
    v->site[i].how = AS_CHANGE;
    return v->site[i].change ? 0 : refuse(v, scale, "became other than 0", e);
}

static int take_site(Even *v, const Plan *plan, int i, Err *e) {
    const Site *s = &v->m->site[i];
    const Learn *l = &plan->learn[i];
    if (s->row->kind == KIND_ROUTER && s->linear) return take_router(v, plan, i, e);
    if (l->rank) v->site[i].how = AS_LEARNED;
    if (!l->full && !l->saved) return 0;
    if (adapter_router_bits(s) == ROUTER_SCALE) return 0; /* see above */
    return changed(s) ? refuse(v, s, "learned whole", e) : 0;
}

/* ---- one rank, one scale ---- */

/* Gate uses the first half of the ranks alone and up the second: two adapters side by side. */
static bool is_apart(const Site *s) {
    const Tensor *b = s->linear->b;
    if (site_halves(s) == 1 || tensor_cols(b) % 2) return false;
    int64_t O = b->dim[1], R = b->dim[2];
    bool used = false;
    for (int64_t row = 0; row < tensor_rows(b); row++) {
        bool up = row % O >= O / 2;
        const float *own = f32(b) + row * R + (up ? R / 2 : 0),
                    *other = f32(b) + row * R + (up ? 0 : R / 2);
        for (int64_t j = 0; j < R / 2; j++) {
            if (other[j] != 0) return false;
            used |= own[j] != 0;
        }
    }
    return used;
}

/* The rank a site takes by itself. */
static int64_t own_rank(const Even *v, const Plan *plan, int i) {
    if (v->site[i].how == AS_CHANGE) return tensor_rows(v->m->site[i].base);
    if (v->site[i].how != AS_LEARNED) return 0;
    return plan->learn[i].rank / (v->site[i].apart ? 2 : 1);
}

/* An expert that has one of its projections has to have all, in some engines. */
static void add_zeros(Even *v) {
    for (int i = 0; i < v->plan.n; i++) {
        const Site *s = &v->m->site[i];
        if (!site_is_parameter(s) || v->site[i].how != NOTHING) continue;
        for (int k = 0; k < v->plan.n; k++) {
            const Site *o = &v->m->site[k];
            if (o->layer == s->layer && site_is_parameter(o) && v->site[k].how == AS_LEARNED)
                v->site[i].how = AS_ZERO;
        }
    }
}

/* The scale that everything learned has in common; 0: there is none. */
static float common_scale(const Even *v, const Plan *plan) {
    float common = 0;
    for (int i = 0; i < plan->n; i++) {
        if (v->site[i].how == AS_CHANGE) return 0;
        if (v->site[i].how != AS_LEARNED) continue;
        if (common != 0 && plan->learn[i].scale != common) return 0;
        common = plan->learn[i].scale;
    }
    return common;
}

static void make_even(Even *v, const Plan *plan, bool keep, Buf *notes) {
    int64_t rank = 1, least = INT64_MAX;
    float scale = keep ? common_scale(v, plan) : 0;
    for (int i = 0; i < plan->n; i++) {
        if (v->site[i].how == AS_LEARNED) v->site[i].apart = is_apart(&v->m->site[i]);
        int64_t own = own_rank(v, plan, i);
        rank = max64(rank, own);
        if (own) least = min64(least, own);
    }
    v->adapter.rank = (int)rank;
    v->adapter.alpha = scale == 0 ? (float)rank : adapter_alpha(&v->adapter, (int)rank, scale);
    for (int i = 0; i < plan->n; i++) {
        if (v->site[i].how == NOTHING) continue;
        v->plan.learn[i] = (Learn){.rank = (int)rank, .scale = scale == 0 ? 1 : scale};
        v->fold[i] = scale == 0 ? plan->learn[i].scale : 1;
    }
    if (least < rank)
        buf_printf(notes, "all adapters have rank %ld, zeros fill up those of less (%ld)\n",
                   (long)rank, (long)least);
}

static void tell_changes(const Even *v, Buf *notes) {
    int n = 0;
    for (int i = 0; i < v->plan.n; i++) n += v->site[i].how == AS_CHANGE;
    if (n)
        buf_printf(notes,
                   "%d routers that learned whole are written as adapters of rank %d, which say "
                   "exactly the same\n",
                   n, v->m->dims.n_experts);
}

static int even_new(Even *v, const AdapterForm *form, const Model *m, const Plan *plan,
                    const Adapter *a, bool keep, Buf *notes, Err *e) {
    *v = (Even){form, m, plan_new(m), *a, NULL, NULL};
    v->adapter.rslora = false;
    v->site = mem_alloc(sizeof *v->site * (size_t)plan->n);
    v->fold = mem_alloc(sizeof *v->fold * (size_t)plan->n);
    for (int i = 0; i < plan->n; i++) TRY(take_site(v, plan, i, e));
    if (form->all_experts) add_zeros(v);
    make_even(v, plan, keep, notes);
    tell_changes(v, notes);
    return 0;
}

/* ---- out ---- */

static PartView even_view(const void *ctx, const Part *p) {
    const Even *v = ctx;
    const Site *s = &v->m->site[p->site];
    const EvenSite *x = &v->site[p->site];
    bool is_a = p->role == PARAM_LORA_A;
    if (x->how == AS_ZERO) return (PartView){0};
    if (x->how == AS_CHANGE) {
        if (!is_a) return (PartView){.diagonal = true};
        return part_view(p, x->change, 2, s->base->dim, false);
    }
    Tensor *t = is_a ? s->linear->a : s->linear->b;
    PartView view = part_view(p, f32(t), t->n_dim, t->dim, x->apart);
    if (!is_a) view.scale = v->fold[p->site];
    return view;
}

static int write_even(const Even *v, const char *dir, Err *e) {
    PartList list = {0};
    v->form->parts(&list, v->m, &v->plan, &v->adapter, NULL);
    char *path = files_join(dir, v->form->file);
    int bad = list.n ? parts_write(path, &list, even_view, v, e)
                     : err_set(e, "the adapter changes nothing, so the form %s would be empty",
                               v->form->name);
    mem_free(path);
    parts_free(&list);
    if (bad) return -1;
    return adapter_write_json(dir, "adapter_config.json",
                              v->form->config(v->m, &v->plan, &v->adapter), e);
}

int adapter_write_even(const char *dir, const AdapterForm *form, const Model *m, const Plan *plan,
                       const Adapter *a, bool keep, Buf *notes, Err *e) {
    Even v;
    int bad = even_new(&v, form, m, plan, a, keep, notes, e);
    if (!bad) bad = write_even(&v, dir, e);
    even_free(&v);
    return bad;
}
