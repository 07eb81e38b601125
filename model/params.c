/* params.c - see params.h. */
#include "params.h"
#include <math.h>
#include <string.h>
#include "../autograd/amount.h"
#include "../autograd/weight.h"

Plan plan_new(const Model *m) {
    return (Plan){mem_alloc(sizeof(Learn) * (size_t)m->n_sites), m->n_sites};
}

void plan_free(Plan *p) {
    mem_free(p->learn);
    *p = (Plan){0};
}

char *site_module(const Site *s) {
    char *name = mem_copy_text(s->name);
    size_t n = strlen(name), w = strlen(".weight");
    if (n > w && !strcmp(name + n - w, ".weight")) name[n - w] = 0;
    return name;
}

bool site_matches(const Site *s, const char *pattern) {
    char *name = site_module(s);
    size_t n = strlen(name), p = strlen(pattern);
    bool match = n >= p && !strcmp(name + n - p, pattern) && (n == p || name[n - p - 1] == '.');
    mem_free(name);
    return match;
}

bool site_is_parameter(const Site *s) { return s->row->dim[2] != DIM_NONE; }

/* ---- the blocks ---- */

static void add_param(ParamSet *ps, int site, ParamRole role, bool learns, int n_dim,
                      const int64_t *dim) {
    Param *p = &ps->param[ps->n++];
    int64_t n = 1;
    for (int i = 0; i < n_dim; i++) n *= dim[i];
    *p = (Param){tensor_over(&ps->memory, DT_f32, n_dim, dim, NULL), site, role, ps->numel, learns};
    p->tensor->wants_grad = learns;
    ps->numel += n;
}

/* a (R,I), b (O,R) of w (O,I); with the experts in front where w has them. */
static void add_lora(ParamSet *ps, const Model *m, int site, int rank) {
    int64_t w[3], a[3], b[3];
    int n = site_dims(m, &m->site[site], w);
    memcpy(a, w, sizeof a);
    memcpy(b, w, sizeof b);
    a[n - 2] = rank;
    b[n - 1] = rank;
    add_param(ps, site, PARAM_LORA_A, true, n, a);
    add_param(ps, site, PARAM_LORA_B, true, n, b);
}

static void list_params(ParamSet *ps, const Model *m, const Plan *plan) {
    for (int i = 0; i < plan->n; i++) {
        const Learn *l = &plan->learn[i];
        int64_t dim[3];
        int n_dim = site_dims(m, &m->site[i], dim);
        if (l->rank) add_lora(ps, m, i, l->rank);
        if (l->full || l->saved) add_param(ps, i, PARAM_WHOLE, l->full, n_dim, dim);
    }
}

/* ---- first values ---- */

/* Where the adapters' streams begin: far from all others drawn from the same seed. */
static const uint64_t STREAM_INIT = 0x696e6974ull << 32;

static void start_value(ParamSet *ps, Model *m, Param *p, uint64_t seed) {
    Site *s = &m->site[p->site];
    Tensor *x = p->tensor;
    int64_t n = tensor_numel(x);
    float bound = 1 / sqrtf((float)tensor_cols(x)); /* kaiming_uniform with a = sqrt(5) */
    Rng rng = {seed, STREAM_INIT + (uint64_t)(p - ps->param), 0};
    if (p->role == PARAM_WHOLE) weight_values(s->base, 0, n, f32(x));
    if (p->role == PARAM_LORA_B) memset(f32(x), 0, (size_t)n * 4);
    for (int64_t i = 0; i < n && p->role == PARAM_LORA_A; i++)
        f32(x)[i] = bound * (float)(2 * rng_uniform(&rng) - 1);
}

static void attach(Model *m, const Plan *plan, const Param *p) {
    Site *s = &m->site[p->site];
    if (p->role == PARAM_WHOLE) *s->slot = p->tensor;
    if (p->role == PARAM_LORA_A)
        s->linear->a = p->tensor, s->linear->s = plan->learn[p->site].scale;
    if (p->role == PARAM_LORA_B) s->linear->b = p->tensor;
    if (m->dims.tied) m->head = m->embed;
}

int params_open_shapes(ParamSet *ps, Model *m, const Plan *plan, Err *e) {
    *ps = (ParamSet){0};
    TRY(arena_open(&ps->memory, (size_t)256 << 30, e));
    ps->param = mem_alloc(sizeof *ps->param * 3 * (size_t)plan->n);
    list_params(ps, m, plan);
    for (int i = 0; i < ps->n; i++) {
        Param *p = &ps->param[i];
        p->tensor->name = m->site[p->site].name;
        if (p->learns)
            p->tensor->grad =
                tensor_over(&ps->memory, DT_f32, p->tensor->n_dim, p->tensor->dim, NULL);
        attach(m, plan, p);
    }
    return 0;
}

size_t params_bytes(const ParamSet *ps) {
    size_t block = ((size_t)ps->numel * 4 + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return ps->memory.top + (ps->weight ? 0 : 2 * block);
}

int params_fill(ParamSet *ps, Model *m, uint64_t seed, Err *e) {
    if ((size_t)ps->numel * 8 > mem_total()) {
        return err_set(
            e,
            "what learns has %s values and needs %s with its gradients; there are %s: lower "
            "lora_r, or let less learn",
            amount_count((double)ps->numel).text, amount_bytes((double)ps->numel * 8).text,
            amount_bytes((double)mem_total()).text);
    }
    ps->weight = arena_push(&ps->memory, (size_t)ps->numel * 4);
    ps->grad = arena_push(&ps->memory, (size_t)ps->numel * 4);
    for (int i = 0; i < ps->n; i++) {
        Param *p = &ps->param[i];
        p->tensor->data = ps->weight + p->at;
        if (p->learns) p->tensor->grad->data = ps->grad + p->at;
        start_value(ps, m, p, seed);
    }
    params_zero_grad(ps);
    return 0;
}

int params_open(ParamSet *ps, Model *m, const Plan *plan, uint64_t seed, Err *e) {
    TRY(params_open_shapes(ps, m, plan, e));
    return params_fill(ps, m, seed, e);
}

void params_close(ParamSet *ps) {
    mem_free(ps->param);
    arena_close(&ps->memory);
    *ps = (ParamSet){0};
}

void params_zero_grad(ParamSet *ps) { memset(ps->grad, 0, (size_t)ps->numel * 4); }
