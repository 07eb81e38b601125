/* tokenizer_utf8.h - characters of UTF-8 text: checking, walking, and the few classes of them that
 * tokenizers ask for. */
#ifndef TOKENIZER_UTF8_H
#define TOKENIZER_UTF8_H
#include "../autograd/base.h"

/* How many bytes from p on are one valid character (1 to 4), or 0; n: bytes there are. */
int utf8_valid(const char *p, size_t n);
/* The first byte that is not part of valid UTF-8, or n. Surrogates are not valid. */
size_t utf8_check(const char *p, size_t n);
/* The character at p, valid UTF-8, and its length in bytes. */
int32_t utf8_read(const char *p, int *length);
int utf8_write(int32_t codepoint, char out[4]); /* returns the length */
/* The length of the character that starts with this byte, in valid UTF-8. */
static inline int utf8_length(char first) {
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}
/* The start of the character that ends before p. */
const char *utf8_before(const char *p);
/* Appends bytes as UTF-8; each invalid run (a maximal part of a character) becomes U+FFFD. */
void utf8_add_lossy(Buf *out, const char *p, size_t n);

bool char_is_space(int32_t c); /* Unicode White_Space */
bool char_is_word(int32_t c);  /* letters, marks, decimal digits, connectors, joiners */

/* Byte-level tokenizers write every byte as a printable character of its own. */
int32_t byte_to_char(unsigned char byte);
int char_to_byte(int32_t c); /* -1: not one of the 256 */
#endif
