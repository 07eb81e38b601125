/* test_invariants.c - what must hold whatever the model: bit for bit where the same numbers are
 * asked for twice, to rounding where only their order of summation differs. On the golden models,
 * by the trainer itself; what needs a process of its own (signals, kills) is in test_cli.sh. */
#include <omp.h>
#include "model/stream.h"
#include "train/generate.h"
#include "train/verbs.h"
#include "trial.h"

/* ---- bit for bit ---- */

static void test_lora_starts_as_the_base(void **state) {
    (void)state;
    static const char *const compute[] = {"f32", "bf16"};
    for (size_t i = 0; i < COUNT_OF(compute); i++) {
        Settings s = settings("compute", compute[i], "output_dir", in("start"), "router.train",
                              "lora", NULL);
        Settings b = settings("compute", compute[i], NULL);
        Trial *t = trial("moe", USE_TO_TRAIN, &s);
        same_logits(logits_of(t, 1), logits_from("moe", &b), true);
        end(t);
    }
}

static void test_recompute_is_keeping(void **state) {
    (void)state;
    static const struct {
        const char *model, *key, *value;
    } cases[] = {{"moe", "adapter", "lora"},
                 {"moe", "adapter", "none"},
                 {"ple", "adapter", "lora"},
                 {"ple", "adapter", "none"},
                 {"dense", "lora_dropout", "0.2"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *dir[] = {in("kept"), in("again")};
        bool lora = strcmp(cases[i].value, "none") != 0;
        bool wet = !strcmp(cases[i].key, "lora_dropout"); /* which experts refuse */
        const char *written = lora ? "adapter_model.safetensors" : "model.safetensors";
        for (int k = 0; k < 2; k++) {
            Settings s = settings("output_dir", dir[k], "overwrite", "true",
                                  "gradient_checkpointing", k ? "true" : "false", "save_gradients",
                                  in(k ? "g1.safetensors" : "g0.safetensors"), "max_steps", "3",
                                  "micro_batch_size", "2", "learning_rate", "0.01", cases[i].key,
                                  cases[i].value, wet ? "lora_target_parameters" : NULL, "", NULL);
            train(cases[i].model, &s);
        }
        same_file(root, root, "g0.safetensors");
        if (!files_equal(in("g0.safetensors"), in("g1.safetensors")))
            fail_msg("gradients differ: %s", cases[i].model);
        same_file(dir[0], dir[1], written);
        same_metrics(dir[0], dir[1], 3);
    }
}

/* Every place was read at least once each way; what learns is no part of the base any more. */
static void check_streamed(const Model *m, bool whole) {
    int64_t bytes;
    double waited;
    assert_non_null(m->stream);
    stream_told(m->stream, &bytes, &waited);
    assert_true(bytes >= (int64_t)(whole ? stream_bytes(m) : 1) && waited >= 0);
}

/* A quantised base of the model with a head of its own, as init makes one. */
static const char *make_untied(const char *model) {
    static const char tied[] = "\"tie_word_embeddings\": true";
    const char *config = in("untied.json"), *base = in("untied.h5");
    Buf text = {0};
    ok(files_read(beside(beside("tests/golden/models", model), "model/config.json"), &text, &err));
    char *at = strstr(text.p, tied);
    assert_non_null(at);
    memcpy(at, "\"tie_word_embeddings\":false", sizeof tied - 1);
    ok(files_write_whole(config, text.p, text.n, &err));
    buf_free(&text);
    Settings s = settings("base_model", config, "base_quantization", "int8",
                          "base_quantization.embeddings", "nf4", "output", base, NULL);
    Config cfg;
    load(&cfg, model, &s);
    json_t *result = json_object();
    ok(verb_init(&cfg, result, &err));
    json_decref(result);
    config_free(&cfg);
    return base;
}

/* Micro-batches that pass a layer together are as one after the other; a base that is read layer by
 * layer is as one in memory. */
static void test_together(void **state) {
    (void)state;
    const char *untied = make_untied("ple");
    const struct {
        const char *model, *word[6]; /* three keys at most */
    } cases[] = {
        {"moe", {"max_steps", "3", "router.train", "lora"}},
        {"moe", {"num_epochs", "2", "micro_batch_size", "1"}}, /* last steps are smaller */
        {"moe", {"adapter", "none", "trainable", "*proj*,*norm*"}},
        {"moe", {"lora_dropout", "0.2", "lora_target_parameters", ""}},
        {"moe", {"compute", "bf16", "micro_batch_size", "2"}},
        {"moe", {"base_quantization", "tq4", "base_cache", in("tq4.h5"), "max_steps", "3"}},
        {"ple", {"lora_dropout", "0.2", "max_steps", "3"}},
        {"ple", {"adapter", "none", "trainable", "layers.*"}},
        {"ple", {"base_model", untied, "max_steps", "3"}},
        {"dense", {"lora_dropout", "0.2", "max_steps", "3"}},
    };
    static const struct {
        const char *dir, *grads;
        int together; /* 0: the trainer's choice */
        bool streams;
    } runs[] = {{"t1", "t1.safetensors", 1, false},
                {"t2", "t2.safetensors", 2, false},
                {"t4", "t4.safetensors", 4, false},
                {"streamed", "s.safetensors", 0, true},
                {"streamed-4", "s4.safetensors", 4, true}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *const *w = cases[i].word;
        bool lora = strcmp(w[0], "adapter") != 0;
        for (size_t k = 0; k < COUNT_OF(runs); k++) {
            Settings s =
                settings("output_dir", in(runs[k].dir), "overwrite", "true", "save_gradients",
                         in(runs[k].grads), "gradient_accumulation_steps", "4", "learning_rate",
                         "0.01", w[0], w[1], w[2], w[3], w[4], w[5], NULL);
            Trial *t = trial(cases[i].model, USE_TO_TRAIN, &s);
            if (runs[k].together) t->s.together = runs[k].together;
            if (runs[k].streams) t->s.memory = 0; /* as if nothing of the base fitted */
            go(t);
            if (runs[k].streams) check_streamed(t->s.model, lora);
            int64_t steps =
                t->cfg.max_steps ? t->cfg.max_steps : t->cfg.num_epochs * ((t->rows.set.n + 3) / 4);
            if (t->cfg.micro_batch_size == 2) steps = 1;
            end(t);
            if (!files_equal(in(runs[0].grads), in(runs[k].grads)))
                fail_msg("gradients differ: %s, %s %s: %s", cases[i].model, w[0], w[1],
                         runs[k].dir);
            same_file(in(runs[0].dir), in(runs[k].dir),
                      lora ? "adapter_model.safetensors" : "model.safetensors");
            same_metrics(in(runs[0].dir), in(runs[k].dir), (int)steps);
        }
    }
}

static void test_same_seed_same_bits(void **state) {
    (void)state;
    const char *dir[] = {in("seed-a"), in("seed-b"), in("seed-c")};
    for (int k = 0; k < 3; k++) {
        Settings s = settings(ALL_LEARN, "output_dir", dir[k], "seed", k < 2 ? "7" : "8", NULL);
        train("moe", &s);
    }
    same_file(dir[0], dir[1], "adapter_model.safetensors");
    same_metrics(dir[0], dir[1], 4);
    other_file(dir[0], dir[2], "adapter_model.safetensors");
}

static void test_threads(void **state) {
    (void)state;
    const char *dir[] = {in("threads-1"), in("threads-2")};
    int was = omp_get_max_threads();
    for (int k = 0; k < 2; k++) {
        omp_set_num_threads(k + 1);
        Settings s = settings(ALL_LEARN, "output_dir", dir[k], NULL);
        train("moe", &s);
    }
    omp_set_num_threads(was);
    same_file(dir[0], dir[1], "adapter_model.safetensors");
    same_metrics(dir[0], dir[1], 4);
}

/* The run as it stood after checkpoint-3: what came later is taken away, then it goes on. */
static void resumable(const char *dir, const char *key, const char *value, bool resume) {
    const char *experts = strcmp(key, "lora_dropout") ? "experts.gate_up_proj" : "";
    bool large = !strcmp(key, "optimizer"); /* so that some tensors are */
    Settings s =
        settings("learning_rate", "0.02", "weight_decay", "0.1", "max_steps", "7", "save_steps",
                 "3", "micro_batch_size", "2", "lora_plus_ratio", "2", "lora_target_parameters",
                 experts, "output_dir", dir, key, value, "lora_r", large ? "64" : "8",
                 "sequence_len", "40", resume ? "resume_from_checkpoint" : NULL, "auto", NULL);
    train("moe", &s);
}

static void check_resume(const char *key, const char *value) {
    const char *whole = in(beside("whole", value)), *broken = in(beside("broken", value));
    const char *written =
        strcmp(value, "none") != 0 ? "adapter_model.safetensors" : "model.safetensors";
    resumable(whole, key, value, false);
    resumable(broken, key, value, false);
    ok(files_remove(beside(broken, "checkpoint-6"), &err));
    ok(files_remove(beside(broken, written), &err));
    resumable(broken, key, value, true);
    same_file(whole, broken, written);
    same_metrics(whole, broken, 7);
    same_state(beside(whole, "checkpoint-6"), beside(broken, "checkpoint-6"));
    same_file(beside(whole, "checkpoint-6"), beside(broken, "checkpoint-6"), written);
}

static void test_resume_is_not_stopping(void **state) {
    (void)state;
    check_resume("adapter", "lora");
    check_resume("adapter", "none");
    check_resume("lora_dropout", "0.1");
    check_resume("router.train", "full,scale");
    check_resume("optimizer", "adamw_8bit");
    check_resume("sample_packing", "true");
}

/* What came after the checkpoint that a run goes on from is of a run that is no more. */
static void test_later_checkpoints_go(void **state) {
    (void)state;
    const char *dir = in("back");
    Settings first = settings("max_steps", "6", "save_steps", "2", "output_dir", dir, NULL),
             back = settings("max_steps", "3", "output_dir", dir, "resume_from_checkpoint",
                             beside(dir, "checkpoint-2"), NULL);
    train("moe", &first);
    ok(files_make_dirs(beside(dir, "checkpoint-007"), &err)); /* not a name of ours */
    ok(files_make_dirs(beside(dir, "checkpoint-99999999999999999999"), &err));
    train("moe", &back);
    assert_true(checkpoint_exists(dir, 2));
    assert_false(checkpoint_exists(dir, 4) || checkpoint_exists(dir, 6));
    same_metrics(dir, dir, 3);
}

/* ---- what may change ---- */

static uint64_t site_hash(const Site *s) {
    const Tensor *t = *s->slot;
    return hash_bytes(0, t->data, (size_t)tensor_bytes(t));
}

static void check_frozen(const char *adapter_or_none, const char *trainable) {
    Settings s = settings(ALL_LEARN, "adapter", adapter_or_none, "output_dir", in("frozen"),
                          "overwrite", "true", NULL);
    if (trainable) {
        s = settings("adapter", adapter_or_none, "trainable", trainable, "learning_rate", "0.02",
                     "max_steps", "3", "output_dir", in("frozen-full"), NULL);
    }
    const char *file = "tests/golden/models/moe/model/model.safetensors";
    ok(files_remove(in("before"), &err));
    ok(files_copy(file, in("before"), &err));
    Trial *t = trial("moe", USE_TO_TRAIN, &s);
    Model *m = t->s.model;
    uint64_t *before = mem_alloc(sizeof *before * (size_t)m->n_sites);
    int frozen = 0;
    for (int i = 0; i < m->n_sites; i++) before[i] = site_hash(&m->site[i]);
    go(t);
    for (int i = 0; i < m->n_sites; i++) {
        bool learns = t->s.plan.learn[i].full, same = site_hash(&m->site[i]) == before[i];
        if (same == learns)
            fail_msg("%s %s", m->site[i].name, learns ? "did not learn" : "is frozen but changed");
        frozen += !learns;
    }
    assert_true(frozen > 0);
    mem_free(before);
    end(t);
    assert_true(files_equal(file, in("before")));
}

static void test_frozen_never_changes(void **state) {
    (void)state;
    check_frozen("lora", NULL);
    check_frozen("none", "router.*,*layernorm.weight");
}

/* What the experts of each layer do for one row: nothing, something, or something that the loss
 * sees (the last token's output is held against nothing). */
enum { IDLE, HEARD, COUNTS };
typedef struct Use {
    char expert[16][64];
} Use;

static void note_use(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                     const Tensor *weight) {
    Use *u = ctx;
    int64_t k = tensor_cols(choice), last = tensor_rows(choice) - 1;
    (void)logits, (void)weight;
    for (int64_t i = 0; i < tensor_numel(choice); i++) {
        char *use = &u->expert[layer][i32(choice)[i]];
        *use = i / k < last ? COUNTS : *use == COUNTS ? COUNTS : HEARD;
    }
}

static void test_idle_experts_rest(void **state) {
    (void)state;
    Settings s =
        settings("lora_model_dir", "tests/golden/models/moe/adapter", "max_steps", "1",
                 "learning_rate", "0.01", "shuffle", "false", "output_dir", in("idle"), NULL);
    Trial *t = trial("moe", USE_TO_TRAIN, &s);
    Use use = {{{0}}};
    int n_idle = 0, n_busy = 0;
    t->rows.set.samples[0].n = 4; /* so few that some experts have no token */
    t->s.model->on_route = note_use;
    t->s.model->on_route_ctx = &use;
    Logits y = {0};
    t->s.tape.paused++;
    add_logits(&y, t, 0, 1);
    t->s.tape.paused--;
    mem_free(y.p);
    float *before = mem_alloc((size_t)t->s.params.numel * 4);
    memcpy(before, t->s.params.weight, (size_t)t->s.params.numel * 4);
    go(t);
    for (int i = 0; i < t->s.params.n; i++) {
        const Param *p = &t->s.params.param[i];
        const Site *site = &t->s.model->site[p->site];
        if (p->tensor->n_dim != 3) continue;
        int64_t n = p->tensor->dim[1] * p->tensor->dim[2];
        for (int64_t e = 0; e < p->tensor->dim[0]; e++) {
            bool same = !memcmp(f32(p->tensor) + e * n, before + p->at + e * n, (size_t)n * 4);
            int how = use.expert[site->layer][e];
            if ((how == IDLE && !same) || (how == COUNTS && same))
                fail_msg("%s, expert %d", site->name, (int)e);
            n_idle += how == IDLE, n_busy += how == COUNTS;
        }
    }
    assert_true(n_idle > 0 && n_busy > 0);
    mem_free(before);
    end(t);
}

static void test_dropout_is_for_training(void **state) {
    (void)state;
    Settings plain = settings(ALL_LEARN, "output_dir", in("dry"), NULL);
    Settings wet = settings(ALL_LEARN, "lora_target_parameters", "", "lora_dropout", "0.3",
                            "output_dir", in("wet"), NULL);
    train("moe", &plain);
    train("moe", &wet);
    Settings again = settings(ALL_LEARN, "lora_target_parameters", "", "lora_dropout", "0.3",
                              "output_dir", in("wet-again"), NULL);
    Trial *t = trial("moe", USE_TO_TRAIN, &again);
    go(t);
    same_file(in("wet"), in("wet-again"), "adapter_model.safetensors");
    other_file(in("wet"), in("dry"), "adapter_model.safetensors");
    EvalResult with, without;
    t->s.model->on_route = NULL;
    ok(evaluate(&t->s, t->rows.set.samples, t->rows.set.n, NULL, &with, &err));
    t->s.model->dropout = 0;
    ok(evaluate(&t->s, t->rows.set.samples, t->rows.set.n, NULL, &without, &err));
    assert_true(with.loss == without.loss);
    end(t);
}

static void count_call(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                       const Tensor *weight) {
    (void)layer, (void)logits, (void)choice, (void)weight;
    ++*(int *)ctx;
}

/* A step's routing figures are of the rows it learned from, whatever is held out. */
static void test_evaluation_tells_no_routes(void **state) {
    (void)state;
    int calls = 0;
    EvalResult r;
    Trial *t = trial("moe", USE_AS_IS, NULL);
    t->s.model->on_route = count_call;
    t->s.model->on_route_ctx = &calls;
    ok(evaluate(&t->s, t->rows.set.samples, t->rows.set.n, NULL, &r, &err));
    assert_int_equal(calls, 0);
    assert_true(t->s.model->on_route == count_call);
    end(t);
}

/* ---- to rounding ---- */

/* The most that a tensor of one differs from the other's, relative to its size. */
static double gradients_apart(Weights *x, Weights *y) {
    double worst = 0;
    for (int i = 0; i < weights_count(x); i++) {
        const float *a = weights_at(x, i)->data, *b = weights_at(y, i)->data;
        double d = 0, sum = 0;
        for (int64_t k = 0; k < weights_at(x, i)->bytes / 4; k++) {
            d += ((double)a[k] - (double)b[k]) * ((double)a[k] - (double)b[k]);
            sum += (double)a[k] * (double)a[k];
        }
        worst = fmax(worst, sqrt(d / sum));
    }
    return worst;
}

static void test_accumulation_is_token_exact(void **state) {
    (void)state;
    Weights *w[2];
    static const char *const micro[] = {"1", "4"}, *const steps[] = {"4", "1"};
    for (int k = 0; k < 2; k++) {
        Settings s = settings("adapter", "none", "max_steps", "1", "learning_rate", "0.01",
                              "micro_batch_size", micro[k], "gradient_accumulation_steps", steps[k],
                              "output_dir", in(k ? "4x1" : "1x4"), "save_gradients",
                              in(k ? "grads-4x1.safetensors" : "grads-1x4.safetensors"), NULL);
        train("moe", &s);
        ok(weights_open(&w[k], in(k ? "grads-4x1.safetensors" : "grads-1x4.safetensors"), &err));
    }
    double worst = gradients_apart(w[0], w[1]);
    print_message("  %-46s gradients differ by at most %.1e\n", "4 micro-batches of 1, 1 of 4",
                  worst);
    assert_true(worst < 1e-5);
    weights_close(w[0]);
    weights_close(w[1]);
}

/* All rows in one step: packed into bins of one micro-batch each, and as they are. The very same
 * batch gives the same bits. */
static void test_packing(void **state) {
    (void)state;
    static const struct {
        const char *packing, *micro, *steps, *length;
    } cases[] = {{"false", "6", "1", "2048"}, {"true", "1", "1", "2048"}, {"true", "1", "6", "40"}};
    Weights *w[3];
    double loss[3];
    for (int k = 0; k < 3; k++) {
        static const char *const name[] = {"p0.safetensors", "p1.safetensors", "p2.safetensors"};
        const char *file = in(name[k]);
        Settings s = settings("adapter", "none", "num_epochs", "1", "learning_rate", "0.01",
                              "shuffle", "false", "sample_packing", cases[k].packing,
                              "micro_batch_size", cases[k].micro, "gradient_accumulation_steps",
                              cases[k].steps, "sequence_len", cases[k].length, "output_dir",
                              in("packed"), "overwrite", "true", "save_gradients", file, NULL);
        Buf text = {0};
        train("moe", &s);
        ok(files_read(beside(in("packed"), "metrics.jsonl"), &text, &err));
        json_t *line = json_loads(text.p, JSON_DISABLE_EOF_CHECK, NULL);
        assert_true(json_real_value(json_object_get(line, "epoch")) == 1);
        loss[k] = json_real_value(json_object_get(line, "loss"));
        json_decref(line);
        buf_free(&text);
        ok(weights_open(&w[k], file, &err));
    }
    if (!files_equal(in("p0.safetensors"), in("p1.safetensors"))) fail_msg("one bin of all rows");
    double worst = gradients_apart(w[0], w[2]);
    print_message("  %-46s gradients differ by at most %.1e\n", "packed, and not", worst);
    assert_true(worst < 1e-5 && loss[0] == loss[1] && fabs(loss[0] - loss[2]) < 1e-6);
    for (int k = 0; k < 3; k++) weights_close(w[k]);
}

static const char *const models[] = {"moe", "dense", "ple"};

static void test_together_is_alone(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        Trial *t = trial(models[i], USE_AS_IS, NULL);
        near_logits(logits_of(t, 1), logits_of(t, 3), 1e-5, beside(models[i], "3 rows at once"));
        end(t);
    }
}

/* The row's logits through the cache: some tokens at first, then one by one. */
static Logits cached_logits(Trial *t, const Sample *row, int32_t first) {
    Logits out = {0};
    size_t start = arena_mark(&t->s.step);
    Cache *cache = cache_new(t->s.model, &t->s.step, row->n);
    t->s.tape.paused++;
    for (int32_t i = 0, n = first; i < row->n; i += n, n = 1) {
        size_t mark = arena_mark(&t->s.step);
        int32_t at[] = {0, n};
        Batch b = {1, at, row->ids + i, NULL};
        Tensor *h = model_hidden(t->s.model, &t->s.tape, &b, cache);
        Tensor *y = model_logits(t->s.model, &t->s.tape, h, 0, n);
        size_t had = (size_t)out.n * 4, more = (size_t)tensor_bytes(y);
        out.p = mem_grow(out.p, had, had + more);
        memcpy(out.p + out.n, y->data, more);
        out.n += tensor_numel(y);
        arena_release(&t->s.step, mark);
    }
    t->s.tape.paused--;
    arena_release(&t->s.step, start);
    return out;
}

static void check_greedy(Trial *t, const Sample *row, int32_t n_prompt) {
    enum { NEW = 12 };
    int32_t ids[64], got[NEW];
    int64_t n, V = t->s.model->dims.vocab;
    Sampling greedy = {0};
    memcpy(ids, row->ids, sizeof *ids * (size_t)n_prompt);
    ok(generate(&t->s, ids, n_prompt, NEW, &greedy, NULL, 0, got, &n, NULL, NULL, &err));
    assert_int_equal(n, NEW);
    for (int k = 0; k < NEW; k++) {
        Sample so_far = {ids, ids, n_prompt + k};
        Dataset rows = t->rows.set;
        t->rows.set = (Dataset){.samples = &so_far, .n = 1};
        Logits y = logits_of(t, 1);
        t->rows.set = rows;
        const float *last = y.p + y.n - V;
        int32_t best = 0;
        for (int32_t v = 1; v < V; v++) best = last[v] > last[best] ? v : best;
        assert_int_equal(got[k], best);
        ids[n_prompt + k] = best;
        mem_free(y.p);
    }
}

static void test_cache_is_the_whole_pass(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        Settings s = settings("lora_model_dir",
                              beside(beside("tests/golden/models", models[i]), "adapter"), NULL);
        Trial *t = trial(models[i], USE_AS_IS, &s);
        for (int32_t first = 1; first <= 9; first += 4) {
            Logits cached = {0}, whole = {0};
            t->s.tape.paused++;
            add_logits(&whole, t, 0, 1);
            t->s.tape.paused--;
            cached = cached_logits(t, &t->rows.set.samples[0], first);
            near_logits(cached, whole, 1e-5, beside(models[i], "with a cache"));
        }
        for (int32_t n = 1; n <= 5; n += 2) check_greedy(t, &t->rows.set.samples[2], n);
        end(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lora_starts_as_the_base),
        cmocka_unit_test(test_recompute_is_keeping),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_same_seed_same_bits),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_resume_is_not_stopping),
        cmocka_unit_test(test_later_checkpoints_go),
        cmocka_unit_test(test_frozen_never_changes),
        cmocka_unit_test(test_idle_experts_rest),
        cmocka_unit_test(test_dropout_is_for_training),
        cmocka_unit_test(test_evaluation_tells_no_routes),
        cmocka_unit_test(test_accumulation_is_token_exact),
        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_together_is_alone),
        cmocka_unit_test(test_cache_is_the_whole_pass),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
