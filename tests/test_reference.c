/* test_reference.c - everything the reference implementation (Transformers + PEFT, float32) was
 * asked about a tiny model, asked of us: logits, loss, routing, greedy text, gradients, training
 * traces, merged weights, the error of bfloat16. Walks every folder of a covered family in
 * tests/golden/models/ and of the oracle (MOESMITH_ORACLE, else ../shared/oracle); the layout of a
 * folder is told in tests/golden/README.md.
 *
 * Tolerances. Rounding moves most of these models' logits by 1e-6 to 1e-5 and their traces by 1e-6
 * relative; the plain bounds leave room for another order of sums, no more. Where the reference
 * itself is farther than that from its own run in float64, a bound follows from that distance:
 * traces have it in expect.json. Of models with per-layer embeddings the oracle's is 2.0e-4 in the
 * logits (measured; two norms in a row divide by small numbers there), so two float32 runs, each so
 * far from the truth, may lie that far from each other and a little more. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "data/files.h"
#include "data/json.h"
#include "train/generate.h"
#include "train/rows.h"
#include "train/trainer.h"

#define LOGITS_TOLERANCE     1e-4
#define PLE_LOGITS_TOLERANCE 2.5e-4
#define LOSS_TOLERANCE       1e-5
#define GRAD_TOLERANCE       1e-4 /* relative L2 */
#define TRACE_TOLERANCE      1e-4 /* relative, of loss and gradient norm */
#define FINAL_TOLERANCE      1e-3 /* relative L2 of the trained adapter */
#define ROUNDING_ROOM        50 /* gradients are this much more sensitive to rounding than losses */

static char dir[4096]; /* of the model under test */
static Err err;
#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != 0) fail_msg("%s: %s", dir, err.text);                                        \
    } while (0)

static char *at(const char *name) {
    static char path[8][8192];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static bool has(const char *name) { return files_exists(at(name)); }

/* The model itself: a checkpoint directory, or a GGUF file. */
static char *base(void) { return at(has("model.gguf") ? "model.gguf" : "model"); }

/* A config from flags alone; values are borrowed. */
static void configure(Config *cfg, const char *yaml, int n, const char *const (*flags)[2]) {
    Flag list[16];
    for (int i = 0; i < n; i++) list[i] = (Flag){(char *)flags[i][0], (char *)flags[i][1]};
    OK(config_load(cfg, yaml, list, n, &err));
}

static const WeightView *expected(Weights *w, const char *name) {
    const WeightView *v = weights_find(w, name);
    if (!v) fail_msg("%s: the reference has no %s", dir, name);
    return v;
}

static double number_at(const json_t *object, const char *key, const char *inner) {
    return json_number_value(json_object_get(json_object_get(object, key), inner));
}

static double relative_l2(const float *got, const float *want, int64_t n) {
    double d = 0, s = 0;
    for (int64_t i = 0; i < n; i++)
        d += ((double)got[i] - want[i]) * ((double)got[i] - want[i]),
            s += (double)want[i] * want[i];
    return sqrt(d / (s > 0 ? s : 1));
}

static double logits_tolerance(const Model *m) {
    return m->dims.ple_width ? PLE_LOGITS_TOLERANCE : LOGITS_TOLERANCE;
}

/* ---- logits, loss, routing, greedy ---- */

typedef struct Routes {
    Weights *want;
    int64_t at;
    int wrong;
    double worst;
} Routes;

static void compare_routes(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                           const Tensor *weight) {
    Routes *r = ctx;
    char name[64];
    int64_t k = tensor_cols(choice), n = tensor_numel(choice);
    (void)logits;
    snprintf(name, sizeof name, "layer.%d.experts", layer);
    const int32_t *experts = (const int32_t *)expected(r->want, name)->data + r->at * k;
    snprintf(name, sizeof name, "layer.%d.weights", layer);
    const float *weights = (const float *)expected(r->want, name)->data + r->at * k;
    for (int64_t i = 0; i < n; i++) {
        r->wrong += i32(choice)[i] != experts[i];
        r->worst = fmax(r->worst, fabs((double)f32(weight)[i] - (double)weights[i]));
    }
}

typedef struct Distance {
    double max, sum2;
    int64_t n;
} Distance;

static Distance compare_logits(Session *s, const Rows *rows, Weights *want) {
    Distance d = {0};
    Routes routes = {want, 0, 0, 0};
    const float *ref = expected(want, "logits")->data;
    s->model->on_route = s->model->dims.n_experts && weights_find(want, "layer.0.experts") &&
                                 s->tape.compute == COMPUTE_F32
                             ? compare_routes
                             : NULL;
    s->model->on_route_ctx = &routes;
    s->tape.paused++;
    for (int64_t i = 0; i < rows->set.n; i++) {
        const Sample *row = &rows->set.samples[i];
        size_t mark = arena_mark(&s->step);
        Batch b = batch_of(&s->step, &row, 1);
        Tensor *y =
            model_logits(s->model, &s->tape, model_hidden(s->model, &s->tape, &b, NULL), 0, row->n);
        for (int64_t k = 0; k < tensor_numel(y); k++, d.n++) {
            double x = fabs((double)f32(y)[k] - (double)ref[d.n]);
            d.max = fmax(d.max, x);
            d.sum2 += x * x;
        }
        routes.at += row->n;
        arena_release(&s->step, mark);
    }
    s->tape.paused--;
    s->model->on_route = NULL;
    assert_int_equal(routes.wrong, 0);
    assert_true(routes.worst < LOGITS_TOLERANCE);
    return d;
}

static void compare_greedy(Session *s, const json_t *cases) {
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i), *prompt = json_object_get(c, "input_ids"),
                     *want = json_object_get(c, "ids");
        int32_t ids[256], out[256];
        int64_t n = (int64_t)json_array_size(want), got;
        Sampling greedy = {0};
        for (size_t k = 0; k < json_array_size(prompt); k++)
            ids[k] = (int32_t)json_integer_value(json_array_get(prompt, k));
        OK(generate(s, ids, (int32_t)json_array_size(prompt), n, &greedy, NULL, 0, out, &got, NULL,
                    NULL, &err));
        assert_int_equal(got, n);
        for (int64_t k = 0; k < n; k++)
            assert_int_equal(out[k], json_integer_value(json_array_get(want, (size_t)k)));
    }
}

/* The base, or the base with the oracle's adapter. */
static void check_answers(const json_t *expect, const char *which) {
    bool adapter = !strcmp(which, "adapter");
    Config cfg;
    Session s;
    Rows rows;
    Weights *want;
    EvalResult eval;
    const char *const flags[][2] = {{"base_model", base()},
                                    {"datasets", at("batch.jsonl")},
                                    {"datasets.0.type", "tokens"},
                                    {"compute", "f32"},
                                    {"lora_model_dir", at("adapter")}};
    configure(&cfg, NULL, adapter ? 5 : 4, flags);
    OK(rows_open(&rows, &cfg, &cfg.datasets, ROWS_TO_MEASURE, &err));
    OK(session_open(&s, &cfg, USE_AS_IS, &err));
    OK(weights_open(&want, at(adapter ? "adapter.safetensors" : "base.safetensors"), &err));
    Distance d = compare_logits(&s, &rows, want);
    const json_t *e = json_object_get(expect, which);
    OK(evaluate(&s, rows.set.samples, rows.set.n, NULL, &eval, &err));
    double loss = json_real_value(json_object_get(e, "loss"));
    print_message("%-40s %-8s logits max %.1e  loss difference %.1e\n", dir, which, d.max,
                  fabs(eval.loss - loss));
    assert_true(d.max <= logits_tolerance(s.model));
    assert_true(fabs(eval.loss - loss) <= LOSS_TOLERANCE * fmax(1, loss));
    assert_int_equal(eval.tokens, json_integer_value(json_object_get(e, "tokens")));
    compare_greedy(&s, json_object_get(e, "greedy"));
    /* bfloat16: no farther from float32 than the reference's own run. It has two, and which is the
     * better differs from model to model: single tokens near a tie between experts decide. */
    if (!adapter) {
        double eager = number_at(expect, "reference_bf16_eager", "rms");
        double sdpa = number_at(expect, "reference_bf16_sdpa", "rms"), bound = fmax(eager, sdpa);
        s.tape.compute = COMPUTE_BF16;
        d = compare_logits(&s, &rows, want);
        double rms = sqrt(d.sum2 / (double)d.n);
        print_message("%-40s %-8s logits rms %.4f, reference's own %.4f and %.4f\n", dir, "bf16",
                      rms, eager, sdpa);
        assert_true(rms <= bound);
    }
    weights_close(want);
    session_close(&s);
    rows_close(&rows);
    config_free(&cfg);
}

/* ---- gradients ---- */

static void compare_file(const char *got_path, const char *want_path, double tolerance,
                         const char *what) {
    Weights *got, *want;
    double worst = 0;
    OK(weights_open(&got, got_path, &err));
    OK(weights_open(&want, want_path, &err));
    for (int i = 0; i < weights_count(want); i++) {
        const WeightView *w = weights_at(want, i), *g = weights_find(got, w->name);
        if (!g) fail_msg("%s: %s: we have no tensor %s", dir, what, w->name);
        assert_int_equal(g->n_dim, w->n_dim);
        for (int k = 0; k < w->n_dim; k++) assert_int_equal(g->dim[k], w->dim[k]);
        double x = relative_l2(g->data, w->data, w->bytes / 4);
        if (x > tolerance)
            fail_msg("%s: %s: tensor %s differs by %.2e (relative L2)", dir, what, w->name, x);
        worst = fmax(worst, x);
    }
    print_message("%-40s %-24s %3d tensors, worst relative L2 %.1e\n", dir, what,
                  weights_count(want), worst);
    assert_int_equal(weights_count(got), weights_count(want));
    weights_close(got);
    weights_close(want);
}

static char out_dir[] = "/tmp/moesmith-reference-XXXXXX";
static char *out(const char *name) {
    static char path[4][4096];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", out_dir, name);
    return p;
}

/* One step over the whole batch with learning rate 0: what its gradients are. */
static void check_grads(const char *file, int n_extra, const char *const (*extra)[2]) {
    Config cfg;
    Session s;
    Rows rows;
    json_t *result = json_object();
    char *grads = mem_copy_text(out("grads.safetensors")), *run = mem_copy_text(out("grads-run"));
    const char *flags[16][2] = {{"base_model", base()},
                                {"datasets", at("batch.jsonl")},
                                {"datasets.0.type", "tokens"},
                                {"compute", "f32"},
                                {"learning_rate", "0"},
                                {"max_steps", "1"},
                                {"shuffle", "false"},
                                {"save_gradients", grads},
                                {"output_dir", run},
                                {"overwrite", "true"},
                                {"gradient_accumulation_steps", "3"}};
    int n = 11;
    for (int i = 0; i < n_extra; i++, n++) flags[n][0] = extra[i][0], flags[n][1] = extra[i][1];
    Config probe;
    configure(&probe, NULL, n, (const char *const(*)[2])flags);
    OK(rows_open(&rows, &probe, &probe.datasets, ROWS_TO_MEASURE, &err));
    char micro[24];
    if (rows.set.n % 3) flags[10][1] = "1";
    snprintf(micro, sizeof micro, "%ld", (long)(rows.set.n % 3 ? rows.set.n : rows.set.n / 3));
    flags[n][0] = "micro_batch_size", flags[n][1] = micro;
    configure(&cfg, NULL, n + 1, (const char *const(*)[2])flags);
    TrainData d = {rows.set.samples, NULL, rows.set.n, 0};
    OK(session_open(&s, &cfg, USE_TO_TRAIN, &err));
    OK(trainer_run(&cfg, &s, &d, result, &err));
    compare_file(grads, at(file), GRAD_TOLERANCE, file);
    json_decref(result);
    session_close(&s);
    rows_close(&rows);
    config_free(&cfg);
    config_free(&probe);
    mem_free(grads);
    mem_free(run);
}

/* ---- training traces ---- */

static void compare_metrics(const char *got_path, const char *want_path, double tolerance) {
    Buf got = {0}, want = {0};
    double worst = 0;
    int steps = 0;
    OK(files_read(got_path, &got, &err));
    OK(files_read(want_path, &want, &err));
    for (char *g = got.p, *w = want.p; w && *w; steps++) {
        json_t *a = json_loads(g, JSON_DISABLE_EOF_CHECK, NULL),
               *b = json_loads(w, JSON_DISABLE_EOF_CHECK, NULL);
        static const char *const keys[] = {"step", "loss", "grad_norm", "learning_rate",
                                           "supervised_tokens"};
        for (size_t k = 0; k < COUNT_OF(keys); k++) {
            double x = json_number_value(json_object_get(a, keys[k])),
                   y = json_number_value(json_object_get(b, keys[k]));
            double rel = fabs(x - y) / fmax(fabs(y), 1e-12);
            if (!a || rel > tolerance)
                fail_msg("%s: step %d: %s is %.9g, the reference's %.9g", dir, steps + 1, keys[k],
                         x, y);
            worst = fmax(worst, rel);
        }
        json_decref(a), json_decref(b);
        g = strchr(g, '\n') + 1, w = strchr(w, '\n');
        w = w ? w + 1 : NULL;
    }
    print_message("%-40s trace of %d steps: worst relative difference %.1e\n", want_path, steps,
                  worst);
    assert_true(steps > 0);
    buf_free(&got), buf_free(&want);
}

static void check_trace(const char *name, const json_t *expect) {
    Config cfg;
    Session s;
    Rows rows;
    json_t *result = json_object();
    char back[4096], *folder = mem_copy_text(at(name)), *run = mem_copy_text(out(name));
    const char *const flags[][2] = {{"output_dir", run}, {"overwrite", "true"}};
    double rounding = ROUNDING_ROOM * number_at(expect, name, "loss_relative_max");
    assert_non_null(getcwd(back, sizeof back));
    assert_int_equal(chdir(folder), 0); /* the yaml's paths are relative to its folder */
    configure(&cfg, "train.yaml", 2, flags);
    OK(rows_open(&rows, &cfg, &cfg.datasets, ROWS_TO_LEARN, &err));
    OK(session_open(&s, &cfg, USE_TO_TRAIN, &err));
    TrainData d = {rows.set.samples, NULL, rows.set.n, 0};
    OK(trainer_run(&cfg, &s, &d, result, &err));
    json_decref(result);
    session_close(&s);
    rows_close(&rows);
    config_free(&cfg);
    assert_int_equal(chdir(back), 0);
    char got[8192], want[8192];
    snprintf(got, sizeof got, "%s/metrics.jsonl", run),
        snprintf(want, sizeof want, "%s/metrics.jsonl", folder);
    compare_metrics(got, want, fmax(TRACE_TOLERANCE, rounding));
    snprintf(got, sizeof got, "%s/adapter_model.safetensors", run),
        snprintf(want, sizeof want, "%s/adapter_final/adapter_model.safetensors", folder);
    compare_file(got, want, fmax(FINAL_TOLERANCE, rounding), name);
    mem_free(folder);
    mem_free(run);
}

/* ---- merged ---- */

static void check_merged(void) {
    Config cfg;
    Session s;
    Rows rows;
    Weights *want;
    char *merged = mem_copy_text(out("merged"));
    const char *const flags[][2] = {
        {"base_model", base()}, {"lora_model_dir", at("adapter")}, {"compute", "f32"}};
    configure(&cfg, NULL, 3, flags);
    OK(session_open(&s, &cfg, USE_AS_IS, &err));
    OK(files_make_dirs(merged, &err));
    OK(model_write_merged(merged, s.model, DT_COUNT, NULL, &err));
    session_close(&s);
    config_free(&cfg);
    compare_file(out("merged/model.safetensors"), at("merged/model.safetensors"), 1e-6,
                 "merged tensors");
    const char *const again[][2] = {{"base_model", merged},
                                    {"datasets", at("batch.jsonl")},
                                    {"datasets.0.type", "tokens"},
                                    {"compute", "f32"}};
    configure(&cfg, NULL, 4, again);
    OK(rows_open(&rows, &cfg, &cfg.datasets, ROWS_TO_MEASURE, &err));
    OK(session_open(&s, &cfg, USE_AS_IS, &err));
    OK(weights_open(&want, at("merged.safetensors"), &err));
    Distance d = compare_logits(&s, &rows, want);
    print_message("%-40s merged logits max %.1e\n", dir, d.max);
    assert_true(d.max <= logits_tolerance(s.model));
    weights_close(want);
    session_close(&s);
    rows_close(&rows);
    config_free(&cfg);
    mem_free(merged);
}

/* ---- the walk ---- */

/* Whether dir is a model that can be held to its reference; one of an unknown family is told. */
static bool is_known(void) {
    json_t *c = NULL;
    if (has("expect.json") && has("model.gguf")) return true;
    if (!has("expect.json") || !has("model/config.json")) return false;
    OK(json_read_file(&c, at("model/config.json"), &err));
    bool known = model_knows(c);
    if (!known) print_message("skipped 1 check: no family knows the model of %s\n", dir);
    json_decref(c);
    return known;
}

static void check_model(void) {
    json_t *expect;
    OK(json_read_file(&expect, at("expect.json"), &err));
    check_answers(expect, "base");
    check_answers(expect, "adapter");
    const char *const adapter[][2] = {{"lora_model_dir", at("adapter")}};
    check_grads("grads_adapter.safetensors", 1, adapter);
    const char *const full[][2] = {{"adapter", "none"}};
    if (has("grads_full.safetensors")) check_grads("grads_full.safetensors", 1, full);
    static const char *const traces[] = {"train_lora", "train_router_full", "train_router_lora"};
    for (size_t i = 0; i < COUNT_OF(traces); i++) {
        if (has(traces[i])) check_trace(traces[i], expect);
    }
    if (has("merged")) check_merged();
    json_decref(expect);
}

static int walk(const char *root) {
    struct dirent **list;
    int found = 0, n = scandir(root, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(dir, sizeof dir, "%s/%s", root, list[i]->d_name);
        if (list[i]->d_name[0] != '.' && is_known()) check_model(), found++;
        free(list[i]);
    }
    if (n >= 0) free(list);
    return found;
}

static void test_golden(void **state) {
    (void)state;
    char root[4096];
    assert_non_null(realpath("tests/golden/models", root));
    assert_true(walk(root) > 0);
}

static void test_oracle(void **state) {
    (void)state;
    const char *from = getenv("MOESMITH_ORACLE");
    char root[4096];
    if (!realpath(from ? from : "../shared/oracle", root)) {
        print_message("skipped 1 check: no oracle (MOESMITH_ORACLE=DIR)\n");
        skip();
    }
    assert_true(walk(root) > 0);
}

int main(void) {
    if (!mkdtemp(out_dir)) return 2;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
                                       cmocka_unit_test(test_oracle)};
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    Err e;
    files_remove(out_dir, &e);
    return bad;
}
