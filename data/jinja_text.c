/* jinja_text.c - see jinja_text.h. Cases and classes of characters are utf8proc's. */
#include "jinja_text.h"
#include <string.h>
#include <utf8proc.h>

bool str_is_utf8(Str s) {
    for (size_t i = 0; i < s.n;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s.p + i,
                                              (utf8proc_ssize_t)(s.n - i), &point);
        if (n <= 0) return false;
        i += (size_t)n;
    }
    return true;
}

size_t str_length(Str s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

size_t str_point_bytes(Str s, size_t at) {
    unsigned char c = (unsigned char)s.p[at];
    size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    return n < s.n - at ? n : s.n - at;
}

uint32_t str_point(Str s, size_t at) {
    utf8proc_int32_t point;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)s.p + at, (utf8proc_ssize_t)(s.n - at), &point);
    return n > 0 ? (uint32_t)point : 0xfffd;
}

size_t str_back(Str s, size_t at) {
    do at--;
    while (at > 0 && ((unsigned char)s.p[at] & 0xc0) == 0x80);
    return at;
}

size_t str_offset(Str s, size_t points) {
    size_t i = 0;
    while (points-- > 0 && i < s.n) i += str_point_bytes(s, i);
    return i;
}

Str str_slice(Str s, size_t from, size_t to) {
    if (to <= from) return STR("");
    size_t a = str_offset(s, from);
    Str rest = {s.p + a, s.n - a};
    return (Str){rest.p, str_offset(rest, to - from)};
}

size_t str_find(Str s, Str what, size_t from) {
    if (from > s.n) return SIZE_MAX;
    const char *p = memmem(s.p + from, s.n - from, what.p, what.n);
    return p ? (size_t)(p - s.p) : SIZE_MAX;
}

size_t str_find_last(Str s, Str what) {
    if (what.n > s.n) return SIZE_MAX;
    for (size_t i = s.n - what.n + 1; i-- > 0;)
        if (memcmp(s.p + i, what.p, what.n) == 0) return i;
    return SIZE_MAX;
}

int str_compare(Str a, Str b) {
    int c = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return c ? (c > 0) - (c < 0) : (a.n > b.n) - (a.n < b.n);
}

void append_point(Run *r, Text *t, uint32_t point) {
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)point, bytes);
    append_bytes(r, t, (const char *)bytes, (size_t)n);
}

static utf8proc_category_t category(uint32_t point) {
    return utf8proc_category((utf8proc_int32_t)point);
}

bool point_is_space(uint32_t p) {
    return (p >= 9 && p <= 13) || (p >= 0x1c && p <= 0x20) || p == 0x85 || p == 0xa0 ||
           (p > 0xff && (category(p) == UTF8PROC_CATEGORY_ZS || p == 0x2028 || p == 0x2029));
}

bool point_is_alpha(uint32_t p) {
    utf8proc_category_t c = category(p);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool point_is_digit(uint32_t p) { return category(p) == UTF8PROC_CATEGORY_ND; }
bool point_is_upper(uint32_t p) { return category(p) == UTF8PROC_CATEGORY_LU; }
bool point_is_lower(uint32_t p) { return category(p) == UTF8PROC_CATEGORY_LL; }

bool point_is_printable(uint32_t p) {
    static const bool HIDDEN[] = {
        [UTF8PROC_CATEGORY_CN] = true, [UTF8PROC_CATEGORY_CC] = true, [UTF8PROC_CATEGORY_CF] = true,
        [UTF8PROC_CATEGORY_CS] = true, [UTF8PROC_CATEGORY_CO] = true, [UTF8PROC_CATEGORY_ZL] = true,
        [UTF8PROC_CATEGORY_ZP] = true, [UTF8PROC_CATEGORY_ZS] = true,
    };
    utf8proc_category_t c = category(p);
    return p == ' ' || (size_t)c >= COUNT_OF(HIDDEN) || !HIDDEN[c];
}

size_t str_line_break(Str s, size_t at) {
    uint32_t p = str_point(s, at);
    if (p == '\r' && at + 1 < s.n && s.p[at + 1] == '\n') return 2;
    bool is =
        (p >= 10 && p <= 13) || (p >= 0x1c && p <= 0x1e) || p == 0x85 || p == 0x2028 || p == 0x2029;
    return is ? str_point_bytes(s, at) : 0;
}

static bool in_set(Str s, size_t at, const Str *chars) {
    if (!chars) return point_is_space(str_point(s, at));
    return str_find(*chars, (Str){s.p + at, str_point_bytes(s, at)}, 0) != SIZE_MAX;
}

Str str_strip(Str s, enum Side sides, const Str *chars) {
    while ((sides & LEFT) && s.n && in_set(s, 0, chars)) {
        size_t n = str_point_bytes(s, 0);
        s = (Str){s.p + n, s.n - n};
    }
    while ((sides & RIGHT) && s.n) {
        size_t last = str_back(s, s.n);
        if (!in_set(s, last, chars)) break;
        s.n = last;
    }
    return s;
}

/* utf8proc maps one code point to one; the letter that really has a longer capital is added. */
static void add_upper(Run *r, Text *t, uint32_t p, bool title) {
    if (p == 0xdf) {
        append_str(r, t, title ? STR("Ss") : STR("SS"));
    } else {
        utf8proc_int32_t up = (utf8proc_int32_t)p;
        append_point(r, t, (uint32_t)(title ? utf8proc_totitle(up) : utf8proc_toupper(up)));
    }
}

Str str_case(Run *r, Str s, enum Case how) {
    Text t = {0};
    bool inside = false; /* TITLE: behind a cased letter; CAPITAL: behind the first character */
    run_step(r, s.n / 8);
    for (size_t i = 0; i < s.n; i += str_point_bytes(s, i)) {
        uint32_t p = str_point(s, i);
        uint32_t lower = (uint32_t)utf8proc_tolower((utf8proc_int32_t)p);
        bool raise = how == UPPER || (how == SWAP && point_is_lower(p)) ||
                     ((how == TITLE || how == CAPITAL) && !inside);
        if (raise) {
            add_upper(r, &t, p, how == TITLE || how == CAPITAL);
        } else {
            append_point(r, &t, lower);
        }
        inside = how == CAPITAL || point_is_upper(p) || point_is_lower(p) ||
                 category(p) == UTF8PROC_CATEGORY_LT;
    }
    return text_str(&t);
}

Str str_replace(Run *r, Str s, Str old, Str new, int64_t count) {
    Text t = {0};
    size_t at = 0;
    run_step(r, s.n / 64);
    if (count == 0) return s;
    if (old.n == 0) { /* between all characters, as Python does */
        for (; count != 0; count--) {
            append_str(r, &t, new);
            if (at >= s.n) break;
            size_t n = str_point_bytes(s, at);
            append_bytes(r, &t, s.p + at, n);
            at += n;
        }
    } else {
        for (size_t hit; count != 0 && (hit = str_find(s, old, at)) != SIZE_MAX; count--) {
            append_bytes(r, &t, s.p + at, hit - at);
            append_str(r, &t, new);
            at = hit + old.n;
        }
    }
    if (at < s.n) append_bytes(r, &t, s.p + at, s.n - at);
    return text_str(&t);
}

Str str_escape(Run *r, Str s) {
    static const char *const NAMES[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    static const char FROM[] = "&<>\"'";
    Text t = {0};
    for (size_t i = 0; i < s.n; i++) {
        const char *hit = s.p[i] ? strchr(FROM, s.p[i]) : NULL;
        if (hit) {
            append_str(r, &t, str_of(NAMES[hit - FROM]));
        } else {
            append_bytes(r, &t, s.p + i, 1);
        }
    }
    return text_str(&t);
}

List *str_lines(Run *r, Str s, bool keep_ends) {
    List *l = list_new(r, 0);
    size_t start = 0;
    run_step(r, s.n / 64);
    for (size_t i = 0; i < s.n;) {
        size_t brk = str_line_break(s, i);
        if (brk) list_add(r, l, value_str((Str){s.p + start, i - start + (keep_ends ? brk : 0)}));
        i += brk ? brk : str_point_bytes(s, i);
        if (brk) start = i;
    }
    if (start < s.n) list_add(r, l, value_str((Str){s.p + start, s.n - start}));
    return l;
}

static void add_fill(Run *r, Text *t, Str fill, int64_t n) {
    for (int64_t i = 0; i < n; i++) append_str(r, t, fill);
}

Str str_pad(Run *r, Str s, int64_t width, const char *align, Str fill) {
    int64_t room = width - (int64_t)str_length(s);
    if (room <= 0) return s;
    if (room > MAX_OUTPUT) run_fail(r, "a width of %lld is too large", (long long)width);
    /* str.center puts the odd space left when the width is odd, format() right */
    int64_t left = *align == '<' ? 0 : *align == '>' ? room : room / 2;
    if (*align == 'c') left += room & width & 1;
    Text t = {0};
    add_fill(r, &t, fill, left);
    append_str(r, &t, s);
    add_fill(r, &t, fill, room - left);
    return text_str(&t);
}
