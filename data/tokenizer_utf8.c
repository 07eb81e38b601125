/* tokenizer_utf8.c - see tokenizer_utf8.h. */
#include <string.h>
#include <utf8proc.h>
#include "tokenizer_utf8.h"

/* By lead byte, the second byte's range keeps out overlong forms, surrogates and what lies behind
 * U+10FFFF (Unicode standard, table 3-7). */
static int lead(unsigned char c, unsigned char *low, unsigned char *high) {
    *low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    *high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
}

/* Bytes at p that could begin a character; *whole is how many it would take. */
static int part(const char *p, size_t n, int *whole) {
    const unsigned char *u = (const unsigned char *)p;
    unsigned char low, high;
    *whole = lead(u[0], &low, &high);
    int have = 1;
    while (have < *whole && (size_t)have < n && u[have] >= low && u[have] <= high) {
        have++;
        low = 0x80;
        high = 0xbf;
    }
    return have;
}

int utf8_valid(const char *p, size_t n) {
    if (n == 0) return 0;
    int whole, have = part(p, n, &whole);
    return have == whole ? whole : 0;
}

size_t utf8_check(const char *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8 && (memcpy(&eight, p + i, 8), !(eight & 0x8080808080808080ull))) {
            i += 8;
            continue;
        }
        int length = utf8_valid(p + i, n - i);
        if (!length) return i;
        i += (size_t)length;
    }
    return n;
}

int32_t utf8_read(const char *p, int *length) {
    const unsigned char *u = (const unsigned char *)p;
    *length = utf8_length(*p);
    if (*length == 1) return u[0];
    int32_t c = u[0] & (0x7f >> *length);
    for (int i = 1; i < *length; i++) c = c << 6 | (u[i] & 0x3f);
    return c;
}

int utf8_write(int32_t codepoint, char out[4]) {
    return (int)utf8proc_encode_char(codepoint, (utf8proc_uint8_t *)out);
}

const char *utf8_before(const char *p) {
    do p--;
    while (((unsigned char)*p & 0xc0) == 0x80);
    return p;
}

void utf8_add_lossy(Buf *out, const char *p, size_t n) {
    while (n > 0) {
        size_t good = utf8_check(p, n);
        buf_add(out, p, good);
        if (good == n) return;
        int whole, bad = part(p + good, n - good, &whole);
        buf_add_text(out, "\xef\xbf\xbd");
        p += good + (size_t)bad;
        n -= good + (size_t)bad;
    }
}

bool char_is_space(int32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

bool char_is_word(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* the joiners, and the circled and squared letters that count as alphabetic */
        return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
               (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
               (c >= 0x1f170 && c <= 0x1f189);
    }
}

/* Bytes that are printable in Latin-1 stand for themselves; the others, in order, for the
 * characters from U+0100 on (GPT-2's scheme). */
static bool stands_for_itself(int32_t c) {
    return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

int32_t byte_to_char(unsigned char byte) {
    if (stands_for_itself(byte)) return byte;
    if (byte <= ' ') return 0x100 + byte;
    return byte == 0xad ? 0x143 : 0x100 + 33 + (byte - 0x7f);
}

int char_to_byte(int32_t c) {
    if (stands_for_itself(c)) return c;
    if (c < 0x100 || c > 0x143) return -1;
    if (c <= 0x120) return c - 0x100;
    return c == 0x143 ? 0xad : c - 0x121 + 0x7f;
}
