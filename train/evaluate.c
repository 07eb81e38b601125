/* evaluate.c - see evaluate.h. */
#include "evaluate.h"
#include <math.h>
#include <string.h>

/* Short rows share a pass, none seeing another, up to this many tokens. */
enum { EVAL_TOKENS = 2048, EVAL_ROWS = 256 };

Batch batch_of(Arena *a, const Sample *const *rows, int n) {
    int32_t *at = arena_push(a, sizeof *at * (size_t)(n + 1)), total = 0;
    for (int i = 0; i < n; i++) at[i] = total, total += rows[i]->n;
    at[n] = total;
    int32_t *ids = arena_push(a, sizeof *ids * (size_t)total),
            *labels = arena_push(a, sizeof *labels * (size_t)total);
    for (int i = 0; i < n; i++) {
        memcpy(ids + at[i], rows[i]->ids, sizeof *ids * (size_t)rows[i]->n);
        memcpy(labels + at[i], rows[i]->labels, sizeof *labels * (size_t)rows[i]->n);
    }
    return (Batch){n, at, ids, labels};
}

Batch *batches_of(Arena *a, const StepRows *r, int64_t from, int n) {
    Batch *b = arena_push(a, sizeof *b * (size_t)n);
    for (int i = 0; i < n; i++) {
        const int64_t *at = &r->at[from + i];
        b[i] = batch_of(a, r->row + at[0], (int)(at[1] - at[0]));
    }
    return b;
}

/* How many rows from i on share a pass. */
static int rows_of_pass(const Sample *rows, int64_t n, int64_t i) {
    int64_t k = 0, size = 0;
    while (i + k < n && k < EVAL_ROWS && (k == 0 || size + rows[i + k].n <= EVAL_TOKENS))
        size += rows[i + k++].n;
    return (int)k;
}

static Batch batch_of_pass(Arena *a, const Sample *rows, int n) {
    const Sample *part[EVAL_ROWS];
    for (int i = 0; i < n; i++) part[i] = &rows[i];
    return batch_of(a, part, n);
}

Batch evaluate_longest_batch(const Sample *rows, int64_t n, Arena *a) {
    int64_t most = -1, at = 0;
    for (int64_t i = 0; i < n; i += rows_of_pass(rows, n, i)) {
        int64_t tokens = 0;
        for (int k = 0; k < rows_of_pass(rows, n, i); k++) tokens += rows[i + k].n;
        if (tokens > most) most = tokens, at = i;
    }
    return batch_of_pass(a, rows + at, rows_of_pass(rows, n, at));
}

int evaluate(Session *s, const Sample *rows, int64_t n, Progress *progress, EvalResult *out,
             Err *e) {
    double sum = 0;
    int64_t tokens = 0;
    float dropout = s->model->dropout;
    RouteFn on_route = s->model->on_route; /* a training step's figures are of its own rows */
    s->model->dropout = 0;
    s->model->on_route = NULL;
    for (int64_t i = 0; i < n;) {
        int k = rows_of_pass(rows, n, i);
        size_t mark = arena_mark(&s->step);
        Batch b = batch_of_pass(&s->step, rows + i, k);
        i += k;
        s->tape.paused++;
        sum += (double)f32(model_loss(s->model, &s->tape, &b, 1))[0];
        s->tape.paused--;
        tokens += batch_supervised(&b);
        arena_release(&s->step, mark);
        if (progress) progress_show(progress, i, "");
    }
    s->model->dropout = dropout;
    s->model->on_route = on_route;
    *out = (EvalResult){tokens ? sum / (double)tokens : 0, tokens};
    return isfinite(sum) ? 0 : session_blame_nonfinite(s, "evaluation", e);
}

int measure_rows(const Config *cfg, MeasureFn body, json_t *result, Err *e) {
    Session s;
    Rows rows;
    TRY(rows_open(&rows, cfg, &cfg->datasets, ROWS_TO_MEASURE, e));
    int bad = session_open(&s, cfg, USE_AS_IS, e);
    if (!bad) {
        s.tape.paused++;
        bad = body(cfg, &s, &rows, result, e);
        session_close(&s);
    }
    rows_close(&rows);
    return bad;
}
