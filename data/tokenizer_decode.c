/* tokenizer_decode.c - see tokenizer_decode.h. */
#include <string.h>
#include "tokenizer_decode.h"
#include "tokenizer_read.h"
#include "tokenizer_utf8.h"

void strings_end(Strings *s) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        s->end = mem_grow(s->end, s->cap * sizeof *s->end, cap * sizeof *s->end);
        s->cap = cap;
    }
    s->end[s->n++] = s->bytes.n;
}

void strings_free(Strings *s) {
    buf_free(&s->bytes);
    mem_free(s->end);
    *s = (Strings){0};
}

static const char *string_at(const Strings *s, size_t i, size_t *n) {
    size_t from = i ? s->end[i - 1] : 0;
    *n = s->end[i] - from;
    return s->bytes.p ? s->bytes.p + from : "";
}

static void run_fuse(const Decoder *d, const Strings *in, Strings *out) {
    (void)d;
    buf_add(&out->bytes, in->bytes.p, in->bytes.n);
    strings_end(out);
}

/* Pieces written in byte characters give their bytes; a piece with any other character its own. */
static void run_byte_level(const Decoder *d, const Strings *in, Strings *out) {
    (void)d;
    Buf bytes = {0};
    for (size_t i = 0; i < in->n; i++) {
        size_t n, before = bytes.n;
        const char *p = string_at(in, i, &n);
        int length;
        for (size_t k = 0; k < n; k += (size_t)length) {
            int byte = char_to_byte(utf8_read(p + k, &length));
            if (byte < 0) {
                bytes.n = before;
                buf_add(&bytes, p, n);
                break;
            }
            char c = (char)byte;
            buf_add(&bytes, &c, 1);
        }
    }
    utf8_add_lossy(&out->bytes, bytes.p, bytes.n);
    strings_end(out);
    buf_free(&bytes);
}

/* A match that needs too many steps leaves the rest of its piece as it is. */
static void run_replace(const Decoder *d, const Strings *in, Strings *out) {
    Matcher m = {0};
    Err too_long;
    for (size_t i = 0; i < in->n; i++) {
        size_t n, done = 0, from, to;
        const char *p = string_at(in, i, &n);
        Matches w = {.pattern = &d->pattern, .matcher = &m, .text = p, .n = n};
        while (matches_next(&w, &from, &to, &too_long) > 0) {
            buf_add(&out->bytes, p + done, from - done);
            buf_add(&out->bytes, d->content.p, d->content.n);
            done = to;
        }
        buf_add(&out->bytes, p + done, n - done);
        strings_end(out);
    }
    matcher_free(&m);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that a piece "<0xHH>" stands for, or -1. */
static int byte_of(const char *p, size_t n) {
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>') return -1;
    int high = hex_digit(p[3]), low = hex_digit(p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of bytes is a text if it is UTF-8, else every byte is a character that is none. */
static void end_bytes(Buf *bytes, Strings *out) {
    if (bytes->n == 0) return;
    if (utf8_check(bytes->p, bytes->n) == bytes->n) {
        buf_add(&out->bytes, bytes->p, bytes->n);
        strings_end(out);
    } else {
        for (size_t i = 0; i < bytes->n; i++) {
            buf_add_text(&out->bytes, "\xef\xbf\xbd");
            strings_end(out);
        }
    }
    bytes->n = 0;
}

static void run_byte_fallback(const Decoder *d, const Strings *in, Strings *out) {
    (void)d;
    Buf bytes = {0};
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *p = string_at(in, i, &n);
        int byte = byte_of(p, n);
        if (byte >= 0) {
            char c = (char)byte;
            buf_add(&bytes, &c, 1);
            continue;
        }
        end_bytes(&bytes, out);
        buf_add(&out->bytes, p, n);
        strings_end(out);
    }
    end_bytes(&bytes, out);
    buf_free(&bytes);
}

static bool is_char(const Decoder *d, const char *p, size_t left) {
    return left >= d->content.n && memcmp(p, d->content.p, d->content.n) == 0;
}

static void run_strip(const Decoder *d, const Strings *in, Strings *out) {
    for (size_t i = 0; i < in->n; i++) {
        size_t n, width = d->content.n, from = 0;
        const char *p = string_at(in, i, &n);
        for (int64_t k = 0; k < d->start && is_char(d, p + from, n - from); k++) from += width;
        for (int64_t k = 0; k < d->stop && n - from >= width && is_char(d, p + n - width, width);
             k++)
            n -= width;
        buf_add(&out->bytes, p + from, n - from);
        strings_end(out);
    }
}

static void run_metaspace(const Decoder *d, const Strings *in, Strings *out) {
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *p = string_at(in, i, &n);
        for (size_t k = 0, step; k < n; k += step) {
            step = (size_t)utf8_length(p[k]);
            if (!is_char(d, p + k, n - k))
                buf_add(&out->bytes, p + k, step);
            else if (i > 0 || !d->drop_first)
                buf_add_text(&out->bytes, " ");
        }
        strings_end(out);
    }
}

void decoders_run(const Decoders *d, Strings *pieces, Buf *out) {
    Strings spare = {0};
    for (size_t k = 0; k < d->n; k++) {
        spare.n = spare.bytes.n = 0;
        d->at[k].run(&d->at[k], pieces, &spare);
        Strings done = spare;
        spare = *pieces;
        *pieces = done;
    }
    for (size_t i = 0; i < pieces->n; i++) {
        size_t n;
        const char *p = string_at(pieces, i, &n);
        if (i && d->none) buf_add_text(out, " ");
        buf_add(out, p, n);
    }
    strings_free(&spare);
}

void decoders_free(Decoders *d) {
    for (size_t i = 0; i < d->n; i++) {
        pattern_free(&d->at[i].pattern);
        buf_free(&d->at[i].content);
    }
    mem_free(d->at);
    *d = (Decoders){0};
}

static int read_replace(Decoder *d, const json_t *part, const char *where, Err *e) {
    TRY(part_pattern(part, &d->pattern, where, e));
    return part_text(part, "content", &d->content, where, e);
}

/* One character, in field key. */
static int read_char(Decoder *d, const json_t *part, const char *key, const char *where, Err *e) {
    TRY(part_text(part, key, &d->content, where, e));
    if (d->content.n && (size_t)utf8_length(d->content.p[0]) == d->content.n) return 0;
    return err_set(e, "%s: \"%s\" is \"%.100s\", expected one character", where, key, d->content.p);
}

static int read_strip(Decoder *d, const json_t *part, const char *where, Err *e) {
    TRY(json_get_int(part, "start", 0, INT32_MAX, &d->start, where, e));
    TRY(json_get_int(part, "stop", 0, INT32_MAX, &d->stop, where, e));
    return read_char(d, part, "content", where, e);
}

static int read_metaspace(Decoder *d, const json_t *part, const char *where, Err *e) {
    const char *scheme = "always";
    bool prefix = true;
    TRY(json_get_text(part, "prepend_scheme", &scheme, where, e));
    TRY(json_get_bool(part, "add_prefix_space", &prefix, where, e));
    d->drop_first = prefix && strcmp(scheme, "never") != 0;
    return read_char(d, part, "replacement", where, e);
}

/* read fills in what a decoder needs besides run; NULL: nothing. */
static const struct {
    const char *type;
    void (*run)(const Decoder *d, const Strings *in, Strings *out);
    int (*read)(Decoder *d, const json_t *part, const char *where, Err *e);
} DECODERS[] = {
    {"ByteLevel", run_byte_level, NULL},       {"Replace", run_replace, read_replace},
    {"ByteFallback", run_byte_fallback, NULL}, {"Fuse", run_fuse, NULL},
    {"Strip", run_strip, read_strip},          {"Metaspace", run_metaspace, read_metaspace},
};

static int read_decoder(Decoders *d, const json_t *part, const char *name, Err *e) {
    const char *type;
    TRY(part_type(part, &type, "decoder", name, e));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL, *each;
        size_t i;
        TRY(json_require(part, "decoders", name, e));
        TRY(json_get_array(part, "decoders", &list, name, e));
        json_array_foreach(list, i, each) TRY(read_decoder(d, each, name, e));
        return 0;
    }
    Where where = part_where(type, "decoder", name);
    for (size_t i = 0; i < COUNT_OF(DECODERS); i++) {
        if (strcmp(type, DECODERS[i].type) != 0) continue;
        d->at = mem_grow(d->at, d->n * sizeof *d->at, (d->n + 1) * sizeof *d->at);
        Decoder *added = &d->at[d->n++];
        added->run = DECODERS[i].run;
        return DECODERS[i].read ? DECODERS[i].read(added, part, where.text, e) : 0;
    }
    return err_set(e,
                   "%s: is not supported; supported are ByteLevel, Replace, ByteFallback, Fuse, "
                   "Strip, Metaspace and Sequence",
                   where.text);
}

int decoders_read(Decoders *d, const json_t *value, const char *name, Err *e) {
    d->none = !value;
    return value ? read_decoder(d, value, name, e) : 0;
}
