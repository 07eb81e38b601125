/* turn.h - the rotation that TurboQuant's formats store their rows in: y = H D x, where D are
 * random signs (fixed: a hash of the column) and H a Walsh-Hadamard transform over blocks of the
 * largest power of two that divides cols, at most 256, scaled to be orthonormal. Turning both
 * operands of a product leaves it as it was: activations are turned once, weights are never turned
 * back. Source: TurboQuant, arXiv 2504.19874; HIGGS, arXiv 2411.17525. */
#ifndef TURN_H
#define TURN_H
#include <stdint.h>

/* In place, n rows of cols values each, ld apart. Serial. */
void turn_rows(float *x, int64_t n, int64_t cols, int64_t ld);
void turn_rows_back(float *x, int64_t n, int64_t cols, int64_t ld);

/* Columns of a block: those that mix with one another. */
int64_t turn_block(int64_t cols);
/* The same for columns [from, from + some) alone, whole blocks: x points at column from. */
void turn_columns(float *x, int64_t n, int64_t cols, int64_t from, int64_t some, int64_t ld);
void turn_columns_back(float *x, int64_t n, int64_t cols, int64_t from, int64_t some, int64_t ld);
#endif
