/* rows.h - what the ops share: arithmetic on one row, and how rows are dealt to threads. Pieces
 * are cut by size alone, never by the number of threads, and every sum has one fixed order: the
 * same bits come out whoever computes them. */
#ifndef AUTOGRAD_ROWS_H
#define AUTOGRAD_ROWS_H
#include <stdbool.h>
#include <stdint.h>

/* Values worth a thread's while: less than that runs on the calling thread. */
enum { ROWS_PIECE = 16384 };
#define ROWS_PRAGMA(text) _Pragma(#text)

/* for (r = 0; r < rows; r++), shared among threads; the body costs about `values` values a row
 * and writes to places no other r writes to. */
#define FOR_ROWS(r, rows, values)                                                                  \
    ROWS_PRAGMA(omp parallel for schedule(static) if ((rows) * (values) > ROWS_PIECE))             \
    for (int64_t r = 0; r < (rows); r++)

/* The same over n values in pieces: at is the first of row_piece(at, n) values. */
#define FOR_PIECES(at, n)                                                                          \
    ROWS_PRAGMA(omp parallel for schedule(static) if ((n) > ROWS_PIECE))                           \
    for (int64_t at = 0; at < (n); at += ROWS_PIECE)
static inline int64_t row_piece(int64_t at, int64_t n) {
    return n - at < ROWS_PIECE ? n - at : ROWS_PIECE;
}

/* Row r of x (rows, ld apart), n values that are read soon, on their way to the cache: ask for the
 * row FETCH_AHEAD rows on. Memory is the limit of most ops, and this keeps more of it in flight
 * than the processor does by itself. */
enum { FETCH_AHEAD = 2 };
static inline void row_fetch(const float *x, int64_t r, int64_t rows, int64_t ld, int64_t n) {
    for (int64_t i = 0; r < rows && i < n; i += 16) __builtin_prefetch(x + r * ld + i);
}

void row_scale(float *y, const float *x, float s, int64_t n);      /* y = s*x */
void row_add_scaled(float *y, const float *x, float s, int64_t n); /* y += s*x */
/* y = s*x where set, else y += s*x */
static inline void row_put_scaled(float *y, const float *x, float s, int64_t n, bool set) {
    if (set)
        row_scale(y, x, s, n);
    else
        row_add_scaled(y, x, s, n);
}
/* sum of a*b; of a*b*c. Added up in float32 runs short enough that the error stays that of the
 * products, then in float64. */
double row_dot(const float *a, const float *b, int64_t n);
double row_dot3(const float *a, const float *b, const float *c, int64_t n);
#endif
