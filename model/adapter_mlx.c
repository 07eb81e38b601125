/* adapter_mlx.c - mlx-lm's form: adapters.safetensors under the names of MLX's own modules. A
 * linear's lora_a is (in, r) and lora_b (r, out), both turned; experts' are (E, r, in) and (E, out,
 * r), gate and up each with their own. One scale multiplies all. Source: mlx-lm 0.32,
 * tuner/lora.py, tuner/utils.py and models/gemma4_text.py. */
#include <stdio.h>
#include <string.h>
#include "../data/json.h"
#include "adapter_config.h"

/* MLX's names of fused experts. Everything else is called as in Hugging Face's files. */
static const struct {
    const char *hf, *mlx[2]; /* gate and up, or only the first */
} stacks[] = {
    {"experts.gate_up_proj", {"experts.switch_glu.gate_proj", "experts.switch_glu.up_proj"}},
    {"experts.down_proj", {"experts.switch_glu.down_proj", NULL}}};

/* "self_attn.q_proj" or "experts.switch_glu.up_proj": after "layers.N.". On the heap. */
static char *local_name(const Site *s, int half) {
    for (size_t i = 0; i < COUNT_OF(stacks); i++)
        if (!strcmp(s->row->hf, stacks[i].hf)) return mem_copy_text(stacks[i].mlx[half]);
    char *name = mem_copy_text(s->row->hf), *end = strrchr(name, '.');
    if (text_ends_with(name, ".weight")) *end = 0;
    return name;
}

/* What stands before "layers.": where it stands in the file, else as MLX names a model with this
 * prefix. */
static void add_prefix(Buf *out, const Model *m, Weights *w) {
    for (int i = 0; w && i < weights_count(w); i++) {
        const char *name = weights_at(w, i)->name, *at = strstr(name, "layers.");
        if (!at) continue;
        buf_add(out, name, (size_t)(at - name));
        return;
    }
    buf_add_text(out, strcmp(m->prefix, "model.") ? "language_model.model." : "model.");
}

static char *mlx_name(const Model *m, Weights *w, int site, int half, const char *leaf) {
    const Site *s = &m->site[site];
    Buf name = {0};
    char *local = local_name(s, half);
    add_prefix(&name, m, w);
    buf_printf(&name, "layers.%d.%s%s", s->layer, local, leaf);
    mem_free(local);
    return name.p;
}

static void add_half(PartList *out, const Model *m, const Plan *plan, Weights *w, int site,
                     int half) {
    int64_t dim[3];
    bool stack = site_dims(m, &m->site[site], dim) == 3;
    int64_t halves = site_halves(&m->site[site]), E = stack ? dim[0] : 0, O = dim[stack] / halves,
            I = dim[stack + 1];
    char *a = mlx_name(m, w, site, half, ".lora_a"), *b = mlx_name(m, w, site, half, ".lora_b");
    int64_t R = form_rank(w, a, 1, plan->learn[site].rank);
    Part *p = parts_add(out, a, site, PARAM_LORA_A);
    if (halves == 2) p->half = half;
    part_plain(p, E, R, I, !stack);
    p = parts_add(out, b, site, PARAM_LORA_B);
    if (halves == 2) p->half = half;
    part_plain(p, E, O, R, !stack);
}

static void parts(PartList *out, const Model *m, const Plan *plan, const Adapter *a, Weights *w) {
    (void)a;
    for (int i = 0; i < plan->n; i++) {
        for (int half = 0; plan->learn[i].rank && half < site_halves(&m->site[i]); half++)
            add_half(out, m, plan, w, i, half);
    }
}

/* ---- adapter_config.json ---- */

static bool claims(const AdapterDir *d) {
    return !json_object_get(d->config, "peft_type") &&
           (json_object_get(d->config, "lora_parameters") ||
            json_object_get(d->config, "fine_tune_type"));
}

static int read_numbers(Adapter *a, const AdapterDir *d, double *scale, int64_t *rank, Err *e) {
    const char *type = "lora", *base = NULL;
    const json_t *lora = NULL;
    *rank = 0;
    TRY(json_get_text(d->config, "fine_tune_type", &type, d->config_file, e));
    if (strcmp(type, "lora"))
        return err_set(e, "%s: fine_tune_type is %s; of MLX's adapters lora can be read",
                       d->config_file, type);
    TRY(json_get_text(d->config, "model", &base, d->config_file, e));
    TRY(json_require(d->config, "lora_parameters", d->config_file, e));
    TRY(json_get_object(d->config, "lora_parameters", &lora, d->config_file, e));
    TRY(json_require(lora, "scale", d->config_file, e));
    TRY(json_get_real(lora, "scale", scale, d->config_file, e));
    TRY(json_get_int(lora, "rank", 1, 1 << 20, rank, d->config_file, e));
    a->base = base ? mem_copy_text(base) : NULL;
    return 0;
}

static int plan_mlx(Plan *plan, Adapter *a, const Model *m, const AdapterDir *d, Err *e) {
    double scale = 1;
    int64_t said;
    TRY(read_numbers(a, d, &scale, &said, e));
    for (int i = 0; i < plan->n; i++) {
        const Site *s = &m->site[i];
        if (s->layer < 0 || !s->linear) continue;
        char *name = mlx_name(m, d->weights, i, 0, ".lora_a");
        int64_t rank = form_rank(d->weights, name, 1, 0);
        int bad = 0;
        if (rank && said && rank != said)
            bad = err_set(e, "%s: tensor %s has rank %ld, adapter_config.json says %ld", d->path,
                          name, (long)rank, (long)said);
        mem_free(name);
        if (bad) return -1;
        plan->learn[i].rank = (int)rank;
        plan->learn[i].scale = (float)scale;
    }
    return 0;
}

/* Paths after "layers.N." where every layer that has the module is adapted, whole paths else. */
static void add_keys(json_t *keys, const Model *m, const Plan *plan, const TensorRow *row,
                     int half) {
    int has = 0, in = 0;
    for (int i = 0; i < m->n_sites; i++)
        if (m->site[i].row == row) has++, in += plan->learn[i].rank > 0;
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        if (s->row != row || !plan->learn[i].rank || half >= site_halves(s)) continue;
        char *name = in == has ? local_name(s, half) : mlx_name(m, NULL, i, half, "");
        json_array_append_new(keys, json_string(name));
        mem_free(name);
        if (in == has) return;
    }
}

static json_t *config(const Model *m, const Plan *plan, const Adapter *a) {
    json_t *keys = json_array();
    for (const TensorRow *r = m->family->layer_rows; r->hf; r++)
        for (int half = 0; half < 2; half++) add_keys(keys, m, plan, r, half);
    return json_pack("{s:s, s:s, s:i, s:{s:i, s:f, s:f, s:o}}", "model", a->base ? a->base : m->dir,
                     "fine_tune_type", "lora", "num_layers", -1, "lora_parameters", "rank", a->rank,
                     "scale", (double)adapter_scale(a, a->rank, a->alpha), "dropout", 0.0, "keys",
                     keys);
}

const AdapterForm adapter_form_mlx = {.name = "mlx",
                                      .file = "adapters.safetensors",
                                      .even = true,
                                      .claims = claims,
                                      .plan = plan_mlx,
                                      .parts = parts,
                                      .config = config};
