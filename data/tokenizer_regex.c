/* tokenizer_regex.c - see tokenizer_regex.h.
 *
 * The dialects agree on nearly all that tokenizers use. Where they differ the expression is
 * rewritten while it is copied, so that the same text is found:
 *   \s \S           White_Space (PCRE2's also holds U+180E)
 *   \w \W \b \B     Unicode words (PCRE2's lack marks)
 *   \h \H           hexadecimal digits (PCRE2: horizontal space)
 *   [:alpha:] ...   by Unicode property
 *   \p{Han}         by script (PCRE2: also characters that many scripts share)
 *   \uHHHH          \x{HHHH}
 *   {n,m}+          a repeated repeat (PCRE2: possessive)
 *   {,m}            {0,m}
 *   (?m)            dot matches a newline; ^ and $ are always per line
 *   [a[bc]]         a union of classes; intersections (&&) are refused, PCRE2 has none here */
#include <string.h>
#include "tokenizer_regex.h"
#include "tokenizer_utf8.h"

enum { MATCH_STEPS = 10000000, MATCH_HEAP_KIB = 65536, JIT_STACK_MAX = 1 << 20, REGEX_MAX = 65536 };

typedef struct Rewrite {
    const char *p, *end;
    Buf *out;
    int class_depth;     /* > 0: inside [...] */
    const char *refused; /* what cannot be said in PCRE2 */
} Rewrite;

#define WORD       "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define LOOSE_WORD WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}" /* Oniguruma outside [...] */
#define BOUNDARY                                                                                   \
    "(?:(?<=[" LOOSE_WORD "])(?![" LOOSE_WORD "])|(?<![" LOOSE_WORD "])(?=[" LOOSE_WORD "]))"

/* Names that mean something else in PCRE2; NULL: cannot be said there. */
typedef struct Meaning {
    const char *name, *outside, *in_class;
} Meaning;
static const Meaning ESCAPES[] = {
    {"s", "\\p{White_Space}", "\\p{White_Space}"},
    {"S", "\\P{White_Space}", "\\P{White_Space}"},
    {"w", "[" LOOSE_WORD "]", WORD},
    {"W", "[^" LOOSE_WORD "]", NULL},
    {"b", BOUNDARY, "\\b"},
    {"B", "(?!" BOUNDARY ")", NULL},
    {"h", "[0-9a-fA-F]", "0-9a-fA-F"},
    {"H", "[^0-9a-fA-F]", NULL},
};
static const Meaning CLASSES[] = {
    {"[:alpha:]", NULL, "\\p{Alphabetic}"},
    {"[:^alpha:]", NULL, "\\P{Alphabetic}"},
    {"[:alnum:]", NULL, "\\p{Alphabetic}\\p{Nd}"},
    {"[:^alnum:]", NULL, NULL},
    {"[:blank:]", NULL, "\\t\\p{Zs}"},
    {"[:space:]", NULL, "\\p{White_Space}"},
    {"[:^space:]", NULL, "\\P{White_Space}"},
    {"[:punct:]", NULL, "\\p{P}\\p{S}"},
    {"[:^punct:]", NULL, NULL},
    {"[:word:]", NULL, WORD},
    {"[:^word:]", NULL, NULL},
    {"[:lower:]", NULL, "\\p{Lowercase}"},
    {"[:^lower:]", NULL, "\\P{Lowercase}"},
    {"[:upper:]", NULL, "\\p{Uppercase}"},
    {"[:^upper:]", NULL, "\\P{Uppercase}"},
};

/* Writes what the n characters of name mean, if the table has them. */
static bool rewrite_name(Rewrite *r, const Meaning *table, size_t rows, const char *name,
                         size_t n) {
    for (size_t i = 0; i < rows; i++) {
        if (strlen(table[i].name) != n || memcmp(table[i].name, name, n) != 0) continue;
        const char *as = r->class_depth ? table[i].in_class : table[i].outside;
        if (as)
            buf_add_text(r->out, as);
        else
            r->refused = "\\W, \\B, \\H or [:^alnum:], [:^punct:], [:^word:] inside [...]";
        return true;
    }
    return false;
}

static bool compiles(const char *regex, size_t n) {
    int fault;
    PCRE2_SIZE at;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)regex, n, PCRE2_UTF | PCRE2_UCP, &fault, &at, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/* "\p{Name}" at r->p as "\p{sc:Name}" if that is a script; names of up to two letters are
 * categories. */
static bool rewrite_script(Rewrite *r) {
    size_t left = (size_t)(r->end - r->p);
    const char *close = left > 3 && r->p[2] == '{' ? memchr(r->p, '}', left) : NULL;
    if (!close || close - r->p < 6 || close - r->p > 64 || r->p[3] == '^') return false;
    Buf script = {0};
    buf_add(&script, r->p, 3);
    buf_add_text(&script, "sc:");
    buf_add(&script, r->p + 3, (size_t)(close + 1 - (r->p + 3)));
    bool known = compiles(script.p, script.n);
    if (known) {
        buf_add(r->out, script.p, script.n);
        r->p = close + 1;
    }
    buf_free(&script);
    return known;
}

static void rewrite_escape(Rewrite *r) {
    const char *p = r->p;
    if (p + 1 >= r->end) { /* PCRE2 says what is wrong */
        buf_add(r->out, p, 1);
        r->p++;
        return;
    }
    if ((p[1] == 'p' || p[1] == 'P') && rewrite_script(r)) return;
    r->p += 2;
    if (rewrite_name(r, ESCAPES, COUNT_OF(ESCAPES), p + 1, 1)) return;
    if (p[1] == 'u' && r->end - p >= 6) {
        buf_add_text(r->out, "\\x{");
        buf_add(r->out, p + 2, 4);
        buf_add_text(r->out, "}");
        r->p += 4;
        return;
    }
    buf_add(r->out, p, 2);
}

/* Inside [...]: returns true when it took what stands at r->p. */
static bool rewrite_in_class(Rewrite *r) {
    const char *p = r->p;
    size_t left = (size_t)(r->end - p);
    if (*p == '[' && left > 1 && p[1] == ':') { /* [:alpha:] */
        const char *close = memmem(p, left, ":]", 2);
        size_t n = close ? (size_t)(close + 2 - p) : left;
        if (!rewrite_name(r, CLASSES, COUNT_OF(CLASSES), p, n)) buf_add(r->out, p, n);
        r->p += n;
        return true;
    }
    if (*p == '[') {
        if (left > 1 && p[1] == '^') r->refused = "a negated class inside [...]";
        r->class_depth++;
        r->p++;
        return true;
    }
    if (*p == ']') {
        if (--r->class_depth == 0) buf_add(r->out, p, 1);
        r->p++;
        return true;
    }
    if (left > 1 && p[0] == '&' && p[1] == '&') r->refused = "an intersection of classes (&&)";
    return false;
}

/* "{n,m}" at r->p, and what follows it; false when this is no interval. For n up to 1 a repeated
 * repeat is any number from n on. */
static bool rewrite_interval(Rewrite *r) {
    const char *first = r->p + 1, *p = first;
    bool digits = false, comma = false;
    for (; p < r->end && *p != '}'; p++) {
        if (*p >= '0' && *p <= '9')
            digits = true;
        else if (*p == ',' && !comma)
            comma = true;
        else
            return false;
    }
    if (p == r->end || !digits) return false;
    r->p = p + 1;
    if (r->p < r->end && *r->p == '+') {
        r->p++;
        bool one = first[0] == '1' && first[1] == ',', zero = first[0] == ',';
        if (one || zero || (first[0] == '0' && first[1] == ',')) {
            buf_add_text(r->out, one ? "+" : "*");
            return true;
        }
        r->refused = "a repeated interval of more than one ({2}+)";
    }
    buf_add_text(r->out, *first == ',' ? "{0" : "{");
    buf_add(r->out, first, (size_t)(p + 1 - first));
    return true;
}

/* "(?imx-imx:" or "(?imx-imx)": m is PCRE2's s. */
static bool rewrite_options(Rewrite *r) {
    const char *p = r->p + 2;
    while (p < r->end && strchr("imx-", *p) && *p) p++;
    if (p == r->p + 2 || p == r->end || (*p != ':' && *p != ')')) return false;
    for (; r->p <= p; r->p++) buf_add(r->out, *r->p == 'm' ? "s" : r->p, 1);
    return true;
}

static void rewrite_outside(Rewrite *r) {
    size_t left = (size_t)(r->end - r->p);
    if (*r->p == '{' && rewrite_interval(r)) return;
    if (left > 2 && r->p[0] == '(' && r->p[1] == '?' && rewrite_options(r)) return;
    if (*r->p == '[') {
        size_t n = left > 1 && r->p[1] == '^' ? 2 : 1;
        r->class_depth = 1;
        buf_add(r->out, r->p, n);
        r->p += n;
        if (r->p < r->end && *r->p == ']') { /* a ] that comes first is itself */
            buf_add_text(r->out, "\\]");
            r->p++;
        }
        return;
    }
    buf_add(r->out, r->p++, 1);
}

static const char *rewrite(const char *regex, size_t n, Buf *out) {
    Rewrite r = {regex, regex + n, out, 0, NULL};
    while (r.p < r.end && !r.refused) {
        if (*r.p == '\\')
            rewrite_escape(&r);
        else if (!r.class_depth)
            rewrite_outside(&r);
        else if (!rewrite_in_class(&r))
            buf_add(out, r.p++, 1);
    }
    return r.refused;
}

int pattern_set_text(Pattern *p, const char *text, size_t n, const char *where, Err *e) {
    if (n == 0)
        return err_set(e, "%s: the pattern is empty, expected some text to look for", where);
    buf_add(&p->text, text, n);
    return 0;
}

int pattern_set_regex(Pattern *p, const char *regex, size_t n, const char *where, Err *e) {
    if (n > REGEX_MAX)
        return err_set(e, "%s: the regular expression has %zu bytes, expected at most %d", where, n,
                       REGEX_MAX);
    Buf as = {0};
    const char *refused = rewrite(regex, n, &as);
    if (refused) {
        buf_free(&as);
        return err_set(e, "%s: the regular expression \"%s\" has %s, which is not supported", where,
                       regex, refused);
    }
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    CHECK(context, "no memory for a compile context");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int fault;
    PCRE2_SIZE at;
    buf_add(&as, "", 0);
    p->code = pcre2_compile((PCRE2_SPTR)as.p, as.n,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                            &fault, &at, context);
    pcre2_compile_context_free(context);
    buf_free(&as);
    if (p->code) {
        pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* where there is none, it interprets */
        return 0;
    }
    PCRE2_UCHAR why[200] = "";
    pcre2_get_error_message(fault, why, sizeof why);
    return err_set(e, "%s: the regular expression \"%.200s\" is not valid: %s", where, regex,
                   (const char *)why);
}

void pattern_free(Pattern *p) {
    buf_free(&p->text);
    pcre2_code_free(p->code);
    *p = (Pattern){0};
}

static void matcher_make(Matcher *m) {
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create(32768, JIT_STACK_MAX, NULL);
    CHECK(m->data && m->context && m->stack, "no memory for matching");
    pcre2_set_match_limit(m->context, MATCH_STEPS);
    pcre2_set_heap_limit(m->context, MATCH_HEAP_KIB);
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
}

void matcher_free(Matcher *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    *m = (Matcher){0};
}

static int next_text(Matches *w, size_t *from, size_t *to) {
    const Buf *text = &w->pattern->text;
    const char *found = memmem(w->text + w->at, w->n - w->at, text->p, text->n);
    if (!found) return 0;
    *from = (size_t)(found - w->text);
    *to = w->at = *from + text->n;
    return 1;
}

static int next_regex(Matches *w, size_t *from, size_t *to, Err *e) {
    Matcher *m = w->matcher;
    if (!m->data) matcher_make(m);
    while (w->at <= w->n) {
        PCRE2_SPTR text = (PCRE2_SPTR)w->text;
        int rc = pcre2_match(w->pattern->code, text, w->n, w->at, PCRE2_NO_UTF_CHECK, m->data,
                             m->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter has the heap to go back in */
            rc = pcre2_match(w->pattern->code, text, w->n, w->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                             m->data, m->context);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc < 0) {
            PCRE2_UCHAR why[200] = "";
            pcre2_get_error_message(rc, why, sizeof why);
            return err_set(e,
                           "the tokenizer's regular expression gave up %zu bytes into a text of "
                           "%zu bytes: %s; split the text into shorter rows",
                           w->at, w->n, (const char *)why);
        }
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
        *from = span[0];
        *to = span[1];
        if (*from != *to || !w->any || w->last_end != *to) {
            w->at = w->last_end = *to;
            w->any = true;
            return 1;
        }
        /* Nothing, right behind the last match: look further on. */
        w->at += w->at < w->n ? (size_t)utf8_length(w->text[w->at]) : 1;
    }
    return 0;
}

int matches_next(Matches *w, size_t *from, size_t *to, Err *e) {
    if (w->n == 0) return 0;
    return w->pattern->code ? next_regex(w, from, to, e) : next_text(w, from, to);
}
