/* test_dataset.c - rows become samples: what is learned of them, what is dropped, and which
 * malformed rows are refused. The tokenizer is made here: a token for each ASCII character, one for
 * "bc" (so that a boundary can fall inside a token) and the special ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/dataset.h"
#include "data/files.h"
#include "data/json.h"
#include "data/jsonl.h"

enum { EOS, BOS, TURN_START, TURN_END, FIRST_CHAR, NEWLINE = FIRST_CHAR + 95, BC, VOCAB };

static char *dir, *rows_path;

static void write_file(const char *name, const char *text) {
    Err e;
    char *path = files_join(dir, name);
    if (files_write_whole(path, text, strlen(text), &e) != 0) fail_msg("%s", e.text);
    mem_free(path);
}

static json_t *special(int id, const char *text) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
}

static void write_tokenizer(void) {
    static const char *const specials[] = {"<eos>", "<bos>", "<|im_start|>", "<|im_end|>"};
    json_t *vocab = json_object(), *added = json_array();
    for (int i = 0; i < FIRST_CHAR; i++) {
        json_object_set_new(vocab, specials[i], json_integer(i));
        json_array_append_new(added, special(i, specials[i]));
    }
    for (int c = ' '; c < 127; c++) {
        const char text[2] = {(char)c, 0};
        json_object_set_new(vocab, text, json_integer(FIRST_CHAR + c - ' '));
    }
    json_object_set_new(vocab, "\n", json_integer(NEWLINE));
    json_object_set_new(vocab, "bc", json_integer(BC));
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:o, s:[[s,s]]}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "vocab", vocab, "merges", "b", "c");
    json_t *single = json_pack("[{s:{s:s, s:i}}, {s:{s:s, s:i}}]", "SpecialToken", "id", "<bos>",
                               "type_id", 0, "Sequence", "id", "A", "type_id", 0);
    json_t *post =
        json_pack("{s:s, s:O, s:o, s:{s:{s:s, s:[i], s:[s]}}}", "type", "TemplateProcessing",
                  "single", single, "pair", json_copy(single), "special_tokens", "<bos>", "id",
                  "<bos>", "ids", BOS, "tokens", "<bos>");
    json_decref(single);
    json_t *all = json_pack("{s:s, s:n, s:n, s:o, s:n, s:n, s:o, s:n, s:o}", "version", "1.0",
                            "truncation", "padding", "added_tokens", added, "normalizer",
                            "pre_tokenizer", "post_processor", post, "decoder", "model", model);
    char *text = json_dumps(all, 0);
    assert_non_null(text);
    write_file("tokenizer.json", text);
    free(text);
    json_decref(all);
}

static int make_model(void **state) {
    const char *base = getenv("TMPDIR");
    char config[64];
    (void)state;
    dir = files_join(base ? base : P_tmpdir, "moesmith-dataset-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    rows_path = files_join(dir, "rows.jsonl");
    write_tokenizer();
    snprintf(config, sizeof config,
             "{\"text_config\": {\"vocab_size\": %d, \"eos_token_id\": [%d, 3]}}", VOCAB, EOS);
    write_file("config.json", config);
    write_file("tokenizer_config.json", "{\"eos_token\": {\"content\": \"<eos>\"}}");
    write_file("chat_template.jinja",
               "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + "
               "'<|im_end|>\\n' }}{% endfor %}"
               "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
    return 0;
}

static int remove_model(void **state) {
    Err e;
    (void)state;
    files_remove(dir, &e);
    mem_free(dir);
    mem_free(rows_path);
    return 0;
}

/* ---- reading rows ---- */

typedef struct Case {
    Dataset set;
    DatasetContext ctx;
    DatasetSpec spec;
    Err e;
} Case;

static Case open_rows(const char *type, const char *rows) {
    Case c = {.spec = {.path = rows_path, .type = (char *)(uintptr_t)type, .weight = 1}};
    write_file("rows.jsonl", rows);
    if (dataset_open(&c.ctx, dir, "auto", THINKING_UNSET, &c.spec, 1, &c.e) != 0)
        fail_msg("%s", c.e.text);
    return c;
}

static void load_rows(Case *c) {
    if (dataset_load(&c->set, &c->spec, 1, &c->ctx, &c->e) != 0) fail_msg("%s", c->e.text);
}

static void close_rows(Case *c) {
    dataset_free(&c->set);
    dataset_close(&c->ctx);
}

static void add_id(Buf *out, int32_t id) {
    static const char *const specials[] = {"<eos>", "<bos>", "<|", "|>"};
    if (id < FIRST_CHAR) {
        buf_add_text(out, specials[id]);
    } else if (id == NEWLINE) {
        buf_add_text(out, "\n");
    } else if (id == BC) {
        buf_add_text(out, "bc");
    } else {
        buf_printf(out, "%c", ' ' + id - FIRST_CHAR);
    }
}

/* The sample as text, what is learned in {braces}. */
static void assert_sample(const Case *c, int64_t i, const char *expected) {
    Buf out = {0};
    const Sample *s = &c->set.samples[i];
    bool learned = false;
    assert_true(i < c->set.n);
    for (int32_t k = 0; k < s->n; k++) {
        bool now = s->labels[k] != LABEL_IGNORE;
        if (now) assert_int_equal(s->labels[k], s->ids[k]);
        if (now != learned) buf_add_text(&out, now ? "{" : "}");
        learned = now;
        add_id(&out, s->ids[k]);
    }
    if (learned) buf_add_text(&out, "}");
    assert_string_equal(out.p, expected);
    buf_free(&out);
}

static void assert_rows_refused(const char *type, const char *rows, const char *where,
                                const char *why) {
    Case c = open_rows(type, rows);
    assert_int_equal(dataset_load(&c.set, &c.spec, 1, &c.ctx, &c.e), -1);
    if (!strstr(c.e.text, where) || !strstr(c.e.text, why)) {
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", c.e.text, where, why);
    }
    close_rows(&c);
}

static void test_text(void **state) {
    (void)state;
    Case c = open_rows("text",
                       "\xef\xbb\xbf{\"text\": \"ab\"}\r\n\n{\"text\": \"\"}\n{\"text\": \"bc\"}");
    load_rows(&c);
    assert_int_equal(c.set.n, 2);
    assert_sample(&c, 0, "{<bos>ab<eos>}");
    assert_sample(&c, 1, "{<bos>bc<eos>}");
    assert_int_equal(c.set.source[1].line, 4);
    assert_int_equal(c.set.counts.rows, 3);
    assert_int_equal(c.set.counts.dropped_empty, 1);
    assert_int_equal(c.set.counts.tokens, 7);
    assert_int_equal(c.set.counts.supervised, 5); /* the first label of a row is never predicted */
    close_rows(&c);
}

static void test_completion(void **state) {
    (void)state;
    static const char rows[] =
        "{\"prompt\": \"a \", \"completion\": \"xy\"}\n{\"prompt\": \"ab\", \"completion\": "
        "\"cd\"}\n{\"prompt\": \"a\", \"completion\": \"\"}\n{\"text\": \"z\"}\n";
    Case c = open_rows("auto", rows);
    load_rows(&c);
    assert_int_equal(c.set.n, 4);
    assert_sample(&c, 0, "<bos>a {xy<eos>}");
    assert_sample(&c, 1, "<bos>abc{d<eos>}"); /* bc lies across the boundary */
    assert_sample(&c, 2, "<bos>a{<eos>}");
    assert_sample(&c, 3, "{<bos>z<eos>}");
    close_rows(&c);
    c = open_rows("completion", rows);
    c.ctx.train_on_inputs = true;
    load_rows(&c);
    assert_sample(&c, 1, "{<bos>abcd<eos>}");
    close_rows(&c);
}

#define CHAT                                                                                       \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", "        \
    "\"content\": \"yo\"}, "                                                                       \
    "{\"role\": \"user\", \"content\": \"k\"}, {\"role\": \"assistant\", \"content\": \"ok\"}]}\n"

static void test_chat_masks(void **state) {
    (void)state;
    static const struct {
        const char *eos, *mask;
    } cases[] = {
        {"turn", "<|user\nhi|>\n<|assistant\n{yo|>}\n<|user\nk|>\n<|assistant\n{ok|>}\n"},
        {"all", "<|user\nhi{|>}\n<|assistant\n{yo|>}\n<|user\nk{|>}\n<|assistant\n{ok|>}\n"},
        {"last", "<|user\nhi|>\n<|assistant\n{yo}|>\n<|user\nk|>\n<|assistant\n{ok|>}\n"},
        {"none", "<|user\nhi|>\n<|assistant\n{yo}|>\n<|user\nk|>\n<|assistant\n{ok}|>\n"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Case c = open_rows("auto", CHAT);
        c.ctx.train_on_eos = cases[i].eos;
        load_rows(&c);
        assert_sample(&c, 0, cases[i].mask);
        close_rows(&c);
    }
}

static void test_chat_roles(void **state) {
    (void)state;
    static const char *const user[] = {"user"}, *const both[] = {"assistant", "user"};
    static const char lonely[] =
        CHAT "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"tools\": null}\n";
    Case c = open_rows("chat_template", lonely);
    c.ctx.roles_to_train = user;
    load_rows(&c);
    assert_sample(&c, 0, "<|user\n{hi|>}\n<|assistant\nyo|>\n<|user\n{k|>}\n<|assistant\nok|>\n");
    close_rows(&c);
    c = open_rows("chat_template", lonely);
    c.ctx.roles_to_train = both;
    c.ctx.n_roles_to_train = 2;
    load_rows(&c);
    assert_sample(&c, 0,
                  "<|user\n{hi|>}\n<|assistant\n{yo|>}\n<|user\n{k|>}\n<|assistant\n{ok|>}\n");
    close_rows(&c);
    c = open_rows("chat_template", lonely); /* nothing an assistant said: dropped */
    load_rows(&c);
    assert_int_equal(c.set.n, 1);
    assert_int_equal(c.set.counts.dropped_unsupervised, 1);
    close_rows(&c);
    c = open_rows("chat_template", lonely);
    c.ctx.train_on_inputs = true;
    load_rows(&c);
    assert_int_equal(c.set.n, 2);
    assert_sample(&c, 1, "{<|user\nq|>\n}");
    close_rows(&c);
}

static void test_tokens(void **state) {
    (void)state;
    Case c = open_rows(
        "auto", "{\"input_ids\": [5, 6, 7], \"labels\": [-100, 9, 7]}\n{\"input_ids\": [8, 9]}\n"
                "{\"input_ids\": [1, 2], \"labels\": [1, -100]}\n");
    assert_null(c.ctx.tokenizer);
    load_rows(&c);
    assert_int_equal(c.set.n, 2); /* the third has nothing behind the shift */
    assert_int_equal(c.set.counts.dropped_unsupervised, 1);
    static const int32_t ids[] = {5, 6, 7}, labels[] = {-100, 9, 7};
    assert_memory_equal(c.set.samples[0].ids, ids, sizeof ids);
    assert_memory_equal(c.set.samples[0].labels, labels, sizeof labels);
    assert_int_equal(sample_supervised(&c.set.samples[1]), 1);
    close_rows(&c);
    c = open_rows("tokens", "{\"input_ids\": [1, 2], \"labels\": [1, -100]}\n");
    c.ctx.keep_all = true;
    load_rows(&c);
    assert_int_equal(c.set.n, 1);
    close_rows(&c);
}

static void test_refused_rows(void **state) {
    (void)state;
    static const char where[] = "rows.jsonl:2: ", good[] = "{\"text\": \"a\"}\n";
    char rows[400];
    snprintf(rows, sizeof rows, "%s{\"text\": 5}\n", good);
    assert_rows_refused("text", rows, where, "\"text\" is a number");
    snprintf(rows, sizeof rows, "%s{\"text\": \"a\"\n", good);
    assert_rows_refused("text", rows, "rows.jsonl:2", "not valid JSON");
    snprintf(rows, sizeof rows, "%s[1]\n", good);
    assert_rows_refused("text", rows, "rows.jsonl:2", "expected an object");
    snprintf(rows, sizeof rows, "%s{\"text\": \"\xff\"}\n", good);
    assert_rows_refused("text", rows, "rows.jsonl:2", "UTF-8");
    assert_rows_refused("completion", "\n{\"prompt\": \"a\"}\n", where,
                        "\"completion\" is nothing");
    assert_rows_refused("chat_template", "\n{\"messages\": []}\n", where, "empty");
    assert_rows_refused("chat_template", "\n{\"messages\": 3}\n", where, "expected a list");
    assert_rows_refused("chat_template", "\n{\"messages\": [3]}\n", where, "messages[0]");
    assert_rows_refused("chat_template", "\n{\"messages\": [{\"content\": \"a\"}]}\n", where,
                        "messages[0].role");
    assert_rows_refused(
        "chat_template",
        "\n{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], \"tools\": 1}\n", where,
        "tools");
    assert_rows_refused("chat_template",
                        "\n{\"messages\": [{\"role\": \"user\", \"content\": null}]}\n", where,
                        "content");
    assert_rows_refused("chat_template",
                        "\n{\"messages\": [{\"role\": \"asistant\", \"content\": \"a\"}]}\n", where,
                        "asistant");
    assert_rows_refused("tokens", "\n{\"input_ids\": []}\n", where, "empty");
    assert_rows_refused("tokens", "\n{\"input_ids\": [0, 101]}\n", where,
                        "input_ids[1] is 101, expected 0 to 100");
    assert_rows_refused("tokens", "\n{\"input_ids\": [-1]}\n", where, "input_ids[0] is -1");
    assert_rows_refused("tokens", "\n{\"input_ids\": [4294967296]}\n", where, "4294967296");
    assert_rows_refused("tokens", "\n{\"input_ids\": [1.0]}\n", where, "input_ids[0]");
    assert_rows_refused("tokens", "\n{\"input_ids\": [1], \"labels\": [-99]}\n", where, "or -100");
    assert_rows_refused("tokens", "\n{\"input_ids\": [1], \"labels\": [1, 2]}\n", where,
                        "same number");
    assert_rows_refused("text", "{\"text\": \"\"}\n", "hold no sample", "1 are empty");
    assert_rows_refused("text", "", "rows.jsonl: no row is there", "one JSON object a line");
    assert_rows_refused("text", "[\n{\"text\": \"a\"}\n]\n", "rows.jsonl:1: a JSON array",
                        "one object a line; jq");
    assert_rows_refused("text", "{\n\"text\": \"a\"\n}\n", "rows.jsonl:1", "in every line");
}

static void test_auto_names_what_it_cannot_read(void **state) {
    (void)state;
    static const struct {
        const char *row, *why;
    } cases[] = {
        {"{\"instruction\": \"a\", \"output\": \"b\"}", "type alpaca cannot be read"},
        {"{\"conversations\": []}", "type sharegpt cannot be read"},
        {"{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}",
         "type preference cannot be read"},
        {"{\"x\": 1}", "fit no type; the types are auto, chat_template, tokens, completion, text"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        DatasetContext ctx;
        DatasetSpec spec = {.path = rows_path, .weight = 1};
        Err e;
        write_file("rows.jsonl", cases[i].row);
        assert_int_equal(dataset_open(&ctx, dir, "auto", THINKING_UNSET, &spec, 1, &e), -1);
        if (!strstr(e.text, cases[i].why)) fail_msg("\"%s\" lacks \"%s\"", e.text, cases[i].why);
        dataset_close(&ctx);
    }
}

static void test_too_long(void **state) {
    (void)state;
    static const char rows[] = "{\"text\": \"abcdef\"}\n{\"text\": \"a\"}\n";
    Case c = open_rows("text", rows);
    c.ctx.sequence_len = 4;
    load_rows(&c);
    assert_int_equal(c.set.n, 1);
    assert_int_equal(c.set.counts.dropped_long, 1);
    close_rows(&c);
    c = open_rows("text", rows);
    c.ctx.sequence_len = 4;
    c.ctx.excess_length_strategy = "truncate";
    load_rows(&c);
    assert_sample(&c, 0, "{<bos>abcd}");
    assert_int_equal(c.set.counts.truncated, 1);
    close_rows(&c);
    c = open_rows("text", rows);
    c.ctx.sequence_len = 4;
    c.ctx.excess_length_strategy = "raise";
    assert_int_equal(dataset_load(&c.set, &c.spec, 1, &c.ctx, &c.e), -1);
    assert_non_null(strstr(c.e.text, "rows.jsonl:1: the row has 7 tokens"));
    close_rows(&c);
    c = open_rows("text", rows);
    c.ctx.sequence_len = 4;
    c.ctx.keep_all = true;
    load_rows(&c);
    assert_int_equal(c.set.samples[0].n, 7);
    close_rows(&c);
}

static void test_weight(void **state) {
    (void)state;
    Buf rows = {0};
    for (int i = 0; i < 10; i++) buf_printf(&rows, "{\"input_ids\": [%d, 1]}\n", i);
    static const struct {
        double weight;
        int64_t n;
    } cases[] = {{1, 10}, {2.5, 25}, {0.3, 3}, {0.5, 5}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Case c = open_rows("tokens", rows.p);
        c.spec.weight = cases[i].weight;
        load_rows(&c);
        assert_int_equal(c.set.n, cases[i].n);
        assert_int_equal(c.set.counts.tokens, 2 * cases[i].n);
        close_rows(&c);
    }
    buf_free(&rows);
}

static void test_end_of_text_from_config(void **state) {
    (void)state;
    write_file("tokenizer_config.json", "{}");
    Case c = open_rows("text", "{\"text\": \"a\"}");
    assert_int_equal(c.ctx.eos_id, EOS); /* the first of text_config's list */
    assert_int_equal(c.ctx.vocab_size, VOCAB);
    close_rows(&c);
    write_file("tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\"}");
    c = open_rows("text", "{\"text\": \"a\"}");
    assert_int_equal(c.ctx.eos_id, TURN_END);
    close_rows(&c);
    write_file("tokenizer_config.json", "{\"eos_token\": {\"content\": \"<eos>\"}}");
}

/* ---- order ---- */

static void test_order(void **state) {
    (void)state;
    enum { N = 50 };
    int64_t a[N], b[N], seen = 0;
    dataset_order(7, 0, N, false, a);
    for (int i = 0; i < N; i++) assert_int_equal(a[i], i);
    dataset_order(7, 0, N, true, a);
    dataset_order(7, 0, N, true, b);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < N; i++) seen |= (int64_t)1 << a[i];
    assert_int_equal(seen, ((int64_t)1 << N) - 1);
    dataset_order(7, 1, N, true, b);
    assert_memory_not_equal(a, b, sizeof a);
    dataset_order(8, 0, N, true, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void test_split(void **state) {
    (void)state;
    Buf rows = {0};
    for (int i = 0; i < 100; i++) buf_printf(&rows, "{\"input_ids\": [%d, 1]}\n", i);
    static const struct {
        double size;
        int64_t held;
    } cases[] = {{0.07, 7}, {0.001, 1}, {12, 12}, {500, 100}, {0, 0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Case c = open_rows("tokens", rows.p);
        load_rows(&c);
        int64_t held = dataset_split(&c.set, cases[i].size, 3);
        assert_int_equal(held, cases[i].held);
        bool seen[100] = {false};
        for (int64_t k = 0; k < 100; k++) {
            int32_t id = c.set.samples[k].ids[0];
            assert_false(seen[id]);
            seen[id] = true;
            assert_int_equal(c.set.source[k].line, id + 1);
            if (k > 0 && k != 100 - held)
                assert_true(id > c.set.samples[k - 1].ids[0]); /* each part in order */
        }
        close_rows(&c);
    }
    buf_free(&rows);
}

/* A weight's copies of a row are never on both sides. */
static void test_split_copies(void **state) {
    (void)state;
    Buf rows = {0};
    for (int i = 0; i < 20; i++) buf_printf(&rows, "{\"input_ids\": [%d, 1]}\n", i);
    Case c = open_rows("tokens", rows.p);
    c.spec.weight = 2.5;
    load_rows(&c);
    assert_int_equal(c.set.n, 50);
    assert_int_equal(dataset_split(&c.set, 0.2, 3), 4);
    int copies[20] = {0}, total = 0;
    for (int64_t k = 0; k < c.set.n - 4; k++) copies[c.set.samples[k].ids[0]]++;
    for (int64_t k = c.set.n - 4; k < c.set.n; k++) {
        assert_int_equal(copies[c.set.samples[k].ids[0]], 0);
        copies[c.set.samples[k].ids[0]] = -1;
    }
    for (int i = 0; i < 20; i++) {
        assert_true(copies[i] == -1 || copies[i] == 2 + i % 2);
        total += copies[i] > 0 ? copies[i] : 0;
    }
    assert_int_equal(total, c.set.n - 4);
    close_rows(&c);
    buf_free(&rows);
}

/* A template may render nothing; a row without tokens is never handed out. */
static void test_no_tokens(void **state) {
    (void)state;
    static const char none[] =
        "{% for m in messages if m.content != 'hush' %}{{ m.content }}{% endfor %}";
    char *path = files_join(dir, "quiet.jinja");
    write_file("quiet.jinja", none);
    Case c = {.spec = {.path = rows_path, .type = "chat_template", .weight = 1}};
    write_file("rows.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"hush\"}]}\n"
                             "{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}]}\n");
    if (dataset_open(&c.ctx, dir, path, THINKING_UNSET, &c.spec, 1, &c.e) != 0)
        fail_msg("%s", c.e.text);
    c.ctx.keep_all = true;
    load_rows(&c);
    assert_int_equal(c.set.n, 1);
    assert_int_equal(c.set.counts.dropped_empty, 1);
    close_rows(&c);
    mem_free(path);
}

/* ---- reference data ---- */

static const char *oracle_dir(void) {
    const char *given = getenv("MOESMITH_ORACLE");
    return given ? given : "../shared/oracle";
}

/* Text rows of the reference's cases: its ids with special tokens, and the end-of-text token. */
static void test_text_rows_of_the_reference(void **state) {
    (void)state;
    char path[1024], model[1024];
    snprintf(path, sizeof path, "%s/tokenizers/tiny-gemma/cases.jsonl", oracle_dir());
    snprintf(model, sizeof model, "%s/gemma4-moe/model", oracle_dir());
    if (!files_exists(path)) {
        printf("1 reference test skipped: no %s\n", path);
        skip();
    }
    DatasetContext ctx;
    Dataset set;
    DatasetSpec spec = {.path = path, .weight = 1};
    Jsonl j;
    Err e;
    json_t *row;
    if (dataset_open(&ctx, model, "auto", THINKING_UNSET, &spec, 1, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(ctx.eos_id, 1);
    if (dataset_load(&set, &spec, 1, &ctx, &e) != 0) fail_msg("%s", e.text);
    assert_int_equal(jsonl_open(&j, path, &e), 0);
    int64_t at = 0, compared = 0;
    while (jsonl_next(&j, &row, &e) == 0 && row) {
        const json_t *ids = json_object_get(row, "ids_special");
        bool has = json_string_length(json_object_get(row, "text")) > 0;
        if (has) {
            const Sample *s = &set.samples[at++];
            assert_int_equal(s->n, json_array_size(ids) + 1);
            for (int32_t i = 0; i + 1 < s->n; i++) {
                assert_int_equal(s->ids[i], json_integer_value(json_array_get(ids, (size_t)i)));
            }
            assert_int_equal(s->ids[s->n - 1], 1);
            compared++;
        }
        json_decref(row);
    }
    assert_true(compared > 0 && at == set.n);
    jsonl_close(&j);
    dataset_free(&set);
    dataset_close(&ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_completion),
        cmocka_unit_test(test_chat_masks),
        cmocka_unit_test(test_chat_roles),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_refused_rows),
        cmocka_unit_test(test_auto_names_what_it_cannot_read),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_weight),
        cmocka_unit_test(test_end_of_text_from_config),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_split_copies),
        cmocka_unit_test(test_no_tokens),
        cmocka_unit_test(test_text_rows_of_the_reference),
    };
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
