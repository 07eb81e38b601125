/* adapter.c - planning what an adapter covers, and writing it in PEFT's form. */
#include "adapter.h"
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/safetensors.h"
#include "adapter_names.h"
#include "merge.h"

/* The version whose layout this is; readers use it to tell layouts apart. */
#define PEFT_LAYOUT "0.19.1"

void adapter_free(Adapter *a) {
    mem_free(a->prefix);
    mem_free(a->dir);
    mem_free(a->base);
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

/* Which bit of the spec a router tensor answers to. */
static unsigned router_bits(const Site *s) {
    if (s->linear) return ROUTER_LORA | ROUTER_FULL;
    return site_matches(s, "router.scale") ? ROUTER_SCALE : ROUTER_EXPERT_SCALE;
}

static void plan_router(Plan *plan, const Adapter *a, const Model *m, const AdapterSpec *spec) {
    bool whole_module = spec->router & (ROUTER_SCALE | ROUTER_EXPERT_SCALE);
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        Learn *l = &plan->learn[i];
        if (s->row->kind != KIND_ROUTER || !layer_wanted(spec->router_layers, s->layer)) continue;
        unsigned bits = router_bits(s) & spec->router;
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

/* ---- tensors ---- */

/* What one entry of the file is made of. */
typedef struct Source {
    const Param *param;
    const Site *site;
    const float *value; /* the weight or its gradient, in memory's layout */
    bool sum; /* written with its own adapter added: see ROUTER_LORA beside ROUTER_SCALE */
} Source;

/* lora_B of fused experts: memory (E,O,R), file (O, R*E) with the expert fastest. */
static void fill_expert_b(const Source *src, int64_t first, int64_t n, float *dst) {
    const Tensor *b = src->param->tensor;
    int64_t E = b->dim[0], O = b->dim[1], R = b->dim[2];
    for (int64_t i = 0; i < n; i++) {
        int64_t o = (first + i) / (R * E), j = (first + i) / E % R, e = (first + i) % E;
        dst[i] = src->value[(e * O + o) * R + j];
    }
}

static int fill_param(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    const Source *src = ctx;
    (void)e;
    if (src->sum) {
        site_values(src->site, first, n, dst);
    } else if (src->param->role == PARAM_LORA_B && src->param->tensor->n_dim == 3) {
        fill_expert_b(src, first, n, dst);
    } else {
        memcpy(dst, src->value + first, (size_t)n * 4);
    }
    return 0;
}

typedef struct Entries {
    SafetensorsEntry *at;
    Source *src;
    int n;
} Entries;

static void entries_free(Entries *x) {
    for (int i = 0; i < x->n; i++) mem_free((char *)x->at[i].name);
    mem_free(x->at);
    mem_free(x->src);
}

static void add_entry(Entries *x, char *name, Source src, int n_dim, const int64_t *dim) {
    x->src[x->n] = src;
    x->at[x->n] = (SafetensorsEntry){
        .name = name, .dtype = DT_f32, .n_dim = n_dim, .fill = fill_param, .ctx = &x->src[x->n]};
    memcpy(x->at[x->n].dim, dim, sizeof *dim * (size_t)n_dim);
    x->n++;
}

/* A router whose scales are saved whole holds its adapter as a sum: PEFT cannot do both. */
static bool router_summed(const Model *m, const Plan *plan, int site) {
    const Site *s = &m->site[site];
    if (s->row->kind != KIND_ROUTER || !s->linear || !plan->learn[site].rank) return false;
    for (int i = 0; i < m->n_sites; i++) {
        if (m->site[i].layer == s->layer && m->site[i].row->kind == KIND_ROUTER &&
            plan->learn[i].saved)
            return true;
    }
    return false;
}

static void add_param_entry(Entries *x, Model *m, const ParamSet *ps, const Plan *plan,
                            const Adapter *a, const Param *p, bool grads) {
    const Site *s = &m->site[p->site];
    const Tensor *t = p->tensor;
    bool sum = !grads && router_summed(m, plan, p->site);
    int64_t dim[3];
    int n_dim = t->n_dim;
    memcpy(dim, t->dim, sizeof dim);
    if (!a) {
        add_entry(x, mem_copy_text(s->name),
                  (Source){p, s, grads ? ps->grad + p->at : ps->weight + p->at, false}, n_dim, dim);
        return;
    }
    if (sum && p->role == PARAM_LORA_B) return; /* a stands for both */
    if (p->role != PARAM_WHOLE && n_dim == 3) {
        bool is_a = p->role == PARAM_LORA_A;
        dim[0] = is_a ? t->dim[0] * t->dim[1] : t->dim[1];
        dim[1] = is_a ? t->dim[2] : t->dim[2] * t->dim[0];
        n_dim = 2;
    }
    if (sum) n_dim = site_dims(m, s, dim);
    add_entry(x, adapter_tensor_name(m, plan, a, p->site, sum ? PARAM_WHOLE : p->role),
              (Source){p, s, grads ? ps->grad + p->at : ps->weight + p->at, sum}, n_dim, dim);
}

static Entries entries_new(Model *m, const ParamSet *ps, const Plan *plan, const Adapter *a,
                           bool grads) {
    Entries x = {mem_alloc(sizeof *x.at * (size_t)ps->n), mem_alloc(sizeof *x.src * (size_t)ps->n),
                 0};
    for (int i = 0; i < ps->n; i++) {
        if (!grads || ps->param[i].learns)
            add_param_entry(&x, m, ps, plan, a, &ps->param[i], grads);
    }
    return x;
}

int params_write_grads(const char *path, Model *m, const ParamSet *ps, const Plan *plan,
                       const Adapter *a, Err *e) {
    Entries x = entries_new(m, ps, plan, a, true);
    int bad = safetensors_write(path, x.at, x.n, NULL, 0, e);
    entries_free(&x);
    return bad;
}

/* ---- adapter_config.json ---- */

/* The name a row goes by in target lists: "q_proj", "router.proj", "experts.gate_up_proj". */
static char *row_suffix(const Site *s) {
    char *module = site_module(s);
    const char *last = strrchr(module, '.');
    bool pair = s->row->kind == KIND_ROUTER || site_is_parameter(s);
    while (pair && last > module && *(last - 1) != '.') last--;
    char *out = mem_copy_text(pair ? last : last + 1);
    mem_free(module);
    return out;
}

/* Which tensors a list is about. */
typedef bool (*Chooses)(const Model *m, const Plan *plan, int site);
static bool lora_module(const Model *m, const Plan *plan, int i) {
    return plan->learn[i].rank && !site_is_parameter(&m->site[i]) && !router_summed(m, plan, i);
}
static bool lora_parameter(const Model *m, const Plan *plan, int i) {
    return plan->learn[i].rank && site_is_parameter(&m->site[i]);
}
static bool saved_module(const Model *m, const Plan *plan, int i) {
    const Site *s = &m->site[i];
    if (s->row->kind == KIND_ROUTER && !s->linear) return false; /* its projection stands for it */
    return plan->learn[i].full || plan->learn[i].saved || router_summed(m, plan, i);
}

/* Names for a list: a suffix where every layer that has the tensor is in, one name a layer else. */
static void list_names(json_t *list, const Model *m, const Plan *plan, Chooses chooses) {
    for (const TensorRow *r = m->family->layer_rows; r->hf; r++) {
        int has = 0, in = 0;
        char *suffix = NULL;
        for (int i = 0; i < m->n_sites; i++) {
            if (m->site[i].row != r) continue;
            has++, in += chooses(m, plan, i);
            if (!suffix) suffix = row_suffix(&m->site[i]);
        }
        if (in && in == has) json_array_append_new(list, json_string(suffix));
        for (int i = 0; i < m->n_sites && in && in < has; i++) {
            if (m->site[i].row != r || !chooses(m, plan, i)) continue;
            char *module = site_module(&m->site[i]);
            json_array_append_new(list, json_string(module + strlen(m->prefix)));
            mem_free(module);
        }
        mem_free(suffix);
    }
}

/* modules_to_save names a whole router where its scales are saved, its projection else. */
static json_t *modules_to_save(const Model *m, const Plan *plan) {
    json_t *list = json_array();
    list_names(list, m, plan, saved_module);
    bool whole = false;
    for (int i = 0; i < plan->n; i++)
        whole |= m->site[i].row->kind == KIND_ROUTER && !m->site[i].linear && plan->learn[i].saved;
    for (size_t k = 0; whole && k < json_array_size(list); k++) {
        const char *name = json_string_value(json_array_get(list, k)),
                   *proj = strstr(name, "router.proj");
        if (proj)
            json_array_set_new(list, k,
                               json_stringn(name, (size_t)(proj - name) + strlen("router")));
    }
    if (json_array_size(list)) return list;
    json_decref(list);
    return json_null();
}

/* Ranks and alphas that differ from the adapter's own, by the module's whole name. */
static void patterns(json_t *ranks, json_t *alphas, const Model *m, const Plan *plan,
                     const Adapter *a) {
    for (int i = 0; i < plan->n; i++) {
        const Learn *l = &plan->learn[i];
        if (!l->rank || router_summed(m, plan, i)) continue;
        char *module = site_module(&m->site[i]);
        const char *key = module + strlen(m->prefix);
        double alpha = (double)l->scale * (a->rslora ? sqrt(l->rank) : l->rank);
        if (l->rank != a->rank) json_object_set_new(ranks, key, json_integer(l->rank));
        if (fabs(alpha - (double)a->alpha) > 1e-5 * fabs(alpha))
            json_object_set_new(alphas, key, json_real(alpha));
        mem_free(module);
    }
}

static json_t *number(float x) {
    return x == floorf(x) ? json_integer((json_int_t)x) : json_real((double)x);
}

static json_t *adapter_config(const Model *m, const Plan *plan, const Adapter *a) {
    json_t *modules = json_array(), *parameters = json_array(), *ranks = json_object(),
           *alphas = json_object();
    list_names(modules, m, plan, lora_module);
    list_names(parameters, m, plan, lora_parameter);
    patterns(ranks, alphas, m, plan, a);
    if (!json_array_size(parameters)) json_decref(parameters), parameters = json_null();
    /* a bare suffix would also name linears of the image and sound towers, which PEFT cannot wrap
     */
    bool towers = !strcmp(m->modules, "model.language_model.");
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:i, s:o, s:b, s:b, s:f, s:s, s:b, s:b, s:b, s:o, "
                     "s:o, s:o, s:o, s:o, s:o}",
                     "peft_type", "LORA", "task_type", "CAUSAL_LM", "peft_version", PEFT_LAYOUT,
                     "base_model_name_or_path", a->base ? a->base : m->dir, "inference_mode", 1,
                     "r", a->rank, "lora_alpha", number(a->alpha), "use_rslora", a->rslora,
                     "use_dora", 0, "lora_dropout", 0.0, "bias", "none", "lora_bias", 0,
                     "fan_in_fan_out", 0, "init_lora_weights", 1, "rank_pattern", ranks,
                     "alpha_pattern", alphas, "modules_to_save", modules_to_save(m, plan),
                     "target_modules", modules, "target_parameters", parameters, "exclude_modules",
                     towers ? json_string(".*(vision_tower|audio_tower|embed_vision|embed_audio).*")
                            : json_null());
}

/* moesmith.json: which parts of a saved router learn (lora: its projection holds the sum), and the
 * layout in words. */
static json_t *manifest(const Model *m, const Plan *plan, const Adapter *a) {
    bool summed = a->router_summed;
    for (int i = 0; i < plan->n; i++) summed |= router_summed(m, plan, i);
    const struct {
        const char *suffix, *word;
    } names[] = {{"router.proj", summed ? "lora" : "full"},
                 {"router.scale", "scale"},
                 {"router.per_expert_scale", "per_expert_scale"}};
    json_t *router = json_array();
    for (size_t k = 0; k < COUNT_OF(names); k++) {
        bool in = false;
        for (int i = 0; i < plan->n; i++)
            in |= m->site[i].row->kind == KIND_ROUTER &&
                  (plan->learn[i].full || router_summed(m, plan, i)) &&
                  site_matches(&m->site[i], names[k].suffix);
        if (in) json_array_append_new(router, json_string(names[k].word));
    }
    return json_pack("{s:i, s:s, s:s, s:o}", "format", 1, "expert_lora_layout", "peft-fused",
                     "expert_lora_b_order", "expert_fastest", "router_train", router);
}

static int write_json(const char *dir, const char *name, json_t *value, Err *e) {
    char *path = files_join(dir, name), *text = json_dumps(value, JSON_INDENT(1) | JSON_SORT_KEYS);
    Buf line = {0};
    buf_printf(&line, "%s\n", text);
    int bad = files_write_whole(path, line.p, line.n, e);
    buf_free(&line);
    mem_free(path);
    mem_free(text);
    json_decref(value);
    return bad;
}

int adapter_write(const char *dir, Model *m, const ParamSet *ps, const Plan *plan, const Adapter *a,
                  Err *e) {
    Entries x = entries_new(m, ps, plan, a, false);
    char *path = files_join(dir, "adapter_model.safetensors");
    int bad = safetensors_write(path, x.at, x.n, NULL, 0, e);
    mem_free(path);
    entries_free(&x);
    if (bad) return -1;
    TRY(write_json(dir, "adapter_config.json", adapter_config(m, plan, a), e));
    return write_json(dir, "moesmith.json", manifest(m, plan, a), e);
}
