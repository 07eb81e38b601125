/* chat_trial.c - see chat_trial.h. */
#include "chat_trial.h"
#include <string.h>

static const char *const MARKS[] = {[MARK_A] = "Qwerty uiopA", [MARK_B] = "Zxcvb nmkljB"};

/* Names tie messages together (a tool and its call), so they are left. */
static bool is_text_key(const char *key) {
    static const char *const NAMES[] = {"role", "name", "id", "tool_call_id", "type"};
    for (size_t i = 0; i < COUNT_OF(NAMES); i++)
        if (strcmp(key, NAMES[i]) == 0) return false;
    return true;
}

static bool is_text(const json_t *v) {
    return json_is_number(v) || (json_is_string(v) && json_string_length(v) > 0);
}

/* A copy with every text replaced (mark NULL: as it is); *n counts them. */
static json_t *replace_texts(const json_t *v, const char *mark, size_t *n) {
    if (is_text(v)) {
        ++*n;
        return mark ? json_string(mark) : json_copy((json_t *)(uintptr_t)v);
    }
    if (json_is_array(v)) {
        json_t *copy = json_array(), *item;
        size_t i;
        json_array_foreach(v, i, item) json_array_append_new(copy, replace_texts(item, mark, n));
        return copy;
    }
    if (json_is_object(v)) {
        json_t *copy = json_object(), *member;
        const char *key;
        json_object_foreach((json_t *)(uintptr_t)v, key, member) {
            json_object_set_new(
                copy, key, is_text_key(key) ? replace_texts(member, mark, n) : json_incref(member));
        }
        return copy;
    }
    return json_copy((json_t *)(uintptr_t)v);
}

size_t trial_count_texts(const json_t *message) {
    size_t n = 0;
    json_decref(replace_texts(message, NULL, &n));
    return n;
}

static json_t *bare_message(const json_t *message, const char *mark) {
    const char *role = json_string_value(json_object_get(message, "role"));
    bool parts = json_is_array(json_object_get(message, "content"));
    if (parts)
        return json_pack("{s:s, s:[{s:s, s:s}]}", "role", role, "content", "type", "text", "text",
                         mark);
    return json_pack("{s:s, s:s}", "role", role, "content", mark);
}

static json_t *changed(const json_t *message, Change change, const char *mark) {
    size_t n = 0;
    if (change == CHANGE_BARE) return bare_message(message, mark);
    if (change == CHANGE_TEXTS) return replace_texts(message, mark, &n);
    return json_incref((json_t *)(uintptr_t)message);
}

bool trial_render(const Conversation *v, size_t n, size_t at, Change change, Mark mark,
                  bool generation_prompt, Buf *out) {
    Err ignored;
    json_t *messages = json_array();
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(v->messages, i);
        json_array_append_new(messages, changed(m, i == at ? change : CHANGE_NOTHING, MARKS[mark]));
    }
    bool rendered = chat_render(v->chat, messages, v->tools, generation_prompt, out, &ignored) == 0;
    json_decref(messages);
    return rendered;
}

static bool inside_character(const char *p) { return ((unsigned char)*p & 0xc0) == 0x80; }

size_t common_head(const Buf *a, const Buf *b) {
    size_t n = 0, most = a->n < b->n ? a->n : b->n;
    while (n < most && a->p[n] == b->p[n]) n++;
    while (n > 0 &&
           ((n < a->n && inside_character(a->p + n)) || (n < b->n && inside_character(b->p + n))))
        n--;
    return n;
}

size_t common_tail(const Buf *a, const Buf *b) {
    size_t n = 0, most = a->n < b->n ? a->n : b->n;
    while (n < most && a->p[a->n - 1 - n] == b->p[b->n - 1 - n]) n++;
    while (n > 0 && inside_character(a->p + a->n - n)) n--;
    return n;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

Agreement agreement_of(const Buf *text, const Buf *a, const Buf *b) {
    size_t head = smaller(common_head(a, b), smaller(common_head(text, a), common_head(text, b)));
    size_t tail = smaller(common_tail(a, b), smaller(common_tail(text, a), common_tail(text, b)));
    return (Agreement){head, smaller(tail, text->n - head)};
}

enum { WINDOW = 512 }; /* bytes looked through for a token that closes a turn */

static bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static bool is_single_token(const Conversation *v, const char *p, size_t n) {
    Err ignored;
    Tokens t = {0};
    bool single = n > 0 && tokenizer_encode(v->tok, p, n, false, &t, &ignored) == 0 && t.n == 1;
    tokens_free(&t);
    return single;
}

bool find_special(const Conversation *v, const Buf *text, size_t from, size_t to, size_t *start,
                  size_t *end) {
    Err ignored;
    Tokens t = {0};
    bool found = false;
    if (to - from > WINDOW) {
        to = from + WINDOW;
        while (to > from && inside_character(text->p + to)) to--;
    }
    if (to == from || tokenizer_encode(v->tok, text->p + from, to - from, false, &t, &ignored) != 0)
        t.n = 0;
    for (size_t i = 0; i < t.n && !found; i++) {
        found = t.to[i] > t.from[i] && tokenizer_is_special(v->tok, t.id[i]);
        *start = from + t.from[i];
        *end = from + t.to[i];
    }
    tokens_free(&t);
    if (found) return true;
    while (from < to && is_blank(text->p[from])) from++;
    while (to > from && is_blank(text->p[to - 1])) to--;
    *start = from;
    *end = to;
    return is_single_token(v, text->p + from, to - from);
}

bool find_last_token(const Conversation *v, const Buf *text, size_t from, bool special,
                     size_t *start, size_t *end) {
    Err ignored;
    Tokens t = {0};
    size_t to = text->n;
    while (to > from && is_blank(text->p[to - 1])) to--;
    if (to - from > WINDOW) from = to - WINDOW;
    while (from < to && inside_character(text->p + from)) from++;
    bool found = to > from &&
                 tokenizer_encode(v->tok, text->p + from, to - from, false, &t, &ignored) == 0 &&
                 t.n > 0 && (!special || tokenizer_is_special(v->tok, t.id[t.n - 1]));
    if (found) {
        *start = from + t.from[t.n - 1];
        *end = from + t.to[t.n - 1];
    }
    tokens_free(&t);
    return found;
}
