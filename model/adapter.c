/* adapter.c - planning what a new adapter covers. */
#include "adapter.h"
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void adapter_free(Adapter *a) {
    mem_free(a->prefix);
    mem_free(a->dir);
    mem_free(a->base);
    mem_free(a->apart);
    *a = (Adapter){0};
}

static bool layer_wanted(const bool *layers, int layer) {
    return layer >= 0 && (!layers || layers[layer]);
}

float adapter_scale(const Adapter *a, int rank, float alpha) {
    return alpha / (a->rslora ? sqrtf((float)rank) : (float)rank);
}

/* ---- plans ---- */

/* Parameters are fused experts, modules everything else: "down_proj" of the dense MLP is not
 * "experts.down_proj". */
static int plan_pattern(Plan *plan, const Adapter *a, const Model *m, const char *pattern,
                        bool parameter, const bool *layers) {
    int hits = 0;
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        if (!s->linear || s->row->kind == KIND_ROUTER || s->layer < 0) continue;
        if (site_is_parameter(s) != parameter || !site_matches(s, pattern)) continue;
        hits++;
        if (!layer_wanted(layers, s->layer)) continue;
        plan->learn[i].rank = a->rank;
        plan->learn[i].scale = adapter_scale(a, a->rank, a->alpha);
    }
    return hits;
}

unsigned adapter_router_bits(const Site *s) {
    if (s->row->kind != KIND_ROUTER) return 0;
    if (s->linear) return ROUTER_LORA | ROUTER_FULL;
    return s->row->at == offsetof(Layer, router_scale) ? ROUTER_SCALE : ROUTER_EXPERT_SCALE;
}

static void plan_router(Plan *plan, const Adapter *a, const Model *m, const AdapterSpec *spec) {
    bool whole_module = spec->router & (ROUTER_SCALE | ROUTER_EXPERT_SCALE);
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        Learn *l = &plan->learn[i];
        if (s->row->kind != KIND_ROUTER || !layer_wanted(spec->router_layers, s->layer)) continue;
        unsigned bits = adapter_router_bits(s) & spec->router;
        l->full = bits & ~(unsigned)ROUTER_LORA;
        l->saved = whole_module;
        if (!(bits & ROUTER_LORA)) continue;
        l->rank = spec->router_rank;
        l->scale = adapter_scale(a, l->rank, a->alpha);
        l->saved = false; /* the file holds the sum, made while writing */
    }
}

int adapter_plan_new(Plan *plan, Adapter *a, const Model *m, const AdapterSpec *spec, Err *e) {
    *a = (Adapter){.rank = spec->rank, .alpha = spec->alpha, .rslora = spec->rslora};
    *plan = plan_new(m);
    for (int i = 0; i < spec->n_modules; i++) {
        if (!plan_pattern(plan, a, m, spec->modules[i], false, spec->layers)) {
            return err_set(e, "lora_target_modules: no linear of this model is named %s",
                           spec->modules[i]);
        }
    }
    for (int i = 0; i < spec->n_parameters; i++) {
        if (!plan_pattern(plan, a, m, spec->parameters[i], true, spec->layers)) {
            return err_set(
                e, "lora_target_parameters: this model has no %s%s", spec->parameters[i],
                m->dims.n_experts ? "" : " (it has no experts: set lora_target_parameters to [])");
        }
    }
    if (spec->router && !m->dims.n_experts)
        return err_set(e, "router.train: this model has no router");
    plan_router(plan, a, m, spec);
    for (int i = 0; i < plan->n; i++) {
        if (plan->learn[i].rank || plan->learn[i].full) return 0;
    }
    return err_set(
        e, "nothing would learn: name lora_target_modules, lora_target_parameters or router.train");
}

int plan_full(Plan *plan, const Model *m, const char *const *patterns, int n, Err *e) {
    *plan = plan_new(m);
    for (int k = 0; k < n; k++) {
        bool all = !strcmp(patterns[k], "all"), hit = all;
        for (int i = 0; i < m->n_sites; i++) {
            const Site *s = &m->site[i];
            char tail[256];
            snprintf(tail, sizeof tail, "*.%s", patterns[k]);
            bool match = all || !fnmatch(patterns[k], s->name, 0) || !fnmatch(tail, s->name, 0);
            if (!match || s->row->flags & ROW_BUFFER) continue;
            plan->learn[i].full = hit = true;
        }
        if (!hit)
            return err_set(e, "trainable: no parameter of this model matches \"%s\"", patterns[k]);
    }
    return 0;
}
