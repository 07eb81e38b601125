/* tokenizer.c - see tokenizer.h. Text goes through the parts in the order of the reference: added
 * tokens as written, normalizer, added tokens in normalised text, pre-tokenizer, BPE,
 * post-processor. "truncation" and "padding" of the file are the caller's affair and not read. */
#include <string.h>
#include "side_files.h"
#include "tokenizer.h"
#include "tokenizer_added.h"
#include "tokenizer_decode.h"
#include "tokenizer_post.h"
#include "tokenizer_read.h"
#include "tokenizer_utf8.h"

enum { ADDED_LONGEST = 1024 }; /* bytes: what a look-up at one place may cost */

struct Tokenizer {
    Bpe bpe;
    Vocab extra; /* added tokens that the model's vocabulary lacks */
    AddedTokens added;
    int32_t *added_at; /* by id: index into added + 1, or 0 */
    Steps normalizer, pre_tokenizer;
    PostProcessor post;
    Decoders decoders;
};

void tokens_free(Tokens *t) {
    mem_free(t->id);
    mem_free(t->from);
    mem_free(t->to);
    *t = (Tokens){0};
}

static void tokens_add(Tokens *t, int32_t id, size_t from, size_t to) {
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        t->id = mem_grow(t->id, t->cap * sizeof *t->id, cap * sizeof *t->id);
        t->from = mem_grow(t->from, t->cap * sizeof *t->from, cap * sizeof *t->from);
        t->to = mem_grow(t->to, t->cap * sizeof *t->to, cap * sizeof *t->to);
        t->cap = cap;
    }
    t->id[t->n] = id;
    t->from[t->n] = from;
    t->to[t->n++] = to;
}

static int read_text(const json_t *part, const char *key, Buf *out, const char *where, Err *e) {
    const json_t *value = json_object_get(part, key);
    return !value || json_is_null(value) ? 0 : part_text(part, key, out, where, e);
}

/* "unk_token": a piece of the vocabulary. */
static int read_unknown(Bpe *b, const json_t *model, const char *where, Err *e) {
    Buf unknown = {0};
    b->unknown = -1;
    TRY(read_text(model, "unk_token", &unknown, where, e));
    if (unknown.n) b->unknown = vocab_find(&b->vocab, unknown.p, unknown.n);
    int rc = !unknown.n || b->unknown >= 0 ? 0
                                           : err_set(e,
                                                     "%s: unk_token \"%.100s\" is not a piece of "
                                                     "the vocabulary",
                                                     where, unknown.p);
    buf_free(&unknown);
    return rc;
}

static int read_model(Bpe *b, const TokenizerFile *f, const char *path, Err *e) {
    const json_t *model = NULL;
    const char *type = "BPE";
    double dropout = 0;
    Where where = part_where("", "model", path);
    TRY(json_require(f->rest, "model", path, e));
    TRY(json_get_object(f->rest, "model", &model, path, e));
    TRY(json_get_text(model, "type", &type, where.text, e));
    if (strcmp(type, "BPE") != 0)
        return err_set(e, "%s: the model is of type %.100s, expected BPE", path, type);
    TRY(json_get_real(model, "dropout", &dropout, where.text, e));
    if (dropout != 0)
        return err_set(e,
                       "%s: model: \"dropout\" is %g, expected null or 0: tokens would be drawn "
                       "at random",
                       path, dropout);
    TRY(json_get_bool(model, "byte_fallback", &b->byte_fallback, where.text, e));
    TRY(json_get_bool(model, "fuse_unk", &b->fuse_unknown, where.text, e));
    TRY(json_get_bool(model, "ignore_merges", &b->ignore_merges, where.text, e));
    TRY(read_text(model, "continuing_subword_prefix", &b->prefix, where.text, e));
    TRY(read_text(model, "end_of_word_suffix", &b->suffix, where.text, e));
    TRY(tokenizer_file_tables(f, b, path, e));
    bpe_finish(b);
    return read_unknown(b, model, where.text, e);
}

/* The id in the file has to be the vocabulary's, or a free one. */
static int place_added(Tokenizer *t, const AddedToken *token, const char *path, Err *e) {
    const Buf *text = &token->content;
    size_t n;
    int32_t known = vocab_find(&t->bpe.vocab, text->p, text->n);
    if (known >= 0 && known != token->id)
        return err_set(e, "%s: added token \"%.100s\" has id %d, but %d in the vocabulary", path,
                       text->p, token->id, known);
    if (known >= 0) return 0;
    const char *other = vocab_piece(&t->bpe.vocab, token->id, &n);
    if (other)
        return err_set(e, "%s: added token \"%.100s\" has id %d, which is piece \"%.100s\"'s", path,
                       text->p, token->id, other);
    return vocab_add(&t->extra, text->p, text->n, token->id, path, e);
}

static int read_added(Tokenizer *t, const json_t *each, const char *path, Err *e) {
    int64_t id = -1;
    Where where = part_where("", "added token", path);
    if (!json_is_object(each))
        return err_set(e, "%s: an added token is %s, expected an object", path, json_kind(each));
    AddedToken *token = added_add(&t->added);
    TRY(part_text(each, "content", &token->content, where.text, e));
    TRY(json_require(each, "id", where.text, e));
    TRY(json_get_int(each, "id", 0, VOCAB_ID_LIMIT - 1, &id, where.text, e));
    token->id = (int32_t)id;
    TRY(json_get_bool(each, "special", &token->special, where.text, e));
    token->normalized = !token->special;
    TRY(json_get_bool(each, "normalized", &token->normalized, where.text, e));
    TRY(json_get_bool(each, "single_word", &token->single_word, where.text, e));
    TRY(json_get_bool(each, "lstrip", &token->lstrip, where.text, e));
    TRY(json_get_bool(each, "rstrip", &token->rstrip, where.text, e));
    if (token->content.n > ADDED_LONGEST)
        return err_set(e, "%s: added token %d has %zu bytes, expected at most %d", path, token->id,
                       token->content.n, ADDED_LONGEST);
    return place_added(t, token, path, e);
}

static int read_all_added(Tokenizer *t, const json_t *file, const char *path, Err *e) {
    const json_t *list = NULL, *each;
    size_t i;
    TRY(json_get_array(file, "added_tokens", &list, path, e));
    json_array_foreach(list, i, each) TRY(read_added(t, each, path, e));
    t->added_at = mem_alloc((size_t)tokenizer_size(t) * sizeof *t->added_at);
    for (i = 0; i < t->added.n; i++) t->added_at[t->added.at[i].id] = (int32_t)i + 1;
    return added_finish(&t->added, &t->normalizer, e);
}

static int check_ids(const Tokenizer *t, const Ids *ids, const char *path, Err *e) {
    for (size_t i = 0; i < ids->n; i++)
        if (!tokenizer_piece(t, ids->at[i]))
            return err_set(e, "%s: post_processor adds id %d, which is no piece's", path,
                           ids->at[i]);
    return 0;
}

static const json_t *part(const json_t *file, const char *key) {
    const json_t *value = json_object_get(file, key);
    return json_is_null(value) ? NULL : value;
}

static int read_parts(Tokenizer *t, const TokenizerFile *f, const char *path, Err *e) {
    TRY(read_model(&t->bpe, f, path, e));
    TRY(normalizer_read(&t->normalizer, part(f->rest, "normalizer"), path, e));
    TRY(pre_tokenizer_read(&t->pre_tokenizer, part(f->rest, "pre_tokenizer"), path, e));
    TRY(read_all_added(t, f->rest, path, e));
    TRY(decoders_read(&t->decoders, part(f->rest, "decoder"), path, e));
    TRY(post_processor_read(&t->post, part(f->rest, "post_processor"), path, e));
    TRY(check_ids(t, &t->post.before, path, e));
    return check_ids(t, &t->post.behind, path, e);
}

/* rc: of reading the file. */
static int open_file(Tokenizer **out, int rc, TokenizerFile *f, const char *name, Err *e) {
    Tokenizer *t = mem_alloc(sizeof *t);
    if (rc == 0) rc = read_parts(t, f, name, e);
    tokenizer_file_free(f);
    if (rc != 0) {
        tokenizer_close(t);
        t = NULL;
    }
    *out = t;
    return rc;
}

int tokenizer_open(Tokenizer **out, const char *path, Err *e) {
    TokenizerFile f = {0};
    return open_file(out, tokenizer_file_read(&f, path, e), &f, path, e);
}

int tokenizer_open_model(Tokenizer **out, const char *model, Err *e) {
    TokenizerFile f = {0};
    char *name = side_files_label(model, "tokenizer.json");
    int rc = side_files_read(model, "tokenizer.json", &f.text, e);
    if (rc == 0) rc = tokenizer_file_parse(&f, name, e);
    rc = open_file(out, rc, &f, name, e);
    mem_free(name);
    return rc;
}

void tokenizer_close(Tokenizer *t) {
    if (!t) return;
    bpe_free(&t->bpe);
    vocab_free(&t->extra);
    added_free(&t->added);
    steps_free(&t->normalizer);
    steps_free(&t->pre_tokenizer);
    post_processor_free(&t->post);
    decoders_free(&t->decoders);
    mem_free(t->added_at);
    mem_free(t);
}

int32_t tokenizer_size(const Tokenizer *t) {
    return t->bpe.vocab.n > t->extra.n ? t->bpe.vocab.n : t->extra.n;
}

int32_t tokenizer_find(const Tokenizer *t, const char *piece) {
    int32_t id = vocab_find(&t->bpe.vocab, piece, strlen(piece));
    return id >= 0 ? id : vocab_find(&t->extra, piece, strlen(piece));
}

static const char *piece_of(const Tokenizer *t, int32_t id, size_t *n) {
    const char *piece = vocab_piece(&t->bpe.vocab, id, n);
    return piece ? piece : vocab_piece(&t->extra, id, n);
}

const char *tokenizer_piece(const Tokenizer *t, int32_t id) {
    size_t n;
    return piece_of(t, id, &n);
}

static const AddedToken *added_of(const Tokenizer *t, int32_t id) {
    int32_t at = id >= 0 && id < tokenizer_size(t) ? t->added_at[id] : 0;
    return at ? &t->added.at[at - 1] : NULL;
}

bool tokenizer_is_special(const Tokenizer *t, int32_t id) {
    const AddedToken *token = added_of(t, id);
    return token && token->special;
}

/* What one call of encode works in. */
typedef struct Work {
    Stage stage, spare;
    Matcher matcher;
    BpeRoom room;
} Work;

static void work_free(Work *w) {
    stage_free(&w->stage);
    stage_free(&w->spare);
    matcher_free(&w->matcher);
    bpe_room_free(&w->room);
}

static void split_added(const Tokenizer *t, const Trie *which, Work *w) {
    if (which->n == 0) return;
    added_split(&t->added, which, &w->stage, &w->spare);
    Stage done = w->spare;
    w->spare = w->stage;
    w->stage = done;
}

static int prepare(const Tokenizer *t, const char *text, size_t n, Work *w, Err *e) {
    w->stage.limit = w->spare.limit = stage_limit(n);
    for (size_t i = 0, end; i < n; i = end) {
        end = i + (size_t)utf8_length(text[i]);
        text_add(&w->stage.text, text + i, end - i, (uint32_t)i, (uint32_t)end);
    }
    stage_add(&w->stage, 0, n, -1);
    split_added(t, &t->added.raw, w);
    TRY(steps_run(&t->normalizer, &w->stage, &w->spare, &w->matcher, e));
    split_added(t, &t->added.normal, w);
    return steps_run(&t->pre_tokenizer, &w->stage, &w->spare, &w->matcher, e);
}

static void tokenize(const Tokenizer *t, Work *w, Tokens *out) {
    const Text *text = &w->stage.text;
    for (size_t i = 0; i < w->stage.n; i++) {
        const Piece *p = &w->stage.piece[i];
        if (p->id >= 0) {
            tokens_add(out, p->id, p->from, p->to);
            continue;
        }
        bpe_encode(&t->bpe, text->p + p->from, p->to - p->from, &w->room);
        for (size_t k = 0; k < w->room.n; k++) {
            const Symbol *s = &w->room.symbol[k];
            tokens_add(out, s->id, text->from[p->from + s->from], text->to[p->from + s->to - 1]);
        }
    }
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, Tokens *out,
                     Err *e) {
    size_t good = utf8_check(text, n);
    if (good < n)
        return err_set(
            e, "byte %zu of the text (0x%02X) is not valid UTF-8; convert the text to UTF-8", good,
            (unsigned)(unsigned char)text[good]);
    if (n >= UINT32_MAX)
        return err_set(e, "the text has %zu bytes, expected less than 4 GiB; split it into rows",
                       n);
    Work w = {0};
    int rc = prepare(t, text, n, &w, e);
    if (rc == 0) {
        for (size_t i = 0; special && i < t->post.before.n; i++)
            tokens_add(out, t->post.before.at[i], 0, 0);
        tokenize(t, &w, out);
        for (size_t i = 0; special && i < t->post.behind.n; i++)
            tokens_add(out, t->post.behind.at[i], n, n);
    }
    work_free(&w);
    return rc;
}

void tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      Buf *out) {
    Strings pieces = {0};
    for (size_t i = 0; i < n; i++) {
        size_t length;
        const char *piece = piece_of(t, ids[i], &length);
        const AddedToken *token = added_of(t, ids[i]);
        if (!piece || (skip_special && token && token->special)) continue;
        if (token)
            buf_add(&pieces.bytes, token->shown.p, token->shown.n);
        else
            buf_add(&pieces.bytes, piece, length);
        strings_end(&pieces);
    }
    decoders_run(&t->decoders, &pieces, out);
    strings_free(&pieces);
}
