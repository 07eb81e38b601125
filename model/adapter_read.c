/* adapter_read.c - an adapter directory of PEFT's, in. Nothing is guessed: a layout that is not
 * PEFT's own is refused by its name, and every tensor is either used or an error. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/json.h"
#include "adapter_names.h"
#include "adapter_order.h"

/* adapter_config.json, what of it matters here. */
typedef struct PeftConfig {
    json_t *json, *manifest; /* manifest: moesmith.json, or NULL */
    const json_t *modules, *parameters, *saved, *ranks, *alphas, *layers;
    const char *version;
    char *file;
} PeftConfig;

static void config_free_(PeftConfig *c) {
    json_decref(c->json);
    json_decref(c->manifest);
    mem_free(c->file);
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

static int read_peft_config(PeftConfig *c, Adapter *a, const char *dir, Err *e) {
    c->file = files_join(dir, "adapter_config.json");
    TRY(json_read_file(&c->json, c->file, e));
    TRY(check_supported(c, e));
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
    a->dir = mem_copy_text(dir);
    a->base = base ? mem_copy_text(base) : NULL;
    char *path = files_join(dir, "moesmith.json");
    int bad = files_exists(path) ? json_read_file(&c->manifest, path, e) : 0;
    mem_free(path);
    return bad;
}

/* ---- what the config promises ---- */

static bool list_has(const json_t *list, const char *word) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *t = json_string_value(json_array_get(list, i));
        if (t && !strcmp(t, word)) return true;
    }
    return false;
}

static bool list_names_site(const json_t *list, const Site *s) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *t = json_string_value(json_array_get(list, i));
        if (t && site_matches(s, t)) return true;
    }
    return false;
}

/* PEFT compares the raw ends of names here, of the module or any that holds it. */
static bool list_saves_site(const json_t *list, const Site *s) {
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

static bool layer_named(const json_t *layers, int layer) {
    if (json_is_integer(layers)) return json_integer_value(layers) == layer;
    if (!json_is_array(layers)) return true;
    for (size_t i = 0; i < json_array_size(layers); i++) {
        if (json_integer_value(json_array_get(layers, i)) == layer) return true;
    }
    return false;
}

/* A pattern's number for a site, or preset. */
static double pattern_value(const json_t *patterns, const Site *s, double preset) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)patterns, key, v) {
        if (json_is_number(v) && site_matches(s, *key == '^' ? key + 1 : key))
            return json_number_value(v);
    }
    return preset;
}

static void plan_site(Plan *plan, const Adapter *a, const Model *m, const PeftConfig *c, Weights *w,
                      int i) {
    const Site *s = &m->site[i];
    Learn *l = &plan->learn[i];
    if (s->layer < 0 || !layer_named(c->layers, s->layer)) return;
    if (list_saves_site(c->saved, s)) {
        l->full = l->saved = true;
        return;
    }
    bool in = false;
    if (!s->linear) return;
    if (site_is_parameter(s))
        in = list_names_site(c->parameters, s);
    else if (json_is_array(c->modules))
        in = list_names_site(c->modules, s);
    else { /* a regular expression or "all-linear": the file tells */
        char *name = adapter_tensor_name(m, plan, a, i, PARAM_LORA_A);
        in = weights_find(w, name) != NULL;
        mem_free(name);
    }
    if (!in) return;
    l->rank = (int)pattern_value(c->ranks, s, a->rank);
    l->scale = adapter_scale(a, l->rank, (float)pattern_value(c->alphas, s, (double)a->alpha));
}

/* moesmith.json tells which parts of a saved router learn. */
static void apply_manifest(Plan *plan, Adapter *a, const Model *m, const PeftConfig *c) {
    const json_t *train = json_object_get(c->manifest, "router_train");
    if (!json_is_array(train)) return;
    a->router_summed = list_has(train, "lora");
    const char *proj = a->router_summed ? "lora" : "full";
    for (int i = 0; i < plan->n; i++) {
        const Site *s = &m->site[i];
        if (s->row->kind != KIND_ROUTER || !plan->learn[i].saved) continue;
        plan->learn[i].full = list_has(train, s->linear ? proj : strrchr(s->name, '.') + 1);
    }
}

/* ---- layouts ---- */

static int find_names_prefix(Adapter *a, Weights *w, const char *file, Err *e) {
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

static int refuse_foreign_names(Weights *w, Err *e) {
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        const char *at = strstr(v->name, ".experts.");
        if (at && at[9] >= '0' && at[9] <= '9') {
            return err_set(e,
                           "%s: tensor %s: the adapter is in the per-expert layout (one 2-D "
                           "adapter an expert); PEFT's fused layout (experts.lora_A, "
                           "experts.base_layer.lora_A) can be read",
                           v->file, v->name);
        }
        if (at && v->n_dim == 3) {
            return err_set(
                e,
                "%s: tensor %s has 3 dimensions: the adapter is in the expert-major layout (E, r, "
                "in)/(E, out, r); PEFT's fused layout is 2-D, (E*r, in)/(out, r*E)",
                v->file, v->name);
        }
    }
    return 0;
}

/* The file's shape of an adapter tensor: the fused 2-D one for experts. */
static void file_shape(const Model *m, const Learn *l, const Site *s, ParamRole role,
                       int64_t want[3], int *n) {
    int64_t w[3];
    *n = site_dims(m, s, w);
    memcpy(want, w, sizeof w);
    if (role == PARAM_WHOLE) return;
    int64_t E = *n == 3 ? w[0] : 1, O = w[*n - 2], I = w[*n - 1];
    want[0] = role == PARAM_LORA_A ? E * l->rank : O;
    want[1] = role == PARAM_LORA_A ? I : l->rank * E;
    *n = 2;
}

static bool version_before_0_19_1(const char *v) {
    int a = 0, b = 0, c = 0;
    if (!v || sscanf(v, "%d.%d.%d", &a, &b, &c) < 2) return false;
    return a == 0 && (b < 19 || (b == 19 && c < 1));
}

/* Fused experts whose inputs and outputs changed places, as PEFT before 0.19.1 wrote them. */
static int check_not_transposed(const Model *m, const PeftConfig *c, const Learn *l, const Site *s,
                                const WeightView *v, ParamRole role, Err *e) {
    int64_t w[3];
    if (site_dims(m, s, w) != 3 || v->n_dim != 2) return 0;
    int64_t E = w[0], O = w[1], I = w[2];
    bool looks = role == PARAM_LORA_A ? v->dim[0] == E * l->rank && v->dim[1] == O
                                      : v->dim[0] == I && v->dim[1] == l->rank * E;
    bool square = O == I;
    if (!looks || (square && !version_before_0_19_1(c->version) && (c->version || c->manifest)))
        return 0;
    if (square && !version_before_0_19_1(c->version)) {
        return err_set(e,
                       "%s: tensor %s: with as many inputs as outputs its orientation cannot be "
                       "seen, and %s names no peft_version; add the version that wrote it",
                       v->file, v->name, c->file);
    }
    return err_set(e,
                   "%s: tensor %s has shape [%ld, %ld]: the adapter is in the transposed layout of "
                   "PEFT before 0.19.1 (A maps outputs); save it again with PEFT >= 0.19.1",
                   v->file, v->name, (long)v->dim[0], (long)v->dim[1]);
}

static int check_tensor(const Model *m, const PeftConfig *c, const Plan *plan, const Adapter *a,
                        Weights *w, int i, ParamRole role, Err *e) {
    const Site *s = &m->site[i];
    char *name = adapter_tensor_name(m, plan, a, i, role);
    WeightView *v = weights_find(w, name);
    int64_t want[3];
    int n;
    if (!v) {
        err_set(e,
                "%s/adapter_model.safetensors: tensor %s is missing, which adapter_config.json "
                "promises",
                a->dir, name);
        mem_free(name);
        return -1;
    }
    mem_free(name);
    v->read = true;
    TRY(check_not_transposed(m, c, &plan->learn[i], s, v, role, e));
    file_shape(m, &plan->learn[i], s, role, want, &n);
    bool same = v->n_dim == n;
    for (int k = 0; k < n && same; k++) same = v->dim[k] == want[k];
    if (!same) {
        return err_set(e,
                       "%s: tensor %s has shape [%ld, %ld], this model and rank %d ask for [%ld, "
                       "%ld]; is it an adapter of another model or rank?",
                       v->file, v->name, v->n_dim > 0 ? (long)v->dim[0] : 0,
                       v->n_dim > 1 ? (long)v->dim[1] : 1, plan->learn[i].rank, (long)want[0],
                       n > 1 ? (long)want[1] : 1);
    }
    if (!dtype_is_float(v->dtype))
        return err_set(e, "%s: tensor %s is stored as %s; F32, F16 and BF16 can be read", v->file,
                       v->name, v->stored);
    return 0;
}

/* moesmith.json may name the order; what is said need not be guessed. */
static bool says_column_order(const PeftConfig *c) {
    const char *order = json_string_value(json_object_get(c->manifest, "expert_lora_b_order"));
    return order && !strcmp(order, "expert_fastest");
}

static int check_column_order(const Model *m, const Plan *plan, const Adapter *a, Weights *w,
                              Err *e) {
    OrderSigns signs = {0};
    const char *example = NULL;
    for (int i = 0; i < plan->n; i++) {
        if (!site_is_parameter(&m->site[i]) || !plan->learn[i].rank) continue;
        char *name = adapter_tensor_name(m, plan, a, i, PARAM_LORA_B);
        const WeightView *v = weights_find(w, name);
        mem_free(name);
        order_add(&signs, v, m->dims.n_experts, plan->learn[i].rank);
        example = v->name;
    }
    if (!order_looks_expert_major(&signs)) return 0;
    return err_set(e,
                   "%s/adapter_model.safetensors: the columns of lora_B of the experts (%s, ...) "
                   "look expert-major (column e*r + j); PEFT's order is expert-fastest (column j*E "
                   "+ e): reorder them, or, if they are in it, say so in a moesmith.json beside: "
                   "{\"expert_lora_b_order\": \"expert_fastest\"}",
                   a->dir, example);
}

static int check_unread(Weights *w, Err *e) {
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        if (!v->read)
            return err_set(
                e, "%s: tensor %s belongs to nothing that adapter_config.json adapts in this model",
                v->file, v->name);
    }
    return 0;
}

static int check_all(const Model *m, const PeftConfig *c, const Plan *plan, const Adapter *a,
                     Weights *w, Err *e) {
    int any = 0;
    for (int i = 0; i < plan->n; i++) {
        const Learn *l = &plan->learn[i];
        any += l->rank || l->full || l->saved;
        if (l->rank) {
            TRY(check_tensor(m, c, plan, a, w, i, PARAM_LORA_A, e));
            TRY(check_tensor(m, c, plan, a, w, i, PARAM_LORA_B, e));
        }
        if (l->full || l->saved) TRY(check_tensor(m, c, plan, a, w, i, PARAM_WHOLE, e));
    }
    TRY(check_unread(w, e));
    if (!any) return err_set(e, "%s: adapts nothing in this model", c->file);
    return says_column_order(c) ? 0 : check_column_order(m, plan, a, w, e);
}

static int open_adapter(Weights **w, const char *dir, Err *e) {
    char *path = files_join(dir, "adapter_model.safetensors");
    int bad = weights_open(w, path, e);
    mem_free(path);
    return bad;
}

static int plan_and_check(Plan *plan, Adapter *a, const Model *m, const PeftConfig *c, Err *e) {
    Weights *w = NULL;
    TRY(open_adapter(&w, a->dir, e));
    int bad = refuse_foreign_names(w, e);
    if (!bad) bad = find_names_prefix(a, w, a->dir, e);
    for (int i = plan->n - 1; i >= 0 && !bad; i--)
        plan_site(plan, a, m, c, w, i); /* backwards: names depend on what is wrapped later */
    if (!bad) bad = check_all(m, c, plan, a, w, e);
    if (!bad) apply_manifest(plan, a, m, c);
    weights_close(w);
    return bad;
}

int adapter_plan_read(Plan *plan, Adapter *a, const Model *m, const char *dir, Err *e) {
    PeftConfig c = {0};
    *a = (Adapter){0};
    *plan = plan_new(m);
    int bad =
        files_is_dir(dir)
            ? read_peft_config(&c, a, dir, e)
            : err_set(e, "lora_model_dir: %s is not a directory with adapter_config.json", dir);
    if (!bad) bad = plan_and_check(plan, a, m, &c, e);
    config_free_(&c);
    return bad;
}

/* ---- values ---- */

static int read_param(const Param *p, const WeightView *v, Err *e) {
    Tensor *t = p->tensor;
    int64_t n = tensor_numel(t);
    if (p->role == PARAM_LORA_B && t->n_dim == 3) {
        int64_t E = t->dim[0], O = t->dim[1], R = t->dim[2];
        float *row = mem_alloc((size_t)(R * E) * 4);
        for (int64_t o = 0; o < O; o++) {
            dtype_info[v->dtype].to_f32((const char *)v->data + dtype_bytes(v->dtype, o * R * E),
                                        row, R * E);
            for (int64_t x = 0; x < E; x++) {
                for (int64_t j = 0; j < R; j++) f32(t)[(x * O + o) * R + j] = row[j * E + x];
            }
        }
        mem_free(row);
    } else {
        dtype_info[v->dtype].to_f32(v->data, f32(t), n);
    }
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(f32(t)[i]))
            return err_set(e, "%s: tensor %s holds a NaN or infinity", v->file, v->name);
    }
    return 0;
}

int adapter_read(ParamSet *ps, const Plan *plan, const Adapter *a, const Model *m, Err *e) {
    Weights *w = NULL;
    int bad = open_adapter(&w, a->dir, e);
    for (int i = 0; i < ps->n && !bad; i++) {
        char *name = adapter_tensor_name(m, plan, a, ps->param[i].site, ps->param[i].role);
        WeightView *v = weights_find(w, name);
        bad = v ? read_param(&ps->param[i], v, e)
                : err_set(e, "%s: tensor %s is missing", a->dir, name);
        mem_free(name);
    }
    weights_close(w);
    return bad;
}
