/* matmul_vector.h - the kernels of matmul_vector.c, once per VEC (see vec.h): included by it alone.
 *
 * A piece of the weight is opened to float32 [row][column], rounded to bfloat16; a piece of the
 * packed rows becomes float32, too; then blocks of sums that fit the registers run over the piece.
 * Sums go forward in the order of columns (rows of w backward) within a chunk, chunk after chunk.
 */
#include "vec.h"

/* ---- opening -------------------------------------------------------------------------------- */

/* from may be to. */
TARGET static void NAME(round_row)(const float *from, int64_t n, float *to) {
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) NAME(store)(to + i, NAME(bf16)(NAME(load)(from + i)));
    for (; i < n; i++) to[i] = simd_bf16(from[i]);
}
TARGET_INLINE V NAME(load_bf16)(const uint16_t *p) {
    typedef uint16_t Words __attribute__((vector_size(VEC * 2)));
    Words words;
    memcpy(&words, p, sizeof words);
    return (V)(__builtin_convertvector(words, U) << 16);
}
TARGET static void NAME(widen)(const uint16_t *from, int64_t n, float *to) {
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) NAME(store)(to + i, NAME(load_bf16)(from + i));
    for (; i < n; i++) to[i] = bf16_to_f32(from[i]);
}

#if VEC > 4
/* 16 values, chosen by the low four bits of each lane. */
#if VEC == 16
typedef struct NAME(Table) {
    V v;
} NAME(Table);
TARGET_INLINE V NAME(look_up)(NAME(Table) t, U code) {
    return (V)_mm512_permutexvar_ps((__m512i)code, (__m512)t.v);
}
TARGET_INLINE NAME(Table) NAME(table)(const float *value, float scale) {
    return (NAME(Table)){NAME(bf16)(NAME(load)(value) * NAME(all)(scale))};
}
/* Words side by side: the low (high) halves of the 128-bit lanes, each word twice. */
TARGET_INLINE U NAME(low_words)(U u) { return (U)_mm512_unpacklo_epi16((__m512i)u, (__m512i)u); }
TARGET_INLINE U NAME(high_words)(U u) { return (U)_mm512_unpackhi_epi16((__m512i)u, (__m512i)u); }
#else
typedef struct NAME(Table) {
    V low, high;
} NAME(Table);
TARGET_INLINE V NAME(look_up)(NAME(Table) t, U code) {
    __m256 low = _mm256_permutevar8x32_ps((__m256)t.low, (__m256i)code);
    __m256 high = _mm256_permutevar8x32_ps((__m256)t.high, (__m256i)code);
    return (V)_mm256_blendv_ps(low, high, (__m256)(code << 28));
}
TARGET_INLINE NAME(Table) NAME(table)(const float *value, float scale) {
    V s = NAME(all)(scale);
    return (NAME(Table)){NAME(bf16)(NAME(load)(value) * s), NAME(bf16)(NAME(load)(value + 8) * s)};
}
TARGET_INLINE U NAME(low_words)(U u) { return (U)_mm256_unpacklo_epi16((__m256i)u, (__m256i)u); }
TARGET_INLINE U NAME(high_words)(U u) { return (U)_mm256_unpackhi_epi16((__m256i)u, (__m256i)u); }
#endif

/* A block of lines (quant/line.h) with the values that its codes stand for and their scales
 * [row][half] or [row]: 32 rows of 64 values, ld apart. */
TARGET_INLINE void NAME(open_lines_as)(const char *lines, const float *value, const float *scale,
                                       const bool halves, float *dst, int64_t ld) {
    for (int row = 0; row < PANEL_ROWS; row += 2, dst += 2 * ld, lines += LINE_BYTES) {
        NAME(Table) table[4];
        UNROLL for (int i = 0; i < 4; i++) {
            if (halves || i % 2 == 0) {
                table[i] = NAME(table)(value, scale[halves ? 2 * row + i : row + i / 2]);
            } else {
                table[i] = table[i - 1];
            }
        }
        UNROLL for (int at = 0; at < 16; at += VEC) {
            U words, low, high;
            memcpy(&words, lines + at * 4, sizeof words);
            low = NAME(low_words)(words);
            high = NAME(high_words)(words);
            UNROLL for (int i = 0; i < 4; i++) {
                float *to = dst + i / 2 * ld + i % 2 * 32 + at;
                NAME(store)(to, NAME(look_up)(table[i], low >> 4 * i));
                NAME(store)(to + 16, NAME(look_up)(table[i], high >> 4 * i));
            }
        }
    }
}
TARGET static void NAME(open_lines)(const char *lines, const float *value, const float *scale,
                                    bool halves, float *dst, int64_t ld) {
    if (halves) {
        NAME(open_lines_as)(lines, value, scale, true, dst, ld);
    } else {
        NAME(open_lines_as)(lines, value, scale, false, dst, ld);
    }
}
#endif

/* VEC int8 to float32. */
#if VEC == 16
TARGET_INLINE V NAME(from_int8)(__m128i q) {
    return (V)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
}
#elif VEC == 8
TARGET_INLINE V NAME(from_int8)(__m128i q) {
    return (V)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
}
#endif

/* A block of int8 with the scales of its rows. Of 32 int8 in the order of line_column each second
 * run of four belongs to the low 16 columns. */
TARGET static void NAME(open_int8)(const int8_t *q, const float *scale, float *dst, int64_t ld) {
    for (int row = 0; row < PANEL_ROWS; row++, dst += ld) {
        V s = NAME(all)(scale[row]);
        UNROLL for (int half = 0; half < BLOCK_COLS; half += 32, q += 32) {
            UNROLL for (int at = 0; at < 16; at += VEC) {
                V low, high;
#if VEC == 16
                __m256i q32 = _mm256_loadu_si256((const __m256i *)(const void *)q);
                q32 = _mm256_permutevar8x32_epi32(q32, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
                low = NAME(from_int8)(_mm256_castsi256_si128(q32));
                high = NAME(from_int8)(_mm256_extracti128_si256(q32, 1));
#elif VEC == 8
                __m128i q16 = _mm_loadu_si128((const __m128i *)(const void *)(q + 2 * at));
                q16 = _mm_shuffle_epi32(q16, _MM_SHUFFLE(3, 1, 2, 0));
                low = NAME(from_int8)(q16);
                high = NAME(from_int8)(_mm_unpackhi_epi64(q16, q16));
#else
                const int8_t *p = q + 2 * at;
                low = (V){p[0], p[1], p[2], p[3]};
                high = (V){p[4], p[5], p[6], p[7]};
#endif
                NAME(store)(dst + half + at, NAME(bf16)(low * s));
                NAME(store)(dst + half + 16 + at, NAME(bf16)(high * s));
            }
        }
    }
}

/* ---- forward: blocks of 16 tokens ----------------------------------------------------------- */

enum {
    NAME(TOKEN_TILES) = VEC == 16 ? 3 : 1, /* at a time */
    NAME(TOKEN_VECS) = TILE_TOKENS / VEC,
    NAME(C_LD) = NAME(TOKEN_TILES) * TILE_TOKENS
};

/* n tiles of one token tile become x[column][token], rows ld apart. */
TARGET static void NAME(spread_right)(const char *tile, int64_t n, float *x, int64_t ld) {
    for (; n > 0; n--, x += TILE_COLS * ld) {
        for (int r = 0; r < 16; r++, tile += 64) {
            float *to = x + pair_column(r) * ld;
            UNROLL for (int i = 0; i < NAME(TOKEN_VECS); i++) {
                U pair;
                memcpy(&pair, tile + i * sizeof pair, sizeof pair);
                NAME(store)(to + i * VEC, (V)(pair << 16));
                NAME(store)(to + ld + i * VEC, (V)(pair & 0xffff0000u));
            }
        }
    }
}

/* c[r][token] += sum over k of w[r][k] x[k][token]: nr rows, nv vectors of tokens. */
TARGET_INLINE void NAME(token_block)(const int nr, const int nv, const float *w, const float *x,
                                     int64_t k, float *c) {
    V sum[nr > 8 ? 16 : 8][4];
    UNROLL for (int r = 0; r < nr; r++) {
        UNROLL for (int v = 0; v < nv; v++) sum[r][v] = NAME(load)(c + r * NAME(C_LD) + v * VEC);
    }
    for (int64_t i = 0; i < k; i++, x += nv * VEC) {
        V right[4];
        UNROLL for (int v = 0; v < nv; v++) right[v] = NAME(load)(x + v * VEC);
        UNROLL for (int r = 0; r < nr; r++) {
            V left = NAME(all)(w[r * FORWARD_LD + i]);
            UNROLL for (int v = 0; v < nv; v++) sum[r][v] = NAME(fma)(left, right[v], sum[r][v]);
        }
    }
    UNROLL for (int r = 0; r < nr; r++) {
        UNROLL for (int v = 0; v < nv; v++) NAME(store)(c + r * NAME(C_LD) + v * VEC, sum[r][v]);
    }
}
#define TOKEN_BLOCK(nr, nv)                                                                        \
    TARGET static void NAME(token_block_##nr##_##nv)(const float *w, const float *x, int64_t k,    \
                                                     float *c) {                                   \
        NAME(token_block)(nr, nv, w, x, k, c);                                                     \
    }
#if VEC == 16
TOKEN_BLOCK(8, 3)
TOKEN_BLOCK(8, 2)
TOKEN_BLOCK(16, 1)
#elif VEC == 8
TOKEN_BLOCK(6, 2)
TOKEN_BLOCK(4, 2)
#else
TOKEN_BLOCK(2, 4)
#endif
#undef TOKEN_BLOCK

/* All n rows against `tiles` token tiles. */
TARGET static void NAME(token_rows)(int n, int tiles, const float *w, const float *x, int64_t k,
                                    float *c) {
    for (int r = 0, step; r < n; r += step, w += step * FORWARD_LD, c += step * NAME(C_LD)) {
#if VEC == 16
        step = tiles == 1 ? 16 : 8;
        if (tiles == 3) NAME(token_block_8_3)(w, x, k, c);
        if (tiles == 2) NAME(token_block_8_2)(w, x, k, c);
        if (tiles == 1) NAME(token_block_16_1)(w, x, k, c);
#elif VEC == 8
        (void)tiles;
        step = n - r > 8 ? 6 : 4;
        if (step == 6) NAME(token_block_6_2)(w, x, k, c);
        if (step == 4) NAME(token_block_4_2)(w, x, k, c);
#else
        (void)tiles;
        step = 2;
        NAME(token_block_2_4)(w, x, k, c);
#endif
    }
}

/* ---- forward: a few tokens ------------------------------------------------------------------ */

/* sum[r][token] (vectors along the columns, FEW_LD floats from row to row) += w[r] * x[token]. */
TARGET_INLINE void NAME(few_block)(const int nr, const int nt, const float *w, const float *x,
                                   int64_t k, float *sum) {
    V s[8][4];
    UNROLL for (int r = 0; r < nr; r++) {
        UNROLL for (int t = 0; t < nt; t++) s[r][t] = NAME(load)(sum + r * FEW_LD + t * VEC);
    }
    for (int64_t i = 0; i < k; i += VEC) {
        V right[4];
        UNROLL for (int t = 0; t < nt; t++) right[t] = NAME(load)(x + t * FORWARD_LD + i);
        UNROLL for (int r = 0; r < nr; r++) {
            V left = NAME(load)(w + r * FORWARD_LD + i);
            UNROLL for (int t = 0; t < nt; t++) s[r][t] = NAME(fma)(left, right[t], s[r][t]);
        }
    }
    UNROLL for (int r = 0; r < nr; r++) {
        UNROLL for (int t = 0; t < nt; t++) NAME(store)(sum + r * FEW_LD + t * VEC, s[r][t]);
    }
}
#define FEW_BLOCK(nr, nt)                                                                          \
    TARGET static void NAME(few_block_##nr##_##nt)(const float *w, const float *x, int64_t k,      \
                                                   float *sum) {                                   \
        NAME(few_block)(nr, nt, w, x, k, sum);                                                     \
    }
#if VEC == 16
FEW_BLOCK(8, 1)
FEW_BLOCK(8, 2)
FEW_BLOCK(4, 3)
FEW_BLOCK(4, 4)
#else
FEW_BLOCK(4, 1)
FEW_BLOCK(4, 2)
#endif
#undef FEW_BLOCK

TARGET static void NAME(few_rows)(int n, int tokens, const float *w, const float *x, int64_t k,
                                  float *sum) {
    const int most = VEC == 16 ? 4 : 2;
    for (int t = 0, some; t < tokens; t += some, x += some * FORWARD_LD, sum += some * VEC) {
        some = tokens - t < most ? tokens - t : most;
        int step = VEC == 16 && some <= 2 ? 8 : 4;
        for (int r = 0; r < n; r += step) {
            const float *left = w + r * FORWARD_LD;
            float *to = sum + r * FEW_LD;
#if VEC == 16
            if (some == 1) NAME(few_block_8_1)(left, x, k, to);
            if (some == 2) NAME(few_block_8_2)(left, x, k, to);
            if (some == 3) NAME(few_block_4_3)(left, x, k, to);
            if (some == 4) NAME(few_block_4_4)(left, x, k, to);
#else
            if (some == 1) NAME(few_block_4_1)(left, x, k, to);
            if (some == 2) NAME(few_block_4_2)(left, x, k, to);
#endif
        }
    }
}

/* ---- backward ------------------------------------------------------------------------------- */

/* n tiles of one token tile become dy[token][row of w]. */
TARGET static void NAME(spread_left)(const char *tile, int64_t n, int tokens, float *dy) {
    for (; n > 0; n--, dy += TILE_COLS, tile += TILE_BYTES) {
        for (int t = 0; t < tokens; t++) {
            const uint16_t *from = (const uint16_t *)(const void *)(tile + t * 64);
            UNROLL for (int i = 0; i < TILE_COLS; i += VEC) {
                NAME(store)(dy + t * BACKWARD_ROWS + i, NAME(load_bf16)(from + i));
            }
        }
    }
}

/* dx[token][column] += sum over k of dy[token][k] w[k][column], nt tokens, nv vectors. */
TARGET_INLINE void NAME(back_block)(const int nt, const int nv, const float *dy, const float *w,
                                    int64_t k, float *dx, int64_t ld) {
    V sum[6][4];
    UNROLL for (int t = 0; t < nt; t++) {
        UNROLL for (int v = 0; v < nv; v++) sum[t][v] = NAME(load)(dx + t * ld + v * VEC);
    }
    for (int64_t i = 0; i < k; i++, w += BLOCK_COLS) {
        V right[4];
        UNROLL for (int v = 0; v < nv; v++) right[v] = NAME(load)(w + v * VEC);
        UNROLL for (int t = 0; t < nt; t++) {
            V left = NAME(all)(dy[t * BACKWARD_ROWS + i]);
            UNROLL for (int v = 0; v < nv; v++) sum[t][v] = NAME(fma)(left, right[v], sum[t][v]);
        }
    }
    UNROLL for (int t = 0; t < nt; t++) {
        UNROLL for (int v = 0; v < nv; v++) NAME(store)(dx + t * ld + v * VEC, sum[t][v]);
    }
}
enum { NAME(BACK_TOKENS) = VEC == 4 ? 2 : 6, NAME(BACK_VECS) = VEC == 8 ? 2 : 4 };
#define BACK_BLOCK(nt)                                                                             \
    TARGET static void NAME(back_block_##nt)(const float *dy, const float *w, int64_t k,           \
                                             float *dx, int64_t ld) {                              \
        NAME(back_block)(nt, NAME(BACK_VECS), dy, w, k, dx, ld);                                   \
    }
BACK_BLOCK(1)
BACK_BLOCK(2)
#if VEC > 4
BACK_BLOCK(3)
BACK_BLOCK(4)
BACK_BLOCK(5)
BACK_BLOCK(6)
#endif
#undef BACK_BLOCK

/* n tokens, in nearly equal blocks of at most BACK_TOKENS. */
TARGET static void NAME(back_rows)(int n, const float *dy, const float *w, int64_t k, float *dx,
                                   int64_t ld) {
    typedef void Block(const float *, const float *, int64_t, float *, int64_t);
    static Block *const block[] = {
        NULL,
        NAME(back_block_1),
        NAME(back_block_2),
#if VEC > 4
        NAME(back_block_3),
        NAME(back_block_4),
        NAME(back_block_5),
        NAME(back_block_6)
#endif
    };
    int blocks = (n + NAME(BACK_TOKENS) - 1) / NAME(BACK_TOKENS);
    for (; blocks > 0; blocks--) {
        int some = (n + blocks - 1) / blocks;
        for (int c = 0; c < BLOCK_COLS; c += NAME(BACK_VECS) * VEC) {
            block[some](dy, w + c, k, dx + c, ld);
        }
        n -= some, dy += some * BACKWARD_ROWS, dx += some * ld;
    }
}

static const Kernels NAME(kernels) = {
    .token_tiles = NAME(TOKEN_TILES),
    .round_row = NAME(round_row),
    .widen = NAME(widen),
#if VEC > 4
    .open_lines = NAME(open_lines),
#endif
    .open_int8 = NAME(open_int8),
    .spread_right = NAME(spread_right),
    .token_rows = NAME(token_rows),
    .few_rows = NAME(few_rows),
    .few_lanes = VEC,
    .spread_left = NAME(spread_left),
    .back_rows = NAME(back_rows),
};
