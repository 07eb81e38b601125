/* tokenizer_text.c - see tokenizer_text.h. */
#include <string.h>
#include <utf8proc.h>
#include "tokenizer_text.h"
#include "tokenizer_utf8.h"

static void text_reserve(Text *t, size_t more) {
    if (t->n + more <= t->cap) return;
    size_t cap = t->cap ? t->cap : 64;
    while (cap < t->n + more) cap *= 2;
    t->p = mem_grow(t->p, t->cap, cap);
    t->from = mem_grow(t->from, t->cap * sizeof *t->from, cap * sizeof *t->from);
    t->to = mem_grow(t->to, t->cap * sizeof *t->to, cap * sizeof *t->to);
    t->cap = cap;
}

void text_add(Text *t, const char *bytes, size_t n, uint32_t from, uint32_t to) {
    if (n == 0) return;
    text_reserve(t, n);
    memcpy(t->p + t->n, bytes, n);
    for (size_t i = t->n; i < t->n + n; i++) {
        t->from[i] = from;
        t->to[i] = to;
    }
    t->n += n;
}

void text_add_char(Text *t, int32_t codepoint, uint32_t from, uint32_t to) {
    char bytes[4];
    int n = utf8_write(codepoint, bytes);
    text_add(t, bytes, (size_t)n, from, to);
}

void text_add_text(Text *t, const Text *source, size_t from, size_t to) {
    size_t n = to - from;
    if (n == 0) return;
    text_reserve(t, n);
    memcpy(t->p + t->n, source->p + from, n);
    memcpy(t->from + t->n, source->from + from, n * sizeof *t->from);
    memcpy(t->to + t->n, source->to + from, n * sizeof *t->to);
    t->n += n;
}

void stage_add(Stage *s, size_t from, size_t to, int32_t id) {
    if (from == to && id < 0) return;
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        s->piece = mem_grow(s->piece, s->cap * sizeof *s->piece, cap * sizeof *s->piece);
        s->cap = cap;
    }
    s->piece[s->n++] = (Piece){from, to, id};
}

void stage_clear(Stage *s) { s->text.n = s->n = 0; }

int stage_check(const Stage *s, Err *e) {
    if (s->text.n <= s->limit && s->text.n < UINT32_MAX) return 0;
    return err_set(e,
                   "the tokenizer makes more than %zu bytes out of a text, expected at most that",
                   s->limit);
}

void stage_free(Stage *s) {
    mem_free(s->text.p);
    mem_free(s->text.from);
    mem_free(s->text.to);
    mem_free(s->piece);
    *s = (Stage){0};
}

Step *steps_add(Steps *s) {
    s->at = mem_grow(s->at, s->n * sizeof *s->at, (s->n + 1) * sizeof *s->at);
    return &s->at[s->n++];
}

void steps_free(Steps *s) {
    for (size_t i = 0; i < s->n; i++) {
        pattern_free(&s->at[i].pattern);
        buf_free(&s->at[i].content);
    }
    mem_free(s->at);
    *s = (Steps){0};
}

int steps_run(const Steps *s, Stage *stage, Stage *spare, Matcher *m, Err *e) {
    for (size_t k = 0; k < s->n; k++) {
        stage_clear(spare);
        for (size_t i = 0; i < stage->n; i++) {
            const Piece *p = &stage->piece[i];
            if (p->id >= 0)
                stage_add(spare, p->from, p->to, p->id);
            else
                TRY(s->at[k].run(&s->at[k], stage, p, spare, m, e));
            TRY(stage_check(spare, e));
        }
        Stage done = *spare;
        *spare = *stage;
        *stage = done;
    }
    return 0;
}

static Matches matches_in(const Step *s, const Stage *in, const Piece *p, Matcher *m) {
    return (Matches){
        .pattern = &s->pattern, .matcher = m, .text = in->text.p + p->from, .n = p->to - p->from};
}

/* A replacement stands for all that it replaces; where that is nothing, for no text, at that place.
 */
int step_replace(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    const Text *text = &in->text;
    size_t start = out->text.n, done = 0, from, to;
    Matches w = matches_in(s, in, p, m);
    int more;
    while ((more = matches_next(&w, &from, &to, e)) > 0) {
        TRY(stage_check(out, e));
        text_add_text(&out->text, text, p->from + done, p->from + from);
        size_t a = p->from + from, z = p->from + to;
        uint32_t at = a > p->from ? text->to[a - 1] : text->from[a];
        text_add(&out->text, s->content.p, s->content.n, a < z ? text->from[a] : at,
                 a < z ? text->to[z - 1] : at);
        done = to;
    }
    text_add_text(&out->text, text, p->from + done, p->to);
    stage_add(out, start, out->text.n, -1);
    return more;
}

/* What is put in front belongs to the first character. */
int step_prefix(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    (void)m, (void)e;
    const Text *text = &in->text;
    size_t start = out->text.n;
    bool there = p->to - p->from >= s->content.n &&
                 memcmp(text->p + p->from, s->content.p, s->content.n) == 0;
    if (s->prefixing == PREFIX_ALWAYS ||
        (!there && (s->prefixing == PREFIX_MISSING || text->from[p->from] == 0)))
        text_add(&out->text, s->content.p, s->content.n, text->from[p->from], text->to[p->from]);
    text_add_text(&out->text, text, p->from, p->to);
    stage_add(out, start, out->text.n, -1);
    return 0;
}

/* How each behaviour makes pieces of an alternation of text and delimiters: whether this part,
 * after one that was (not) a delimiter, is joined to the piece before. MERGED_NEXT is the mirror
 * image of MERGED_PREVIOUS: a text joins the delimiter before it, unless a delimiter follows one.
 */
static bool joins(Behaviour b, bool delimiter, bool before_was, bool first) {
    if (first) return false;
    if (b == CONTIGUOUS) return delimiter == before_was;
    if (b == MERGED_PREVIOUS) return delimiter && !before_was;
    if (b == MERGED_NEXT) return !delimiter && before_was;
    return false;
}

typedef struct Cut {
    const Step *step;
    Stage *out;
    size_t base, from, to; /* the piece being made, relative to base */
    bool first, was_delimiter, removed;
} Cut;

static void cut_part(Cut *c, size_t from, size_t to, bool match) {
    bool delimiter = match != c->step->invert;
    if (joins(c->step->behaviour, delimiter, c->was_delimiter, c->first)) {
        c->to = to;
    } else {
        if (!c->removed) stage_add(c->out, c->base + c->from, c->base + c->to, -1);
        c->from = from;
        c->to = to;
        c->removed = c->step->behaviour == REMOVED && delimiter;
    }
    c->first = false;
    c->was_delimiter = delimiter;
}

int step_split(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    Cut c = {.step = s, .out = out, .base = out->text.n, .first = true, .removed = true};
    text_add_text(&out->text, &in->text, p->from, p->to);
    Matches w = matches_in(s, in, p, m);
    size_t done = 0, from, to;
    int more;
    while ((more = matches_next(&w, &from, &to, e)) > 0) {
        if (done < from) cut_part(&c, done, from, false);
        cut_part(&c, from, to, true);
        done = to;
    }
    if (done < w.n) cut_part(&c, done, w.n, false);
    if (!c.removed) stage_add(out, c.base + c.from, c.base + c.to, -1);
    return more;
}

int step_strip(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    (void)m, (void)e;
    const char *text = in->text.p;
    size_t from = p->from, to = p->to, start = out->text.n;
    int length;
    while (s->left && from < to && char_is_space(utf8_read(text + from, &length)))
        from += (size_t)length;
    while (s->right && from < to) {
        const char *last = utf8_before(text + to);
        if (!char_is_space(utf8_read(last, &length))) break;
        to = (size_t)(last - text);
    }
    text_add_text(&out->text, &in->text, from, to);
    stage_add(out, start, out->text.n, -1);
    return 0;
}

int step_lowercase(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    (void)s, (void)m, (void)e;
    const Text *text = &in->text;
    size_t start = out->text.n;
    int length;
    for (size_t i = p->from; i < p->to; i += (size_t)length) {
        int32_t c = utf8_read(text->p + i, &length);
        if (c == 0x130) { /* the one character whose lower case is two: i and a dot above */
            text_add(&out->text, "i\xcc\x87", 3, text->from[i], text->to[i]);
            continue;
        }
        text_add_char(&out->text, utf8proc_tolower(c), text->from[i], text->to[i]);
    }
    stage_add(out, start, out->text.n, -1);
    return 0;
}

int step_bytes(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    (void)s, (void)m, (void)e;
    const Text *text = &in->text;
    size_t start = out->text.n;
    for (size_t i = p->from; i < p->to; i++)
        text_add_char(&out->text, byte_to_char((unsigned char)text->p[i]), text->from[i],
                      text->to[i]);
    stage_add(out, start, out->text.n, -1);
    return 0;
}
