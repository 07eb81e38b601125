/* trial.h - training runs on the golden models for tests: settings by words, a session made ready,
 * logits, and comparing what two runs wrote. Everything is written below a directory of the test's
 * own, made by trial_set_up and removed by trial_tear_down. */
#ifndef TRIAL_H
#define TRIAL_H
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "data/files.h"
#include "data/h5.h"
#include "data/json.h"
#include "train/checkpoint.h"
#include "train/rows.h"
#include "train/trainer.h"

static Err err;
static char *root;   /* of all that is written */
static char **paths; /* that beside() made */
static int n_paths;

static inline void ok(int rc) {
    if (rc) fail_msg("%s", err.text);
}

/* dir/name; lives until the test program's end. */
static inline const char *beside(const char *dir, const char *name) {
    size_t bytes = sizeof *paths;
    paths = mem_grow(paths, bytes * (size_t)n_paths, bytes * (size_t)(n_paths + 1));
    return paths[n_paths++] = files_join(dir, name);
}

static inline const char *in(const char *name) { return beside(root, name); }

/* ---- a run ---- */

enum { FLAGS = 40 };
/* Key and value by turns; NULL ends. A later one wins. */
typedef struct Settings {
    const char *word[2 * FLAGS];
} Settings;

static inline Settings settings(const char *first, ...) {
    Settings s = {{first}};
    va_list more;
    va_start(more, first);
    for (int i = 1; s.word[i - 1]; i++) s.word[i] = va_arg(more, const char *);
    va_end(more);
    return s;
}

static inline void load(Config *cfg, const char *model, const Settings *s) {
    const char *base = beside("tests/golden/models", model);
    Flag flags[FLAGS + 4] = {{"base_model", (char *)beside(base, "model")},
                             {"datasets", (char *)beside(base, "batch.jsonl")},
                             {"datasets.0.type", "tokens"},
                             {"compute", "f32"}};
    int n = 4;
    for (int i = 0; s && s->word[i]; i += 2) {
        int k = 0;
        while (k < n && strcmp(flags[k].name, s->word[i])) k++;
        if (k == n) n++;
        flags[k] = (Flag){(char *)s->word[i], (char *)s->word[i + 1]};
    }
    ok(config_load(cfg, NULL, flags, n, &err));
}

/* A model made ready, with the rows it is asked about. */
typedef struct Trial {
    Config cfg;
    Rows rows;
    Session s;
} Trial;

static inline Trial *trial(const char *model, SessionUse use, const Settings *set) {
    Trial *t = mem_alloc(sizeof *t);
    load(&t->cfg, model, set);
    ok(rows_open(&t->rows, &t->cfg, &t->cfg.datasets, ROWS_TO_MEASURE, &err));
    ok(session_open(&t->s, &t->cfg, use, &err));
    return t;
}

static inline void end(Trial *t) {
    session_close(&t->s);
    rows_close(&t->rows);
    config_free(&t->cfg);
    mem_free(t);
}

static inline void go(Trial *t) {
    TrainData d = {t->rows.set.samples, NULL, t->rows.set.n, 0};
    json_t *result = json_object();
    ok(trainer_run(&t->cfg, &t->s, &d, result, &err));
    json_decref(result);
}

/* A whole run of a few steps with all that can be adapted. */
static inline void train(const char *model, const Settings *set) {
    Trial *t = trial(model, USE_TO_TRAIN, set);
    go(t);
    end(t);
}

#define ALL_LEARN                                                                                  \
    "lora_r", "3", "lora_alpha", "5", "router.train", "lora", "learning_rate", "0.02",             \
        "max_steps", "4", "gradient_accumulation_steps", "2"

/* ---- logits ---- */

typedef struct Logits {
    float *p;
    int64_t n;
} Logits;

/* Rows [from, to) in one batch, appended. */
static inline void add_logits(Logits *out, Trial *t, int64_t from, int64_t to) {
    const Sample *rows[16];
    int n = (int)(to - from);
    for (int i = 0; i < n; i++) rows[i] = &t->rows.set.samples[from + i];
    size_t mark = arena_mark(&t->s.step);
    Batch b = batch_of(&t->s.step, rows, n);
    Tensor *h = model_hidden(t->s.model, &t->s.tape, &b, NULL);
    Tensor *y = model_logits(t->s.model, &t->s.tape, h, 0, batch_tokens(&b));
    size_t had = (size_t)out->n * 4, more = (size_t)tensor_bytes(y);
    out->p = mem_grow(out->p, had, had + more);
    memcpy(out->p + out->n, y->data, more);
    out->n += tensor_numel(y);
    arena_release(&t->s.step, mark);
}

static inline Logits logits_of(Trial *t, int rows_at_once) {
    Logits out = {0};
    float dropout = t->s.model->dropout;
    t->s.model->dropout = 0;
    t->s.model->on_route = NULL;
    t->s.tape.paused++;
    for (int64_t i = 0; i < t->rows.set.n; i += rows_at_once) {
        int64_t to = i + rows_at_once < t->rows.set.n ? i + rows_at_once : t->rows.set.n;
        add_logits(&out, t, i, to);
    }
    t->s.tape.paused--;
    t->s.model->dropout = dropout;
    return out;
}

static inline Logits logits_from(const char *model, const Settings *set) {
    Trial *t = trial(model, USE_AS_IS, set);
    Logits y = logits_of(t, 1);
    end(t);
    return y;
}

static inline double farthest(const Logits *a, const Logits *b) {
    double worst = 0;
    assert_int_equal(a->n, b->n);
    for (int64_t i = 0; i < a->n; i++) worst = fmax(worst, fabs((double)a->p[i] - (double)b->p[i]));
    return worst;
}

static inline void same_logits(Logits a, Logits b, bool same) {
    assert_int_equal(a.n, b.n);
    assert_int_equal(!memcmp(a.p, b.p, (size_t)a.n * 4), same);
    mem_free(a.p);
    mem_free(b.p);
}

static inline void near_logits(Logits a, Logits b, double bound, const char *what) {
    double d = farthest(&a, &b);
    print_message("  %-46s logits differ by at most %.1e\n", what, d);
    assert_true(d <= bound);
    mem_free(a.p);
    mem_free(b.p);
}

/* ---- files ---- */

static inline bool files_equal(const char *a, const char *b) {
    Buf x = {0}, y = {0};
    ok(files_read(a, &x, &err));
    ok(files_read(b, &y, &err));
    bool same = x.n == y.n && !memcmp(x.p, y.p, x.n);
    buf_free(&x);
    buf_free(&y);
    return same;
}

static inline void same_file(const char *dir_a, const char *dir_b, const char *name) {
    if (!files_equal(beside(dir_a, name), beside(dir_b, name)))
        fail_msg("%s and %s hold different %s", dir_a, dir_b, name);
}

static inline void other_file(const char *dir_a, const char *dir_b, const char *name) {
    if (files_equal(beside(dir_a, name), beside(dir_b, name)))
        fail_msg("%s and %s hold the same %s", dir_a, dir_b, name);
}

/* What a step's line says, but for how long it took and what memory it met. */
static inline void same_metrics(const char *dir_a, const char *dir_b, int steps) {
    Buf text[2] = {{0}, {0}};
    static const char *const timing[] = {"tokens_per_second", "step_seconds", "peak_memory_bytes"};
    ok(files_read(beside(dir_a, "metrics.jsonl"), &text[0], &err));
    ok(files_read(beside(dir_b, "metrics.jsonl"), &text[1], &err));
    const char *at[2] = {text[0].p, text[1].p};
    for (int i = 0; i < steps; i++) {
        json_t *line[2];
        for (int k = 0; k < 2; k++) {
            line[k] = json_loads(at[k], JSON_DISABLE_EOF_CHECK, NULL);
            assert_non_null(line[k]);
            assert_int_equal(json_integer_value(json_object_get(line[k], "step")), i + 1);
            for (size_t j = 0; j < COUNT_OF(timing); j++)
                assert_int_equal(json_object_del(line[k], timing[j]), 0);
            at[k] = strchr(at[k], '\n') + 1;
        }
        assert_true(json_equal(line[0], line[1]));
        json_decref(line[0]);
        json_decref(line[1]);
    }
    assert_true(at[0] == text[0].p + text[0].n && at[1] == text[1].p + text[1].n);
    buf_free(&text[0]);
    buf_free(&text[1]);
}

/* Every array of two state.h5 files. */
static inline void same_state(const char *dir_a, const char *dir_b) {
    HdfFile *f[2];
    HdfNames names;
    ok(h5_open(&f[0], beside(dir_a, "state.h5"), &err));
    ok(h5_open(&f[1], beside(dir_b, "state.h5"), &err));
    ok(h5_list(f[0], &names, &err));
    assert_true(names.n >= 3);
    for (int i = 0; i < names.n; i++) {
        HdfType type;
        int n_dim;
        int64_t dim[HDF_DIMS], n = 1;
        ok(h5_shape(f[0], names.name[i], &type, &n_dim, dim, &err));
        for (int k = 0; k < n_dim; k++) n *= dim[k];
        char *a = mem_alloc((size_t)n * 8), *b = mem_alloc((size_t)n * 8);
        ok(h5_read(f[0], names.name[i], type, n_dim, dim, a, &err));
        ok(h5_read(f[1], names.name[i], type, n_dim, dim, b, &err));
        if (memcmp(a, b, (size_t)n * 8)) fail_msg("%s differs in %s", names.name[i], dir_b);
        mem_free(a);
        mem_free(b);
    }
    h5_names_free(&names);
    h5_close(f[0]);
    h5_close(f[1]);
}

static inline int trial_set_up(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    root = mkdtemp(files_join(base ? base : P_tmpdir, "moesmith-trial-XXXXXX"));
    return root ? 0 : -1;
}

static inline int trial_tear_down(void **state) {
    (void)state;
    int bad = files_remove(root, &err);
    for (int i = 0; i < n_paths; i++) mem_free(paths[i]);
    mem_free(paths);
    mem_free(root);
    return bad;
}

#endif
