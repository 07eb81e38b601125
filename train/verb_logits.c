/* verb_logits.c - teacher-forced logits of every row, alone, into HDF5: /logits float32
 * [tokens, vocab], or the --top_k largest as /topk_logits and /topk_ids; /input_ids, /offsets. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../data/files.h"
#include "../data/h5.h"
#include "evaluate.h"
#include "rows.h"
#include "verbs.h"

enum { BLOCK = 64 }; /* rows of logits at a time */

typedef struct Writer {
    HdfFile *file;
    HdfRows *logits, *ids; /* ids: of the top k; NULL where whole rows are written */
    int64_t k;
} Writer;

typedef struct Scored {
    float logit;
    int32_t id;
} Scored;

static int larger_first(const void *a, const void *b) {
    const Scored *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int add_top(Writer *w, Arena *a, const float *logits, int64_t n, int64_t V, Err *e) {
    Scored *all = arena_push(a, sizeof *all * (size_t)V);
    float *top = arena_push(a, sizeof *top * (size_t)(n * w->k));
    int32_t *id = arena_push(a, sizeof *id * (size_t)(n * w->k));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t v = 0; v < V; v++) all[v] = (Scored){logits[i * V + v], (int32_t)v};
        qsort(all, (size_t)V, sizeof *all, larger_first);
        for (int64_t j = 0; j < w->k; j++)
            top[i * w->k + j] = all[j].logit, id[i * w->k + j] = all[j].id;
    }
    TRY(h5_rows_add(w->logits, n, top, e));
    return h5_rows_add(w->ids, n, id, e);
}

static int write_row(Writer *w, Session *s, const Sample *row, Err *e) {
    size_t start = arena_mark(&s->step);
    Batch b = batch_of(&s->step, &row, 1);
    Tensor *h = model_hidden(s->model, &s->tape, &b, NULL);
    for (int64_t i = 0; i < row->n; i += BLOCK) {
        size_t mark = arena_mark(&s->step);
        int64_t n = row->n - i < BLOCK ? row->n - i : BLOCK;
        Tensor *y = model_logits(s->model, &s->tape, h, i, n);
        for (int64_t k = 0; k < tensor_numel(y); k++) {
            if (!isfinite(f32(y)[k])) return session_blame_nonfinite(s, "logits", e);
        }
        if (w->ids)
            TRY(add_top(w, &s->step, f32(y), n, tensor_cols(y), e));
        else
            TRY(h5_rows_add(w->logits, n, y->data, e));
        arena_release(&s->step, mark);
    }
    arena_release(&s->step, start);
    return 0;
}

static int write_index(HdfFile *f, const Sample *rows, int64_t n, int64_t tokens, Err *e) {
    int32_t *ids = mem_alloc(sizeof *ids * (size_t)(tokens + 1));
    int64_t *at = mem_alloc(sizeof *at * (size_t)(n + 1)), ends = n + 1;
    for (int64_t i = 0; i < n; i++) {
        memcpy(ids + at[i], rows[i].ids, sizeof *ids * (size_t)rows[i].n);
        at[i + 1] = at[i] + rows[i].n;
    }
    int bad = h5_write(f, "/input_ids", HDF_I32, 1, &tokens, ids, e) ||
              h5_write(f, "/offsets", HDF_I64, 1, &ends, at, e);
    mem_free(ids);
    mem_free(at);
    return bad ? -1 : 0;
}

static int open_writer(Writer *w, const Config *cfg, int64_t V, Err *e) {
    w->k = cfg->top_k < V ? cfg->top_k : V;
    TRY(h5_rows_begin(&w->logits, w->file, w->k ? "/topk_logits" : "/logits", HDF_F32,
                      w->k ? w->k : V, e));
    return w->k ? h5_rows_begin(&w->ids, w->file, "/topk_ids", HDF_I32, w->k, e) : 0;
}

static int write_all(Writer *w, const Config *cfg, Session *s, const Rows *rows, Err *e) {
    Progress p;
    int64_t tokens = 0;
    TRY(open_writer(w, cfg, s->model->dims.vocab, e));
    progress_begin(&p, "logits", "rows", 0, rows->set.n);
    for (int64_t i = 0; i < rows->set.n; i++) {
        TRY(write_row(w, s, &rows->set.samples[i], e));
        tokens += rows->set.samples[i].n;
        progress_show(&p, i + 1, "");
    }
    progress_end(&p);
    return write_index(w->file, rows->set.samples, rows->set.n, tokens, e);
}

static int run(const Config *cfg, Session *s, const Rows *rows, json_t *result, Err *e) {
    Writer w = {0};
    Err late;
    TRY(h5_create(&w.file, cfg->output, e));
    int bad = write_all(&w, cfg, s, rows, e);
    Err *to = bad ? &late : e; /* the first sentence is the one that counts */
    if (w.logits) bad |= h5_rows_end(w.logits, to);
    if (w.ids) bad |= h5_rows_end(w.ids, to);
    if (bad) {
        h5_close(w.file);
        return -1;
    }
    json_object_set_new(result, "output", json_string(cfg->output));
    json_object_set_new(result, "rows", json_integer(rows->set.n));
    TRY(h5_commit(w.file, e));
    progress_say(NULL, "wrote %s", cfg->output);
    return 0;
}

int verb_logits(const Config *cfg, json_t *result, Err *e) {
    TRY(output_check(cfg, OUTPUT_FILE, e));
    return measure_rows(cfg, run, result, e);
}
