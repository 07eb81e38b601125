/* gguf_side.c - see gguf_side.h. */
#include "gguf_side.h"
#include <inttypes.h>
#include <string.h>
#include "tokenizer_utf8.h"

#define KEY      "tokenizer.ggml."
#define TEMPLATE "tokenizer.chat_template"

/* ---- the vocabulary ---- */

static int read_texts(GgufVocab *v, const Gguf *g, Err *e) {
    const GgufValue *tokens = NULL;
    TRY(gguf_get_array(g, KEY "tokens", GGUF_TEXTS, &tokens, e));
    if (!tokens || tokens->n < 1 || tokens->n > INT32_MAX)
        return err_set(e, "%s: holds no tokenizer (tokenizer.ggml.tokens)", g->file);
    v->text = mem_alloc(sizeof *v->text * (size_t)tokens->n);
    v->length = mem_alloc(sizeof *v->length * (size_t)tokens->n);
    const char *at = tokens->at;
    while (gguf_take_text(tokens, &at, &v->text[v->n], &v->length[v->n])) {
        size_t n = v->length[v->n];
        if (!n || utf8_check(v->text[v->n], n) < n)
            return err_set(e, "%s: token %" PRId64 " is empty, or not valid UTF-8", g->file, v->n);
        v->n++;
    }
    return 0;
}

static int read_id(const GgufVocab *v, const Gguf *g, const char *key, int64_t *id, Err *e) {
    *id = -1;
    return gguf_get_int(g, key, 0, v->n - 1, id, e);
}

static int check_length(const GgufVocab *v, const Gguf *g, const GgufValue *list, Err *e) {
    if (!list || list->n >= v->n) return 0;
    return err_set(e, "%s: %s has %" PRId64 " entries for %" PRId64 " tokens", g->file, list->key,
                   list->n, v->n);
}

int gguf_vocab_read(GgufVocab *v, const Gguf *g, Err *e) {
    const char *model = "";
    size_t n = 0;
    *v = (GgufVocab){0};
    TRY(read_texts(v, g, e));
    TRY(gguf_get_array(g, KEY "token_type", GGUF_INTS, &v->types, e));
    TRY(gguf_get_array(g, KEY "scores", GGUF_REALS, &v->scores, e));
    TRY(check_length(v, g, v->types, e));
    TRY(check_length(v, g, v->scores, e));
    TRY(read_id(v, g, KEY "bos_token_id", &v->bos, e));
    TRY(read_id(v, g, KEY "eos_token_id", &v->eos, e));
    TRY(read_id(v, g, KEY "unknown_token_id", &v->unknown, e));
    TRY(gguf_get_text(g, KEY "model", &model, &n, e));
    bool bytes = n == 4 && !memcmp(model, "gpt2", n);
    v->add_bos = v->add_space_prefix = !bytes; /* llama.cpp's presets */
    TRY(gguf_get_bool(g, KEY "add_bos_token", &v->add_bos, e));
    TRY(gguf_get_bool(g, KEY "add_eos_token", &v->add_eos, e));
    return gguf_get_bool(g, KEY "add_space_prefix", &v->add_space_prefix, e);
}

void gguf_vocab_free(GgufVocab *v) {
    mem_free(v->text);
    mem_free(v->length);
    *v = (GgufVocab){0};
}

int gguf_vocab_type(const GgufVocab *v, int64_t id) {
    int64_t type = v->types ? gguf_int_at(v->types, id) : GGUF_TOKEN_NORMAL;
    return type >= GGUF_TOKEN_NORMAL && type <= GGUF_TOKEN_BYTE ? (int)type : GGUF_TOKEN_NORMAL;
}

void gguf_add_json(Buf *out, const char *text, size_t n) {
    size_t from = 0;
    buf_add(out, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= ' ' && c != '"' && c != '\\') continue;
        buf_add(out, text + from, i - from);
        buf_printf(out, "\\u%04x", c);
        from = i + 1;
    }
    buf_add(out, text + from, n - from);
    buf_add(out, "\"", 1);
}

/* ---- the small files ---- */

static int config_of(const GgufVocab *v, const Gguf *g, Buf *out, Err *e) {
    static const struct {
        const char *name, *key;
    } tokens[] = {{"bos_token", KEY "bos_token_id"},
                  {"eos_token", KEY "eos_token_id"},
                  {"unk_token", KEY "unknown_token_id"},
                  {"pad_token", KEY "padding_token_id"},
                  {"mask_token", KEY "mask_token_id"}};
    buf_printf(out, "{\n  \"add_bos_token\": %s,\n  \"add_eos_token\": %s",
               v->add_bos ? "true" : "false", v->add_eos ? "true" : "false");
    for (size_t i = 0; i < COUNT_OF(tokens); i++) {
        int64_t id;
        TRY(read_id(v, g, tokens[i].key, &id, e));
        if (id < 0) continue;
        buf_printf(out, ",\n  \"%s\": ", tokens[i].name);
        gguf_add_json(out, v->text[id], v->length[id]);
    }
    buf_add_text(out, ",\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
    return 0;
}

/* Answers end with the token of eos, of eot (a turn) or eom (a message); llama.cpp takes for one
 * also whatever has such a text. */
static bool ends_turns(const char *text, size_t n) {
    static const char *const known[] = {"<end_of_turn>", "<turn|>", "<|im_end|>", "<|eot_id|>",
                                        "<|end|>"};
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (text_is(text, n, known[i])) return true;
    return false;
}

static int generation_of(const GgufVocab *v, const Gguf *g, Buf *out, Err *e) {
    int64_t end[3];
    TRY(read_id(v, g, KEY "eos_token_id", &end[0], e));
    TRY(read_id(v, g, KEY "eot_token_id", &end[1], e));
    TRY(read_id(v, g, KEY "eom_token_id", &end[2], e));
    buf_add_text(out, "{\n  \"eos_token_id\": [");
    const char *comma = "";
    for (int64_t id = 0; id < v->n; id++) {
        bool marked = gguf_vocab_type(v, id) == GGUF_TOKEN_CONTROL ||
                      gguf_vocab_type(v, id) == GGUF_TOKEN_USER_DEFINED;
        bool is_end = id == end[0] || id == end[1] || id == end[2] ||
                      (marked && ends_turns(v->text[id], v->length[id]));
        if (!is_end) continue;
        buf_printf(out, "%s%" PRId64, comma, id);
        comma = ", ";
    }
    buf_add_text(out, "]\n}\n");
    return 0;
}

static int with_vocab(int (*write)(const GgufVocab *, const Gguf *, Buf *, Err *), const Gguf *g,
                      Buf *out, Err *e) {
    GgufVocab v;
    int bad = gguf_vocab_read(&v, g, e);
    if (!bad) bad = write(&v, g, out, e);
    gguf_vocab_free(&v);
    return bad;
}

static int tokenizer_config(const Gguf *g, const char *key, Buf *out, Err *e) {
    (void)key;
    return with_vocab(config_of, g, out, e);
}
static int generation_config(const Gguf *g, const char *key, Buf *out, Err *e) {
    (void)key;
    return with_vocab(generation_of, g, out, e);
}
static int tokenizer(const Gguf *g, const char *key, Buf *out, Err *e) {
    (void)key;
    return gguf_tokenizer_json(g, out, e);
}
static int text_of_key(const Gguf *g, const char *key, Buf *out, Err *e) {
    const char *text = "";
    size_t n = 0;
    TRY(gguf_get_text(g, key, &text, &n, e));
    buf_add(out, text, n);
    return 0;
}

/* ---- all ---- */

/* A file is there where its key is. */
static const struct {
    const char *name, *key;
    int (*write)(const Gguf *g, const char *key, Buf *out, Err *e);
} files[] = {
    {"tokenizer.json", KEY "tokens", tokenizer},
    {"tokenizer_config.json", KEY "tokens", tokenizer_config},
    {"generation_config.json", KEY "tokens", generation_config},
    {"chat_template.jinja", TEMPLATE, text_of_key},
    {"additional_chat_templates/tool_use.jinja", TEMPLATE ".tool_use", text_of_key},
};

const char *gguf_side_name(size_t i) { return i < COUNT_OF(files) ? files[i].name : NULL; }

bool gguf_side_has(const Gguf *g, const char *name) {
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (!strcmp(files[i].name, name)) return gguf_find(g, files[i].key) != NULL;
    return false;
}

int gguf_side_write(const Gguf *g, const char *name, Buf *out, Err *e) {
    for (size_t i = 0; i < COUNT_OF(files); i++)
        if (!strcmp(files[i].name, name) && gguf_find(g, files[i].key))
            return files[i].write(g, files[i].key, out, e);
    return err_set(e, "%s holds no %s", g->file, name);
}
