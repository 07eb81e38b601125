/* memory.c - see memory.h. What is large is counted (the base by its sites, arenas by a dry run of
 * the run's own largest micro-batch); what is small was measured and stands here as constants. */
#include "memory.h"
#include <omp.h>
#include <string.h>
#include "../autograd/amount.h"
#include "../autograd/weight.h"
#include "../model/stream.h"
#include "evaluate.h"
#include "optimizer.h"

/* Reading one page of a mapped file maps those around it that are cached already. */
enum { MAPPED_AROUND = 64 << 10 };

/* What a run touches after its data are read: code of libraries and threads' stacks; tables of the
 * checkpoint for each tensor; buffers of each thread's products, which grow with them; the buffer
 * through which a tensor is written, or what checkpoints leave behind them: that buffer and HDF5's
 * own memory. */
enum {
    LATER_BYTES = 5 << 18,
    SITE_BYTES = 1536,
    THREAD_BYTES_MAX = 1 << 20,
    STEP_PER_THREAD = 64,
    WRITE_BYTES_MAX = 4 << 20,
    SAVE_BYTES = 7 << 20
};

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

/* ---- the base ---- */

/* A table of which a step reads only the rows of its tokens, if any; a tied embedding is the head
 * too, and what learns or is written again is read whole. */
static bool is_looked_up(const Session *s, const Site *x) {
    const Model *m = s->model;
    bool table = x->slot == &m->ple_table.w || (x->slot == &m->embed.w && !m->dims.tied);
    return table && s->has_adapter;
}

/* Of a table: which parts of MAPPED_AROUND bytes some row brings in. */
typedef struct Touched {
    const Tensor *table;
    bool *part;
    size_t n;
} Touched;

static void touch_row(Touched *t, int64_t row) {
    ByteRange r[2];
    int ranges = weight_row_ranges(t->table, row, r);
    for (int k = 0; k < ranges; k++) {
        size_t first = (size_t)r[k].from / MAPPED_AROUND,
               last = (size_t)(r[k].from + r[k].bytes - 1) / MAPPED_AROUND;
        for (size_t i = first; i <= last && i < t->n; i++) t->part[i] = true;
    }
}

static void touch_sample(Touched *t, const Sample *x) {
    for (int32_t i = 0; i < x->n; i++) {
        if (x->ids[i] < 0)
            memset(t->part, true, t->n);
        else if (x->ids[i] < t->table->dim[0])
            touch_row(t, x->ids[i]);
    }
}

static size_t looked_up_bytes(const Tensor *w, const TrainData *data, const bool *taken) {
    size_t all = (size_t)tensor_bytes(w), n = all / MAPPED_AROUND + 1, found = 0;
    Touched t = {w, mem_alloc(n), n};
    for (int64_t i = 0; i < data->n_rows; i++) {
        if (taken[i]) touch_sample(&t, &data->rows[i]);
    }
    for (int64_t i = 0; i < data->n_held_out; i++) touch_sample(&t, &data->held_out[i]);
    for (size_t i = 0; i < n; i++) found += t.part[i] ? MAPPED_AROUND : 0;
    mem_free(t.part);
    return min_size(found, all);
}

/* Tensors of the checkpoint that no step reads: looked at to know the base again, and written
 * again by full training. */
static size_t unread_bytes(const Session *s) {
    size_t n = 0;
    Weights *w = s->base_made ? NULL : s->model->weights;
    for (int i = 0; w && i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        bool whole = !s->has_adapter || v->bytes < MAPPED_AROUND;
        if (!v->read) n += whole ? (size_t)v->bytes : MAPPED_AROUND;
    }
    return n;
}

static size_t base_bytes(const Session *s, const TrainData *data, const bool *taken) {
    size_t n = unread_bytes(s);
    for (int i = 0; i < s->model->n_sites; i++) {
        const Site *x = &s->model->site[i];
        n += is_looked_up(s, x) ? looked_up_bytes(x->base, data, taken)
                                : (size_t)tensor_bytes(x->base);
    }
    return n;
}

/* ---- the rest ---- */

/* Of an arena that is not open yet. */
static size_t arena_bytes(size_t top) { return arena_resident(&(Arena){.cap = SIZE_MAX}, top); }

static size_t learns_bytes(const Session *s, const Config *cfg) {
    const OptimizerRule *rule = optimizer_find(cfg->optimizer);
    CHECK(rule, "optimizer %s", cfg->optimizer);
    return arena_bytes(params_bytes(&s->params)) +
           arena_bytes(optimizer_bytes(rule, &s->params) + sizeof(double) * (size_t)s->params.n);
}

/* Steps beyond so many rows are taken to be like those before. */
enum { ROWS_LOOKED_AT = 1 << 26 };

/* The passes of a step: where the one with the most tokens begins, and its tokens. */
static int64_t longest_pass(const StepRows *r, int64_t together, int64_t *tokens, int64_t *at) {
    int64_t most = 0, all = 0;
    for (int64_t i = 0; i < r->n_micro; i += together) {
        int64_t end = i + together < r->n_micro ? i + together : r->n_micro, n = 0;
        for (int64_t k = r->at[i]; k < r->at[end]; k++) n += r->row[k]->n;
        all += n;
        if (n > most) most = n, *at = i;
    }
    *tokens = all;
    return most;
}

/* Which step of the run has the longest pass; tells how long the run is and which rows it takes. */
static int64_t look_ahead(Epochs *epochs, const TrainData *data, int64_t together, MemoryPlan *p,
                          bool *taken) {
    int64_t most = -1, which = 0, tokens, at;
    p->run_steps = epochs_total_steps(epochs);
    int64_t seen = ROWS_LOOKED_AT / epochs->per_step + 1;
    if (seen > p->run_steps) seen = p->run_steps;
    for (int64_t step = 0; step < seen; step++) {
        StepRows r = epochs_step(epochs, step);
        int64_t n = longest_pass(&r, together, &tokens, &at);
        if (n > most) most = n, which = step;
        p->run_tokens += tokens;
        for (int64_t i = 0; i < r.n_rows; i++) taken[r.row[i] - data->rows] = true;
        step_rows_free(&r);
    }
    p->run_tokens = (int64_t)((double)p->run_tokens * (double)p->run_steps / (double)seen);
    return which;
}

/* The arena's top in the longest pass of a step. */
static size_t pass_top(Session *s, const StepRows *r, int64_t together) {
    int64_t tokens, from = 0;
    longest_pass(r, together, &tokens, &from);
    int n = (int)(r->n_micro - from < together ? r->n_micro - from : together);
    size_t mark = arena_mark(&s->step);
    Batch *b = batches_of(&s->step, r, from, n);
    size_t top = session_dry_run(s, b, n, true);
    arena_release(&s->step, mark);
    return top;
}

static size_t step_bytes(Session *s, const TrainData *data, const Config *cfg, MemoryPlan *p,
                         bool *taken) {
    int64_t together = p->together;
    size_t mark = arena_mark(&s->step);
    Epochs epochs;
    epochs_open(&epochs, cfg, data->rows, data->n_rows);
    StepRows longest = epochs_step(&epochs, look_ahead(&epochs, data, together, p, taken));
    size_t top = pass_top(s, &longest, together);
    step_rows_free(&longest);
    epochs_close(&epochs);
    arena_release(&s->step, mark);
    if (data->n_held_out) {
        Batch pass = evaluate_longest_batch(data->held_out, data->n_held_out, &s->step);
        top = max_size(top, session_dry_run(s, &pass, 1, false));
        arena_release(&s->step, mark);
    }
    return arena_bytes(top);
}

/* bitsandbytes' codes that stand in memory a second time, in the kernels' layout. */
static size_t repacked_bytes(const Session *s) {
    size_t n = 0;
    for (int i = 0; s->model->weights && !s->base_made && i < s->model->n_sites; i++) {
        const Tensor *b = s->model->site[i].base;
        if (!b->data) n += (size_t)tensor_bytes(b);
    }
    return n;
}

static size_t other_bytes(const Session *s, const Config *cfg, size_t step) {
    size_t largest = 0, threads = (size_t)omp_get_max_threads() *
                                  min_size(THREAD_BYTES_MAX, step / STEP_PER_THREAD);
    for (int i = 0; i < s->params.n; i++)
        largest = max_size(largest, (size_t)tensor_bytes(s->params.param[i].tensor));
    return s->resident_before + arena_bytes(s->model->keep.top + repacked_bytes(s)) +
           (size_t)s->model->n_sites * SITE_BYTES + LATER_BYTES + threads +
           (cfg->save_steps ? SAVE_BYTES : min_size(WRITE_BYTES_MAX, largest));
}

static MemoryPlan plan_of(Session *s, const Config *cfg, const TrainData *data, int64_t together) {
    bool *taken = mem_alloc((size_t)data->n_rows);
    MemoryPlan p = {.learns = learns_bytes(s, cfg), .together = (int)together};
    p.step = step_bytes(s, data, cfg, &p, taken);
    p.other = other_bytes(s, cfg, p.step);
    p.base = p.whole = base_bytes(s, data, taken);
    p.peak = max_size(p.base + p.learns + p.step + p.other, s->peak_before);
    mem_free(taken);
    return p;
}

/* ---- a base that does not fit ---- */

static size_t own_bytes(const MemoryPlan *p) { return p->learns + p->step + p->other; }

/* How many micro-batches can go through a layer together. */
static int64_t most_together(const Session *s, const Config *cfg) {
    const Model *m = s->model;
    int64_t nodes = (s->tape.cap - 4096) / (m->dims.n_layers + 16),
            micro = cfg->gradient_accumulation_steps;
    if (m->dims.tied && m->embed.w->wants_grad) return 1; /* see model_losses */
    return micro < nodes ? micro : nodes;
}

/* As many micro-batches together as fit beside the two layers that are there at least, or fewer
 * where a step needs no more passes for it; then as many layers stay as fit beside those. */
static MemoryPlan plan_stream(Session *s, const Config *cfg, const TrainData *data, MemoryPlan p) {
    size_t least = stream_least(s->model), layers = stream_bytes(s->model),
           rest = p.base > layers ? p.base - layers : 0;
    if (!s->together && most_together(s, cfg) > 1) {
        size_t one = p.step, two = plan_of(s, cfg, data, 2).step,
               need = own_bytes(&p) + least + rest;
        int64_t most = most_together(s, cfg), fit = 1, micro = cfg->gradient_accumulation_steps;
        if (need < s->memory) fit += (int64_t)((s->memory - need) / (two > one ? two - one : 1));
        if (fit > most) fit = most;
        int64_t passes = (micro + fit - 1) / fit;
        p = plan_of(s, cfg, data, (micro + passes - 1) / passes);
    }
    size_t taken = own_bytes(&p) + rest;
    p.room = taken + least < s->memory ? s->memory - taken : least;
    p.base = rest + min_size(p.room, layers);
    p.peak = max_size(p.base + own_bytes(&p), s->peak_before);
    return p;
}

MemoryPlan memory_plan(Session *s, const Config *cfg, const TrainData *data) {
    arena_set_sparse(&s->step, true);
    MemoryPlan p = plan_of(s, cfg, data, s->together ? s->together : 1);
    if (own_bytes(&p) + p.base > s->memory) p = plan_stream(s, cfg, data, p);
    arena_set_sparse(&s->step, false);
    return p;
}

/* ---- telling ---- */

static Amount size(size_t bytes) { return amount_bytes((double)bytes); }

void memory_together(char out[32], const MemoryPlan *p) {
    snprintf(out, 32, p->together == 1 ? "micro-batch" : "%d micro-batches", p->together);
}

void memory_describe(const MemoryPlan *p, Buf *out) {
    char together[32];
    memory_together(together, p);
    buf_printf(out,
               "memory: base %s (mapped), what learns %s, a step %s, all else %s; about %s in all",
               size(p->base).text, size(p->learns).text, size(p->step).text, size(p->other).text,
               size(p->peak).text);
    if (p->room)
        buf_printf(out,
                   "\nthe base does not fit beside the rest: its layers are read from disk for "
                   "every %s, forward and again backward",
                   together);
}

int memory_check(const MemoryPlan *p, Err *e) {
    size_t own = own_bytes(p);
    if (own <= mem_total()) return 0;
    return err_set(
        e,
        "the run needs about %s beside the mapped base and there are %s: shorten sequence_len, "
        "lower micro_batch_size, or let less learn",
        size(own).text, size(mem_total()).text);
}
