/* adapter_per_expert.c - PEFT's names with every expert's projections as modules of their own,
 * ...experts.E.gate_proj.lora_A.weight, all 2-D: what engines that keep experts apart read. Gate
 * and up share their A, each has half of the rows of B. */
#include <ctype.h>
#include <string.h>
#include "adapter_config.h"
#include "adapter_names.h"

/* "base_model.model.model.layers.0.experts.3.up_proj.lora_B.weight". On the heap. */
static char *expert_name(const Model *m, const Adapter *a, int site, int64_t expert, int half,
                         ParamRole role) {
    char *module = site_module(&m->site[site]), *leaf = strrchr(module, '.');
    Buf name = {0};
    *leaf++ = 0;
    if (a->prefix)
        buf_add_text(&name, a->prefix);
    else
        buf_printf(&name, "base_model.model.%s", m->modules);
    const char *word = site_halves(&m->site[site]) == 1 ? leaf : half ? "up_proj" : "gate_proj";
    buf_printf(&name, "%s.%ld.%s.%s.weight", module + strlen(m->prefix), (long)expert, word,
               role == PARAM_LORA_A ? "lora_A" : "lora_B");
    mem_free(module);
    return name.p;
}

static void add_plain(PartList *out, const Model *m, const Plan *plan, const Adapter *a, Weights *w,
                      int site, int64_t outputs, int64_t inputs) {
    char *name = adapter_tensor_name(m, plan, a, site, PARAM_LORA_A);
    int64_t R = form_rank(w, name, 0, plan->learn[site].rank);
    part_plain(parts_add(out, name, site, PARAM_LORA_A), 0, R, inputs, false);
    name = adapter_tensor_name(m, plan, a, site, PARAM_LORA_B);
    part_plain(parts_add(out, name, site, PARAM_LORA_B), 0, outputs, R, false);
}

static void add_expert(PartList *out, const Model *m, const Adapter *a, int site, int64_t expert,
                       int half, int64_t R, const int64_t dim[3]) {
    int64_t O = dim[1] / site_halves(&m->site[site]), I = dim[2];
    for (ParamRole role = PARAM_LORA_A; role <= PARAM_LORA_B; role++) {
        Part *p = parts_add(out, expert_name(m, a, site, expert, half, role), site, role);
        p->expert = (int)expert;
        p->half = site_halves(&m->site[site]) == 1 ? PART_ALL : half;
        part_plain(p, 0, role == PARAM_LORA_A ? R : O, role == PARAM_LORA_A ? I : R, false);
    }
}

static int64_t rank_of_experts(const Model *m, const Plan *plan, const Adapter *a, Weights *w,
                               int site) {
    char *name = expert_name(m, a, site, 0, 0, PARAM_LORA_A);
    int64_t R = form_rank(w, name, 0, plan->learn[site].rank);
    mem_free(name);
    return R;
}

static void parts(PartList *out, const Model *m, const Plan *plan, const Adapter *a, Weights *w) {
    for (int i = 0; i < plan->n; i++) {
        int64_t dim[3];
        int n = site_dims(m, &m->site[i], dim);
        if (!plan->learn[i].rank) continue;
        if (n == 2) {
            add_plain(out, m, plan, a, w, i, dim[0], dim[1]);
            continue;
        }
        int64_t R = rank_of_experts(m, plan, a, w, i);
        for (int64_t x = 0; x < dim[0]; x++)
            for (int half = 0; half < site_halves(&m->site[i]); half++)
                add_expert(out, m, a, i, x, half, R, dim);
    }
}

static bool claims(const AdapterDir *d) {
    for (int i = 0; i < weights_count(d->weights); i++) {
        const char *at = strstr(weights_at(d->weights, i)->name, ".experts.");
        if (at && isdigit((unsigned char)at[strlen(".experts.")])) return true;
    }
    return false;
}

/* The file tells what is adapted: a list of suffixes would name the dense MLP too. */
static int plan_site(Plan *plan, const Adapter *a, const Model *m, const PeftConfig *c,
                     const AdapterDir *d, int i, Err *e) {
    const Site *s = &m->site[i];
    if (s->layer < 0 || !s->linear) return 0;
    char *name = site_is_parameter(s) ? expert_name(m, a, i, 0, 0, PARAM_LORA_A)
                                      : adapter_tensor_name(m, plan, a, i, PARAM_LORA_A);
    int64_t rank = form_rank(d->weights, name, 0, 0);
    int said;
    float alpha;
    int bad = peft_site_numbers(c, a, m, s, &said, &alpha, e);
    if (!bad && rank && rank != said)
        bad = err_set(e, "%s: tensor %s has rank %ld, adapter_config.json says %d", d->path, name,
                      (long)rank, said);
    mem_free(name);
    if (bad || !rank) return bad;
    plan->learn[i].rank = said;
    plan->learn[i].scale = adapter_scale(a, said, alpha);
    return 0;
}

static int plan_per_expert(Plan *plan, Adapter *a, const Model *m, const AdapterDir *d, Err *e) {
    PeftConfig c;
    TRY(peft_config_read(&c, a, d, e));
    TRY(peft_names_prefix(a, d->weights, d->path, e));
    if (json_array_size(c.saved))
        return err_set(e,
                       "%s: modules_to_save beside experts one by one cannot be read; PEFT's fused "
                       "form can carry both",
                       c.file);
    for (int i = 0; i < plan->n; i++) TRY(plan_site(plan, a, m, &c, d, i, e));
    return 0;
}

static json_t *config(const Model *m, const Plan *plan, const Adapter *a) {
    return adapter_config_json(m, plan, a, true);
}

const AdapterForm adapter_form_per_expert = {.name = "peft-per-expert",
                                             .file = "adapter_model.safetensors",
                                             .even = true,
                                             .all_experts = true,
                                             .claims = claims,
                                             .plan = plan_per_expert,
                                             .parts = parts,
                                             .config = config};
