/* test_gguf.c - GGUF files built byte by byte: values, tensors, and what is refused in which words;
 * tokenizers out of them against the libraries of the reference (tests/golden/gguf); models that
 * are not whole. (What the models answer: test_reference.c; what blocks decode to:
 * test_gguf_blocks.c.)
 */
#include "data/chat.h"
#include "data/gguf_writer.h"
#include "data/json.h"
#include "data/side_files.h"
#include "data/tokenizer.h"
#include "model/model.h"
#include "scratch.h"

/* ---- building ---- */

#define PUT(b, Type, ...) buf_add((b), &(Type){(Type)(__VA_ARGS__)}, sizeof(Type))

static void put_text(Buf *b, const char *text) {
    PUT(b, uint64_t, strlen(text));
    buf_add_text(b, text);
}
static void put_key(Buf *b, const char *key, uint32_t type) {
    put_text(b, key);
    PUT(b, uint32_t, type);
}
static void put_head(Buf *b, uint64_t tensors, uint64_t values) {
    b->n = 0;
    buf_add(b, "GGUF", 4);
    PUT(b, uint32_t, 3);
    PUT(b, uint64_t, tensors);
    PUT(b, uint64_t, values);
}
static void put_tensor(Buf *b, const char *name, int n_dim, const uint64_t *ne, uint32_t type,
                       uint64_t at) {
    put_text(b, name);
    PUT(b, uint32_t, n_dim);
    for (int i = 0; i < n_dim; i++) PUT(b, uint64_t, ne[i]);
    PUT(b, uint32_t, type);
    PUT(b, uint64_t, at);
}
static void pad(Buf *b, size_t to) {
    while (b->n % to) buf_add(b, "", 1);
}

static int parse(Gguf **g, const Buf *b) { return gguf_parse(g, b->p, b->n, "x.gguf", &err); }

/* ---- values ---- */

static void put_values(Buf *b) {
    put_head(b, 0, 11);
    put_key(b, "u8", GGUF_U8), PUT(b, uint8_t, 200);
    put_key(b, "i8", GGUF_I8), PUT(b, int8_t, -3);
    put_key(b, "u64", GGUF_U64), PUT(b, uint64_t, UINT64_MAX);
    put_key(b, "i64", GGUF_I64), PUT(b, int64_t, -5);
    put_key(b, "f32", GGUF_F32), PUT(b, float, 0.5f);
    put_key(b, "f64", GGUF_F64), PUT(b, double, -0.25);
    put_key(b, "yes", GGUF_BOOL), PUT(b, uint8_t, 1);
    put_key(b, "text", GGUF_TEXT), put_text(b, "a b");
    put_key(b, "ints", GGUF_ARRAY), PUT(b, uint32_t, GGUF_I16), PUT(b, uint64_t, 3);
    for (int i = 0; i < 3; i++) PUT(b, int16_t, i - 1);
    put_key(b, "texts", GGUF_ARRAY), PUT(b, uint32_t, GGUF_TEXT), PUT(b, uint64_t, 2);
    put_text(b, "one"), put_text(b, "");
    put_key(b, "bools", GGUF_ARRAY), PUT(b, uint32_t, GGUF_BOOL), PUT(b, uint64_t, 2);
    PUT(b, uint8_t, 0), PUT(b, uint8_t, 1);
}

static void test_values(void **state) {
    (void)state;
    Buf b = {0};
    Gguf *g;
    int64_t i = 7;
    double x = 7;
    bool yes = false;
    const char *text = NULL, *at;
    size_t n = 0;
    const GgufValue *v = NULL;
    put_values(&b);
    ok(parse(&g, &b));
    ok(gguf_get_int(g, "none", 0, 9, &i, &err)), assert_int_equal(i, 7);
    ok(gguf_get_int(g, "u8", 0, 255, &i, &err)), assert_int_equal(i, 200);
    ok(gguf_get_int(g, "i8", -9, 0, &i, &err)), assert_int_equal(i, -3);
    ok(gguf_get_int(g, "i64", -9, 0, &i, &err)), assert_int_equal(i, -5);
    refused(gguf_get_int(g, "u64", 0, 1 << 20, &i, &err), "u64 is");
    refused(gguf_get_int(g, "f32", 0, 9, &i, &err), "f32 is not a whole number");
    refused(gguf_get_int(g, "ints", 0, 9, &i, &err), "ints is not a whole number");
    refused(gguf_get_int(g, "yes", 0, 9, &i, &err), "not a whole number");
    ok(gguf_get_real(g, "f32", &x, &err)), assert_true(x == 0.5);
    ok(gguf_get_real(g, "f64", &x, &err)), assert_true(x == -0.25);
    ok(gguf_get_real(g, "i8", &x, &err)), assert_true(x == -3);
    refused(gguf_get_real(g, "text", &x, &err), "not a number");
    ok(gguf_get_bool(g, "yes", &yes, &err)), assert_true(yes);
    refused(gguf_get_bool(g, "u8", &yes, &err), "not true or false");
    ok(gguf_get_text(g, "text", &text, &n, &err));
    assert_true(n == 3 && !memcmp(text, "a b", 3));
    refused(gguf_get_text(g, "texts", &text, &n, &err), "not a text");
    ok(gguf_get_array(g, "ints", GGUF_INTS, &v, &err));
    assert_true(v->n == 3 && gguf_int_at(v, 0) == -1 && gguf_real_at(v, 2) == 1);
    ok(gguf_get_array(g, "bools", GGUF_INTS, &v, &err));
    assert_true(v->n == 2 && !gguf_int_at(v, 0) && gguf_int_at(v, 1));
    ok(gguf_get_array(g, "texts", GGUF_TEXTS, &v, &err));
    at = v->at;
    assert_true(gguf_take_text(v, &at, &text, &n) && n == 3 && !memcmp(text, "one", 3));
    assert_true(gguf_take_text(v, &at, &text, &n) && n == 0);
    assert_false(gguf_take_text(v, &at, &text, &n));
    refused(gguf_get_array(g, "texts", GGUF_INTS, &v, &err), "list of whole numbers");
    refused(gguf_get_array(g, "u8", GGUF_INTS, &v, &err), "list of whole numbers");
    gguf_close(g);
    for (size_t cut = 0; cut < b.n; cut++) /* whatever it is cut to, it is not whole */
        refused(gguf_parse(&g, b.p, cut, "x.gguf", &err), "x.gguf");
    buf_free(&b);
}

/* ---- tensors ---- */

/* 2 x 32 of q8_0 and a vector of f32 behind it. */
static void put_two(Buf *b, uint64_t second_at) {
    put_head(b, 2, 0);
    put_tensor(b, "a.weight", 2, (uint64_t[]){32, 2}, 8, 0);
    put_tensor(b, "b.weight", 1, (uint64_t[]){3}, 0, second_at);
    pad(b, 32);
    for (int i = 0; i < 96 + 12; i++) buf_add(b, &(char){(char)i}, 1);
}

static void test_tensors(void **state) {
    (void)state;
    Buf b = {0};
    Weights *w;
    put_two(&b, 96);
    ok(files_write_whole(in("two.gguf"), b.p, b.n, &err));
    ok(weights_open(&w, in("two.gguf"), &err));
    const WeightView *x = weights_find(w, "a.weight"), *y = weights_find(w, "b.weight");
    assert_true(x->dtype == DT_q8_0 && !strcmp(x->stored, "Q8_0") && x->bytes == 68);
    assert_true(x->n_dim == 2 && x->dim[0] == 2 && x->dim[1] == 32);
    assert_true(y->dtype == DT_f32 && y->n_dim == 1 && y->dim[0] == 3 && y->bytes == 12);
    assert_int_equal(((const char *)x->data)[5], 5);
    assert_int_equal(((const char *)y->data)[0], 96);
    weights_close(w);
    for (size_t cut = 0; cut < b.n; cut++) {
        Gguf *g;
        refused(gguf_parse(&g, b.p, cut, "x.gguf", &err), "x.gguf");
    }
    buf_free(&b);
}

typedef void (*Build)(Buf *b);
static void with_one(Buf *b, const char *name, int n_dim, const uint64_t *ne, uint32_t type,
                     uint64_t at) {
    put_head(b, 1, 0);
    put_tensor(b, name, n_dim, ne, type, at);
    pad(b, 32);
    buf_add(b, "................................", 32);
}
static void no_magic(Buf *b) { buf_add_text(b, "GGML and more, long enough to be a head"); }
static void version_1(Buf *b) {
    put_head(b, 0, 0);
    b->p[4] = 1;
}
static void big_endian(Buf *b) {
    put_head(b, 0, 0);
    b->p[4] = 0;
    b->p[7] = 3;
}
static void many_tensors(Buf *b) { put_head(b, UINT64_MAX, 0); }
static void many_values(Buf *b) { put_head(b, 0, (uint64_t)1 << 40); }
static void twice_key(Buf *b) {
    put_head(b, 0, 2);
    for (int i = 0; i < 2; i++) put_key(b, "key", GGUF_U8), PUT(b, uint8_t, i);
}
static void odd_key(Buf *b) {
    put_head(b, 0, 1);
    put_key(b, "a\nb", GGUF_U8), PUT(b, uint8_t, 1);
}
static void odd_type(Buf *b) {
    put_head(b, 0, 1);
    put_key(b, "key", 13), PUT(b, uint64_t, 1);
}
static void nested(Buf *b) {
    put_head(b, 0, 1);
    put_key(b, "key", GGUF_ARRAY), PUT(b, uint32_t, GGUF_ARRAY), PUT(b, uint64_t, 0);
}
static void long_array(Buf *b) {
    put_head(b, 0, 1);
    put_key(b, "key", GGUF_ARRAY), PUT(b, uint32_t, GGUF_F64), PUT(b, uint64_t, INT64_MAX);
}
static void alignment(Buf *b) {
    put_head(b, 0, 1);
    put_key(b, "general.alignment", GGUF_U32), PUT(b, uint32_t, 24);
}
static void split(Buf *b) {
    put_head(b, 0, 1);
    put_key(b, "split.count", GGUF_U16), PUT(b, uint16_t, 3);
}
static void twice_tensor(Buf *b) {
    put_two(b, 96);
    memcpy(memchr(b->p, 'b', b->n), "a", 1);
}
static void gap(Buf *b) { put_two(b, 128); }
static void overlap(Buf *b) { put_two(b, 64); }
static void unknown_type(Buf *b) { with_one(b, "w", 1, (uint64_t[]){256}, 11, 0); }
static void no_type(Buf *b) { with_one(b, "w", 1, (uint64_t[]){256}, 77, 0); }
static void half_block(Buf *b) { with_one(b, "w", 2, (uint64_t[]){16, 2}, 2, 0); }
static void zero_dim(Buf *b) { with_one(b, "w", 2, (uint64_t[]){0, 2}, 0, 0); }
static void huge_dims(Buf *b) { with_one(b, "w", 2, (uint64_t[]){1ull << 40, 1ull << 40}, 0, 0); }
static void negative_dim(Buf *b) { with_one(b, "w", 1, (uint64_t[]){1ull << 63}, 0, 0); }
static void no_dims(Buf *b) { with_one(b, "w", 0, NULL, 0, 0); }
static void five_dims(Buf *b) { with_one(b, "w", 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0); }
static void too_long(Buf *b) { with_one(b, "w", 1, (uint64_t[]){9}, 0, 0); }

static void test_hostile(void **state) {
    (void)state;
    static const struct {
        Build build;
        const char *says;
    } cases[] = {{no_magic, "no GGUF file"},
                 {version_1, "version 1; 2 and 3"},
                 {big_endian, "big-endian"},
                 {many_tensors, "middle of its header"},
                 {many_values, "middle of its header"},
                 {twice_key, "key key comes twice"},
                 {odd_key, "name of a value"},
                 {odd_type, "type 13"},
                 {nested, "array of arrays"},
                 {long_array, "middle of its header"},
                 {alignment, "general.alignment is 24"},
                 {split, "one of 3 parts"},
                 {twice_tensor, "a.weight comes twice"},
                 {gap, "b.weight lies at 128"},
                 {overlap, "b.weight lies at 64"},
                 {unknown_type, "w is stored as Q3_K; F32, BF16, F16, Q8_0, Q4_0"},
                 {no_type, "type 77"},
                 {half_block, "no whole blocks of Q4_0"},
                 {zero_dim, "dimension of 0"},
                 {huge_dims, "which cannot be"},
                 {negative_dim, "which cannot be"},
                 {no_dims, "0 dimensions"},
                 {five_dims, "5 dimensions"},
                 {too_long, "behind the end of the file"}};
    Buf b = {0};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Gguf *g = NULL;
        b.n = 0;
        cases[i].build(&b);
        refused(parse(&g, &b), cases[i].says);
        assert_null(g);
    }
    buf_free(&b);
}

/* ---- tokenizers ---- */

static void check_ids(const Tokens *got, const json_t *want, const char *text) {
    bool same = got->n == json_array_size(want);
    for (size_t i = 0; i < got->n && same; i++)
        same = got->id[i] == json_integer_value(json_array_get(want, i));
    if (!same) fail_msg("other tokens of \"%s\": %s", text, json_dumps(want, JSON_COMPACT));
}

static void check_text(const Tokenizer *t, const Tokens *ids, bool skip, const json_t *want) {
    Buf out = {0};
    tokenizer_decode(t, ids->id, ids->n, skip, &out);
    if (out.n != json_string_length(want) ||
        (out.n && memcmp(out.p, json_string_value(want), out.n)))
        fail_msg("decoded to \"%s\", not \"%s\"", out.p, json_string_value(want));
    buf_free(&out);
}

static void check_row(const Tokenizer *t, const json_t *row) {
    const json_t *text = json_object_get(row, "text");
    const char *p = json_string_value(text);
    for (int special = 0; special < 2; special++) {
        Tokens ids = {0};
        ok(tokenizer_encode(t, p, json_string_length(text), special, &ids, &err));
        check_ids(&ids, json_object_get(row, special ? "ids_special" : "ids"), p);
        if (!special) check_text(t, &ids, false, json_object_get(row, "decoded"));
        if (!special) check_text(t, &ids, true, json_object_get(row, "decoded_skip_special"));
        tokens_free(&ids);
    }
}

static void test_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int rows;
    } kinds[] = {{"gemma4", 27}, {"llama", 13},     {"llama-prefix", 13},
                 {"qwen2", 15},  {"llama-bpe", 15}, {"gpt-2", 15}};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        char model[128], cases[128];
        Tokenizer *t;
        int n = 0;
        Buf all = {0};
        snprintf(model, sizeof model, "tests/golden/gguf/tokenizer-%s.gguf", kinds[i].name);
        snprintf(cases, sizeof cases, "tests/golden/gguf/tokenizer-%s.jsonl", kinds[i].name);
        ok(tokenizer_open_model(&t, model, &err));
        ok(files_read(cases, &all, &err));
        for (char *line = strtok(all.p, "\n"); line; line = strtok(NULL, "\n"), n++) {
            json_t *row;
            ok(json_read_text(&row, line, strlen(line), cases, &err));
            check_row(t, row);
            json_decref(row);
        }
        if (n != kinds[i].rows) fail_msg("%s: %d rows, not %d", cases, n, kinds[i].rows);
        buf_free(&all);
        tokenizer_close(t);
    }
}

static void test_side_files(void **state) {
    (void)state;
    const char *model = "tests/golden/gguf/tokenizer-gemma4.gguf";
    json_t *config, *gen,
        *messages = json_loads("[{\"role\": \"user\", \"content\": \"hi\"}]", 0, NULL);
    Chat *chat;
    Buf text = {0};
    ok(side_files_json(model, "tokenizer_config.json", &config, &err));
    assert_string_equal(json_string_value(json_object_get(config, "bos_token")), "<s>");
    assert_string_equal(json_string_value(json_object_get(config, "eos_token")), "</s>");
    assert_string_equal(json_string_value(json_object_get(config, "pad_token")), "<pad>");
    ok(side_files_json(model, "generation_config.json", &gen, &err));
    assert_int_equal(json_array_size(json_object_get(gen, "eos_token_id")), 1);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(gen, "eos_token_id"), 0)),
                     1);
    ok(chat_open(&chat, model, "auto", THINKING_UNSET, &err));
    ok(chat_render(chat, messages, NULL, false, &text, &err));
    assert_string_equal(text.p, "<s>hi\n");
    assert_false(side_files_has(model, "config.json"));
    assert_false(side_files_has(model, "merges.txt"));
    refused(side_files_read(model, "merges.txt", &text, &err), "holds no merges.txt");
    assert_false(side_files_has("tests/golden/models/gguf-moe/model.gguf", "tokenizer.json"));
    chat_close(chat);
    buf_free(&text);
    json_decref(config), json_decref(gen), json_decref(messages);
}

/* A golden file with one text replaced by another of its length, everywhere. */
static const char *altered(const char *file, const char *from, const char *to) {
    Buf b = {0};
    size_t n = strlen(from);
    int found = 0;
    assert_int_equal(strlen(to), n);
    ok(files_read(file, &b, &err));
    for (size_t i = 0; i + n <= b.n; i++)
        if (!memcmp(b.p + i, from, n)) memcpy(b.p + i, to, n), found++;
    assert_true(found > 0);
    ok(files_write_whole(in("altered.gguf"), b.p, b.n, &err));
    buf_free(&b);
    return in("altered.gguf");
}

static void test_bad_tokenizers(void **state) {
    (void)state;
    static const struct {
        const char *name, *from, *to, *says;
    } cases[] = {
        {"gemma4", "gemma4", "gemmaX", "tokenizer.ggml.model is \"gemmaX\"; gemma4, llama"},
        {"gemma4", "tokenizer.ggml.merges", "tokenizer.ggml.mergeX", "no tokenizer.ggml.merges"},
        {"llama", "tokenizer.ggml.scores", "tokenizer.ggml.scoreX", "no tokenizer.ggml.scores"},
        {"qwen2", "qwen2", "qwenX", "tokenizer.ggml.pre is \"qwenX\""},
        {"qwen2", "qwen2", "qwe\n\x1b", "tokenizer.ggml.pre is \"qwe\?\?\""},
        {"qwen2", "tokenizer.ggml.pre", "tokenizer.ggml.prX", "tokenizer.ggml.pre is \"default\""},
        {"gemma4", "tokenizer.ggml.tokens", "tokenizer.ggml.tokenX", "holds no tokenizer.json"},
        {"gemma4", "<tool>", "<too\xff>", "not valid UTF-8"},
        {"gemma4", "<tool>", "<0x05>", "altered.gguf"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char model[128];
        Tokenizer *t;
        snprintf(model, sizeof model, "tests/golden/gguf/tokenizer-%s.gguf", cases[i].name);
        const char *path = altered(model, cases[i].from, cases[i].to);
        refused(tokenizer_open_model(&t, path, &err), cases[i].says);
    }
}

/* ---- models ---- */

#define MOE    "tests/golden/models/gguf-moe/model.gguf"
#define GEMMA3 "tests/golden/models/gguf-gemma3/model.gguf"

static void test_bad_models(void **state) {
    (void)state;
    static const struct {
        const char *file, *from, *to, *says;
    } cases[] = {
        {MOE, "gemma4", "gemmaX", "general.architecture \"gemmaX\""},
        {MOE, "gemma4.block_count", "gemma4.block_counX", "gemma4.block_count is missing"},
        {MOE, "gemma4.attention.head_count_kv", "gemma4.attention.head_count_kX",
         "head_count_kv is missing"},
        {MOE, "token_embd.weight", "token_embX.weight", "token_embd.weight is missing"},
        {MOE, "blk.0.attn_q.weight", "blk.0.attn_X.weight", "layers.0.self_attn.q_proj.weight"},
        {MOE, "blk.1.ffn_up_exps.weight", "blk.9.ffn_up_exps.weight", "experts.gate_up_proj"},
        {MOE, "blk.0.ffn_gate_inp.scale", "blk.0.ffn_gate_inp.scalX", "layers.0.router.scale"},
        {GEMMA3, "gemma3.attention.sliding_window\x04", "gemma3.attention.sliding_windoX\x04",
         "sliding_window is missing"},
        {GEMMA3, "blk.3.attn_norm", "blk.4.attn_norm", "layers.3.input_layernorm"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Model *m;
        const char *path = altered(cases[i].file, cases[i].from, cases[i].to);
        refused(model_open(&m, path, &err), cases[i].says);
    }
}

/* A golden file with scaled rotary positions. */
static const char *with_scaling(const char *file, const char *architecture, const char *type,
                                float factor) {
    Gguf *g;
    GgufOut out = {0};
    char key[64];
    ok(gguf_open(&g, file, &err));
    for (int i = 0; i < g->n_entries; i++) {
        const GgufEntry *t = &g->entry[i];
        GgufOutEntry x = {.dtype = t->dtype, .n_dim = t->n_dim, .data = gguf_entry_data(g, t)};
        memcpy(x.dim, t->dim, sizeof x.dim);
        snprintf(x.name, sizeof x.name, "%s", t->name);
        gguf_add_entry(&out, &x);
    }
    for (int i = 0; i < g->n_values; i++)
        if (!strstr(g->value[i].key, "rope.scaling")) gguf_add_copy(&out, &g->value[i]);
    snprintf(key, sizeof key, "%s.rope.scaling.type", architecture);
    if (type) gguf_add_text(&out, key, type, strlen(type));
    snprintf(key, sizeof key, "%s.rope.scaling.factor", architecture);
    gguf_add_f32(&out, key, factor);
    ok(gguf_write(in("scaled.gguf"), &out, &err));
    gguf_file_free(&out);
    gguf_close(g);
    return in("scaled.gguf");
}

/* Positions that llama.cpp would divide are divided here too, or the file is refused. */
static void test_scaled_positions(void **state) {
    (void)state;
    static const struct {
        const char *file, *architecture, *type, *says; /* says NULL: it is read */
        float factor, becomes;
    } cases[] = {
        {GEMMA3, "gemma3", "linear", NULL, 8, 8},    {GEMMA3, "gemma3", NULL, NULL, 8, 8},
        {GEMMA3, "gemma3", "none", NULL, 8, 1},      {GEMMA3, "gemma3", "yarn", "\"yarn\"", 8, 1},
        {GEMMA3, "gemma3", "yarn", NULL, 1, 1},      {MOE, "gemma4", "linear", NULL, 1, 1},
        {MOE, "gemma4", "linear", "factor 8", 8, 1}, {MOE, "gemma4", "li\near", "\"li?ear\"", 8, 1},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Model *m;
        const char *path =
            with_scaling(cases[i].file, cases[i].architecture, cases[i].type, cases[i].factor);
        int bad = model_open(&m, path, &err);
        if (cases[i].says) {
            refused(bad, cases[i].says);
            continue;
        }
        ok(bad);
        for (int k = 0; k < m->dims.n_layers; k++) {
            const LayerDims *d = &m->layer[k].d;
            assert_true(d->rope.factor == (d->window ? 1 : cases[i].becomes));
        }
        model_close(m);
    }
}

/* What the metadata become is a config.json: a model opened by it is the same. */
static void test_config(void **state) {
    (void)state;
    static const char *const files[] = {MOE, GEMMA3, "tests/golden/models/gguf-ple/model.gguf"};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        Model *m, *again;
        SideFiles side;
        ok(model_open(&m, files[i], &err));
        ok(model_side_files(m, files[i], &side, &err));
        assert_string_equal(side.file[0].name, "config.json");
        ok(files_write_whole(in("config.json"), side.file[0].text.p, side.file[0].text.n, &err));
        ok(model_open_shapes(&again, in("config.json"), &err));
        assert_memory_equal(&m->dims, &again->dims, sizeof m->dims);
        assert_int_equal(m->n_sites, again->n_sites);
        for (int k = 0; k < m->n_sites; k++)
            assert_string_equal(m->site[k].name, again->site[k].name);
        for (int k = 0; k < m->dims.n_layers; k++)
            assert_memory_equal(&m->layer[k].d, &again->layer[k].d, sizeof m->layer[k].d);
        side_files_free(&side);
        model_close(m);
        model_close(again);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_values),     TEST(test_tensors),          TEST(test_hostile),
        TEST(test_tokenizers), TEST(test_side_files),       TEST(test_bad_tokenizers),
        TEST(test_bad_models), TEST(test_scaled_positions), TEST(test_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
