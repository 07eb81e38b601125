/* tokenizer_added.c - see tokenizer_added.h. Rules as in the reference's added_vocabulary.rs. */
#include <string.h>
#include "tokenizer_added.h"
#include "tokenizer_utf8.h"

AddedToken *added_add(AddedTokens *a) {
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        a->at = mem_grow(a->at, a->cap * sizeof *a->at, cap * sizeof *a->at);
        a->cap = cap;
    }
    return &a->at[a->n++];
}

void added_free(AddedTokens *a) {
    for (size_t i = 0; i < a->n; i++) {
        buf_free(&a->at[i].content);
        buf_free(&a->at[i].shown);
    }
    mem_free(a->at);
    mem_free(a->raw.node);
    mem_free(a->normal.node);
    *a = (AddedTokens){0};
}

static int32_t trie_node(Trie *t, unsigned char byte) {
    if (t->n + 1 >= t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 256;
        t->node = mem_grow(t->node, t->cap * sizeof *t->node, cap * sizeof *t->node);
        t->cap = cap;
    }
    t->node[++t->n] = (TrieNode){.token = -1, .byte = byte};
    return (int32_t)t->n;
}

static int32_t trie_child(const Trie *t, int32_t node, unsigned char byte) {
    int32_t at = t->node[node].child;
    while (at && t->node[at].byte != byte) at = t->node[at].sibling;
    return at;
}

/* The first of equal texts counts. */
static void trie_add(Trie *t, const char *text, size_t n, int32_t token) {
    int32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        int32_t next = i == 0 ? t->first[byte] : trie_child(t, at, byte);
        if (!next) {
            next = trie_node(t, byte);
            if (i == 0) {
                t->first[byte] = next;
            } else {
                t->node[next].sibling = t->node[at].child;
                t->node[at].child = next;
            }
        }
        at = next;
    }
    if (n && t->node[at].token < 0) t->node[at].token = token;
}

/* The longest text that starts here: its token and length, or -1. */
static int32_t trie_match(const Trie *t, const char *text, size_t n, size_t *length) {
    int32_t token = -1, at = n ? t->first[(unsigned char)text[0]] : 0;
    for (size_t i = 1; at; at = i < n ? trie_child(t, at, (unsigned char)text[i]) : 0, i++) {
        if (t->node[at].token < 0) continue;
        token = t->node[at].token;
        *length = i;
    }
    return token;
}

static int add_normalized(AddedTokens *a, size_t i, const Steps *normalizer, Err *e) {
    AddedToken *token = &a->at[i];
    size_t limit = stage_limit(token->content.n);
    Stage stage = {.limit = limit}, spare = {.limit = limit};
    Matcher m = {0};
    text_add(&stage.text, token->content.p, token->content.n, 0, 0);
    stage_add(&stage, 0, stage.text.n, -1);
    int rc = steps_run(normalizer, &stage, &spare, &m, e);
    buf_add(&token->shown, stage.text.p, stage.text.n);
    if (rc == 0) trie_add(&a->normal, token->shown.p, token->shown.n, (int32_t)i);
    stage_free(&stage);
    stage_free(&spare);
    matcher_free(&m);
    return rc;
}

int added_finish(AddedTokens *a, const Steps *normalizer, Err *e) {
    for (int special = 1; special >= 0; special--) /* special ones come first among equals */
        for (size_t i = 0; i < a->n; i++) {
            AddedToken *token = &a->at[i];
            if (token->special != special) continue;
            if (token->normalized) {
                TRY(add_normalized(a, i, normalizer, e));
                continue;
            }
            buf_add(&token->shown, token->content.p, token->content.n);
            trie_add(&a->raw, token->content.p, token->content.n, (int32_t)i);
        }
    return 0;
}

static bool word_touches(const char *text, size_t n, size_t from, size_t to) {
    int length;
    return (from > 0 && char_is_word(utf8_read(utf8_before(text + from), &length))) ||
           (to < n && char_is_word(utf8_read(text + to, &length)));
}

/* The text piece [p->from, p->to) of in, whose bytes stand in out->text from base on. */
static void split_piece(const AddedTokens *a, const Trie *which, const Stage *in, const Piece *p,
                        Stage *out, size_t base) {
    const char *text = in->text.p + p->from;
    size_t n = p->to - p->from, done = 0, length = 0;
    for (size_t i = 0; i < n; i += length) {
        int32_t found = trie_match(which, text + i, n - i, &length);
        if (found < 0) {
            length = 1;
            continue;
        }
        const AddedToken *token = &a->at[found];
        size_t from = i, to = i + length;
        if (token->single_word && word_touches(text, n, from, to)) continue;
        int step;
        while (token->lstrip && from > done) {
            const char *before = utf8_before(text + from);
            if (!char_is_space(utf8_read(before, &step))) break;
            from = (size_t)(before - text);
        }
        while (token->rstrip && to < n && char_is_space(utf8_read(text + to, &step)))
            to += (size_t)step;
        if (done < from) stage_add(out, base + done, base + from, -1);
        stage_add(out, in->text.from[p->from + from], in->text.to[p->from + to - 1], token->id);
        done = to;
    }
    if (done < n) stage_add(out, base + done, base + n, -1);
}

void added_split(const AddedTokens *a, const Trie *which, const Stage *in, Stage *out) {
    stage_clear(out);
    for (size_t i = 0; i < in->n; i++) {
        const Piece *p = &in->piece[i];
        if (p->id >= 0) {
            stage_add(out, p->from, p->to, p->id);
            continue;
        }
        size_t base = out->text.n;
        text_add_text(&out->text, &in->text, p->from, p->to);
        split_piece(a, which, in, p, out, base);
    }
}
