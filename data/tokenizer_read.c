/* tokenizer_read.c - see tokenizer_read.h.
 *
 * A tokenizer.json is two huge tables and a few small parts. A tree of half a million small JSON
 * arrays costs more time and memory than all the rest of opening it, so "vocab" and "merges" are
 * cut out first and read in place by a scanner for just these two; jansson gets what is left. */
#include <string.h>
#include "files.h"
#include "tokenizer_read.h"
#include "tokenizer_utf8.h"

/* A place in the text, and where a string goes that cannot be read in place. */
typedef struct Scan {
    const char *p, *end, *start; /* start: of the file, for line numbers */
    const char *name;
    Buf scratch[2];
} Scan;

static int line_of(const Scan *s) {
    int line = 1;
    for (const char *p = s->start; p < s->p; p++) line += *p == '\n';
    return line;
}

static int expected(const Scan *s, const char *what, Err *e) {
    if (s->p >= s->end)
        return err_set(e, "%s: line %d: the file ends, expected %s", s->name, line_of(s), what);
    return err_set(e, "%s: line %d: found '%.*s', expected %s", s->name, line_of(s),
                   utf8_length(*s->p), s->p, what);
}

static void skip_space(Scan *s) {
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
        s->p++;
}

/* Takes c, and the space before it, if it comes next. */
static bool take(Scan *s, char c) {
    skip_space(s);
    if (s->p >= s->end || *s->p != c) return false;
    s->p++;
    return true;
}

static int hex4(const char *p, const char *end) {
    int value = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The character of "\uHHHH" or a pair of them; s->p is behind "\u". */
static int scan_unicode(Scan *s, Buf *out, Err *e) {
    int32_t c = hex4(s->p, s->end);
    if (c < 0) return expected(s, "four hexadecimal digits", e);
    s->p += 4;
    if (c >= 0xd800 && c < 0xdc00 && s->end - s->p >= 6 && s->p[0] == '\\' && s->p[1] == 'u') {
        int32_t low = hex4(s->p + 2, s->end);
        if (low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            s->p += 6;
        }
    }
    if (c >= 0xd800 && c < 0xe000)
        return err_set(e, "%s: line %d: half a surrogate pair, \\u%04X", s->name, line_of(s),
                       (unsigned)c);
    char bytes[4];
    buf_add(out, bytes, (size_t)utf8_write(c, bytes));
    return 0;
}

static int scan_escape(Scan *s, Buf *out, Err *e) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (s->p < s->end && *s->p == 'u') {
        s->p++;
        return scan_unicode(s, out, e);
    }
    const char *at = s->p < s->end && *s->p ? strchr(letters, *s->p) : NULL;
    if (!at) return expected(s, "an escape of JSON", e);
    buf_add(out, &meanings[at - letters], 1);
    s->p++;
    return 0;
}

/* A string: in place if it has no escapes, else in s->scratch[which]. */
static int scan_string(Scan *s, int which, const char **text, size_t *n, Err *e) {
    if (!take(s, '"')) return expected(s, "a string", e);
    Buf *copy = &s->scratch[which];
    const char *from = s->p;
    bool copied = false;
    copy->n = 0;
    for (;;) {
        while (s->p < s->end && *s->p != '"' && *s->p != '\\' && (unsigned char)*s->p >= ' ')
            s->p++;
        if (s->p >= s->end || (unsigned char)*s->p < ' ') return expected(s, "a closing \"", e);
        if (*s->p == '"') break;
        copied = true;
        buf_add(copy, from, (size_t)(s->p - from));
        s->p++;
        TRY(scan_escape(s, copy, e));
        from = s->p;
    }
    if (copied) buf_add(copy, from, (size_t)(s->p - from));
    *text = copied ? copy->p : from;
    *n = copied ? copy->n : (size_t)(s->p - from);
    s->p++;
    return 0;
}

static int scan_id(Scan *s, int64_t *id, Err *e) {
    skip_space(s);
    const char *from = s->p;
    *id = 0;
    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        if (*id < INT32_MAX) *id = *id * 10 + (*s->p - '0');
    if (s->p == from || (s->p < s->end && strchr(".eE", *s->p)))
        return expected(s, "an id, a whole number from 0 on", e);
    return 0;
}

static int scan_vocab(Scan *s, Vocab *v, Err *e) {
    if (!take(s, '{')) return expected(s, "the vocabulary, an object", e);
    if (take(s, '}')) return 0;
    do {
        const char *piece;
        size_t n;
        int64_t id;
        TRY(scan_string(s, 0, &piece, &n, e));
        if (!take(s, ':')) return expected(s, "a colon", e);
        TRY(scan_id(s, &id, e));
        TRY(vocab_add(v, piece, n, id, s->name, e));
    } while (take(s, ','));
    return take(s, '}') ? 0 : expected(s, "a comma or the end of the vocabulary", e);
}

typedef struct Pair {
    const char *left, *right;
    size_t left_n, right_n;
} Pair;

/* ["a", "b"], or the older "a b". */
static int scan_pair(Scan *s, Pair *p, Err *e) {
    if (take(s, '[')) {
        TRY(scan_string(s, 0, &p->left, &p->left_n, e));
        if (!take(s, ',')) return expected(s, "a comma and the second part of a merge", e);
        TRY(scan_string(s, 1, &p->right, &p->right_n, e));
        return take(s, ']') ? 0 : expected(s, "the end of a merge of two parts", e);
    }
    const char *whole;
    size_t n;
    TRY(scan_string(s, 0, &whole, &n, e));
    const char *space = memchr(whole, ' ', n);
    if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - whole)))
        return err_set(e, "%s: line %d: merge \"%.*s\" has not two parts with one space between",
                       s->name, line_of(s), n < 100 ? (int)n : 100, whole);
    *p = (Pair){whole, space + 1, (size_t)(space - whole), n - (size_t)(space + 1 - whole)};
    return 0;
}

static int no_such_piece(const Scan *s, const Pair *p, uint32_t rank, const char *piece, size_t n,
                         Err *e) {
    int left = p->left_n < 100 ? (int)p->left_n : 100,
        right = p->right_n < 100 ? (int)p->right_n : 100;
    return err_set(e,
                   "%s: line %d: merge %u (\"%.*s\" and \"%.*s\") needs the piece \"%.*s\", "
                   "which the vocabulary lacks",
                   s->name, line_of(s), rank, left, p->left, right, p->right,
                   n < 100 ? (int)n : 100, piece);
}

/* What the pair becomes is the left part and the right one without its prefix. */
static int add_pair(const Scan *s, const Pair *p, uint32_t rank, Bpe *b, Buf *both, Err *e) {
    int32_t left = vocab_find(&b->vocab, p->left, p->left_n);
    int32_t right = vocab_find(&b->vocab, p->right, p->right_n);
    if (left < 0) return no_such_piece(s, p, rank, p->left, p->left_n, e);
    if (right < 0) return no_such_piece(s, p, rank, p->right, p->right_n, e);
    size_t skip = b->prefix.n < p->right_n ? b->prefix.n : p->right_n;
    both->n = 0;
    buf_add(both, p->left, p->left_n);
    buf_add(both, p->right + skip, p->right_n - skip);
    int32_t id = vocab_find(&b->vocab, both->p, both->n);
    if (id < 0) return no_such_piece(s, p, rank, both->p, both->n, e);
    bpe_add_merge(b, left, right, id, rank);
    return 0;
}

static int scan_merges(Scan *s, Bpe *b, Buf *both, Err *e) {
    if (!take(s, '[')) return expected(s, "the merges, an array", e);
    if (take(s, ']')) return 0;
    uint32_t rank = 0;
    do {
        Pair pair;
        TRY(scan_pair(s, &pair, e));
        TRY(add_pair(s, &pair, rank++, b, both, e));
    } while (take(s, ','));
    return take(s, ']') ? 0 : expected(s, "a comma or the end of the merges", e);
}

int tokenizer_file_tables(const TokenizerFile *f, Bpe *b, const char *path, Err *e) {
    if (!f->vocab) return err_set(e, "%s: model has no \"vocab\" that is an object", path);
    if (!f->merges) return err_set(e, "%s: model has no \"merges\" that is an array", path);
    Scan s = {.p = f->vocab, .end = f->vocab_end, .start = f->text.p, .name = path};
    Buf both = {0};
    int rc = scan_vocab(&s, &b->vocab, e);
    if (rc == 0) {
        s.p = f->merges;
        s.end = f->merges_end;
        rc = scan_merges(&s, b, &both, e);
    }
    buf_free(&both);
    buf_free(&s.scratch[0]);
    buf_free(&s.scratch[1]);
    return rc;
}

static bool skip_string(Scan *s) {
    for (s->p++; s->p < s->end && *s->p != '"'; s->p++)
        if (*s->p == '\\') s->p++;
    if (s->p >= s->end) return false;
    s->p++;
    return true;
}

/* Goes behind the value at s->p by its quotes and brackets alone; false: the text ends in it. */
static bool skip_value(Scan *s) {
    int depth = 0;
    skip_space(s);
    do {
        if (s->p >= s->end) return false;
        char c = *s->p;
        if (depth == 0 && strchr(",]}", c)) return true;
        if (c == '"') {
            if (!skip_string(s)) return false;
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        s->p++;
    } while (depth > 0 || (s->p < s->end && !strchr(",]}", *s->p)));
    return true;
}

/* Calls value for every field of the object at s->p, to go behind its value. Whatever is not as
 * JSON should be ends the walk: jansson has the sentence for it. */
static bool walk_object(Scan *s, bool (*value)(Scan *s, const char *key, size_t n, void *to),
                        void *to) {
    if (!take(s, '{')) return skip_value(s);
    if (take(s, '}')) return true;
    do {
        skip_space(s);
        const char *key = s->p + 1;
        if (s->p >= s->end || *s->p != '"' || !skip_string(s)) return false;
        size_t n = (size_t)(s->p - 1 - key);
        if (!take(s, ':')) return false;
        skip_space(s);
        if (!value(s, key, n, to)) return false;
    } while (take(s, ','));
    return take(s, '}');
}

static bool find_table(Scan *s, const char *key, size_t n, void *to) {
    TokenizerFile *f = to;
    const char *from = s->p;
    if (!skip_value(s)) return false;
    if (*from == '{' && text_is(key, n, "vocab") && !f->vocab) {
        f->vocab = from;
        f->vocab_end = s->p;
    }
    if (*from == '[' && text_is(key, n, "merges") && !f->merges) {
        f->merges = from;
        f->merges_end = s->p;
    }
    return true;
}

static bool find_model(Scan *s, const char *key, size_t n, void *to) {
    return text_is(key, n, "model") ? walk_object(s, find_table, to) : skip_value(s);
}

/* Adds the text [from, to), or an empty table with as many lines as the one there. */
static void add_empty(Buf *out, const char *from, const char *to, const char *open,
                      const char *close) {
    buf_add_text(out, open);
    for (; (from = memchr(from, '\n', (size_t)(to - from))); from++) buf_add_text(out, "\n");
    buf_add_text(out, close);
}

static int read_rest(TokenizerFile *f, const char *path, Err *e) {
    const char *p = f->text.p, *end = p + f->text.n;
    bool vocab_first = f->vocab < f->merges;
    Buf rest = {0};
    for (int k = 0; k < 2; k++) {
        bool vocab = (k == 0) == vocab_first;
        const char *from = vocab ? f->vocab : f->merges, *to = vocab ? f->vocab_end : f->merges_end;
        if (!from) continue;
        buf_add(&rest, p, (size_t)(from - p));
        add_empty(&rest, from, to, vocab ? "{" : "[", vocab ? "}" : "]");
        p = to;
    }
    buf_add(&rest, p, (size_t)(end - p));
    int rc = json_read_text(&f->rest, rest.p, rest.n, path, e);
    buf_free(&rest);
    return rc;
}

int tokenizer_file_read(TokenizerFile *f, const char *path, Err *e) {
    return files_read(path, &f->text, e) ? -1 : tokenizer_file_parse(f, path, e);
}

int tokenizer_file_parse(TokenizerFile *f, const char *path, Err *e) {
    buf_add(&f->text, "", 0); /* an empty file is an empty text, not none */
    Scan s = {.p = f->text.p, .end = f->text.p + f->text.n, .start = f->text.p, .name = path};
    size_t good = utf8_check(f->text.p, f->text.n);
    s.p += good;
    if (good < f->text.n)
        return err_set(e, "%s: line %d: byte 0x%02X is not valid UTF-8", path, line_of(&s),
                       (unsigned)(unsigned char)*s.p);
    s.p = s.start;
    walk_object(&s, find_model, f);
    TRY(read_rest(f, path, e));
    if (json_is_object(f->rest)) return 0;
    return err_set(e, "%s: holds %s, expected an object", path, json_kind(f->rest));
}

void tokenizer_file_free(TokenizerFile *f) {
    buf_free(&f->text);
    json_decref(f->rest);
    *f = (TokenizerFile){0};
}

int part_type(const json_t *part, const char **type, const char *what, const char *name, Err *e) {
    if (!json_is_object(part))
        return err_set(e, "%s: a %s is %s, expected an object", name, what, json_kind(part));
    *type = NULL;
    TRY(json_get_text(part, "type", type, name, e));
    return *type ? 0 : err_set(e, "%s: a %s has no \"type\"", name, what);
}

Where part_where(const char *type, const char *what, const char *name) {
    Where where;
    Err whole;
    err_set(&whole, "%.300s: %s%s%.100s", name, what, *type ? " " : "", type);
    memcpy(where.text, whole.text, sizeof where.text);
    where.text[sizeof where.text - 1] = 0;
    return where;
}

int part_text(const json_t *part, const char *key, Buf *out, const char *where, Err *e) {
    const json_t *value = json_object_get(part, key);
    if (!json_is_string(value))
        return err_set(e, "%s: \"%s\" is %s, expected a string", where, key, json_kind(value));
    buf_add(out, json_string_value(value), json_string_length(value));
    return 0;
}

int part_pattern(const json_t *part, Pattern *out, const char *where, Err *e) {
    const json_t *pattern = json_object_get(part, "pattern");
    const json_t *text = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (json_is_string(text))
        return pattern_set_text(out, json_string_value(text), json_string_length(text), where, e);
    if (json_is_string(regex))
        return pattern_set_regex(out, json_string_value(regex), json_string_length(regex), where,
                                 e);
    return err_set(e, "%s: \"pattern\" is %s, expected {\"String\": ...} or {\"Regex\": ...}",
                   where, json_kind(pattern));
}
