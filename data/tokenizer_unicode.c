/* tokenizer_unicode.c - the four Unicode normal forms as a step, one character at a time so that
 * each keeps its span (utf8proc_map works on whole strings and forgets where things came from).
 * A room of tokenizer_text.h.
 *
 * Decompose every character, put marks into canonical order, then compose pairs (Unicode standard,
 * 3.11). A character composed of several carries the span of all; so do marks that changed places.
 */
#include <stdlib.h>
#include <utf8proc.h>
#include "tokenizer_text.h"
#include "tokenizer_utf8.h"

enum { LONGEST_DECOMPOSITION = 32, FIRST_MARK = 0x300 };

typedef struct Unit {
    int32_t c;
    uint32_t from, to;
    uint32_t place; /* before reordering */
    int class;      /* canonical combining class; 0: a starter */
} Unit;
typedef struct Units {
    Unit *at;
    size_t n, cap;
} Units;

static void units_add(Units *u, int32_t c, uint32_t from, uint32_t to) {
    if (u->n == u->cap) {
        size_t cap = u->cap ? u->cap * 2 : 256;
        u->at = mem_grow(u->at, u->cap * sizeof *u->at, cap * sizeof *u->at);
        u->cap = cap;
    }
    int class = utf8proc_get_property(c)->combining_class;
    u->at[u->n] = (Unit){c, from, to, (uint32_t)u->n, class};
    u->n++;
}

static void decompose(Units *u, const Text *text, size_t from, size_t to, bool compatible) {
    int options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (compatible ? UTF8PROC_COMPAT : 0);
    int length, boundary = 0;
    for (size_t i = from; i < to; i += (size_t)length) {
        utf8proc_int32_t parts[LONGEST_DECOMPOSITION];
        int32_t c = utf8_read(text->p + i, &length);
        utf8proc_ssize_t n =
            utf8proc_decompose_char(c, parts, LONGEST_DECOMPOSITION, options, &boundary);
        CHECK(n > 0 && n <= LONGEST_DECOMPOSITION, "U+%04X decomposes to %zd", (unsigned)c,
              (ssize_t)n);
        for (int k = 0; k < n; k++) units_add(u, parts[k], text->from[i], text->to[i]);
    }
}

static int by_class(const void *a, const void *b) {
    const Unit *x = a, *y = b;
    if (x->class != y->class) return x->class < y->class ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

/* Sorts the run of marks [from, to) if it is not in order. */
static void order_run(Unit *u, size_t from, size_t to) {
    bool ordered = true;
    for (size_t i = from + 1; i < to; i++) ordered = ordered && u[i - 1].class <= u[i].class;
    if (ordered) return;
    uint32_t start = u[from].from, end = u[to - 1].to;
    qsort(u + from, to - from, sizeof *u, by_class);
    for (size_t i = from; i < to; i++) {
        u[i].from = start;
        u[i].to = end;
    }
}

static void order_marks(Units *u) {
    for (size_t i = 0, end; i < u->n; i = end + 1) {
        for (end = i; end < u->n && u->at[end].class != 0;) end++;
        order_run(u->at, i, end);
    }
}

/* The one character that a and b make together, or -1. */
static int32_t compose_pair(int32_t a, int32_t b) {
    if (b < FIRST_MARK) return -1;
    utf8proc_int32_t pair[3] = {a, b, 0};
    utf8proc_ssize_t n = utf8proc_normalize_utf32(pair, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return n == 1 ? pair[0] : -1;
}

static void compose(Units *u) {
    Unit *starter = NULL;
    int before = 0; /* class of the last unit kept behind the starter */
    size_t kept = 0;
    for (size_t i = 0; i < u->n; i++) {
        Unit unit = u->at[i];
        bool blocked = before != 0 && before >= unit.class;
        int32_t both = starter && !blocked ? compose_pair(starter->c, unit.c) : -1;
        if (both >= 0) {
            starter->c = both;
            if (unit.from < starter->from) starter->from = unit.from;
            if (unit.to > starter->to) starter->to = unit.to;
            continue;
        }
        u->at[kept] = unit;
        before = unit.class;
        if (unit.class == 0) starter = &u->at[kept];
        kept++;
    }
    u->n = kept;
}

int step_unicode(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e) {
    (void)m, (void)e;
    const Text *text = &in->text;
    bool composed = s->form == FORM_NFC || s->form == FORM_NFKC;
    bool compatible = s->form == FORM_NFKC || s->form == FORM_NFKD;
    size_t start = out->text.n, plain = p->from;
    while (plain < p->to && (unsigned char)text->p[plain] < 0x80) plain++;
    if (plain == p->to) { /* ASCII is its own normal form */
        text_add_text(&out->text, text, p->from, p->to);
    } else {
        Units u = {0};
        decompose(&u, text, p->from, p->to, compatible);
        order_marks(&u);
        if (composed) compose(&u);
        for (size_t i = 0; i < u.n; i++)
            text_add_char(&out->text, u.at[i].c, u.at[i].from, u.at[i].to);
        mem_free(u.at);
    }
    stage_add(out, start, out->text.n, -1);
    return 0;
}
