/* adapter_config.c - see adapter_config.h. */
#include "adapter_config.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/json.h"
#include "../data/tokenizer_regex.h"

/* The version whose layout this is; readers use it to tell layouts apart. */
#define PEFT_LAYOUT "0.19.1"

/* ---- out ---- */

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
    return plan->learn[i].rank && !site_is_parameter(&m->site[i]) &&
           !adapter_router_summed(m, plan, i);
}
static bool lora_parameter(const Model *m, const Plan *plan, int i) {
    return plan->learn[i].rank && site_is_parameter(&m->site[i]);
}
static bool saved_module(const Model *m, const Plan *plan, int i) {
    const Site *s = &m->site[i];
    if (s->row->kind == KIND_ROUTER && !s->linear) return false; /* its projection stands for it */
    return plan->learn[i].full || plan->learn[i].saved || adapter_router_summed(m, plan, i);
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
        if (!l->rank || adapter_router_summed(m, plan, i)) continue;
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

/* What PEFT takes for target_modules where nothing but modules_to_save learned. */
static const char NO_MODULES[] = "dummy-target-modules";

/* target_modules and target_parameters. Experts that are written one by one are modules. */
static void target_lists(json_t **modules, json_t **parameters, const Model *m, const Plan *plan,
                         bool per_expert) {
    static const char *const words[] = {"gate_proj", "up_proj", "down_proj"};
    *modules = json_array(), *parameters = json_array();
    list_names(*modules, m, plan, lora_module);
    list_names(*parameters, m, plan, lora_parameter);
    size_t n = json_array_size(*parameters);
    for (size_t k = 0; k < COUNT_OF(words) && per_expert && n; k++)
        if (!json_list_has(*modules, words[k]))
            json_array_append_new(*modules, json_string(words[k]));
    if (!n && !json_array_size(*modules)) json_decref(*modules), *modules = json_string(NO_MODULES);
    if (!n || per_expert) json_decref(*parameters), *parameters = json_null();
}

json_t *adapter_config_json(const Model *m, const Plan *plan, const Adapter *a, bool per_expert) {
    json_t *modules, *parameters, *ranks = json_object(), *alphas = json_object();
    target_lists(&modules, &parameters, m, plan, per_expert);
    patterns(ranks, alphas, m, plan, a);
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
json_t *adapter_manifest_json(const Model *m, const Plan *plan, const Adapter *a) {
    bool summed = a->router_summed;
    for (int i = 0; i < plan->n; i++) summed |= adapter_router_summed(m, plan, i);
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
                  (plan->learn[i].full || adapter_router_summed(m, plan, i)) &&
                  site_matches(&m->site[i], names[k].suffix);
        if (in) json_array_append_new(router, json_string(names[k].word));
    }
    return json_pack("{s:i, s:s, s:s, s:o}", "format", 1, "expert_lora_layout", "peft-fused",
                     "expert_lora_b_order", "expert_fastest", "router_train", router);
}

int adapter_write_json(const char *dir, const char *name, json_t *value, Err *e) {
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

/* ---- in ---- */

/* Switches of PEFT's that make another product of A and B, or of the base: on if neither null nor
 * false. */
static int check_switches(const PeftConfig *c, Err *e) {
    static const char *const keys[] = {
        "alora_invocation_tokens", "layer_replication", "use_qalora", "use_bdlora", "kasa_config",
        "monteclora_config",       "arrow_config"};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        const json_t *v = json_object_get(c->json, keys[i]);
        if (!v || json_is_null(v) || json_is_false(v)) continue;
        return err_set(e, "%s: %s: adapters with it cannot be read by this version; plain LoRA can",
                       c->file, keys[i]);
    }
    return 0;
}

static int check_supported(const PeftConfig *c, Err *e) {
    const char *type = "", *bias = "none", *init = "";
    bool dora = false, fan = false;
    TRY(json_require(c->json, "peft_type", c->file, e));
    TRY(json_get_text(c->json, "peft_type", &type, c->file, e));
    TRY(json_get_text(c->json, "bias", &bias, c->file, e));
    TRY(json_get_bool(c->json, "use_dora", &dora, c->file, e));
    TRY(json_get_bool(c->json, "fan_in_fan_out", &fan, c->file, e));
    if (json_is_string(json_object_get(c->json, "init_lora_weights")))
        init = json_string_value(json_object_get(c->json, "init_lora_weights"));
    if (strcmp(type, "LORA"))
        return err_set(e, "%s: peft_type is %s; LORA adapters can be read", c->file, type);
    if (dora)
        return err_set(e, "%s: use_dora: DoRA adapters cannot be read by this version", c->file);
    if (strcmp(bias, "none") || fan)
        return err_set(
            e,
            "%s: bias \"%s\", fan_in_fan_out %s: only bias none without fan_in_fan_out can be read",
            c->file, bias, fan ? "true" : "false");
    if (*init && strcmp(init, "gaussian") && strcmp(init, "orthogonal") && strcmp(init, "eva")) {
        return err_set(e,
                       "%s: init_lora_weights \"%s\" changes the base model; convert the adapter "
                       "to a plain LoRA first",
                       c->file, init);
    }
    return 0;
}

int peft_config_read(PeftConfig *c, Adapter *a, const AdapterDir *d, Err *e) {
    *c = (PeftConfig){.json = d->config, .file = d->config_file};
    TRY(check_supported(c, e));
    TRY(check_switches(c, e));
    int64_t rank = 8;
    double alpha = 8;
    const char *base = NULL;
    TRY(json_get_int(c->json, "r", 1, 1 << 20, &rank, c->file, e));
    TRY(json_get_real(c->json, "lora_alpha", &alpha, c->file, e));
    TRY(json_get_bool(c->json, "use_rslora", &a->rslora, c->file, e));
    TRY(json_get_text(c->json, "base_model_name_or_path", &base, c->file, e));
    TRY(json_get_text(c->json, "peft_version", &c->version, c->file, e));
    TRY(json_get_array(c->json, "target_parameters", &c->parameters, c->file, e));
    TRY(json_get_array(c->json, "modules_to_save", &c->saved, c->file, e));
    TRY(json_get_object(c->json, "rank_pattern", &c->ranks, c->file, e));
    TRY(json_get_object(c->json, "alpha_pattern", &c->alphas, c->file, e));
    c->modules = json_object_get(c->json, "target_modules");
    c->layers = json_object_get(c->json, "layers_to_transform");
    a->rank = (int)rank;
    a->alpha = (float)alpha;
    a->base = base ? mem_copy_text(base) : NULL;
    return 0;
}

bool json_list_has(const json_t *list, const char *word) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *t = json_string_value(json_array_get(list, i));
        if (t && !strcmp(t, word)) return true;
    }
    return false;
}

bool peft_list_names(const json_t *list, const Site *s) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *t = json_string_value(json_array_get(list, i));
        if (t && site_matches(s, t)) return true;
    }
    return false;
}

/* PEFT compares the raw ends of names here, of the module or any that holds it. */
bool peft_list_saves(const json_t *list, const Site *s) {
    bool hit = false;
    for (char *name = site_module(s), *dot = name; dot && !hit;) {
        for (size_t i = 0; i < json_array_size(list); i++) {
            const char *t = json_string_value(json_array_get(list, i));
            size_t n = strlen(name), k = t ? strlen(t) : 0;
            hit |= t && n >= k && !strcmp(name + n - k, t);
        }
        dot = strrchr(name, '.');
        if (dot) *dot = 0;
        if (hit || !dot) {
            mem_free(name);
            break;
        }
    }
    return hit;
}

bool peft_layer_named(const json_t *layers, int layer) {
    if (json_is_integer(layers)) return json_integer_value(layers) == layer;
    if (!json_is_array(layers)) return true;
    for (size_t i = 0; i < json_array_size(layers); i++) {
        if (json_integer_value(json_array_get(layers, i)) == layer) return true;
    }
    return false;
}

/* Whether a module's name as Transformers has it, after some beginning, is an expression's. 1, 0, -1.
 */
static int matches_expression(const char *beginning, const char *key, const Model *m, const Site *s,
                              const char *file, Err *e) {
    Pattern pattern = {0};
    Matcher matcher = {0};
    Buf whole = {0}, called = {0};
    char *module = site_module(s);
    size_t from, to;
    buf_printf(&called, "%s%s", m->modules, module + strlen(m->prefix));
    buf_printf(&whole, "^%s(?:%s)$", beginning, key);
    int hit = pattern_set_regex(&pattern, whole.p, whole.n, file, e);
    if (!hit) {
        Matches walk = {.pattern = &pattern, .matcher = &matcher, .text = called.p, .n = called.n};
        hit = matches_next(&walk, &from, &to, e);
    }
    matcher_free(&matcher);
    pattern_free(&pattern);
    buf_free(&whole);
    buf_free(&called);
    mem_free(module);
    return hit;
}

/* PEFT's keys are expressions for a name or its end after a dot. Most are plain names: a dot stands
 * for itself there. */
static int key_matches(const char *key, const Model *m, const Site *s, const char *file, Err *e) {
    if (!strpbrk(key, "\\^$*+?()[]{}|")) return site_matches(s, key);
    return matches_expression("(?:.*\\.)?", key, m, s, file, e);
}

int peft_excludes(const PeftConfig *c, const Model *m, const Site *s, Err *e) {
    const json_t *out = json_object_get(c->json, "exclude_modules");
    if (!json_is_string(out)) return peft_list_names(out, s);
    return matches_expression("", json_string_value(out), m, s, c->file, e);
}

/* The number of the first pattern that names a site; none: *out stays. */
static int pattern_number(const json_t *patterns, const PeftConfig *c, const Model *m,
                          const Site *s, double *out, Err *e) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)patterns, key, v) {
        int hit = key_matches(key, m, s, c->file, e);
        if (hit < 0) return -1;
        if (!hit) continue;
        if (!json_is_number(v))
            return err_set(e, "%s: the pattern \"%s\" has no number", c->file, key);
        *out = json_number_value(v);
        return 0;
    }
    return 0;
}

int peft_site_numbers(const PeftConfig *c, const Adapter *a, const Model *m, const Site *s,
                      int *rank, float *alpha, Err *e) {
    double r = a->rank, x = (double)a->alpha;
    TRY(pattern_number(c->ranks, c, m, s, &r, e));
    TRY(pattern_number(c->alphas, c, m, s, &x, e));
    *rank = r >= 0 && r < 1 << 20 ? (int)r : 1 << 20; /* no file has that */
    *alpha = (float)x;
    return 0;
}

int peft_names_prefix(Adapter *a, Weights *w, const char *file, Err *e) {
    for (int i = 0; i < weights_count(w); i++) {
        const char *name = weights_at(w, i)->name, *at = strstr(name, "layers.");
        if (!at) continue;
        if (strncmp(name, "base_model.model.", 17)) {
            return err_set(
                e,
                "%s: tensor %s does not start with base_model.model.; this is not a PEFT adapter",
                file, name);
        }
        a->prefix = mem_copy_text(name);
        a->prefix[at - name] = 0;
        return 0;
    }
    return err_set(e, "%s: holds no tensor of any layer", file);
}
