/* verify_run.c - two models side by side: the run's, and the one that what was written makes. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "evaluate.h"
#include "verify.h"

enum { ROWS = 4, ROW_TOKENS = 48, MOST_TOKENS = 2048, LOGIT_ROWS = 64 };

/* How far two float32 runs may lie apart beside what rounding moves, relative to the size of what is
 * compared: through all layers, and of one product. Layers make more of a rounding, how much more is
 * the model's affair. Logits that are as far as those of strangers, sqrt(2), are no rounding's;
 * choices of rounded weights are told, not judged (routers are float32, and held against the run as
 * tensors). */
static double far_off(const Verify *v) { return fmin(1e-3 + 128 * v->rounded, 1); }
static bool tells_choices(const Verify *v) { return v->rounded < 1e-6; } /* as of float32 */
static double near_by(const Verify *v) { return 1e-5 + 4 * v->rounded; }

/* ---- rows ---- */

/* What a model chose for one row: per layer logits (T,E) and choices (T,k). */
typedef struct Routes {
    float **logits;
    int32_t **choice;
} Routes;

static void record(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                   const Tensor *weight) {
    Routes *r = ctx;
    (void)weight;
    memcpy(r->logits[layer], logits->data, (size_t)tensor_bytes(logits));
    memcpy(r->choice[layer], choice->data, (size_t)tensor_bytes(choice));
}

static Routes routes_new(const Model *m, Arena *a, int64_t tokens) {
    Routes r = {arena_push(a, sizeof *r.logits * (size_t)m->dims.n_layers),
                arena_push(a, sizeof *r.choice * (size_t)m->dims.n_layers)};
    for (int l = 0; l < m->dims.n_layers; l++) {
        r.logits[l] = arena_push(a, sizeof(float) * (size_t)(tokens * m->dims.n_experts));
        r.choice[l] = arena_push(a, sizeof(int32_t) * (size_t)(tokens * m->dims.n_used));
    }
    return r;
}

/* Sums over tokens; the third model is the run's without what it learned. */
typedef struct Sums {
    int64_t tokens, same_top;
    double far, apart, from_base, kl; /* far: the largest; else squares summed */
    double judged_apart, judged_size; /* squares, over tokens that went the same ways alone */
    int64_t *other_choice;            /* per layer: tokens with other experts */
    int wrong_layer;                  /* -1, or one whose experts differ without need */
} Sums;

static Tensor *hidden_of(Session *s, const Batch *b, Routes *r) {
    s->model->on_route = r ? record : NULL;
    s->model->on_route_ctx = r;
    Tensor *h = model_hidden(s->model, &s->tape, b, NULL);
    s->model->on_route = NULL;
    return h;
}

static int top_of(const float *x, int64_t n) {
    int top = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    return top;
}

static double log_sum(const float *x, int64_t n) {
    double max = (double)x[top_of(x, n)], sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return max + log(sum);
}

static void add_token(Sums *s, const float *run, const float *back, const float *base, int64_t V,
                      bool judged) {
    double z = log_sum(run, V), y = log_sum(back, V), apart = 0, size = 0;
    for (int64_t k = 0; k < V; k++) {
        double p = (double)run[k], d = p - (double)back[k], moved = p - (double)base[k];
        s->far = fmax(s->far, fabs(d));
        apart += d * d, size += p * p, s->from_base += moved * moved;
        s->kl += exp(p - z) * (d - z + y);
    }
    s->apart += apart;
    if (judged) s->judged_apart += apart, s->judged_size += size;
    s->same_top += top_of(run, V) == top_of(back, V);
    s->tokens++;
}

static bool chose(const int32_t *choice, int k, int32_t e) {
    for (int i = 0; i < k; i++)
        if (choice[i] == e) return true;
    return false;
}

/* Whether other experts than the run's are no matter of rounding: they were further behind. */
static bool wrong_choice(const float *logits, int64_t E, const int32_t *run, const int32_t *back,
                         int k, double tolerance, bool *other) {
    double size = 0, gap = 0;
    *other = false;
    for (int64_t i = 0; i < E; i++) size += (double)logits[i] * (double)logits[i];
    for (int i = 0; i < k; i++) {
        if (chose(back, k, run[i])) continue;
        *other = true;
        for (int j = 0; j < k; j++)
            if (!chose(run, k, back[j]))
                gap = fmax(gap, (double)logits[run[i]] - (double)logits[back[j]]);
    }
    return gap > tolerance * sqrt(size / (double)E);
}

/* A token that goes to another expert, be it by a hair, is another from there on, and so is all that
 * comes after it in its row: only what lies before, the tokens that are returned, is held against
 * the run. */
static int64_t add_choices(Sums *s, const Model *m, const Routes *run, const Routes *back,
                           int64_t T, double tolerance) {
    int64_t E = m->dims.n_experts;
    int k = m->dims.n_used;
    int64_t alike = T; /* tokens that went the same way in all layers before */
    for (int l = 0; E && l < m->dims.n_layers; l++) {
        int64_t first = T;
        for (int64_t t = 0; t < T; t++) {
            bool other;
            bool wrong = wrong_choice(run->logits[l] + t * E, E, run->choice[l] + t * k,
                                      back->choice[l] + t * k, k, tolerance, &other);
            if (wrong && t < alike) s->wrong_layer = l;
            if (other) first = min64(first, t);
            s->other_choice[l] += other;
        }
        alike = min64(alike, first);
    }
    return alike;
}

/* The run's tensors as the base has them, for a while: kept gets what they were. */
static float *unlearn(Session *s) {
    ParamSet *ps = &s->params;
    float *kept = mem_alloc(sizeof *kept * (size_t)(ps->numel + 1));
    memcpy(kept, ps->weight, sizeof *kept * (size_t)ps->numel);
    for (int i = 0; i < ps->n; i++) {
        Param *p = &ps->param[i];
        int64_t n = tensor_numel(p->tensor);
        if (p->role == PARAM_WHOLE)
            weight_values(s->model->site[p->site].base, 0, n, f32(p->tensor));
        else
            memset(p->tensor->data, 0, (size_t)n * sizeof(float));
    }
    return kept;
}

void verify_restore(Verify *v, float *kept) {
    memcpy(v->run.params.weight, kept, sizeof *kept * (size_t)v->run.params.numel);
    mem_free(kept);
}

static void compare_row(Verify *v, Session *back, const Sample *row, Sums *sums) {
    Session *run = &v->run;
    size_t mark = arena_mark(&run->step), back_mark = arena_mark(&back->step);
    Batch b = batch_of(&run->step, &row, 1);
    bool moe = run->model->dims.n_experts > 0;
    Routes was = {0}, is = {0};
    if (moe)
        was = routes_new(run->model, &run->step, row->n),
        is = routes_new(run->model, &run->step, row->n);
    Tensor *h = hidden_of(run, &b, moe ? &was : NULL), *g = hidden_of(back, &b, moe ? &is : NULL);
    float *kept = unlearn(run);
    Tensor *h0 = hidden_of(run, &b, NULL);
    verify_restore(v, kept);
    int64_t alike = moe ? add_choices(sums, run->model, &was, &is, row->n, far_off(v)) : row->n;
    for (int64_t i = 0; i < row->n; i += LOGIT_ROWS) {
        size_t at = arena_mark(&run->step), back_at = arena_mark(&back->step);
        int64_t n = min64(LOGIT_ROWS, row->n - i), V = run->model->dims.vocab;
        const float *y = f32(model_logits(run->model, &run->tape, h, i, n)),
                    *y0 = f32(model_logits(run->model, &run->tape, h0, i, n)),
                    *z = f32(model_logits(back->model, &back->tape, g, i, n));
        for (int64_t t = 0; t < n; t++)
            add_token(sums, y + t * V, z + t * V, y0 + t * V, V, i + t < alike);
        arena_release(&run->step, at);
        arena_release(&back->step, back_at);
    }
    arena_release(&run->step, mark);
    arena_release(&back->step, back_mark);
}

static json_t *choices_json(const Sums *s, const Model *m) {
    json_t *layers = json_array();
    for (int l = 0; m->dims.n_experts && l < m->dims.n_layers; l++)
        json_array_append_new(layers,
                              json_real(1 - (double)s->other_choice[l] / (double)s->tokens));
    return layers;
}

static int judge(const Verify *v, const Sums *s, json_t *result, Err *e) {
    double n = (double)s->tokens * v->run.model->dims.vocab, apart = sqrt(s->apart / n),
           moved = sqrt(s->from_base / n);
    json_object_set_new(result, "logits",
                        json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "tokens", (json_int_t)s->tokens,
                                  "max_difference", s->far, "rms_difference", apart,
                                  "rms_from_base", moved, "kl", s->kl / (double)s->tokens,
                                  "same_top1", (double)s->same_top / (double)s->tokens));
    json_object_set_new(result, "same_experts", choices_json(s, v->run.model));
    if (!isfinite(apart)) return err_set(e, "logits: no numbers");
    if (sqrt(s->judged_apart) > far_off(v) * sqrt(s->judged_size))
        return err_set(e,
                       "logits of %ld tokens differ from the run's by %.3g (rms; the run's differ "
                       "from the base's by %.3g)",
                       (long)s->tokens, apart, moved);
    if (s->wrong_layer >= 0 && tells_choices(v))
        return err_set(e,
                       "layer %d: %ld of %ld tokens go to other experts than in the run, and not "
                       "for a rounding's sake",
                       s->wrong_layer, (long)s->other_choice[s->wrong_layer], (long)s->tokens);
    return 0;
}

static int compare_rows(Verify *v, Session *back, const Sample *rows, int64_t n, json_t *result,
                        Err *e) {
    Sums sums = {.wrong_layer = -1};
    sums.other_choice = mem_alloc(sizeof *sums.other_choice * (size_t)v->run.model->dims.n_layers);
    for (int64_t i = 0; i < n && sums.tokens < MOST_TOKENS; i++)
        compare_row(v, back, &rows[i], &sums);
    int bad = judge(v, &sums, result, e);
    mem_free(sums.other_choice);
    return bad;
}

/* Rows out of the vocabulary, the same in every run, where no datasets are given. */
static int compare_made_rows(Verify *v, Session *back, json_t *result, Err *e) {
    int32_t ids[ROWS][ROW_TOKENS];
    Sample rows[ROWS];
    Rng rng = {7, 0, 0};
    for (int i = 0; i < ROWS; i++) {
        for (int k = 0; k < ROW_TOKENS; k++)
            ids[i][k] = (int32_t)(rng_u64(&rng) % (uint64_t)v->run.model->dims.vocab);
        rows[i] = (Sample){ids[i], ids[i], ROW_TOKENS};
    }
    return compare_rows(v, back, rows, ROWS, result, e);
}

int verify_rows(Verify *v, Session *back, json_t *result, Err *e) {
    Rows rows;
    if (!v->cfg->datasets.n) return compare_made_rows(v, back, result, e);
    TRY(rows_open(&rows, v->cfg, &v->cfg->datasets, ROWS_TO_MEASURE, e));
    int bad = compare_rows(v, back, rows.set.samples, rows.set.n, result, e);
    rows_close(&rows);
    return bad;
}

/* ---- every product by itself ---- */

/* Rows of made numbers; those of experts in equal parts, each sent to its own. */
static Tensor *made_input(Arena *a, int64_t rows, int64_t cols) {
    Tensor *x = tensor_2d(a, DT_f32, rows, cols);
    Rng rng = {11, 0, 0};
    for (int64_t i = 0; i < rows * cols; i++) f32(x)[i] = rng_normal(&rng);
    return x;
}

static Tensor *forced(Session *s, const Linear *l, Tensor *x, int64_t each) {
    if (l->w->n_dim == 2) return linear_forward(s->model, &s->tape, l, x);
    int64_t E = l->w->dim[0];
    Tensor *off = tensor_1d(&s->step, DT_i32, E + 1);
    for (int64_t i = 0; i <= E; i++) i32(off)[i] = (int32_t)(i * each);
    return experts_forward(s->model, &s->tape, l, x, (Dispatch){.off = off});
}

static int force_site(Verify *v, Session *back, int i, const char *what, Err *e) {
    enum { EACH = 3 };
    const Site *s = &v->run.model->site[i];
    size_t mark = arena_mark(&v->run.step), back_mark = arena_mark(&back->step);
    int64_t E = s->base->n_dim == 3 ? s->base->dim[0] : 1;
    Tensor *x = made_input(&v->run.step, E * EACH, tensor_cols(s->base));
    Tensor *y = forced(&v->run, s->linear, x, EACH),
           *z = forced(back, back->model->site[i].linear, x, EACH);
    int64_t n = tensor_cols(y) * EACH, worst = -1;
    for (int64_t k = 0; k < E && worst < 0; k++) {
        double apart = 0, size = 0;
        for (int64_t j = k * n; j < (k + 1) * n; j++) {
            double d = (double)f32(y)[j] - (double)f32(z)[j];
            apart += d * d, size += (double)f32(y)[j] * (double)f32(y)[j];
        }
        if (!(sqrt(apart) <= near_by(v) * sqrt(size))) worst = k;
    }
    arena_release(&v->run.step, mark);
    arena_release(&back->step, back_mark);
    if (worst < 0) return 0;
    Buf expert = {0};
    if (s->base->n_dim == 3) buf_printf(&expert, "expert %ld of ", (long)worst);
    err_set(e, "%s: %s%s answers other than the run's", what, expert.n ? expert.p : "", s->name);
    buf_free(&expert);
    return -1;
}

int verify_forced(Verify *v, Session *back, const char *what, Err *e) {
    for (int i = 0; i < v->run.model->n_sites; i++) {
        const Site *s = &v->run.model->site[i];
        bool alone = s->linear && s->layer >= 0 && v->run.plan.learn[i].rank;
        if (alone && s->row->kind != KIND_ROUTER) TRY(force_site(v, back, i, what, e));
    }
    return 0;
}

float *verify_make_canary(Verify *v) {
    ParamSet *ps = &v->run.params;
    float *kept = mem_alloc(sizeof *kept * (size_t)(ps->numel + 1));
    memcpy(kept, ps->weight, sizeof *kept * (size_t)ps->numel);
    for (int i = 0; i < ps->n; i++) {
        const Param *p = &ps->param[i];
        if (p->role == PARAM_WHOLE) continue;
        /* A number of its own for every place; as large as a weight's row makes it count */
        double width = sqrt((double)tensor_cols(p->tensor));
        for (int64_t k = 0; k < tensor_numel(p->tensor); k++) {
            double part = (double)(rng_at(13, (uint64_t)i, (uint64_t)k) >> 11) / 9007199254740992.0;
            f32(p->tensor)[k] = (float)((2 * part - 1) / width);
        }
    }
    return kept;
}
