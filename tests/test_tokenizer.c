/* test_tokenizer.c - text to ids and back, against the reference's answers (tests/golden/tokenizer:
 * made vocabularies, the tokenizers library's ids and byte spans; and the oracle's where it is),
 * against plain BPE, and what bad files and bad text are answered. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "data/json.h"
#include "data/tokenizer.h"
#include "data/tokenizer_bpe.h"
#include "data/tokenizer_text.h"

static Err err;

static Tokenizer *open_file(const char *path) {
    Tokenizer *t;
    if (tokenizer_open(&t, path, &err) != 0) fail_msg("%s", err.text);
    return t;
}

/* A tokenizer.json that is only in memory. */
static int open_text(Tokenizer **t, const char *text, size_t n) {
    char path[64];
    int fd = memfd_create("tokenizer.json", 0);
    assert_true(fd >= 0 && write(fd, text, n) == (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = tokenizer_open(t, path, &err);
    close(fd);
    return rc;
}

static void assert_ids(const Tokens *t, const json_t *ids, const char *text) {
    bool same = t->n == json_array_size(ids);
    for (size_t i = 0; same && i < t->n; i++)
        same = t->id[i] == json_integer_value(json_array_get(ids, i));
    if (same) return;
    for (size_t i = 0; i < t->n; i++) print_error("%d ", t->id[i]);
    char *wanted = json_dumps(ids, JSON_COMPACT);
    fail_msg("ids of \"%s\" differ: %s wanted", text, wanted);
}

/* Every span of ours holds the reference's; they are equal unless characters were composed. */
static void assert_spans(const Tokens *t, const json_t *row, const char *text) {
    const json_t *from = json_object_get(row, "from"), *to = json_object_get(row, "to");
    for (size_t i = 0; from && i < t->n; i++) {
        size_t a = (size_t)json_integer_value(json_array_get(from, i));
        size_t z = (size_t)json_integer_value(json_array_get(to, i));
        if (t->from[i] != a || t->to[i] != z)
            fail_msg("token %zu of \"%s\" spans [%zu, %zu), wanted [%zu, %zu)", i, text, t->from[i],
                     t->to[i], a, z);
    }
}

static void assert_decodes(const Tokenizer *t, const Tokens *ids, bool skip, const json_t *text) {
    Buf out = {0};
    tokenizer_decode(t, ids->id, ids->n, skip, &out);
    size_t n = json_string_length(text);
    if (out.n != n || (n && memcmp(out.p, json_string_value(text), n) != 0))
        fail_msg("decoded to \"%s\", wanted \"%s\"", out.p, json_string_value(text));
    buf_free(&out);
}

/* decoded: from the ids with special tokens (ours) or without (the oracle's). */
static void check_case(const Tokenizer *t, const json_t *row, bool decode_special) {
    const json_t *text = json_object_get(row, "text");
    const char *p = json_string_value(text);
    for (int special = 0; special < 2; special++) {
        Tokens ids = {0};
        if (tokenizer_encode(t, p, json_string_length(text), special, &ids, &err) != 0)
            fail_msg("\"%s\": %s", p, err.text);
        assert_ids(&ids, json_object_get(row, special ? "ids_special" : "ids"), p);
        if (!special) assert_spans(&ids, row, p);
        if (special == decode_special) {
            assert_decodes(t, &ids, false, json_object_get(row, "decoded"));
            assert_decodes(t, &ids, true, json_object_get(row, "decoded_skip_special"));
        }
        tokens_free(&ids);
    }
}

static int check_cases(const char *tokenizer, const char *cases, bool decode_special) {
    Tokenizer *t = open_file(tokenizer);
    FILE *f = fopen(cases, "r");
    assert_non_null(f);
    char *line = NULL;
    size_t cap = 0;
    int n = 0;
    for (ssize_t length; (length = getline(&line, &cap, f)) > 0; n++) {
        json_t *row;
        if (json_read_text(&row, line, (size_t)length, cases, &err) != 0) fail_msg("%s", err.text);
        check_case(t, row, decode_special);
        json_decref(row);
    }
    free(line);
    fclose(f);
    tokenizer_close(t);
    return n;
}

#define GOLDEN "tests/golden/tokenizer/"

static void test_golden_byte_fallback(void **state) {
    (void)state;
    assert_int_equal(check_cases(GOLDEN "byte_fallback.json", GOLDEN "byte_fallback.jsonl", true),
                     27);
}

static void test_golden_byte_level(void **state) {
    (void)state;
    assert_int_equal(check_cases(GOLDEN "byte_level.json", GOLDEN "byte_level.jsonl", true), 27);
}

static void test_golden_words(void **state) {
    (void)state;
    assert_int_equal(check_cases(GOLDEN "words.json", GOLDEN "words.jsonl", true), 27);
}

static void test_oracle(void **state) {
    (void)state;
    static const char *const names[] = {"gemma-4", "qwen2", "tiny-gemma", "tiny-chatml"};
    const char *oracle = getenv("MOESMITH_ORACLE");
    if (!oracle) oracle = "../shared/oracle";
    if (access(oracle, R_OK) != 0) {
        print_message("%zu oracle tokenizers skipped: no %s\n", COUNT_OF(names), oracle);
        skip();
    }
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char file[512], cases[512];
        snprintf(file, sizeof file, "%s/tokenizers/%s/tokenizer.json", oracle, names[i]);
        snprintf(cases, sizeof cases, "%s/tokenizers/%s/cases.jsonl", oracle, names[i]);
        if (access(cases, R_OK) != 0)
            print_message("skipped: no %s\n", cases);
        else
            assert_true(check_cases(file, cases, false) > 0);
    }
}

static void test_pieces(void **state) {
    (void)state;
    Tokenizer *t = open_file(GOLDEN "byte_fallback.json");
    int32_t end = tokenizer_find(t, "</s>"), tool = tokenizer_find(t, "<tool>");
    assert_int_equal(end, 1);
    assert_string_equal(tokenizer_piece(t, end), "</s>");
    assert_true(tokenizer_is_special(t, end));
    assert_int_equal(tool, tokenizer_size(t) - 1);
    assert_false(tokenizer_is_special(t, tool));
    assert_int_equal(tokenizer_find(t, "no such piece"), -1);
    assert_null(tokenizer_piece(t, -1));
    assert_null(tokenizer_piece(t, tokenizer_size(t)));
    assert_false(tokenizer_is_special(t, tokenizer_size(t)));
    tokenizer_close(t);
}

/* Plain BPE: of all pairs that merge, the one of lowest rank and then leftmost, again and again. */
static size_t merge_plainly(const Merge *merges, size_t n_merges, int32_t *id, size_t n) {
    for (;;) {
        const Merge *best = NULL;
        size_t place = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t k = 0; k < n_merges; k++)
                if (merges[k].left == id[i] && merges[k].right == id[i + 1] &&
                    (!best || merges[k].rank < best->rank)) {
                    best = &merges[k];
                    place = i;
                }
        if (!best) return n;
        id[place] = best->both;
        memmove(id + place + 1, id + place + 2, (n - place - 2) * sizeof *id);
        n--;
    }
}

/* A vocabulary over the letters a, b, c, grown by random merges of what is there. */
static size_t make_merges(Bpe *b, Merge *merges, size_t most, Rng *r) {
    size_t n = 0;
    for (int32_t i = 0; i < 3; i++) {
        char letter = (char)('a' + i);
        assert_int_equal(vocab_add(&b->vocab, &letter, 1, i, "made", &err), 0);
    }
    for (int tries = 0; tries < 200 && n < most; tries++) {
        int32_t left = (int32_t)(rng_u64(r) % (uint64_t)b->vocab.n);
        int32_t right = (int32_t)(rng_u64(r) % (uint64_t)b->vocab.n);
        size_t left_n, right_n;
        char both[64];
        const char *x = vocab_piece(&b->vocab, left, &left_n);
        const char *y = vocab_piece(&b->vocab, right, &right_n);
        if (left_n + right_n >= sizeof both) continue;
        snprintf(both, sizeof both, "%s%s", x, y);
        int32_t id = vocab_find(&b->vocab, both, left_n + right_n);
        bool again = false;
        for (size_t k = 0; k < n; k++) again |= merges[k].left == left && merges[k].right == right;
        if (again) continue;
        if (id < 0) {
            id = b->vocab.n;
            assert_int_equal(vocab_add(&b->vocab, both, left_n + right_n, id, "made", &err), 0);
        }
        merges[n] = (Merge){left, right, id, (uint32_t)n};
        bpe_add_merge(b, left, right, id, (uint32_t)n);
        n++;
    }
    bpe_finish(b);
    b->unknown = -1;
    return n;
}

static void test_heap_merges_as_plain_bpe(void **state) {
    (void)state;
    Rng r = {.seed = 1};
    for (int round = 0; round < 60; round++) {
        Bpe b = {0};
        BpeRoom room = {0};
        Merge merges[30];
        size_t n_merges = make_merges(&b, merges, COUNT_OF(merges), &r);
        for (int k = 0; k < 10; k++) {
            char text[80];
            int32_t id[80];
            size_t n = rng_u64(&r) % sizeof text, at = 0;
            for (size_t i = 0; i < n; i++) {
                id[i] = (int32_t)(rng_u64(&r) % 3);
                text[i] = (char)('a' + id[i]);
            }
            size_t plain = merge_plainly(merges, n_merges, id, n);
            bpe_encode(&b, text, n, &room);
            assert_int_equal(room.n, plain);
            for (size_t i = 0; i < plain; at = room.symbol[i].to, i++) {
                assert_int_equal(room.symbol[i].id, id[i]);
                assert_int_equal(room.symbol[i].from, at);
            }
            assert_int_equal(at, n);
        }
        bpe_room_free(&room);
        bpe_free(&b);
    }
}

/* Runs one step over text and compares text and spans, written as "char:from-to ...". */
static void assert_step(Step *step, const char *text, const char *wanted) {
    Stage stage = {.limit = 4096}, spare = {.limit = 4096};
    Matcher m = {0};
    Steps steps = {step, 1};
    for (size_t i = 0, n; text[i]; i += n) {
        for (n = 1; (text[i + n] & 0xc0) == 0x80;) n++;
        text_add(&stage.text, text + i, n, (uint32_t)i, (uint32_t)(i + n));
    }
    stage_add(&stage, 0, stage.text.n, -1);
    assert_int_equal(steps_run(&steps, &stage, &spare, &m, &err), 0);
    Buf got = {0};
    const Text *t = &stage.text;
    for (size_t p = 0; p < stage.n; p++) {
        if (p) buf_add_text(&got, " |");
        for (size_t i = stage.piece[p].from, n; i < stage.piece[p].to; i += n) {
            for (n = 1; i + n < t->n && (t->p[i + n] & 0xc0) == 0x80;) n++;
            buf_printf(&got, "%s%.*s:%u-%u", got.n ? " " : "", (int)n, t->p + i, t->from[i],
                       t->to[i]);
        }
    }
    assert_string_equal(got.p ? got.p : "", wanted);
    buf_free(&got);
    stage_free(&stage);
    stage_free(&spare);
    matcher_free(&m);
}

static void test_spans_through_steps(void **state) {
    (void)state;
    Step form = {.run = step_unicode, .form = FORM_NFC};
    assert_step(&form, "ae\xcc\x81z",
                "a:0-1 \xc3\xa9:1-4 z:4-5"); /* a composed character: all of it */
    assert_step(&form, "\xe1\x84\x80\xe1\x85\xa1", "\xea\xb0\x80:0-6"); /* Hangul */
    form.form = FORM_NFD;
    assert_step(&form, "\xc3\xa9", "e:0-2 \xcc\x81:0-2");
    form.form = FORM_NFKC;
    assert_step(&form, "\xef\xac\x81", "f:0-3 i:0-3");
    Step lower = {.run = step_lowercase};
    assert_step(&lower, "A\xc4\xb0", "a:0-1 i:1-3 \xcc\x87:1-3");
    Step strip = {.run = step_strip, .left = true, .right = true};
    assert_step(&strip, " \t a b\xc2\xa0", "a:3-4  :4-5 b:5-6");
    assert_step(&strip, " \n ", "");
    Step replace = {.run = step_replace};
    assert_int_equal(pattern_set_text(&replace.pattern, "ab", 2, "test", &err), 0);
    buf_add_text(&replace.content, "xyz");
    assert_step(&replace, "abcab", "x:0-2 y:0-2 z:0-2 c:2-3 x:3-5 y:3-5 z:3-5");
    pattern_free(&replace.pattern);
    buf_free(&replace.content);
    Step bytes = {.run = step_bytes};
    assert_step(&bytes, " \xc3\xa9", "\xc4\xa0:0-1 \xc3\x83:1-3 \xc2\xa9:1-3");
}

static void test_split_behaviours(void **state) {
    (void)state;
    static const char *const wanted[][2] = {
        [ISOLATED] = {"a:0-1 | -:1-2 | -:2-3 | b:3-4 | -:4-5",
                      "a:0-1 | -:1-2 | -:2-3 | b:3-4 | -:4-5"},
        [REMOVED] = {"a:0-1 | b:3-4", "-:1-2 | -:2-3 | -:4-5"},
        [MERGED_PREVIOUS] = {"a:0-1 -:1-2 | -:2-3 | b:3-4 -:4-5",
                             "a:0-1 | -:1-2 | -:2-3 b:3-4 | -:4-5"},
        [MERGED_NEXT] = {"a:0-1 | -:1-2 | -:2-3 b:3-4 | -:4-5",
                         "a:0-1 -:1-2 | -:2-3 | b:3-4 -:4-5"},
        [CONTIGUOUS] = {"a:0-1 | -:1-2 -:2-3 | b:3-4 | -:4-5",
                        "a:0-1 | -:1-2 -:2-3 | b:3-4 | -:4-5"},
    };
    for (int regex = 0; regex < 2; regex++) {
        Step s = {.run = step_split};
        if (regex)
            assert_int_equal(pattern_set_regex(&s.pattern, "-", 1, "test", &err), 0);
        else
            assert_int_equal(pattern_set_text(&s.pattern, "-", 1, "test", &err), 0);
        for (size_t i = 0; i < COUNT_OF(wanted); i++)
            for (int invert = 0; invert < 2; invert++) {
                s.behaviour = (Behaviour)i;
                s.invert = invert;
                assert_step(&s, "a--b-", wanted[i][invert]);
            }
        pattern_free(&s.pattern);
    }
}

/* How Oniguruma, the reference's engine, reads these. */
static void test_regex_dialect(void **state) {
    (void)state;
    static const struct {
        const char *regex, *text, *wanted; /* the matches stand alone */
    } cases[] = {
        {"[0-9]{1,2}+", "a123", "a:0-1 | 1:1-2 2:2-3 3:3-4"},
        {"a{,2}b", "aab", "a:0-1 a:1-2 b:2-3"},
        {"^b$", "a\nb\na", "a:0-1 \n:1-2 | b:2-3 | \n:3-4 a:4-5"},
        {"(?m)a.b", "a\nb", "a:0-1 \n:1-2 b:2-3"},
        {"\\s", "a\xe1\xa0\x8e", "a:0-1 \xe1\xa0\x8e:1-4"},
        {"[^\\s]", "a ", "a:0-1 |  :1-2"},
        {"\\w+", "e\xcc\x81!", "e:0-1 \xcc\x81:1-3 | !:3-4"},
        {"\\h", "fg", "f:0-1 | g:1-2"},
        {"[a[bc]]+", "abcd", "a:0-1 b:1-2 c:2-3 | d:3-4"},
        {"[]a]+", "a]b", "a:0-1 ]:1-2 | b:2-3"},
        {"\\u0062", "ab", "a:0-1 | b:1-2"},
        {"[[:punct:]]", "a+", "a:0-1 | +:1-2"},
        {"\\p{Han}", "\xe3\x8a\x8c", "\xe3\x8a\x8c:0-3"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Step s = {.run = step_split};
        const char *regex = cases[i].regex;
        if (pattern_set_regex(&s.pattern, regex, strlen(regex), "test", &err))
            fail_msg("%s", err.text);
        assert_step(&s, cases[i].text, cases[i].wanted);
        pattern_free(&s.pattern);
    }
    static const char *const refused[] = {"[a&&b]", "[a[^b]]", "[\\W]", "a{2}+", "(", "a)"};
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        Pattern p = {0};
        assert_int_equal(pattern_set_regex(&p, refused[i], strlen(refused[i]), "test", &err), -1);
        pattern_free(&p);
    }
}

#define WITH(rest)                                                                                 \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\","        \
    "\"b\"]]}," rest "}"
#define MODEL(rest) "{\"model\":{\"type\":\"BPE\"," rest "}}"
#define VOCAB       "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"

static const struct {
    const char *text, *says;
} BAD_FILES[] = {
    {"", "empty"},
    {"[]", "expected an object"},
    {"{}", "has no \"model\""},
    {"{\"model\":{", "not valid JSON"},
    {"{\"model\":5}", "expected an object"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram, expected BPE"},
    {MODEL("\"merges\":[]"), "no \"vocab\""},
    {MODEL(VOCAB), "no \"merges\""},
    {MODEL("\"vocab\":[\"a\"],\"merges\":[]"), "no \"vocab\" that is an object"},
    {MODEL("\"vocab\":{\"a\":\"b\"},\"merges\":[]"), "an id, a whole number"},
    {MODEL("\"vocab\":{\"a\":-1},\"merges\":[]"), "an id, a whole number"},
    {MODEL("\"vocab\":{\"a\":1.5},\"merges\":[]"), "an id, a whole number"},
    {MODEL("\"vocab\":{\"a\":99999999999999999999},\"merges\":[]"), "has id"},
    {MODEL("\"vocab\":{\"a\":4194304},\"merges\":[]"), "has id 4194304"},
    {MODEL("\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]"), "have the same id 1"},
    {MODEL("\"vocab\":{\"a\":1,\"a\":2},\"merges\":[]"), "has two ids, 1 and 2"},
    {MODEL("\"vocab\":{\"\\ud800\":1},\"merges\":[]"), "half a surrogate pair"},
    {MODEL("\"vocab\":{\"\\x\":1},\"merges\":[]"), "an escape of JSON"},
    {MODEL("\"vocab\":{\"a\":1 \"b\":2},\"merges\":[]"), "a comma or the end of the vocabulary"},
    {MODEL("\"vocab\":{\"a\":{\"a\":{}}},\"merges\":[]"), "an id, a whole number"},
    {MODEL(VOCAB ",\"merges\":[[\"a\",\"c\"]]"), "needs the piece \"c\""},
    {MODEL(VOCAB ",\"merges\":[[\"b\",\"a\"]]"), "needs the piece \"ba\""},
    {MODEL(VOCAB ",\"merges\":[\"ab\"]"), "has not two parts"},
    {MODEL(VOCAB ",\"merges\":[\"a b b\"]"), "has not two parts"},
    {MODEL(VOCAB ",\"merges\":[[\"a\"]]"), "second part of a merge"},
    {MODEL(VOCAB ",\"merges\":[[\"a\",\"b\",\"c\"]]"), "a merge of two parts"},
    {MODEL(VOCAB ",\"merges\":[5]"), "expected a string"},
    {MODEL(VOCAB ",\"merges\":[],\"dropout\":0.1"), "\"dropout\" is 0.1"},
    {MODEL(VOCAB ",\"merges\":[],\"unk_token\":\"?\""), "unk_token \"?\" is not a piece"},
    {MODEL(VOCAB ",\"merges\":[],\"byte_fallback\":1"), "expected true or false"},
    {WITH("\"normalizer\":{\"type\":\"BertNormalizer\"}"),
     "normalizer BertNormalizer: is not supported"},
    {WITH("\"normalizer\":{}"), "has no \"type\""},
    {WITH("\"normalizer\":7"), "expected an object"},
    {WITH("\"normalizer\":{\"type\":\"Replace\",\"pattern\":\"a\"}"), "\"pattern\" is a string"},
    {WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[3]}"), "expected an object"},
    {WITH("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"),
     "pre_tokenizer UnicodeScripts: is not"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}}"), "is not valid"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"}}"),
     "pattern is empty"},
    {WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":"
          "\"x\"}"),
     "expected Isolated"},
    {WITH("\"decoder\":{\"type\":\"CTC\"}"), "decoder CTC: is not supported"},
    {WITH("\"decoder\":{\"type\":\"Strip\",\"content\":\"ab\"}"), "expected one character"},
    {WITH("\"post_processor\":{\"type\":\"X\"}"), "post_processor X: is not supported"},
    {WITH("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"),
     "the text 0 times"},
    {WITH("\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",9],\"sep\":[\"a\",0]}"),
     "id 9, which is no piece's"},
    {WITH("\"added_tokens\":[{\"content\":\"x\"}]"), "has no \"id\""},
    {WITH("\"added_tokens\":[{\"id\":3}]"), "\"content\" is nothing"},
    {WITH("\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), "has id 1, which is piece \"b\"'s"},
    {WITH("\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]"), "has id 7, but 0 in the vocabulary"},
    {WITH("\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]"),
     "has two ids, 3 and 4"},
    {WITH("\"added_tokens\":{}"), "expected an array"},
    {WITH("\"added_tokens\":[\"x\"]"), "expected an object"},
    {"{\"\xff\":1}", "0xFF is not valid UTF-8"},
};

static void test_bad_files(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(BAD_FILES); i++) {
        Tokenizer *t;
        assert_int_equal(open_text(&t, BAD_FILES[i].text, strlen(BAD_FILES[i].text)), -1);
        assert_null(t);
        assert_null(strchr(err.text, '\n'));
        if (!strstr(err.text, BAD_FILES[i].says))
            fail_msg("'%s' does not say '%s'", err.text, BAD_FILES[i].says);
    }
    Tokenizer *t;
    assert_int_equal(tokenizer_open(&t, "tests/golden/tokenizer/none.json", &err), -1);
    Buf deep = {0};
    for (int i = 0; i < 100000; i++) buf_add_text(&deep, "{\"model\":[");
    assert_int_equal(open_text(&t, deep.p, deep.n), -1);
    buf_free(&deep);
}

/* Every prefix of a good file is refused, or (at its very end) good. */
static void test_truncated_file(void **state) {
    (void)state;
    json_t *whole;
    assert_int_equal(json_read_file(&whole, GOLDEN "words.json", &err), 0);
    char *text = json_dumps(whole, JSON_COMPACT);
    size_t n = strlen(text);
    for (size_t cut = 0; cut < n; cut += 13) {
        Tokenizer *t;
        assert_int_equal(open_text(&t, text, cut), -1);
    }
    free(text);
    json_decref(whole);
}

static void refuse_text(const char *file, const char *text, size_t n, const char *says) {
    Tokenizer *t;
    Tokens ids = {0};
    if (open_text(&t, file, strlen(file)) != 0) fail_msg("%s", err.text);
    assert_int_equal(tokenizer_encode(t, text, n, true, &ids, &err), -1);
    if (!strstr(err.text, says)) fail_msg("'%s' does not say '%s'", err.text, says);
    tokens_free(&ids);
    tokenizer_close(t);
}

static void test_bad_text(void **state) {
    (void)state;
    const char *plain = WITH("\"normalizer\":null");
    refuse_text(plain, "ab\xff", 3, "byte 2 of the text (0xFF)");
    refuse_text(plain, "a\xed\xa0\x80", 4, "not valid UTF-8"); /* a surrogate */
    refuse_text(plain, "\xc0\x80", 2, "not valid UTF-8");      /* overlong */
    refuse_text(plain, "a\xe2\x82", 3, "not valid UTF-8");     /* cut short */
    char run[40];
    memset(run, 'a', sizeof run);
    refuse_text(WITH("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|a)*(a|a)*("
                     "a|a)*[!?]\"}}"),
                run, sizeof run, "gave up");
#define TENFOLD "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaa\"},"
    refuse_text(WITH("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" TENFOLD TENFOLD
                         TENFOLD TENFOLD TENFOLD TENFOLD TENFOLD TENFOLD TENFOLD
                     "{\"type\":\"NFC\"}]}"),
                run, sizeof run, "makes more than");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_byte_fallback),
        cmocka_unit_test(test_golden_byte_level),
        cmocka_unit_test(test_golden_words),
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_heap_merges_as_plain_bpe),
        cmocka_unit_test(test_spans_through_steps),
        cmocka_unit_test(test_split_behaviours),
        cmocka_unit_test(test_regex_dialect),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_truncated_file),
        cmocka_unit_test(test_bad_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
