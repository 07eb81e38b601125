/* line.h - how 4-bit codes lie in a packed block, so that one copy opens fast both ways.
 *
 * A block of 32 rows by 64 columns has 16 lines of 64 bytes; line i holds rows n = 2i and n + 1 as
 * 32 words of 16 bits. Word w holds four codes, low nibble first:
 *     (n, c)  (n, 32 + c)  (n + 1, c)  (n + 1, 32 + c)       with c = line_column(w)
 * Shifting the words by 0, 4, 8, 12 and looking up the low nibbles gives 32 values of one row each:
 * a row of a left operand of a matrix product, columns in the order of line_column. Interleaving
 * those of row n and n + 1 (low halves, then high halves of the 128-bit lanes) gives pairs
 * (row n, row n + 1) of columns 0..15, then 16..31 in natural order: rows of a right operand. */
#ifndef QUANT_LINE_H
#define QUANT_LINE_H
#include <stdint.h>

enum { LINES = 16, LINE_BYTES = 64, LINE_WORDS = 32 };

static inline int line_column(int w) {
    int lane = w / 8, i = w % 8;
    return i < 4 ? 4 * lane + i : 16 + 4 * lane + i - 4;
}
/* Word of column c (0..31): the inverse. */
static inline int line_word(int c) {
    return c < 16 ? c / 4 * 8 + c % 4 : (c - 16) / 4 * 8 + 4 + c % 4;
}
#endif
