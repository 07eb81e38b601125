/* epochs.c - see epochs.h. Packed epochs differ in how many bins they have, so where an epoch
 * starts is counted from the first on, in units: bins where they are a stream, else steps. */
#include "epochs.h"
#include <string.h>

/* ---- packing ---- */

/* First-fit: every row goes into the first bin with room for it. tree: the most room in a range of
 * bins, the whole at [1], the two halves of [i] at [2i] and [2i + 1], single bins from [leaves] on.
 * A row that is longer than a bin fills one. */
static int64_t leaves_of(int64_t n) {
    int64_t leaves = 1;
    while (leaves < n) leaves *= 2;
    return leaves;
}

static int64_t first_fit(int64_t *tree, int64_t leaves, int64_t tokens) {
    int64_t i = 1;
    while (i < leaves) i = 2 * i + (tree[2 * i] < tokens);
    tree[i] -= tokens;
    int64_t bin = i - leaves;
    for (i /= 2; i; i /= 2) tree[i] = tree[2 * i] > tree[2 * i + 1] ? tree[2 * i] : tree[2 * i + 1];
    return bin;
}

/* Rows of order into bins; order is then sorted by bin, and keeps its order within each. */
static void pack(Epochs *s) {
    int64_t n = s->n_rows, leaves = leaves_of(n);
    for (int64_t i = 1; i < 2 * leaves; i++) s->tree[i] = s->room;
    s->n_bins = 0;
    memset(s->bin_at, 0, sizeof *s->bin_at * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++) {
        int64_t tokens = s->rows[s->order[i]].n;
        int64_t bin = first_fit(s->tree, leaves, tokens < s->room ? tokens : s->room);
        s->bin_of[i] = bin;
        s->bin_at[bin + 1]++;
        if (bin >= s->n_bins) s->n_bins = bin + 1;
    }
    for (int64_t b = 0; b < s->n_bins; b++) s->bin_at[b + 1] += s->bin_at[b];
    int64_t *sorted = s->tree; /* done with */
    for (int64_t i = 0; i < n; i++) sorted[s->bin_at[s->bin_of[i]]++] = s->order[i];
    memcpy(s->order, sorted, sizeof *sorted * (size_t)n);
    memmove(s->bin_at + 1, s->bin_at, sizeof *s->bin_at * (size_t)s->n_bins);
    s->bin_at[0] = 0;
}

/* ---- epochs ---- */

void epochs_open(Epochs *s, const Config *cfg, const Sample *rows, int64_t n_rows) {
    *s = (Epochs){.cfg = cfg,
                  .rows = rows,
                  .n_rows = n_rows,
                  .room = cfg->sample_packing ? cfg->sequence_len : 0,
                  .per_step = cfg->micro_batch_size * cfg->gradient_accumulation_steps,
                  .epoch = -1};
    s->order = mem_alloc(sizeof *s->order * (size_t)n_rows);
    s->bin_at = mem_alloc(sizeof *s->bin_at * (size_t)(n_rows + 1));
    if (!s->room) return;
    s->bin_of = mem_alloc(sizeof *s->bin_of * (size_t)n_rows);
    s->tree = mem_alloc(sizeof *s->tree * 2 * (size_t)leaves_of(n_rows));
}

void epochs_close(Epochs *s) {
    mem_free(s->order);
    mem_free(s->bin_at);
    mem_free(s->bin_of);
    mem_free(s->tree);
    mem_free(s->first);
    *s = (Epochs){0};
}

static void go_to(Epochs *s, int64_t epoch) {
    if (s->epoch == epoch) return;
    s->epoch = epoch;
    dataset_order((uint64_t)s->cfg->seed, epoch, s->n_rows, s->cfg->shuffle, s->order);
    if (s->room) {
        pack(s);
        return;
    }
    s->n_bins = s->n_rows;
    for (int64_t i = 0; i <= s->n_rows; i++) s->bin_at[i] = i;
}

static bool all_alike(const Epochs *s) { return !s->room || !s->cfg->shuffle; }

static int64_t bins_of(Epochs *s, int64_t epoch) {
    if (!s->room) return s->n_rows;
    go_to(s, s->cfg->shuffle ? epoch : 0);
    return s->n_bins;
}

int64_t epochs_steps(Epochs *s, int64_t epoch) {
    return (bins_of(s, epoch) + s->per_step - 1) / s->per_step;
}

static int64_t units_of(Epochs *s, int64_t epoch) {
    return s->cfg->max_steps ? bins_of(s, epoch) : epochs_steps(s, epoch);
}

/* Units before an epoch; those before it are counted once and kept. */
static int64_t first_unit(Epochs *s, int64_t epoch) {
    if (all_alike(s)) return epoch * units_of(s, 0);
    if (!s->first) s->first = mem_alloc(sizeof *s->first), s->n_first = 1;
    for (; s->n_first <= epoch; s->n_first++) {
        size_t bytes = sizeof *s->first * (size_t)s->n_first;
        s->first = mem_grow(s->first, bytes, bytes + sizeof *s->first);
        s->first[s->n_first] = s->first[s->n_first - 1] + units_of(s, s->n_first - 1);
    }
    return s->first[epoch];
}

/* The epoch that a unit is of; *in: how many of it come before. */
static int64_t locate(Epochs *s, int64_t unit, int64_t *in) {
    int64_t epoch = 0;
    if (all_alike(s)) {
        epoch = unit / units_of(s, 0);
    } else {
        int64_t known = s->n_first > 1 ? s->n_first - 1 : 0;
        while (first_unit(s, known) < unit) known++;
        while (epoch < known) { /* the last that does not start after it */
            int64_t mid = (epoch + known + 1) / 2;
            if (s->first[mid] <= unit)
                epoch = mid;
            else
                known = mid - 1;
        }
    }
    *in = unit - first_unit(s, epoch);
    return epoch;
}

int64_t epochs_total_steps(Epochs *s) {
    return s->cfg->max_steps ? s->cfg->max_steps : first_unit(s, s->cfg->num_epochs);
}

double epochs_at(Epochs *s, int64_t steps) {
    int64_t in, epoch = locate(s, s->cfg->max_steps ? steps * s->per_step : steps, &in);
    if (!in) return (double)epoch;
    return (double)epoch +
           (double)(s->cfg->max_steps ? in : in * s->per_step) / (double)bins_of(s, epoch);
}

/* ---- steps ---- */

static void add_bin(StepRows *r, const Epochs *s, int64_t bin) {
    int64_t from = s->bin_at[bin], n = s->bin_at[bin + 1] - from;
    size_t had = sizeof *r->row * (size_t)r->n_rows, more = sizeof *r->row * (size_t)n;
    r->row = mem_grow(r->row, had, had + more);
    for (int64_t i = 0; i < n; i++) r->row[r->n_rows++] = &s->rows[s->order[from + i]];
}

StepRows epochs_step(Epochs *s, int64_t step) {
    StepRows r = {0};
    bool stream = s->cfg->max_steps != 0;
    int64_t in, epoch = locate(s, stream ? step * s->per_step : step, &in);
    if (!stream) in *= s->per_step;
    r.at = mem_alloc(sizeof *r.at * (size_t)(s->cfg->gradient_accumulation_steps + 1));
    go_to(s, epoch);
    for (int64_t k = 0; k < s->per_step && (stream || in < s->n_bins); k++, in++) {
        if (in == s->n_bins) go_to(s, ++epoch), in = 0;
        if (k % s->cfg->micro_batch_size == 0) r.n_micro++;
        add_bin(&r, s, in);
        r.at[r.n_micro] = r.n_rows;
    }
    return r;
}

void step_rows_free(StepRows *r) {
    mem_free(r->row);
    mem_free(r->at);
    *r = (StepRows){0};
}
