/* jinja_lex.c - see jinja_lex.h. Follows Jinja's lexer with trim_blocks and lstrip_blocks: the line
 * break behind a block or comment goes, and so does the blank before one that opens its line;
 * `-` takes all white space on its side, `+` keeps it. */
#include "jinja_lex.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "jinja_text.h"

enum { MAX_NESTING = 200 };

typedef struct Lexer {
    Run *r;
    Str s;
    size_t at;
    bool line_starting; /* what was read last ended a line */
    TokenList out;
    char open[MAX_NESTING]; /* the brackets to be closed inside a tag */
    int n_open;
} Lexer;

static bool here(const Lexer *x, const char *text) {
    size_t n = strlen(text);
    return x->s.n - x->at >= n && memcmp(x->s.p + x->at, text, n) == 0;
}

static Token *add_token(Lexer *x, TokenKind kind, Str text) {
    TokenList *l = &x->out;
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 64;
        Token *more = run_take(x->r, cap * sizeof *more);
        if (l->n) memcpy(more, l->at, l->n * sizeof *more);
        l->at = more;
        l->cap = cap;
    }
    l->at[l->n] = (Token){.kind = kind, .line = x->r->line, .text = text};
    return &l->at[l->n++];
}

/* Goes on to byte `to`, counting lines. */
static void advance(Lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->r->line += x->s.p[x->at] == '\n';
}

static void skip_space(Lexer *x) {
    size_t i = x->at;
    while (i < x->s.n && point_is_space(str_point(x->s, i))) i += str_point_bytes(x->s, i);
    advance(x, i);
}

static bool all_space(Str s) { return str_strip(s, LEFT, NULL).n == 0; }

/* Line breaks become \n, and a last one is dropped. */
static Str normalise(Run *r, Str source) {
    char *p = run_take(r, source.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.n; i++) {
        bool cr = source.p[i] == '\r';
        p[n++] = cr ? '\n' : source.p[i];
        if (cr && i + 1 < source.n && source.p[i + 1] == '\n') i++;
    }
    return (Str){p, n > 0 && p[n - 1] == '\n' ? n - 1 : n};
}

/* The text before a tag whose sign (-, + or none) is `sign`. */
static Str text_before(const Lexer *x, Str text, char sign, bool print) {
    if (sign == '-') return str_strip(text, RIGHT, NULL);
    if (sign == '+' || print) return text;
    size_t start = text.n;
    while (start > 0 && text.p[start - 1] != '\n') start--;
    bool opens_line = start > 0 || x->line_starting;
    if (opens_line && all_space((Str){text.p + start, text.n - start})) text.n = start;
    return text;
}

/* Behind the end mark of a tag that was closed with `sign`. */
static void after_tag(Lexer *x, char sign, bool trim) {
    size_t from = x->at;
    if (sign == '-') {
        skip_space(x);
    } else if (trim && sign != '+' && here(x, "\n")) {
        advance(x, x->at + 1);
    }
    x->line_starting = x->at > from && x->s.p[x->at - 1] == '\n';
}

static char take_sign(Lexer *x) {
    if (!here(x, "-") && !here(x, "+")) return 0;
    char sign = x->s.p[x->at];
    advance(x, x->at + 1);
    return sign;
}

static void lex_comment(Lexer *x) {
    size_t end = str_find(x->s, STR("#}"), x->at);
    if (end == SIZE_MAX) run_fail(x->r, "a comment is not closed: {#");
    char sign = end > x->at ? x->s.p[end - 1] : 0;
    advance(x, end + 2);
    after_tag(x, sign, true);
}

/* At {% (sign) raw %}: its length up to and including the mark, or 0. With the sign it closes by.
 */
static size_t match_raw(const Lexer *x, size_t at, const char *word, char *open, char *close) {
    Lexer y = *x;
    y.at = at + 2;
    *open = 0;
    if (here(&y, "-") || here(&y, "+")) *open = y.s.p[y.at++];
    while (y.at < y.s.n && point_is_space(str_point(y.s, y.at))) y.at += str_point_bytes(y.s, y.at);
    if (!here(&y, word)) return 0;
    y.at += strlen(word);
    while (y.at < y.s.n && point_is_space(str_point(y.s, y.at))) y.at += str_point_bytes(y.s, y.at);
    *close = 0;
    if (here(&y, "-") || here(&y, "+")) *close = y.s.p[y.at++];
    return here(&y, "%}") ? y.at + 2 - at : 0;
}

static void lex_raw(Lexer *x, size_t begin, char close) {
    char open, last;
    advance(x, x->at + begin);
    after_tag(x, close, false);
    for (size_t end = x->at;; end += 2) {
        end = str_find(x->s, STR("{%"), end);
        if (end == SIZE_MAX) run_fail(x->r, "{%% raw %%} is not closed");
        size_t n = match_raw(x, end, "endraw", &open, &last);
        if (!n) continue;
        Str text = text_before(x, (Str){x->s.p + x->at, end - x->at}, open, false);
        if (text.n) add_token(x, TOKEN_DATA, text);
        advance(x, end + n);
        after_tag(x, last, true);
        return;
    }
}

static Value number_value(Lexer *x, Str s, bool real, int base) {
    char *digits = run_take(x->r, s.n + 1);
    size_t n = 0;
    for (size_t i = base == 10 ? 0 : 2; i < s.n; i++)
        if (s.p[i] != '_') digits[n++] = s.p[i];
    if (real) return value_float(strtod(digits, NULL));
    errno = 0;
    long long i = strtoll(digits, NULL, base);
    if (errno) run_fail(x->r, "the number %s does not fit 64 bits", digits);
    return value_int(i);
}

static bool is_digit(char c, int base) {
    return c == '_'     ? true
           : base == 16 ? (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')
                        : c >= '0' && c < '0' + base;
}

static void lex_number(Lexer *x) {
    const char *p = x->s.p + x->at;
    size_t n = x->s.n - x->at, i = 0;
    int base = 10;
    bool real = false;
    bool member = str_is(x->out.at[x->out.n - 1].text, "."); /* a.0.1 is (a.0).1 */
    if (n > 2 && p[0] == '0' && strchr("xXoObB", p[1]) && is_digit(p[2], 16)) {
        base = strchr("xX", p[1]) ? 16 : strchr("oO", p[1]) ? 8 : 2;
        i = 2;
    }
    while (i < n && is_digit(p[i], base)) i++;
    if (base == 10 && !member && i + 1 < n && p[i] == '.' && p[i + 1] >= '0' && p[i + 1] <= '9') {
        real = true;
        for (i++; i < n && is_digit(p[i], 10); i++) {
        }
    }
    if (base == 10 && !member && i + 1 < n && (p[i] == 'e' || p[i] == 'E')) {
        size_t k = i + 1 + (p[i + 1] == '-' || p[i + 1] == '+');
        if (k < n && p[k] >= '0' && p[k] <= '9') {
            real = true;
            for (i = k; i < n && is_digit(p[i], 10); i++) {
            }
        }
    }
    Token *t = add_token(x, TOKEN_NUMBER, (Str){p, i});
    t->value = number_value(x, t->text, real, base);
    x->at += i;
}

static uint32_t read_escaped_point(Lexer *x, Str s, size_t at, size_t digits) {
    uint32_t p = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = at + i < s.n ? s.p[at + i] : 0;
        if (c == '_' || !c || !is_digit(c, 16))
            run_fail(x->r, "an escape in a string wants %zu hexadecimal digits", digits);
        p = p * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    if (p > 0x10ffff || (p >= 0xd800 && p < 0xe000))
        run_fail(x->r, "the escape of U+%04X in a string is not a character", p);
    return p;
}

/* The body of a string literal, as Python's unicode_escape reads it. */
static Str unescape(Lexer *x, Str s) {
    static const char NAMED[] = "n\nt\tr\ra\ab\bf\fv\v\\\\''\"\"";
    Text t = {0};
    if (!memchr(s.p, '\\', s.n)) return s;
    for (size_t i = 0; i < s.n;) {
        char c = s.p[i], next = i + 1 < s.n ? s.p[i + 1] : 0;
        if (c != '\\') {
            append_bytes(x->r, &t, &c, 1);
            i++;
            continue;
        }
        const char *named = NULL;
        for (size_t k = 0; k < sizeof NAMED - 1 && !named; k += 2)
            if (NAMED[k] == next) named = &NAMED[k + 1];
        i += 2;
        if (named) {
            append_bytes(x->r, &t, named, 1);
        } else if (next == 'x' || next == 'u' || next == 'U') {
            size_t digits = next == 'x' ? 2 : next == 'u' ? 4 : 8;
            append_point(x->r, &t, read_escaped_point(x, s, i, digits));
            i += digits;
        } else if (next >= '0' && next <= '7') {
            uint32_t p = (uint32_t)(next - '0');
            for (int k = 0; k < 2 && i < s.n && s.p[i] >= '0' && s.p[i] <= '7'; k++)
                p = p * 8 + (uint32_t)(s.p[i++] - '0');
            append_point(x->r, &t, p);
        } else if (next == 'N') {
            run_fail(x->r, "\\N{...} in a string is not supported; write the character itself");
        } else if (next != '\n') { /* not an escape: the backslash stays */
            append_bytes(x->r, &t, "\\", 1);
            i--;
        }
    }
    return text_str(&t);
}

static void lex_string(Lexer *x) {
    char quote = x->s.p[x->at];
    size_t i = x->at + 1;
    while (i < x->s.n && x->s.p[i] != quote) i += x->s.p[i] == '\\' ? 2 : 1;
    if (i >= x->s.n) run_fail(x->r, "a string is not closed: %c", quote);
    Str body = {x->s.p + x->at + 1, i - x->at - 1};
    add_token(x, TOKEN_STRING, unescape(x, body));
    advance(x, i + 1);
}

static bool in_name(unsigned char c, bool first) {
    return c == '_' || c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (!first && c >= '0' && c <= '9');
}

static void lex_name(Lexer *x) {
    size_t i = x->at;
    while (i < x->s.n && in_name((unsigned char)x->s.p[i], false)) i++;
    add_token(x, TOKEN_NAME, (Str){x->s.p + x->at, i - x->at});
    x->at = i;
}

static void balance(Lexer *x, char c) {
    static const char PAIRS[] = "()[]{}";
    const char *p = strchr(PAIRS, c);
    if (!p || !c) return;
    if ((p - PAIRS) % 2 == 0) {
        if (x->n_open == MAX_NESTING)
            run_fail(x->r, "brackets nested more than %d deep", MAX_NESTING);
        x->open[x->n_open++] = p[1];
    } else if (x->n_open == 0) {
        run_fail(x->r, "unexpected '%c'", c);
    } else if (x->open[--x->n_open] != c) {
        run_fail(x->r, "unexpected '%c', expected '%c'", c, x->open[x->n_open]);
    }
}

static void lex_operator(Lexer *x) {
    static const char *const OPERATORS[] = {
        "**", "//", "==", "!=", "<=", ">=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  "<",  ">", "=", ".", ":", "|", ",", ";",
    };
    for (size_t i = 0; i < COUNT_OF(OPERATORS); i++)
        if (here(x, OPERATORS[i])) {
            if (!OPERATORS[i][1]) balance(x, OPERATORS[i][0]);
            add_token(x, TOKEN_OPERATOR, str_of(OPERATORS[i]));
            x->at += strlen(OPERATORS[i]);
            return;
        }
    Str c = {x->s.p + x->at, str_point_bytes(x->s, x->at)};
    run_fail(x->r, "unexpected character '%.*s'", (int)c.n, c.p);
}

/* True when the tag ends here; takes the end mark. */
static bool end_of_tag(Lexer *x, const char *mark, bool block) {
    char sign = 0;
    if (x->n_open) return false;
    size_t was = x->at;
    if (here(x, "-") || (block && here(x, "+"))) sign = x->s.p[x->at++];
    if (!here(x, mark)) {
        x->at = was;
        return false;
    }
    add_token(x, block ? TOKEN_BLOCK_END : TOKEN_PRINT_END, str_of(mark));
    x->at += 2;
    after_tag(x, sign, block);
    return true;
}

static void lex_tag(Lexer *x, bool block) {
    const char *mark = block ? "%}" : "}}";
    add_token(x, block ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN, STR(""));
    x->n_open = 0;
    for (;;) {
        skip_space(x);
        if (x->at >= x->s.n) run_fail(x->r, "the template ends inside a tag; %s is missing", mark);
        if (end_of_tag(x, mark, block)) return;
        unsigned char c = (unsigned char)x->s.p[x->at];
        if (c >= '0' && c <= '9') {
            lex_number(x);
        } else if (in_name(c, true)) {
            lex_name(x);
        } else if (c == '\'' || c == '"') {
            lex_string(x);
        } else {
            lex_operator(x);
        }
    }
}

/* The next {{, {% or {#; s.n where there is none. */
static size_t find_tag(Str s, size_t at) {
    for (; at + 1 < s.n; at++)
        if (s.p[at] == '{' && strchr("{%#", s.p[at + 1]) && s.p[at + 1]) return at;
    return s.n;
}

TokenList jinja_lex(Run *r, Str source) {
    Lexer x = {.r = r, .s = normalise(r, source), .line_starting = true};
    r->line = 1;
    while (x.at < x.s.n) {
        size_t tag = find_tag(x.s, x.at);
        Str text = {x.s.p + x.at, tag - x.at};
        if (tag == x.s.n) {
            add_token(&x, TOKEN_DATA, text);
            advance(&x, tag);
            break;
        }
        char kind = x.s.p[tag + 1], sign = 0, close = 0;
        size_t raw = kind == '%' ? match_raw(&x, tag, "raw", &sign, &close) : 0;
        if (tag + 2 < x.s.n && strchr("+-", x.s.p[tag + 2]) && x.s.p[tag + 2])
            sign = x.s.p[tag + 2];
        text = text_before(&x, text, sign, kind == '{');
        if (text.n) add_token(&x, TOKEN_DATA, text);
        advance(&x, tag);
        if (raw) {
            lex_raw(&x, raw, close);
            continue;
        }
        advance(&x, tag + 2);
        take_sign(&x);
        if (kind == '#') {
            lex_comment(&x);
        } else {
            lex_tag(&x, kind == '%');
        }
    }
    add_token(&x, TOKEN_END, STR(""));
    return x.out;
}
