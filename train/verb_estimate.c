/* verb_estimate.c - what a run would need of memory, disk and time, before anything is loaded: the
 * model is opened as shapes (base_model may hold a config.json alone), a step runs dry. Datasets
 * are read where they are given; else every row is taken to have sequence_len tokens. */
#include <stdio.h>
#include <string.h>
#include "../autograd/amount.h"
#include "../autograd/weight.h"
#include "../data/files.h"
#include "../data/side_files.h"
#include "memory.h"
#include "optimizer.h"
#include "progress.h"
#include "trainer.h"
#include "verbs.h"

/* ---- rows, real or made up ---- */

typedef struct Made {
    Sample *rows;
    int32_t *values;
    Tokenizer *tokenizer; /* a run would hold it */
} Made;

static void made_free(Made *m) {
    tokenizer_close(m->tokenizer);
    mem_free(m->rows);
    mem_free(m->values);
}

static int make_rows(Made *m, const Config *cfg, TrainData *d, Err *e) {
    TRY(trainer_check_sizes(cfg, cfg->sequence_len, e));
    int64_t n = cfg->micro_batch_size * cfg->gradient_accumulation_steps;
    if (side_files_has(cfg->base_model, "tokenizer.json"))
        TRY(tokenizer_open_model(&m->tokenizer, cfg->base_model, e));
    m->rows = mem_alloc(sizeof *m->rows * (size_t)n);
    m->values = mem_alloc(sizeof *m->values * (size_t)cfg->sequence_len);
    memset(m->values, 0xff, sizeof *m->values * (size_t)cfg->sequence_len); /* -1: any token */
    for (int64_t i = 0; i < n; i++)
        m->rows[i] = (Sample){m->values, m->values, (int32_t)cfg->sequence_len};
    *d = (TrainData){.rows = m->rows, .n_rows = n};
    return 0;
}

/* ---- parameters and products ---- */

typedef struct Work {
    int64_t total, active, trainable; /* parameters */
    double forward, step;             /* floating-point operations per token */
} Work;

/* Of a site's values the share that one token meets. */
static double share_met(const Model *m, const Site *s) {
    if (s->slot == &m->ple_table.w || (s->slot == &m->embed.w && !m->dims.tied)) return 0;
    if (s->row->kind != KIND_EXPERTS || !m->dims.n_experts) return 1;
    return (double)m->dims.n_used / m->dims.n_experts;
}

static void add_products(Work *w, double values, bool learns, bool again) {
    w->forward += 2 * values;
    w->step += 2 * values * (2 + again + learns);
}

/* Scores and their sums over the keys that a query of a full-length row sees on average. */
static void add_attention(Work *w, const Model *m, int64_t length, bool again) {
    for (int i = 0; i < m->dims.n_layers; i++) {
        const LayerDims *d = &m->layer[i].d;
        double n = (double)length, width = d->window && d->window < length ? d->window : n,
               keys = width - width * (width - 1) / (2 * n),
               flops = 4 * keys * m->dims.n_heads * d->head_dim;
        w->forward += flops;
        w->step += flops * (1 + again + 2.5); /* backward makes the scores again */
    }
}

static Work count_work(const Session *s, const Config *cfg, int64_t length) {
    Work w = {0};
    const Model *m = s->model;
    bool again = cfg->gradient_checkpointing;
    for (int i = 0; i < m->n_sites; i++) {
        const Site *x = &m->site[i];
        double met = share_met(m, x) * (double)site_numel(m, x);
        bool layer = x->layer >= 0;
        w.total += site_numel(m, x);
        w.active += (int64_t)met;
        if (x->linear) add_products(&w, met, s->plan.learn[i].full, again && layer);
    }
    for (int i = 0; i < s->params.n; i++) {
        const Param *p = &s->params.param[i];
        double values = (double)tensor_numel(p->tensor);
        if (p->learns) w.trainable += (int64_t)values;
        if (p->role != PARAM_WHOLE)
            add_products(&w, values * share_met(m, &m->site[p->site]), true, again);
    }
    add_attention(&w, m, length, again);
    return w;
}

/* ---- time ---- */

/* Of the rate of its products alone, what a whole step reaches. */
static const double STEP_SHARE = 0.5;
static const double MEASURE_SECONDS = 0.25;

/* Operations per second of a linear op as the run would use it, after a first one to warm up. */
static int measure_products(const Session *s, double *rate, Err *e) {
    enum { ROWS = 512, WIDTH = 1024 };
    Arena a;
    Node node[2];
    TRY(arena_open(&a, (size_t)1 << 30, e));
    Tape t = {.step = &a, .compute = s->tape.compute, .paused = 1, .cap = 2, .node = node};
    Tensor *x = tensor_2d(&a, DT_f32, ROWS, WIDTH), *w = tensor_2d(&a, DT_bf16, WIDTH, WIDTH);
    memset(x->data, 0, (size_t)tensor_bytes(x));
    memset(w->data, 0, (size_t)tensor_bytes(w));
    double began = seconds_now(), best = 0, took;
    for (int i = 0; i < 2 || seconds_now() - began < MEASURE_SECONDS; i++) {
        size_t mark = arena_mark(&a);
        double from = seconds_now();
        linear(&t, x, w, (Lora){0});
        took = seconds_now() - from;
        if (i && (best == 0 || took < best)) best = took;
        arena_release(&a, mark);
    }
    *rate = 2.0 * ROWS * WIDTH * WIDTH / (best > 0 ? best : 1e-9);
    arena_close(&a);
    return 0;
}

/* ---- disk ---- */

typedef struct Disk {
    int64_t base;       /* base.h5, where the base is kept in another format */
    int64_t result;     /* adapter_model.safetensors, or the checkpoint of full training */
    int64_t checkpoint; /* one of save_steps */
    int64_t all;
} Disk;

static Disk count_disk(const Session *s, const Config *cfg) {
    Disk d = {0};
    const Model *m = s->model;
    DType saved = dtype_find(cfg->save_dtype);
    for (int i = 0; i < m->n_sites; i++) {
        const Tensor *b = m->site[i].base;
        int64_t n = site_numel(m, &m->site[i]);
        if (s->base_made) d.base += tensor_bytes(b);
        if (!s->has_adapter)
            d.result += saved == DT_COUNT ? tensor_bytes(b) : dtype_bytes(saved, n);
    }
    if (s->has_adapter) d.result = s->params.numel * 4;
    const OptimizerRule *rule = optimizer_find(cfg->optimizer);
    CHECK(rule, "optimizer %s", cfg->optimizer);
    d.checkpoint = d.result + s->params.numel * 4 + (int64_t)optimizer_bytes(rule, &s->params);
    int64_t kept = !cfg->save_steps ? 0 : cfg->save_total_limit ? cfg->save_total_limit : 1;
    d.all = d.base + d.result + kept * d.checkpoint;
    return d;
}

/* ---- telling ---- */

static Amount size(size_t bytes) { return amount_bytes((double)bytes); }

/* The table is what was asked for: on standard output. */
static void tell(const Config *cfg, const MemoryPlan *p, const Work *w, const Disk *d, double rate,
                 double per_token) {
    char together[32];
    memory_together(together, p);
    printf("memory       base %s + learns %s + step %s + else %s = %s\n", size(p->base).text,
           size(p->learns).text, size(p->step).text, size(p->other).text, size(p->peak).text);
    if (p->room)
        printf("             the base has %s: what does not stay is read from disk for every %s, "
               "and on the way back\n",
               size(p->whole).text, together);
    printf("disk         base.h5 %s, %s %s, a checkpoint %s\n", amount_bytes((double)d->base).text,
           strcmp(cfg->adapter, "none") ? "adapter" : "model", amount_bytes((double)d->result).text,
           amount_bytes((double)d->checkpoint).text);
    printf("parameters   %s, of which a token meets %s; %s learn\n",
           amount_count((double)w->total).text, amount_count((double)w->active).text,
           amount_count((double)w->trainable).text);
    printf("work         a token: %sFLOP forward, %sFLOP in a whole step\n",
           amount_count(w->forward).text, amount_count(w->step).text);
    printf("time         about %s a token (%s tokens/s): products ran at %sFLOP/s just now, a step "
           "is taken to reach %.0f %% of it\n",
           amount_seconds(per_token).text, amount_count(1 / per_token).text,
           amount_count(rate).text, 100 * STEP_SHARE);
    if (p->run_steps)
        printf("the run      %ld steps, %ld tokens, about %s\n", (long)p->run_steps,
               (long)p->run_tokens, amount_seconds((double)p->run_tokens * per_token).text);
}

static json_t *as_json(const MemoryPlan *p, const Work *w, const Disk *d, double rate,
                       double per_token) {
    const struct {
        const char *key;
        int64_t value;
    } whole[] = {
        {"peak_memory_bytes", (int64_t)p->peak},
        {"base_bytes", (int64_t)p->base},
        {"base_file_bytes", (int64_t)p->whole},
        {"trainable_bytes", (int64_t)p->learns},
        {"step_bytes", (int64_t)p->step},
        {"other_bytes", (int64_t)p->other},
        {"disk_bytes", d->all},
    };
    json_t *all = json_pack("{s:b, s:{s:I, s:I, s:I}, s:{s:f, s:f}, s:{s:I, s:I, s:I}, s:f, s:f}",
                            "streams_base", p->room != 0, "disk", "base", (json_int_t)d->base,
                            "result", (json_int_t)d->result, "checkpoint",
                            (json_int_t)d->checkpoint, "flops_per_token", "forward", w->forward,
                            "step", w->step, "parameters", "total", (json_int_t)w->total, "active",
                            (json_int_t)w->active, "trainable", (json_int_t)w->trainable,
                            "products_flops_per_second", rate, "seconds_per_token", per_token);
    for (size_t i = 0; i < COUNT_OF(whole); i++)
        json_object_set_new(all, whole[i].key, json_integer((json_int_t)whole[i].value));
    if (!p->run_steps) return all;
    json_object_set_new(all, "steps", json_integer((json_int_t)p->run_steps));
    json_object_set_new(all, "tokens", json_integer((json_int_t)p->run_tokens));
    json_object_set_new(all, "seconds", json_real((double)p->run_tokens * per_token));
    return all;
}

/* ---- the verb ---- */

static int64_t longest_row(const TrainData *d) {
    int64_t n = 1;
    for (int64_t i = 0; i < d->n_rows; i++) n = d->rows[i].n > n ? d->rows[i].n : n;
    return n;
}

static int estimate_rows(const Config *cfg, const TrainData *d, bool real, json_t *result, Err *e) {
    Session s;
    double rate;
    TRY(trainer_check_rows(cfg, d, e));
    int bad = session_open(&s, cfg, USE_SHAPES, e);
    if (bad) return bad;
    MemoryPlan p = memory_plan(&s, cfg, d);
    if (!real) p.run_steps = p.run_tokens = 0; /* nobody knows how many rows there will be */
    bad = measure_products(&s, &rate, e);
    if (!bad) {
        Work w = count_work(&s, cfg, longest_row(d));
        Disk disk = count_disk(&s, cfg);
        double per_token = w.step / (rate * STEP_SHARE);
        json_t *all = as_json(&p, &w, &disk, rate, per_token);
        tell(cfg, &p, &w, &disk, rate, per_token);
        json_object_update(result, all);
        json_decref(all);
        Err why;
        bool fits = memory_check(&p, &why) == 0;
        json_object_set_new(result, "fits", json_boolean(fits));
        if (!fits) printf("             this machine is too small: %s\n", why.text);
    }
    session_close(&s);
    return bad;
}

static int estimate_real(const Config *cfg, json_t *result, Err *e) {
    Rows rows, test = {0};
    TrainData d;
    TRY(rows_open(&rows, cfg, &cfg->datasets, ROWS_TO_LEARN, e));
    int bad = rows_split(&rows, &test, cfg, &d, e);
    if (!bad) bad = estimate_rows(cfg, &d, true, result, e);
    rows_close(&test);
    rows_close(&rows);
    return bad;
}

/* A recipe may be looked at before there are data for it. */
static bool datasets_exist(const Config *cfg) {
    for (int i = 0; i < cfg->datasets.n; i++) {
        if (files_exists(cfg->datasets.p[i].path)) continue;
        progress_say(NULL, "%s is not there: every row is taken to have %ld tokens",
                     cfg->datasets.p[i].path, (long)cfg->sequence_len);
        return false;
    }
    return cfg->datasets.n > 0;
}

int verb_estimate(const Config *cfg, json_t *result, Err *e) {
    Made made = {0};
    TrainData d;
    if (datasets_exist(cfg)) return estimate_real(cfg, result, e);
    int bad = make_rows(&made, cfg, &d, e);
    if (!bad) bad = estimate_rows(cfg, &d, false, result, e);
    made_free(&made);
    return bad;
}
