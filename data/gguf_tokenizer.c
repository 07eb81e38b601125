/* gguf_tokenizer.c - see gguf_tokenizer.h. Names and numbers of the keys: docs/gguf.md of ggml, and
 * llama.cpp's own reader of them. */
#include "gguf_tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gguf_side.h"
#include "side_files.h"
#include "tokenizer_read.h"

#define KEY "tokenizer.ggml."

/* Of pieces that no merge makes: never looked at. */
static const float NO_SCORE = -1000;

/* One row of the embedding. */
typedef struct Token {
    const char *text; /* the table's, or the JSON tree's; NULL: no piece has this id */
    size_t n;
    int32_t type;
    float score;
} Token;

typedef struct Pieces {
    Token *token;
    int64_t n;
    Bpe bpe;
    TokenizerFile file;
    char *name; /* of tokenizer.json, for sentences */
} Pieces;

static void pieces_free(Pieces *p) {
    mem_free(p->token);
    mem_free(p->name);
    bpe_free(&p->bpe);
    tokenizer_file_free(&p->file);
}

/* ---- tokenizer.json ---- */

static const char *text_at(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Spaces become U+2581 and nothing else happens to a text; a Split at spaces finds none then. */
static bool is_gemma_kind(const json_t *file) {
    const json_t *model = json_object_get(file, "model"),
                 *normalizer = json_object_get(file, "normalizer"),
                 *pattern = json_object_get(normalizer, "pattern"),
                 *before = json_object_get(file, "pre_tokenizer");
    bool splits = json_is_object(before) &&
                  (strcmp(text_at(before, "type"), "Split") ||
                   strcmp(text_at(json_object_get(before, "pattern"), "String"), " "));
    bool plain = !json_is_true(json_object_get(model, "ignore_merges")) &&
                 !*text_at(model, "continuing_subword_prefix") &&
                 !*text_at(model, "end_of_word_suffix");
    return json_is_true(json_object_get(model, "byte_fallback")) && plain && !splits &&
           !strcmp(text_at(normalizer, "type"), "Replace") &&
           !strcmp(text_at(pattern, "String"), " ") &&
           !strcmp(text_at(normalizer, "content"), "\xe2\x96\x81");
}

static bool is_byte_piece(const char *text, size_t n) {
    int used = 0;
    unsigned byte;
    return n == 6 && sscanf(text, "<0x%2X>%n", &byte, &used) == 1 && used == 6;
}

/* llama.cpp shows control tokens to nobody, but its parser of Gemma's answers reads these. */
static bool is_shown(const char *text) {
    static const char *const shown[] = {"<|channel>",   "<channel|>",       "<|tool_call>",
                                        "<tool_call|>", "<|tool_response>", "<tool_response|>",
                                        "<|\"|>"};
    for (size_t i = 0; i < COUNT_OF(shown); i++)
        if (!strcmp(text, shown[i])) return true;
    return false;
}

static int set_token(Pieces *p, int64_t id, const char *text, size_t n, int32_t type, Err *e) {
    if (id >= p->n)
        return err_set(e,
                       "%s: piece \"%.100s\" has id %lld, but the model has embeddings for %lld; a "
                       "GGUF file holds as many pieces as embeddings",
                       p->name, text, (long long)id, (long long)p->n);
    Token *t = &p->token[id];
    if (!t->text) {
        t->text = text;
        t->n = n;
        t->score = NO_SCORE;
    }
    t->type = type;
    return 0;
}

static int take_vocabulary(Pieces *p, Err *e) {
    for (int32_t id = 0; id < p->bpe.vocab.n; id++) {
        size_t n;
        const char *text = vocab_piece(&p->bpe.vocab, id, &n);
        if (text)
            TRY(set_token(p, id, text, n,
                          is_byte_piece(text, n) ? GGUF_TOKEN_BYTE : GGUF_TOKEN_NORMAL, e));
    }
    return 0;
}

static int take_added(Pieces *p, GgufMerging merging, Err *e) {
    const json_t *list = json_object_get(p->file.rest, "added_tokens"), *each;
    const char *unknown = text_at(json_object_get(p->file.rest, "model"), "unk_token");
    size_t i;
    json_array_foreach(list, i, each) {
        const char *text = text_at(each, "content");
        int64_t id = json_integer_value(json_object_get(each, "id"));
        bool special = json_is_true(json_object_get(each, "special"));
        int32_t type = special && !is_shown(text) ? GGUF_TOKEN_CONTROL : GGUF_TOKEN_USER_DEFINED;
        if (merging == GGUF_BY_SCORES && !strcmp(text, unknown)) type = GGUF_TOKEN_UNKNOWN;
        if (id < 0) return err_set(e, "%s: added token \"%.100s\" has no id", p->name, text);
        TRY(set_token(p, id, text, json_string_length(json_object_get(each, "content")), type, e));
    }
    return 0;
}

/* model: the checkpoint's path. */
static int read_pieces(Pieces *p, const char *model, GgufMerging merging, Err *e) {
    p->name = side_files_label(model, "tokenizer.json");
    TRY(side_files_read(model, "tokenizer.json", &p->file.text, e));
    TRY(tokenizer_file_parse(&p->file, p->name, e));
    if (!is_gemma_kind(p->file.rest))
        return err_set(e,
                       "%s: only Gemma's kind of tokenizer (byte_fallback, spaces replaced by "
                       "U+2581, no other splitting) can be written into a GGUF file; export "
                       "--format merged and convert that",
                       p->name);
    p->token = mem_alloc(sizeof *p->token * (size_t)p->n);
    TRY(tokenizer_file_tables(&p->file, &p->bpe, p->name, e));
    TRY(take_vocabulary(p, e));
    return take_added(p, merging, e);
}

/* ---- merges ---- */

static int by_rank(const void *a, const void *b) {
    const Merge *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

/* Those of the table in their order; on the heap. */
static Merge *merges_of(const Bpe *b, uint32_t *n) {
    Merge *list = mem_alloc(sizeof *list * b->merges);
    *n = 0;
    for (uint32_t i = 0; i < b->slots; i++)
        if (b->merge[i].left >= 0) list[(*n)++] = b->merge[i];
    if (*n) qsort(list, *n, sizeof *list, by_rank);
    return list;
}

/* A piece is as good as the first merge that makes it. */
static void score_pieces(Pieces *p, const Merge *merge, uint32_t n) {
    for (uint32_t i = n; i-- > 0;) {
        p->token[merge[i].both].score = -(float)i;
    }
}

/* "left right", apart at the first space behind the first byte. */
static int add_merges(GgufOut *g, const Pieces *p, const Merge *merge, uint32_t n, Err *e) {
    Buf line = {0};
    gguf_add_texts(g, KEY "merges", n);
    for (uint32_t i = 0; i < n; i++) {
        const Token *left = &p->token[merge[i].left], *right = &p->token[merge[i].right];
        if (memchr(left->text, ' ', left->n) || memchr(right->text, ' ', right->n)) {
            buf_free(&line);
            return err_set(e, "%s: a merge has a piece with a space, which no GGUF file can say",
                           p->name);
        }
        line.n = 0;
        buf_add(&line, left->text, left->n);
        buf_add_text(&line, " ");
        buf_add(&line, right->text, right->n);
        gguf_add_next(g, line.p, line.n);
    }
    buf_free(&line);
    return 0;
}

/* ---- keys ---- */

static void add_tokens(GgufOut *g, const Pieces *p) {
    size_t n = (size_t)p->n;
    float *score = mem_alloc(sizeof *score * n);
    int32_t *type = mem_alloc(sizeof *type * n);
    gguf_add_texts(g, KEY "tokens", n);
    for (size_t i = 0; i < n; i++) {
        const Token *t = &p->token[i];
        char filler[32];
        int length = snprintf(filler, sizeof filler, "[PAD%zu]", i);
        score[i] = t->text ? t->score : NO_SCORE;
        type[i] = t->text ? t->type : GGUF_TOKEN_UNUSED;
        gguf_add_next(g, t->text ? t->text : filler, t->text ? t->n : (size_t)length);
    }
    gguf_add_f32s(g, KEY "scores", score, n);
    gguf_add_i32s(g, KEY "token_type", type, n);
    mem_free(score);
    mem_free(type);
}

static int64_t find_token(const Pieces *p, const char *text) {
    for (int64_t i = 0; i < p->n; i++)
        if (p->token[i].text && !strcmp(p->token[i].text, text)) return i;
    return -1;
}

/* The id of a named special token: as tokenizer_config.json says, else as config.json; -1: none.
 * config.json may list several; the one at `at` then. */
static int64_t special_id(const Pieces *p, const json_t *tokenizer, const json_t *config,
                          const char *name, size_t at) {
    char key[32];
    snprintf(key, sizeof key, "%s_token", name);
    const json_t *token = json_object_get(tokenizer, key);
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (json_is_string(token) && !at) return find_token(p, json_string_value(token));
    snprintf(key, sizeof key, "%s_token_id", name);
    const json_t *id = json_object_get(config, key);
    if (!id) id = json_object_get(json_object_get(config, "text_config"), key);
    if (json_is_array(id))
        id = json_array_get(id, at);
    else if (at)
        id = NULL;
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    return value < p->n ? value : -1;
}

static void add_special(GgufOut *g, const Pieces *p, const json_t *tokenizer,
                        const json_t *config) {
    static const struct {
        const char *name, *key;
    } known[] = {{"bos", KEY "bos_token_id"},     {"eos", KEY "eos_token_id"},
                 {"unk", KEY "unknown_token_id"}, {"pad", KEY "padding_token_id"},
                 {"mask", KEY "mask_token_id"},   {"sep", KEY "seperator_token_id"}};
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        int64_t id = special_id(p, tokenizer, config, known[i].name, 0);
        if (id < 0 && !strcmp(known[i].name, "unk"))
            id = find_token(p, text_at(json_object_get(p->file.rest, "model"), "unk_token"));
        if (id >= 0) gguf_add_u32(g, known[i].key, (uint32_t)id);
    }
    /* a turn ends with the second of several ends */
    int64_t turn = special_id(p, NULL, config, "eos", 1);
    if (turn >= 0) gguf_add_u32(g, KEY "eot_token_id", (uint32_t)turn);
}

/* chat_template.jinja, else chat_template of tokenizer_config.json, of several the default. */
static int add_template(GgufOut *g, const char *model, const json_t *tokenizer, Err *e) {
    static const char key[] = "tokenizer.chat_template";
    Buf text = {0};
    if (side_files_has(model, "chat_template.jinja")) {
        int bad = side_files_read(model, "chat_template.jinja", &text, e);
        if (!bad) gguf_add_text(g, key, text.p ? text.p : "", text.n);
        buf_free(&text);
        return bad;
    }
    const json_t *given = json_object_get(tokenizer, "chat_template"), *each, *found = given;
    size_t i;
    json_array_foreach(given, i, each) {
        if (!strcmp(text_at(each, "name"), "default")) found = json_object_get(each, "template");
    }
    if (json_is_string(found))
        gguf_add_text(g, key, json_string_value(found), json_string_length(found));
    return 0;
}

static int add_pieces(GgufOut *g, Pieces *p, GgufMerging merging, Err *e) {
    uint32_t n;
    Merge *merge = merges_of(&p->bpe, &n);
    bool scores = merging == GGUF_BY_SCORES;
    const char *word = scores ? "llama" : "gemma4";
    gguf_add_text(g, KEY "model", word, strlen(word));
    if (scores) score_pieces(p, merge, n);
    add_tokens(g, p);
    int bad = scores ? 0 : add_merges(g, p, merge, n, e);
    mem_free(merge);
    return bad;
}

static int add_all(GgufOut *g, Pieces *p, const char *model, GgufMerging merging, Err *e) {
    json_t *tokenizer = NULL, *config = NULL;
    TRY(read_pieces(p, model, merging, e));
    TRY(add_pieces(g, p, merging, e));
    int bad = side_files_json(model, "tokenizer_config.json", &tokenizer, e);
    if (!bad) bad = side_files_json(model, "config.json", &config, e);
    if (!bad) add_special(g, p, tokenizer, config);
    if (!bad) gguf_add_bool(g, KEY "add_bos_token", true);
    if (!bad) gguf_add_bool(g, KEY "add_space_prefix", false);
    if (!bad) bad = add_template(g, model, tokenizer, e);
    json_decref(tokenizer);
    json_decref(config);
    return bad;
}

/* A GGUF file's own stays as it is. */
static int copy_tokenizer(GgufOut *g, const char *path, bool *none, Err *e) {
    static const char start[] = "tokenizer.";
    Gguf *from;
    TRY(gguf_open(&from, path, e));
    *none = !gguf_find(from, KEY "model");
    for (int i = 0; i < from->n_values; i++) {
        const GgufValue *v = &from->value[i];
        if (!strncmp(v->key, start, sizeof start - 1)) gguf_add_copy(g, v);
    }
    gguf_close(from);
    return 0;
}

/* Pieces with newlines and something else. */
static int across_newline(const Pieces *p) {
    int n = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const Token *t = &p->token[i];
        if (t->type != GGUF_TOKEN_NORMAL) continue;
        bool newline = false, other = false;
        for (size_t k = 0; k < t->n; k++) *(t->text[k] == '\n' ? &newline : &other) = true;
        n += newline && other;
    }
    return n;
}

/* Of a model directory or a base.h5. */
static int make_tokenizer(GgufOut *g, const char *model, GgufMerging merging, int64_t vocab,
                          int *across, Err *e) {
    Pieces p = {.n = vocab};
    int bad = add_all(g, &p, model, merging, e);
    if (!bad && merging == GGUF_BY_MERGES) *across = across_newline(&p);
    pieces_free(&p);
    return bad;
}

int gguf_add_tokenizer(GgufOut *g, const char *model, GgufMerging merging, int64_t vocab,
                       GgufTokenizerNotes *notes, Err *e) {
    *notes = (GgufTokenizerNotes){0};
    if (gguf_claims(model))
        TRY(copy_tokenizer(g, model, &notes->none, e));
    else if (side_files_has(model, "tokenizer.json"))
        TRY(make_tokenizer(g, model, merging, vocab, &notes->across_newline, e));
    else
        notes->none = true;
    if (notes->none) gguf_add_text(g, KEY "model", "none", strlen("none"));
    return 0;
}
