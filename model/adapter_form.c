/* adapter_form.c - an adapter's directory or file, in: which form it has, what it adapts, its values. Nothing
 * is guessed: every tensor is either used or an error. */
#include "adapter_even.h"
#include <math.h>
#include <string.h>
#include "../data/files.h"
#include "../data/gguf.h"
#include "../data/json.h"

#define X(name) &adapter_form_##name,
static const AdapterForm *const forms[] = {
#include "adapter_forms.def"
};
#undef X

const AdapterForm *adapter_form_find(const char *name) {
    for (size_t i = 0; i < COUNT_OF(forms); i++)
        if (!strcmp(forms[i]->name, name)) return forms[i];
    return NULL;
}

bool adapter_form_known(const char *name) { return adapter_form_find(name) != NULL; }

bool adapter_form_is_file(const char *name) { return !adapter_form_find(name)->file; }

const char *adapter_form_name(const Adapter *a) { return a->form->name; }

int64_t form_rank(Weights *w, const char *name, int dim, int64_t preset) {
    const WeightView *v = w ? weights_find(w, name) : NULL;
    if (!v || v->n_dim <= dim || v->dim[dim] < 1 || v->dim[dim] > 1 << 20) return preset;
    return v->dim[dim];
}

int site_halves(const Site *s) {
    return s->layer >= 0 && s->row->at == offsetof(Layer, experts_in) ? 2 : 1;
}

float adapter_alpha(const Adapter *a, int rank, float scale) {
    float alpha = scale * (a->rslora ? sqrtf((float)rank) : (float)rank);
    const float tries[] = {roundf(alpha), alpha, nextafterf(alpha, 0), nextafterf(alpha, INFINITY)};
    for (size_t i = 0; i < COUNT_OF(tries); i++)
        if (adapter_scale(a, rank, tries[i]) == scale) return tries[i];
    return alpha;
}

/* ---- a directory ---- */

static void dir_close(AdapterDir *d) {
    gguf_close(d->gguf);
    json_decref(d->config);
    json_decref(d->manifest);
    mem_free(d->config_file);
    weights_close(d->weights);
}

/* name: as AdapterForm.file. */
static int open_file(AdapterDir *d, const char *name, Err *e) {
    char *path = name ? files_join(d->path, name) : mem_copy_text(d->path);
    int bad = weights_open(&d->weights, path, e);
    mem_free(path);
    return bad;
}

static bool has_file(const AdapterDir *d, const char *name) {
    char *path = files_join(d->path, name);
    bool has = files_exists(path);
    mem_free(path);
    return has;
}

static int read_manifest(AdapterDir *d, Err *e) {
    if (!has_file(d, "moesmith.json")) return 0;
    char *path = files_join(d->path, "moesmith.json");
    int bad = json_read_file(&d->manifest, path, e);
    mem_free(path);
    return bad;
}

/* adapter_config.json names the file: MLX's is called otherwise than PEFT's. */
static int open_weights(AdapterDir *d, Err *e) {
    const AdapterForm *form = adapter_form_mlx.claims(d) ? &adapter_form_mlx : &adapter_form_peft;
    return open_file(d, form->file, e);
}

static int dir_open(AdapterDir *d, const char *path, const char *b_order, Err *e) {
    *d = (AdapterDir){.path = path, .b_order = b_order};
    if (gguf_claims(path)) {
        TRY(gguf_open(&d->gguf, path, e));
        return open_file(d, NULL, e);
    }
    if (!files_is_dir(path))
        return err_set(e,
                       "lora_model_dir: %s is not a directory with adapter_config.json, and no "
                       "file NAME.gguf",
                       path);
    d->config_file = files_join(path, "adapter_config.json");
    TRY(json_read_file(&d->config, d->config_file, e));
    TRY(read_manifest(d, e));
    return open_weights(d, e);
}

static const AdapterForm *form_of(const AdapterDir *d) {
    size_t i = 0;
    while (!forms[i]->claims(d)) i++; /* the last claims all */
    return forms[i];
}

/* ---- what an even form filled up ---- */

/* How many leading ranks of a site's parts in a file are not all zero. */
static int64_t used_ranks(const Part *p, Weights *w) {
    int rank = p->role == PARAM_LORA_A ? 1 : 2, other = 3 - rank;
    const WeightView *v = weights_find(w, p->name);
    float *values = part_values(p, v);
    int64_t used = 0;
    for (int64_t x = 0; x < p->n[0]; x++) {
        for (int64_t k = 0; k < p->n[other]; k++) {
            const float *at = values + x * p->step[0] + k * p->step[other];
            for (int64_t j = p->n[rank] - 1; j >= used; j--)
                if (at[j * p->step[rank]] != 0) used = j + 1;
        }
    }
    mem_free(values);
    return used;
}

static bool same_values(const Part *p, const Part *q, Weights *w) {
    float *x = part_values(p, weights_find(w, p->name)),
          *y = part_values(q, weights_find(w, q->name));
    bool same = part_numel(p) == part_numel(q) && !memcmp(x, y, (size_t)part_numel(p) * sizeof *x);
    mem_free(x);
    mem_free(y);
    return same;
}

/* The part that is the other half's A of the same expert. */
static const Part *twin(const PartList *list, const Part *p) {
    for (const Part *q = p + 1; q < list->p + list->n && q->site == p->site; q++)
        if (q->role == p->role && q->expert == p->expert && q->half == 1) return q;
    return NULL;
}

/* Ranks that were only filled up are dropped, with them adapters that do nothing; gate and up that
 * do not share their A get one rank behind the other. */
static void settle(Plan *plan, Adapter *a, const PartList *list, Weights *w) {
    int64_t *used = mem_alloc(sizeof *used * (size_t)plan->n);
    a->apart = mem_alloc(sizeof *a->apart * (size_t)plan->n);
    for (int i = 0; i < list->n; i++) {
        const Part *p = &list->p[i], *q = p->half == 0 ? twin(list, p) : NULL;
        used[p->site] = max64(used[p->site], used_ranks(p, w));
        if (q && p->role == PARAM_LORA_A) a->apart[p->site] |= !same_values(p, q, w);
    }
    for (int i = 0; i < plan->n; i++) plan->learn[i].rank = (int)used[i] * (a->apart[i] ? 2 : 1);
    mem_free(used);
    /* what the directory says of all: the largest rank, at the scale that all of an even form have
     */
    int most = 0;
    for (int i = 1; i < plan->n; i++)
        if (plan->learn[i].rank > plan->learn[most].rank) most = i;
    const Learn *l = &plan->learn[most];
    if (!l->rank) return;
    a->rank = l->rank;
    a->alpha = adapter_alpha(a, l->rank, l->scale);
}

/* The file's parts, cut to the ranks that the plan keeps. */
static PartList parts_of(const Model *m, const Plan *plan, const Adapter *a, Weights *w) {
    PartList list = {0};
    a->form->parts(&list, m, plan, a, w);
    for (int i = 0; i < list.n && a->form->even; i++) {
        Part *p = &list.p[i];
        int rank = p->role == PARAM_LORA_A ? 1 : 2;
        int64_t keep = plan->learn[p->site].rank / (a->apart && a->apart[p->site] ? 2 : 1);
        p->n[rank] = min64(p->n[rank], keep);
    }
    return list;
}

/* ---- in ---- */

static bool adapts(const Plan *plan) {
    for (int i = 0; i < plan->n; i++) {
        const Learn *l = &plan->learn[i];
        if (l->rank || l->full || l->saved) return true;
    }
    return false;
}

static int check_order_key(const AdapterDir *d, const AdapterForm *form, Err *e) {
    if (!d->b_order || form == &adapter_form_peft) return 0;
    return err_set(
        e,
        "lora_b_order is about PEFT's fused experts, and %s holds an adapter in the form "
        "%s: leave it out",
        d->path, form->name);
}

static int plan_dir(Plan *plan, Adapter *a, const Model *m, const AdapterDir *d, Err *e) {
    PartList list = {0};
    a->form = form_of(d);
    TRY(check_order_key(d, a->form, e));
    TRY(a->form->plan(plan, a, m, d, e));
    a->form->parts(&list, m, plan, a, d->weights);
    int bad = parts_check(&list, plan, d->weights, d->path, e);
    if (!bad && a->form->even) settle(plan, a, &list, d->weights);
    parts_free(&list);
    if (bad || adapts(plan)) return bad;
    return err_set(e, "%s: adapts nothing in this model", d->gguf ? d->path : d->config_file);
}

int adapter_plan_read(Plan *plan, Adapter *a, const Model *m, const char *dir, const char *b_order,
                      Err *e) {
    AdapterDir d;
    *a = (Adapter){.dir = mem_copy_text(dir)};
    *plan = plan_new(m);
    int bad = dir_open(&d, dir, b_order, e) || plan_dir(plan, a, m, &d, e);
    dir_close(&d);
    return bad ? -1 : 0;
}

int adapter_read(ParamSet *ps, const Plan *plan, const Adapter *a, const Model *m, Err *e) {
    AdapterDir d = {.path = a->dir};
    int bad = open_file(&d, a->form->file, e);
    if (!bad) {
        PartList list = parts_of(m, plan, a, d.weights);
        bad = parts_read(&list, d.weights, ps, a->apart, e);
        parts_free(&list);
    }
    dir_close(&d);
    return bad;
}

/* ---- out ---- */

int adapter_export(const char *path, AdapterOut *how, Model *m, const ParamSet *ps,
                   const Plan *plan, const Adapter *a, Err *e) {
    const AdapterForm *form = adapter_form_find(how->form);
    CHECK(form, "the key table lets the form %s pass", how->form);
    if (form->write) return form->write(path, how, m, ps, plan, a, e);
    return adapter_write_even(path, form, m, plan, a, how->keep, &how->notes, e);
}
