/* tiles.h - float32 matrices as bfloat16 operands of AMX tiles, and products of such tiles. A
 * packed tile is TILE_PACK bytes. Of a matrix x, rounded to bfloat16 (to nearest even; subnormals
 * become 0, as the products take them anyway):
 *   rows tile:   16 rows by 32 columns; left operand of x, or transposed right operand of xT
 *   pairs tile:  32 rows by 16 columns, rows 2r and 2r+1 interleaved; right operand of x, or
 *                transposed left operand of xT
 * What lies outside x is zero. */
#ifndef TILES_H
#define TILES_H
#include "amx.h"
#include <immintrin.h>

enum { TILE_PACK = 1024 };

/* The lowest n of 16 lanes; n may be anything. */
AMX_INLINE __mmask16 tile_lanes(int64_t n) {
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* Swaps rows and columns of 16 x 16 dwords, in registers. */
AMX_INLINE void tile_swap(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

AMX_INLINE void tile_transpose(const char *from, char *to) {
    __m512i r[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_load_si512(from + 64 * i);
    tile_swap(r);
    for (int i = 0; i < 16; i++) _mm512_store_si512(to + 64 * i, r[i]);
}

/* n values from p on, on their way to the cache. */
AMX_INLINE void tile_fetch(const float *p, int64_t n) {
    for (int64_t c = 0; c < n; c += 16) _mm_prefetch((const char *)(p + c), _MM_HINT_T0);
}

/* Two vectors as 32 bfloat16 values, low first. */
AMX_INLINE __m512i tile_round(__m512 low, __m512 high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Columns [c, c + 32) of x (rows <= 16, cols) as a rows tile. */
AMX_INLINE void tile_pack_rows(const float *x, int64_t ld, int64_t rows, int64_t cols, int64_t c,
                               char *to) {
    __mmask16 low = tile_lanes(cols - c), high = tile_lanes(cols - c - 16);
    for (int64_t i = 0; i < 16; i++) {
        __m512i v = _mm512_setzero_si512();
        if (i < rows) {
            const float *row = x + i * ld + c;
            v = tile_round(_mm512_maskz_loadu_ps(low, row), _mm512_maskz_loadu_ps(high, row + 16));
        }
        _mm512_store_si512(to + 64 * i, v);
    }
}

/* Columns [c, c + 16) of x (rows <= 32, cols) as a pairs tile. */
AMX_INLINE void tile_pack_pairs(const float *x, int64_t ld, int64_t rows, int64_t cols, int64_t c,
                                char *to) {
    const __m512i weave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __mmask16 lanes = tile_lanes(cols - c);
    for (int64_t r = 0; r < 16; r++) {
        const float *row = x + 2 * r * ld + c;
        __m512 a = _mm512_maskz_loadu_ps(2 * r < rows ? lanes : 0, row);
        __m512 b = _mm512_maskz_loadu_ps(2 * r + 1 < rows ? lanes : 0, row + ld);
        _mm512_store_si512(to + 64 * r, _mm512_permutexvar_epi16(weave, tile_round(a, b)));
    }
}

/* Products go to four sums at once: (left tile 0, 1) x (right tile 0, 1), in tile registers 0..3.
 * Seven registers live: processors that share a core with another thread slow down with eight. */
AMX_INLINE void tile_sums_zero(void) {
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
}
/* Sum (i, j) stands at c + i*row + j*col bytes, as 16 x 16 float32 values. */
AMX_INLINE void tile_sums_load(const char *c, int64_t row, int64_t col) {
    AMX_LOAD(0, c, 64);
    AMX_LOAD(1, c + col, 64);
    AMX_LOAD(2, c + row, 64);
    AMX_LOAD(3, c + row + col, 64);
}
AMX_INLINE void tile_sums_store(char *c, int64_t row, int64_t col) {
    AMX_STORE(0, c, 64);
    AMX_STORE(1, c + col, 64);
    AMX_STORE(2, c + row, 64);
    AMX_STORE(3, c + row + col, 64);
}
/* n tiles of the inner side, one behind the other; left tile 1 stands `row` bytes after left tile
 * 0, right tile 1 `col` bytes after right tile 0. */
AMX_INLINE void tile_sums_add(const char *a, int64_t row, const char *b, int64_t col, int64_t n) {
    for (int64_t i = 0; i < n; i++, a += TILE_PACK, b += TILE_PACK) {
        AMX_LOAD(4, a, 64);
        AMX_LOAD(5, b, 64);
        AMX_LOAD(6, b + col, 64);
        AMX_ADD(0, 4, 5);
        AMX_ADD(1, 4, 6);
        AMX_LOAD(4, a + row, 64);
        AMX_ADD(2, 4, 5);
        AMX_ADD(3, 4, 6);
    }
}
#endif
