/* matmul_vector.c - the products of matmul_kernels.h with the machine's vectors: AVX-512, AVX2 or
 * four floats at a time (cpu.h says which). The loops over pieces are here, and the formats; what
 * runs over a piece is in matmul_vector.h, compiled once for each.
 *
 * Weights are opened into scratch that stays in the second cache: 32 rows by FORWARD_COLS columns
 * forward, BACKWARD_ROWS rows by 64 columns backward, once for all tokens. Tokens go forward by
 * sixteens, the lanes of the vectors; what is left over, if few, goes with vectors along the
 * columns instead, so that one token costs no more than reading the weight. */
#include "cpu.h"
#include "matmul_kernels.h"
#include "quant/codebook.h"
#include "quant/line.h"
#include "simd.h"
#include "weight.h"

enum {
    FORWARD_COLS = 128,
    FORWARD_LD = FORWARD_COLS + 16, /* rows must not meet in one set of the cache */
    FORWARD_TOKENS = 480,           /* that share an opened piece: whole blocks */
    BACKWARD_ROWS = 128,
    ROWS_AHEAD = 16,
    BLOCK_TOKENS = 48, /* that are spread at a time */
    FEW_MOST = 9,      /* tokens short of a sixteen */
    FEW_LD = FEW_MOST * 16
};

/* n: columns of a chunk or rows of one; the sizes of the operands are as in the functions. */
typedef struct Kernels {
    int token_tiles; /* that token_rows takes at a time */
    int few_lanes;   /* of a sum of few_rows */
    void (*round_row)(const float *from, int64_t n, float *to);
    void (*widen)(const uint16_t *from, int64_t n, float *to);
    void (*open_lines)(const char *lines, const float *value, const float *scale, bool halves,
                       float *dst, int64_t ld); /* NULL: row by row */
    void (*open_int8)(const int8_t *q, const float *scale, float *dst, int64_t ld);
    void (*spread_right)(const char *tile, int64_t n, float *x, int64_t ld);
    void (*token_rows)(int n, int tiles, const float *w, const float *x, int64_t k, float *c);
    void (*few_rows)(int n, int tokens, const float *w, const float *x, int64_t k, float *sum);
    void (*spread_left)(const char *tile, int64_t n, int tokens, float *dy);
    void (*back_rows)(int n, const float *dy, const float *w, int64_t k, float *dx, int64_t ld);
} Kernels;

#define VEC 4
#include "matmul_vector.h"
#undef VEC
#define VEC 8
#include "matmul_vector.h"
#undef VEC
#define VEC 16
#include "matmul_vector.h"
#undef VEC

static const Kernels *kernels(void) {
    Isa isa = cpu_isa();
    return isa >= ISA_AVX512 ? &kernels_16 : isa == ISA_AVX2 ? &kernels_8 : &kernels_4;
}

/* ---- opening the weight --------------------------------------------------------------------- */

/* Where the scales of a block stand. */
typedef enum Scales { NO_SCALES, TAIL_F32, ROW_F32, ROW_BF16, HALF_BF16, HALF_E8M0 } Scales;

/* The packed formats: what a code of a line stands for (NULL: int8), and the scales. */
static const struct {
    const float *value;
    Scales scales;
} packed_as[DT_COUNT] = {
    [DT_int8] = {NULL, TAIL_F32},          [DT_nf4] = {NF4_VALUE, ROW_F32},
    [DT_nf4_bf16] = {NF4_VALUE, ROW_BF16}, [DT_tq4] = {TQ4_VALUE, TAIL_F32},
    [DT_tq4_b64] = {TQ4_VALUE, ROW_BF16},  [DT_int4_g32] = {INT4_VALUE, HALF_BF16},
    [DT_mxfp4] = {E2M1_VALUE, HALF_E8M0},
};

static float row_scale(Scales s, const void *at, int i) {
    float f;
    uint16_t h;
    if (s == HALF_E8M0) return e8m0_value(((const uint8_t *)at)[i]);
    if (s == TAIL_F32 || s == ROW_F32) {
        memcpy(&f, (const char *)at + i * 4, sizeof f);
        return f;
    }
    memcpy(&h, (const char *)at + i * 2, sizeof h);
    return bf16_to_f32(h);
}

/* One block of a packed panel: 32 rows of 64 values. */
static void open_block(const Kernels *k, const Tensor *w, const char *panel, int64_t block,
                       float *dst, int64_t ld) {
    float scale[PANEL_ROWS * 2];
    const PackedFormat *p = dtype_info[w->dtype].packed;
    Scales s = packed_as[w->dtype].scales;
    const char *at = panel + block * p->block_bytes, *scales = at + LINES * LINE_BYTES;
    if (s == TAIL_F32) scales = panel + panel_bytes(w->dtype, tensor_cols(w)) - p->tail_bytes;
    if (!packed_as[w->dtype].value) {
        for (int r = 0; r < PANEL_ROWS; r++) scale[r] = row_scale(s, scales, r);
        k->open_int8((const int8_t *)at, scale, dst, ld);
        return;
    }
    bool halves = s == HALF_BF16 || s == HALF_E8M0;
    for (int i = 0; i < PANEL_ROWS << halves; i++) scale[i] = row_scale(s, scales, i);
    k->open_lines(at, packed_as[w->dtype].value, scale, halves, dst, ld);
}

/* Columns [from, from + n) of one row; zeros up to `width`. In plain formats the values `ahead` of
 * them are asked for: the machine does not see where the next piece of a row-major matrix is. */
static void open_row(const Kernels *k, const Tensor *w, int64_t row, int64_t from, int64_t n,
                     int64_t width, int64_t ahead, float *dst) {
    int64_t at = row * tensor_cols(w) + from;
    if (w->dtype == DT_f32 || w->dtype == DT_bf16) {
        int64_t size = w->dtype == DT_f32 ? 4 : 2;
        uintptr_t next = (uintptr_t)w->data + (uintptr_t)((at + ahead) * size);
        for (int64_t i = 0; i < n * size; i += 64)
            __builtin_prefetch((const void *)(next + (uintptr_t)i));
    }
    if (w->dtype == DT_f32) {
        k->round_row(f32(w) + at, n, dst);
    } else if (w->dtype == DT_bf16) {
        k->widen((const uint16_t *)w->data + at, n, dst);
    } else {
        weight_open(w, row, from, n, dst);
        k->round_row(dst, n, dst);
    }
    for (int64_t i = n; i < width; i++) dst[i] = 0;
}

/* Columns [from, from + cols) of n <= 32 rows of one panel, ld apart; zeros (or, in packed formats,
 * what pads their blocks) up to whole blocks. */
static void open_piece(const Kernels *k, const Tensor *w, int64_t row, int n, const void *panel,
                       int64_t from, int64_t cols, int64_t ahead, float *dst, int64_t ld) {
    int64_t blocks = (cols + BLOCK_COLS - 1) / BLOCK_COLS;
    bool whole = packed_as[w->dtype].scales != NO_SCALES && k->open_lines;
    for (int64_t b = 0; whole && b < blocks; b++) {
        open_block(k, w, panel, from / BLOCK_COLS + b, dst + b * BLOCK_COLS, ld);
    }
    for (int r = 0; !whole && r < n; r++) {
        open_row(k, w, row + r, from, cols, blocks * BLOCK_COLS, ahead, dst + r * ld);
    }
}

/* ---- forward -------------------------------------------------------------------------------- */

/* The first n values of each of the first `rows` quads. */
static void put_quads(const Quad *q, int n, int64_t rows, float *y, int64_t ldy) {
    for (int i = 0; i < 4 && i < rows; i++, y += ldy) {
        if (n >= 4) {
            quad_store(y, q[i]);
        } else {
            memcpy(y, &q[i], (size_t)n * sizeof *y);
        }
    }
}

typedef struct ForwardScratch {
    float w[PANEL_ROWS * FORWARD_LD], x[FORWARD_COLS * BLOCK_TOKENS];
    float c[PANEL_ROWS * FORWARD_TOKENS]; /* [block][row][token] */
    float few_x[(FEW_MOST + 3) * FORWARD_LD], few_sum[PANEL_ROWS * FEW_LD];
} ForwardScratch;

/* y[token][r] = c[r][token]. */
static void put_tokens(int n, int64_t tokens, const float *c, int64_t ldc, float *y, int64_t ldy) {
    for (int64_t t = 0; t < tokens; t += 4) {
        for (int r = 0; r < n; r += 4) {
            Quad from[4], to[4];
            for (int i = 0; i < 4; i++) from[i] = quad_load(c + (r + i) * ldc + t);
            quad_transpose(from, to);
            put_quads(to, n - r, tokens - t, y + t * ldy + r, ldy);
        }
    }
}

/* Tokens [first, tokens) of one token tile, four at most: n tiles become x[token][column]. */
static void spread_few(const char *tile, int64_t n, int first, int tokens, float *x) {
    for (; n > 0; n--, tile += TILE_BYTES, x += TILE_COLS) {
        for (int lane = 0; lane < 4; lane++) {
            Quad from[4], to[4];
            for (int i = 0; i < 4; i++) {
                const char *row = tile + (lane * 4 + i) * 64;
                from[i] = quad_load((const float *)(const void *)row + first);
            }
            quad_transpose(from, to);
            for (int t = 0; t < 4 && first + t < tokens; t++) {
                QuadBits even = (QuadBits)to[t] << 16, odd = (QuadBits)to[t] & 0xffff0000u;
                QuadBits low = __builtin_shufflevector(even, odd, 0, 4, 1, 5);
                QuadBits high = __builtin_shufflevector(even, odd, 2, 6, 3, 7);
                quad_store(x + t * FORWARD_LD + lane * 4, (Quad)low);
                quad_store(x + t * FORWARD_LD + 16 + lane * 4, (Quad)high);
            }
        }
    }
}

/* y[token][r] = the lanes of a sum taken together. */
static void put_few(int n, int64_t tokens, int lanes, const float *sum, float *y, int64_t ldy) {
    for (int64_t t = 0; t < tokens; t++) {
        for (int r = 0; r < n; r += 4) {
            Quad from[4], to[4];
            for (int i = 0; i < 4; i++) {
                const float *lane = sum + (r + i) * FEW_LD + t * lanes;
                from[i] = quad_load(lane);
                for (int l = 4; l < lanes; l += 4) from[i] += quad_load(lane + l);
            }
            quad_transpose(from, to);
            to[0] = (to[0] + to[1]) + (to[2] + to[3]);
            put_quads(to, n - r, 1, y + t * ldy + r, ldy);
        }
    }
}

/* The tokens of a task that are worked on together: those of `tiles` token tiles from tile `first`
 * on, then a few. */
typedef struct Tokens {
    int64_t first, tiles;
    int few;
} Tokens;

/* What s->w holds, n columns from tile k of the inner side on, meets the tokens. */
static void meet_tokens(const Kernels *k, const ForwardTask *f, const Tokens *p, ForwardScratch *s,
                        int64_t tile, int64_t n) {
    int64_t n_k = (n + TILE_COLS - 1) / TILE_COLS, cols = n_k * TILE_COLS;
    float *c = s->c;
    for (int64_t t = 0, some; t < p->tiles; t += some) {
        some = min64(k->token_tiles, p->tiles - t);
        for (int64_t i = 0; i < some; i++) {
            k->spread_right(packed_tile(f->x, p->first + t + i, tile), n_k, s->x + i * TILE_TOKENS,
                            some * TILE_TOKENS);
        }
        k->token_rows(f->n, (int)some, s->w, s->x, cols, c);
        c += PANEL_ROWS * k->token_tiles * TILE_TOKENS;
    }
    for (int t = 0; t < p->few; t += 4) {
        spread_few(packed_tile(f->x, p->first + p->tiles, tile), n_k, t, p->few,
                   s->few_x + t * FORWARD_LD);
    }
    if (p->few) k->few_rows(f->n, p->few, s->w, s->few_x, cols, s->few_sum);
}

/* y of the tokens. */
static void put(const Kernels *k, const ForwardTask *f, const Tokens *p, const ForwardScratch *s) {
    int64_t block = k->token_tiles * TILE_TOKENS,
            end = min64(p->tiles * TILE_TOKENS, f->x->m - p->first * TILE_TOKENS);
    float *y = f->y + p->first * TILE_TOKENS * f->ldy;
    for (int64_t t = 0; t < end; t += block) {
        put_tokens(f->n, min64(block, end - t), s->c + t * PANEL_ROWS, block, y + t * f->ldy,
                   f->ldy);
    }
    if (p->few) put_few(f->n, p->few, k->few_lanes, s->few_sum, y + end * f->ldy, f->ldy);
}

static void forward_tokens(const Kernels *k, const ForwardTask *f, const Tokens *p,
                           ForwardScratch *s) {
    int64_t cols = tensor_cols(f->w), lora = f->x->n_k - f->x->n_lora;
    int64_t blocks = (p->tiles + k->token_tiles - 1) / k->token_tiles;
    memset(s->c, 0, (size_t)(blocks * k->token_tiles * TILE_TOKENS * PANEL_ROWS) * sizeof *s->c);
    if (p->few) memset(s->few_sum, 0, sizeof s->few_sum);
    for (int64_t from = 0; from < cols; from += FORWARD_COLS) {
        int64_t n = min64(FORWARD_COLS, cols - from);
        open_piece(k, f->w, f->row, f->n, f->panel, from, n, n, s->w, FORWARD_LD);
        meet_tokens(k, f, p, s, from / TILE_COLS, n);
    }
    Tensor b = {.dtype = DT_f32, .n_dim = 2, .dim = {f->n, f->R}, .data = (float *)f->b};
    for (int64_t from = 0; f->b && from < f->R; from += FORWARD_COLS) {
        int64_t n = min64(FORWARD_COLS, f->R - from);
        open_piece(k, &b, 0, f->n, NULL, from, n, n, s->w, FORWARD_LD);
        meet_tokens(k, f, p, s, lora + from / TILE_COLS, n);
    }
    put(k, f, p, s);
}

static void forward_panel(const ForwardTask *f, ForwardScratch *s) {
    if (f->n < PANEL_ROWS) { /* blocks of rows run over the last one */
        memset(s->w + f->n * FORWARD_LD, 0, (size_t)((PANEL_ROWS - f->n) * FORWARD_LD) * 4);
    }
    for (int64_t t = 0; t < f->x->m; t += FORWARD_TOKENS) {
        int64_t tokens = min64(FORWARD_TOKENS, f->x->m - t), rest = tokens % TILE_TOKENS;
        Tokens p = {.first = t / TILE_TOKENS, .tiles = tokens / TILE_TOKENS};
        if (rest > FEW_MOST) {
            p.tiles++;
        } else {
            p.few = (int)rest;
        }
        forward_tokens(kernels(), f, &p, s);
    }
}

static void forward(const ForwardTask *f, void *scratch) {
    ForwardTask panel = *f;
    int64_t bytes = f->panel ? panel_bytes(f->w->dtype, tensor_cols(f->w)) : 0;
    for (int64_t at = 0; at < f->n; at += PANEL_ROWS) {
        panel.n = (int)min64(PANEL_ROWS, f->n - at);
        forward_panel(&panel, scratch);
        panel.row += PANEL_ROWS, panel.y += PANEL_ROWS;
        if (f->panel) panel.panel = (const char *)panel.panel + bytes;
        if (f->b) panel.b += PANEL_ROWS * f->R;
    }
}

/* ---- backward ------------------------------------------------------------------------------- */

typedef struct BackwardScratch {
    float w[BACKWARD_ROWS * BLOCK_COLS], dy[BLOCK_TOKENS * BACKWARD_ROWS];
    float dx[BLOCK_TOKENS * BLOCK_COLS];
} BackwardScratch;

/* What s->w holds, k rows of w that meet the columns of dy from tile on, meets all tokens. */
static void meet_rows(const Kernels *k, const BackwardTask *b, BackwardScratch *s, int64_t tile,
                      int64_t rows, bool add) {
    bool ragged = b->n < BLOCK_COLS;
    for (int64_t t = 0, some; t < b->dy->m; t += some) {
        some = min64(BLOCK_TOKENS, b->dy->m - t);
        float *dx = b->dx + t * b->lddx, *to = ragged ? s->dx : dx;
        int64_t ld = ragged ? BLOCK_COLS : b->lddx;
        for (int64_t i = 0; i < some; i += TILE_TOKENS) {
            k->spread_left(packed_tile(b->dy, (t + i) / TILE_TOKENS, tile),
                           (rows + TILE_COLS - 1) / TILE_COLS, (int)min64(TILE_TOKENS, some - i),
                           s->dy + i * BACKWARD_ROWS);
        }
        for (int64_t i = 0; i < some; i++) {
            if (!add) memset(to + i * ld, 0, BLOCK_COLS * sizeof *to);
            if (ragged && add) memcpy(to + i * ld, dx + i * b->lddx, (size_t)b->n * sizeof *to);
        }
        k->back_rows((int)some, s->dy, s->w, rows, to, ld);
        for (int64_t i = 0; ragged && i < some; i++) {
            memcpy(dx + i * b->lddx, to + i * ld, (size_t)b->n * sizeof *to);
        }
    }
}

static void prefetch_block(const char *block, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(block + i);
}

/* Rows [from, from + n) of b->w; what stands below is asked for while one opens. */
static void open_rows(const Kernels *k, const BackwardTask *b, int64_t from, int64_t n,
                      float *dst) {
    int64_t cols = tensor_cols(b->w), bytes = b->panel ? panel_bytes(b->w->dtype, cols) : 0;
    for (int64_t r = 0; r < n; r += PANEL_ROWS) {
        const char *panel =
            b->panel ? (const char *)b->panel + (from + r) / PANEL_ROWS * bytes : NULL;
        if (panel && from + r + PANEL_ROWS < b->rows) {
            int block = dtype_info[b->w->dtype].packed->block_bytes;
            prefetch_block(panel + bytes + b->col / BLOCK_COLS * block, block);
        }
        open_piece(k, b->w, b->row + from + r, (int)min64(PANEL_ROWS, n - r), panel, b->col, b->n,
                   ROWS_AHEAD * cols, dst + r * BLOCK_COLS, BLOCK_COLS);
    }
}

static void backward_columns(const BackwardTask *b, BackwardScratch *s) {
    const Kernels *k = kernels();
    for (int64_t from = 0; from < b->rows; from += BACKWARD_ROWS) {
        int64_t n = min64(BACKWARD_ROWS, b->rows - from);
        open_rows(k, b, from, n, s->w);
        meet_rows(k, b, s, from / TILE_COLS, n, b->add || from > 0);
    }
    int64_t lora = b->dy->n_k - b->dy->n_lora;
    for (int64_t from = 0; b->a && from < b->R; from += BACKWARD_ROWS) {
        int64_t n = min64(BACKWARD_ROWS, b->R - from);
        for (int64_t r = 0; r < n; r++) {
            k->round_row(b->a + (from + r) * b->lda, b->n, s->w + r * BLOCK_COLS);
        }
        meet_rows(k, b, s, lora + from / TILE_COLS, n, true);
    }
}

static void backward(const BackwardTask *b, void *scratch) {
    BackwardTask columns = *b;
    for (int64_t at = 0; at < b->n; at += BLOCK_COLS) {
        columns.n = (int)min64(BLOCK_COLS, b->n - at);
        backward_columns(&columns, scratch);
        columns.col += BLOCK_COLS, columns.dx += BLOCK_COLS;
        if (b->a) columns.a += BLOCK_COLS;
    }
}

static void nothing(void) {}

const MatmulKernels matmul_vector = {
    .begin = nothing,
    .end = nothing,
    .forward = forward,
    .backward = backward,
    .scratch_bytes = sizeof(union {
        ForwardScratch f;
        BackwardScratch b;
    }),
};
