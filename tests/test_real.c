/* test_real.c - a real model: Gemma 3 270M out of its Q4_K_M GGUF, against the reference's answers
 * from the same file opened to float32 (in the oracle). Skipped without the file, which
 * train/real.sh fetches (or MOESMITH_GEMMA3_270M=FILE), or without the oracle. */
#include "trial.h"
#include "data/tokenizer.h"
#include "train/generate.h"

#define LOGITS_TOLERANCE 1e-3 /* of the 32 largest */
#define LOSS_TOLERANCE   1e-4

static const char *gguf, *oracle;

static Trial *real(void) {
    if (!files_exists(gguf) || !files_exists(beside(oracle, "expect.json"))) {
        print_message("skipped: no %s, or no %s\n", gguf, oracle);
        skip();
    }
    Settings s = settings("base_model", gguf, "datasets", beside(oracle, "batch.jsonl"), NULL);
    return trial("gemma3", USE_AS_IS, &s);
}

static json_t *expectations(void) {
    json_t *expect;
    ok(json_read_file(&expect, beside(oracle, "expect.json"), &err));
    return expect;
}

static void test_loss(void **state) {
    (void)state;
    Trial *t = real();
    EvalResult got;
    json_t *expect = expectations();
    ok(evaluate(&t->s, t->rows.set.samples, t->rows.set.n, NULL, &got, &err));
    double off = got.loss - json_number_value(json_object_get(expect, "loss"));
    print_message("  loss off by %.1e\n", off);
    assert_true(fabs(off) <= LOSS_TOLERANCE);
    assert_int_equal(got.tokens, json_integer_value(json_object_get(expect, "tokens")));
    json_decref(expect);
    end(t);
}

/* Row by row: at each token the reference's 32 largest logits. */
static void test_logits(void **state) {
    (void)state;
    Trial *t = real();
    Weights *w;
    double worst = 0;
    int64_t at = 0;
    ok(weights_open(&w, beside(oracle, "base.safetensors"), &err));
    const WeightView *ids = weights_find(w, "topk_ids"), *want = weights_find(w, "topk_logits");
    assert_true(ids && want && want->n_dim == 2);
    const int64_t k = want->dim[1], vocab = t->s.model->dims.vocab;
    t->s.tape.paused++;
    for (int64_t row = 0; row < t->rows.set.n; row++) {
        Logits y = {0};
        add_logits(&y, t, row, row + 1);
        for (int64_t token = 0; token < y.n / vocab; token++, at++) {
            for (int64_t j = at * k; j < (at + 1) * k; j++) {
                int32_t id = ((const int32_t *)ids->data)[j];
                float ours = y.p[token * vocab + id], theirs = ((const float *)want->data)[j];
                worst = fmax(worst, fabs((double)ours - (double)theirs));
            }
        }
        mem_free(y.p);
    }
    t->s.tape.paused--;
    print_message("  logits of %ld tokens off by at most %.1e\n", (long)at, worst);
    assert_int_equal(at, want->dim[0]);
    assert_true(worst <= LOGITS_TOLERANCE);
    weights_close(w);
    end(t);
}

/* The prompt as the file's own tokenizer reads it, and so many of the likeliest tokens behind it.
 */
static void test_greedy(void **state) {
    (void)state;
    enum { NEW = 24 };
    Trial *t = real();
    Tokenizer *tok;
    json_t *expect = expectations(), *answer;
    const char *prompt;
    ok(tokenizer_open_model(&tok, gguf, &err));
    json_object_foreach(json_object_get(expect, "greedy"), prompt, answer) {
        Tokens ids = {0};
        Buf text = {0};
        int64_t n;
        Sampling likeliest = {0};
        ok(tokenizer_encode(tok, prompt, strlen(prompt), true, &ids, &err));
        size_t bytes = sizeof *ids.id * ids.n;
        int32_t *all = memcpy(mem_alloc(bytes + NEW * sizeof *all), ids.id, bytes);
        ok(generate(&t->s, ids.id, (int32_t)ids.n, NEW, &likeliest, NULL, 0, all + ids.n, &n, NULL,
                    NULL, &err));
        tokenizer_decode(tok, all, ids.n + (size_t)n, false, &text);
        buf_add(&text, "", 1);
        assert_string_equal(text.p, json_string_value(answer));
        buf_free(&text);
        tokens_free(&ids);
        mem_free(all);
    }
    tokenizer_close(tok);
    json_decref(expect);
    end(t);
}

static int set_up(void **state) {
    const char *from = getenv("MOESMITH_ORACLE"), *file = getenv("MOESMITH_GEMMA3_270M");
    gguf = file ? file : "out/real/gemma-3-270m-q4_k_m.gguf";
    oracle = beside(from ? from : "../shared/oracle", "gemma3-270m");
    return trial_set_up(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_greedy),
    };
    return cmocka_run_group_tests(tests, set_up, trial_tear_down);
}
