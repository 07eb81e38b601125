/* pack.c - see pack.h. Sixteen rows at a time, a tile after the other: the rows are sixteen streams
 * that the processor reads ahead in, and those of the next tiles are asked for meanwhile. */
#include "pack.h"
#include "cpu.h"
#include "simd.h"
#include "tiles.h"
#include "turn.h"
#include <string.h>

/* n columns of some rows (<= TILE_TOKENS) become whole tiles, one behind the other. */
typedef void PackTiles(const float *const *row, int64_t some, int64_t n, float s, bool right,
                       char *tile);

/* ---- any processor ---- */

/* A row of left operands: s*x rounded to bfloat16, zeros up to whole tiles. */
enum { NEXT_TILE = TILE_BYTES / 2 };
SIMD static void round_row(const float *restrict x, int64_t n, float s, uint16_t *restrict tile) {
    for (; n >= TILE_COLS; n -= TILE_COLS, x += TILE_COLS, tile += NEXT_TILE) {
        for (int i = 0; i < TILE_COLS; i++) tile[i] = f32_to_bf16(s * x[i]);
    }
    for (int i = 0; n > 0 && i < TILE_COLS; i++) tile[i] = i < n ? f32_to_bf16(s * x[i]) : 0;
}

/* Four tokens' pairs p..p+3 become four rows of four tokens. */
typedef uint32_t Quad __attribute__((vector_size(16), may_alias));
SIMD_INLINE void transpose_quad(const uint32_t *from, uint32_t *to, const int *row) {
    const Quad *q = (const Quad *)(const void *)from;
    Quad a = __builtin_shufflevector(q[0], q[4], 0, 4, 1, 5);
    Quad b = __builtin_shufflevector(q[0], q[4], 2, 6, 3, 7);
    Quad c = __builtin_shufflevector(q[8], q[12], 0, 4, 1, 5);
    Quad d = __builtin_shufflevector(q[8], q[12], 2, 6, 3, 7);
    *(Quad *)(void *)(to + row[0] * TILE_TOKENS) = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    *(Quad *)(void *)(to + row[1] * TILE_TOKENS) = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    *(Quad *)(void *)(to + row[2] * TILE_TOKENS) = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    *(Quad *)(void *)(to + row[3] * TILE_TOKENS) = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* Pair p of a right operand's columns stands in row pair_row[p]: pair_column's inverse. */
static const int pair_row[16] = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};

/* Tiles of a left operand become those of a right one, in place: dwords are transposed. */
SIMD static void transpose_tiles(char *tiles, int64_t n) {
    for (int64_t k = 0; k < n; k++) {
        uint32_t *tile = (uint32_t *)(void *)(tiles + k * TILE_BYTES);
        _Alignas(64) uint32_t from[TILE_BYTES / 4];
        memcpy(from, tile, sizeof from);
        for (int token = 0; token < TILE_TOKENS; token += 4) {
            for (int p = 0; p < 16; p += 4)
                transpose_quad(from + token * 16 + p, tile + token, pair_row + p);
        }
    }
}

static void pack_tiles(const float *const *row, int64_t some, int64_t n, float s, bool right,
                       char *tile) {
    int64_t tiles = (n + TILE_COLS - 1) / TILE_COLS;
    for (int64_t i = 0; i < some; i++) round_row(row[i], n, s, (uint16_t *)(void *)(tile + i * 64));
    for (int64_t k = 0; k < tiles; k++)
        memset(tile + k * TILE_BYTES + some * 64, 0, (size_t)(TILE_TOKENS - some) * 64);
    if (right) transpose_tiles(tile, tiles);
}

/* ---- the same by the instructions there are for it (which take subnormal values for zero) ---- */

enum { AHEAD = 3 * TILE_COLS };
AMX_TARGET static void pack_tiles_avx512(const float *const *row, int64_t some, int64_t n, float s,
                                         bool right, char *tile) {
    const __m512 by = _mm512_set1_ps(s);
    for (int64_t c = 0; c < n; c += TILE_COLS, tile += TILE_BYTES) {
        __mmask16 low = tile_lanes(n - c), high = tile_lanes(n - c - 16);
        __m512i r[TILE_TOKENS];
        for (int64_t i = 0; i < TILE_TOKENS; i++) {
            r[i] = _mm512_setzero_si512();
            if (i >= some) continue;
            const float *x = row[i] + c;
            _mm_prefetch((const char *)(x + AHEAD), _MM_HINT_T0);
            _mm_prefetch((const char *)(x + AHEAD + 16), _MM_HINT_T0);
            r[i] = tile_round(_mm512_mul_ps(_mm512_maskz_loadu_ps(low, x), by),
                              _mm512_mul_ps(_mm512_maskz_loadu_ps(high, x + 16), by));
        }
        if (right) tile_swap(r);
        for (int i = 0; i < TILE_TOKENS; i++)
            _mm512_store_si512(tile + 64 * (right ? pair_row[i] : i), r[i]);
    }
}
static PackTiles *pack_fn(void) { return cpu_isa() == ISA_AMX ? pack_tiles_avx512 : pack_tiles; }

/* ---- rows ---- */

int64_t pack_strip(int64_t cols) { return max64(turn_block(cols), BLOCK_COLS); }

void pack_rows(const Packed *p, int64_t first, int64_t n, const Rows *r, bool right,
               float *turned) {
    PackTiles *pack = pack_fn();
    int64_t wide = turned ? pack_strip(r->cols) : r->cols,
            full = (r->cols + TILE_COLS - 1) / TILE_COLS;
    for (int64_t t = 0; t < p->m; t += TILE_TOKENS) {
        char *tile = packed_tile(p, t / TILE_TOKENS, first);
        int64_t some = min64(TILE_TOKENS, p->m - t);
        for (int64_t col = 0; col < r->cols; col += wide) {
            int64_t cols = min64(wide, r->cols - col);
            const float *row[TILE_TOKENS];
            for (int64_t i = 0; i < some; i++) {
                row[i] = r->x + (r->at ? r->at[t + i] : t + i) * r->cols + col;
                if (!turned) continue;
                memcpy(turned + i * cols, row[i], (size_t)cols * sizeof *turned);
                row[i] = turned + i * cols;
            }
            if (turned) turn_columns(turned, some, r->cols, col, cols, cols);
            pack(row, some, cols, r->s, right, tile + col / TILE_COLS * TILE_BYTES);
        }
        memset(tile + full * TILE_BYTES, 0, (size_t)((n - full) * TILE_BYTES));
    }
}
