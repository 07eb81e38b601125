/* matmul_amx.c - the products of matmul_kernels.h on the tile unit (AMX) of x86-64.
 *
 * Both directions are one walk. The weight is met block by block (32 rows x 64 columns): forward
 * along a panel, backward down a column of blocks; then the low-rank factor, opened in the same
 * way. Some blocks make a chunk of about 256 along the inner side. A chunk is opened to tiles of
 * bfloat16 in scratch (16 KB, the first level cache holds it), every tile of tokens is multiplied
 * with it, and meanwhile the next chunk is opened into the other half of the scratch, a few lines
 * after each pair of tile products: the vector units and the tile unit work at the same time, and
 * memory is read all the time. Sums wait in scratch between the chunks.
 *
 * Two accumulators and one tile of each operand are live at a time: where the core's other thread
 * belongs to somebody else, more tile registers than that make the unit stall. Weights are cold
 * (no cache holds a model), so what is read later is prefetched. Tokens go in groups of at most
 * TOKENS_MAX, whose tiles stay in the second level cache. */
#include "amx.h"
#include "matmul_kernels.h"
#include "quant/avx512.h"
#include "quant/line.h"
#include "weight.h"

enum {
    STEPS_MAX = 12,   /* tiles along the inner side of a chunk */
    TOKENS_MAX = 256, /* tokens that share an opened chunk */
    TILES_MAX = TOKENS_MAX / TILE_TOKENS,
    FEW_TILES = 4, /* of tokens: so few that reading weights takes longer than multiplying */
    HALF_BYTES = STEPS_MAX * 2 * TILE_BYTES /* 32 rows of y, or 32 columns of dx, of a chunk */
};

typedef struct Scratch {
    char chunk[2][2 * HALF_BYTES];         /* opened weights: [this or next][half] */
    float sums[2 * TILES_MAX][2][16 * 16]; /* [half, token tile][accumulator] */
    float block[PANEL_ROWS * BLOCK_COLS];  /* what weight_open gives */
} Scratch;

/* ---- the walk over a stored matrix ---- */

/* Blocks of a matrix in the order in which they are met. */
typedef struct Walk {
    const char *first, *tail; /* tail: packed formats */
    int64_t count;
    int64_t step, tail_step;    /* bytes from a block to the next */
    int64_t after;              /* bytes from the first block to where the next task starts */
    int64_t ld;                 /* plain formats */
    int64_t rows, cols;         /* of the matrix, from the first block on */
    int64_t row_step, col_step; /* from a block to the next */
    const Tensor *w;            /* formats without an opener: weight_open's, */
    int64_t row, col;           /* from here */
} Walk;

AMX_INLINE Block block_at(const Walk *w, int64_t b) {
    return (Block){.bytes = w->first + b * w->step,
                   .tail = w->tail ? w->tail + b * w->tail_step : NULL,
                   .ld = w->ld,
                   .rows = (int)(w->rows - b * w->row_step),
                   .cols = (int)(w->cols - b * w->col_step)};
}

/* What distinguishes the formats; constants to the compiler. */
typedef struct Format {
    Line (*open)(const Block *, int i, __m512 values);
    const float *values;
    int value_bytes; /* plain formats, else 0 */
    int block_bytes; /* packed formats, else 0 */
    bool slow;       /* no opener: blocks go through weight_open */
} Format;

/* The i-th sixteenth of a block that is met a few blocks later (perhaps by another task) is asked
 * of memory. The address need not exist. */
AMX_INLINE void prefetch_line(const Format *f, const Walk *w, int64_t b, int i) {
    int64_t ahead = f->value_bytes == 4 ? 1 : 2;
    uintptr_t p = (uintptr_t)w->first +
                  (uintptr_t)(b + ahead < w->count ? (b + ahead) * w->step
                                                   : w->after + (b + ahead - w->count) * w->step);
    for (int at = i * 64; at < f->block_bytes; at += LINES * 64) {
        _mm_prefetch((const char *)(p + (uintptr_t)at), _MM_HINT_T0);
    }
    for (int r = 0; r < 2 && f->value_bytes; r++) {
        for (int at = 0; at < BLOCK_COLS * f->value_bytes; at += 64) {
            _mm_prefetch((const char *)(p + (uintptr_t)((2 * i + r) * w->ld + at)), _MM_HINT_T0);
        }
    }
}

/* A block of a format without an opener, as plain rows of float32. */
static Block open_slowly(const Walk *w, int64_t b, float *block) {
    int64_t row = b * w->row_step, col = b * w->col_step;
    int rows = (int)(w->rows - row), cols = (int)(w->cols - col);
    for (int r = 0; r < rows && r < PANEL_ROWS; r++) {
        weight_open(w->w, w->row + row + r, w->col + col, cols < BLOCK_COLS ? cols : BLOCK_COLS,
                    block + r * BLOCK_COLS);
    }
    return (Block){.bytes = (const char *)block, .ld = BLOCK_COLS * 4, .rows = rows, .cols = cols};
}

/* ---- one task ---- */

typedef struct Job {
    Walk weight, low_rank;
    int64_t low_rank_at; /* blocks before the low-rank ones: as many as the tokens have tiles for */
    const Packed *tokens;
    float *out; /* of token 0 */
    int64_t ld;
    int n; /* columns of it */
    bool add;
    Scratch *scratch;
} Job;

/* Lines that are being opened: [line, end) of the walk, counted over all blocks. */
typedef struct Opening {
    int64_t line, end;
    char *to;
    Block block;
} Opening;

/* Rows of left operands: a tile has 16 rows of one half of the block. */
AMX_INLINE void put_left(const Line *v, char *to, int i) {
    char *row = to + i * 128;
    for (int h = 0; h < 2; h++) {
        _mm512_store_si512(row + h * 2 * TILE_BYTES, v->half[0][h]);
        _mm512_store_si512(row + h * 2 * TILE_BYTES + 64, v->half[1][h]);
    }
}
/* Row i of right operands: pairs of rows of 16 columns each. */
AMX_INLINE void put_right(const Line *v, char *to, int i) {
    for (int h = 0; h < 2; h++) {
        char *row = to + h * HALF_BYTES + i * 64;
        _mm512_store_si512(row, _mm512_unpacklo_epi16(v->half[0][h], v->half[1][h]));
        _mm512_store_si512(row + TILE_BYTES, _mm512_unpackhi_epi16(v->half[0][h], v->half[1][h]));
    }
}

/* The next n lines (a power of two up to 16, so that they are of one block). */
AMX_INLINE void open_lines(const Job *j, Opening *o, int n, bool back, const Format *f,
                           __m512 values) {
    int64_t b = o->line / LINES;
    int i = (int)(o->line % LINES);
    bool low_rank = b >= j->weight.count;
    if (i == 0) {
        o->block = low_rank  ? block_at(&j->low_rank, b - j->low_rank_at)
                   : f->slow ? open_slowly(&j->weight, b, j->scratch->block)
                             : block_at(&j->weight, b);
        if (low_rank && b < j->low_rank_at) o->block.rows = 0;
    }
    for (int end = i + n; i < end; i++) {
        Line v = low_rank ? open_f32(&o->block, i, values) : f->open(&o->block, i, values);
        if (back)
            put_right(&v, o->to, i);
        else
            put_left(&v, o->to, i);
        if (!low_rank && !f->slow) prefetch_line(f, &j->weight, b, i);
    }
    o->line += n;
    if (i == LINES) o->to += back ? 2 * TILE_BYTES : 4 * TILE_BYTES;
}

/* Sums of a tile of tokens over a chunk; after each step some lines of the next one are opened. */
AMX_INLINE void multiply(const Job *j, const char *weights, const char *tokens, int64_t steps,
                         Opening *o, int lines, bool back, const Format *f, __m512 values) {
    for (int64_t s = 0; s < steps; s++) {
        AMX_LOAD(3, tokens + s * TILE_BYTES, 64);
        AMX_LOAD(2, weights + s * 2 * TILE_BYTES, 64);
        if (back)
            AMX_ADD(0, 3, 2);
        else
            AMX_ADD(0, 2, 3);
        AMX_LOAD(2, weights + s * 2 * TILE_BYTES + TILE_BYTES, 64);
        if (back)
            AMX_ADD(1, 3, 2);
        else
            AMX_ADD(1, 2, 3);
        if (o->line < o->end) open_lines(j, o, lines, back, f, values);
    }
}

/* ---- results ---- */

AMX_INLINE __mmask16 first_columns(int n) {
    return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1 << n) - 1);
}

/* out[t][0..n) = sums[0..n)[t] of 16 rows of y. */
AMX_INLINE void put_transposed(const float *sums, float *out, int64_t ld, int tokens, int n) {
    __mmask16 columns = first_columns(n);
    for (int t = 0; t < tokens; t += 4) {
        __m512 q[4]; /* [k]: rows k, 4 + k, 8 + k, 12 + k of tokens t..t+3 */
        for (int k = 0; k < 4; k++) {
            const float *p = sums + k * 16 + t;
            q[k] = _mm512_castps128_ps512(_mm_load_ps(p));
            q[k] = _mm512_insertf32x4(q[k], _mm_load_ps(p + 4 * 16), 1);
            q[k] = _mm512_insertf32x4(q[k], _mm_load_ps(p + 8 * 16), 2);
            q[k] = _mm512_insertf32x4(q[k], _mm_load_ps(p + 12 * 16), 3);
        }
        __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(q[0], q[1]));
        __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(q[0], q[1]));
        __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(q[2], q[3]));
        __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(q[2], q[3]));
        __m512d token[4] = {_mm512_unpacklo_pd(a, c), _mm512_unpackhi_pd(a, c),
                            _mm512_unpacklo_pd(b, d), _mm512_unpackhi_pd(b, d)};
        for (int k = 0; k < 4 && t + k < tokens; k++) {
            _mm512_mask_storeu_ps(out + (t + k) * ld, columns, _mm512_castpd_ps(token[k]));
        }
    }
}

/* out[t][0..n) (+)= sums[t][0..n) */
AMX_INLINE void put_rows(const float *sums, float *out, int64_t ld, int tokens, int n, bool add) {
    __mmask16 columns = first_columns(n);
    for (int t = 0; t < tokens; t++) {
        __m512 v = _mm512_load_ps(sums + t * 16);
        if (add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(columns, out + t * ld));
        _mm512_mask_storeu_ps(out + t * ld, columns, v);
    }
}

/* The sums of a tile of tokens, 32 columns of y or of one half of dx, where they belong. */
AMX_INLINE void put_sums(const Job *j, float (*sums)[16 * 16], int64_t tile, int half, bool back) {
    int64_t t = tile * TILE_TOKENS, left = j->tokens->m - t;
    int tokens = left < TILE_TOKENS ? (int)left : TILE_TOKENS;
    for (int q = 0; q < 2; q++) {
        int column = half * 32 + q * 16;
        float *out = j->out + t * j->ld + column;
        if (column >= j->n) return;
        if (back)
            put_rows(sums[q], out, j->ld, tokens, j->n - column, j->add);
        else
            put_transposed(sums[q], out, j->ld, tokens, j->n - column);
    }
}

/* Token tiles [from, from + tiles). */
AMX_INLINE void run_tokens(const Job *j, int64_t from, int64_t tiles, bool back, const Format *f) {
    __m512 values = _mm512_loadu_ps(f->values);
    const int64_t block_steps = back ? 1 : 2, halves = back ? 2 : 1;
    int64_t chunk_blocks = tiles <= FEW_TILES ? 2 : back ? 8 : 4;
    int64_t blocks = j->low_rank_at + j->low_rank.count;
    int64_t chunks = (blocks + chunk_blocks / 2) / chunk_blocks;
    if (chunks == 0) chunks = 1;
    Opening o = {.end = blocks / chunks * LINES, .to = j->scratch->chunk[0]};
    while (o.line < o.end) open_lines(j, &o, LINES, back, f, values);
    for (int64_t c = 0; c < chunks; c++) {
        int64_t first = blocks * c / chunks, next = blocks * (c + 1) / chunks;
        int64_t step = first * block_steps, steps = next * block_steps - step;
        if (steps > j->tokens->n_k - step) steps = j->tokens->n_k - step;
        o.end = (c + 1 < chunks ? blocks * (c + 2) / chunks : next) * LINES;
        o.to = j->scratch->chunk[(c + 1) % 2];
        int lines = 1;
        while (lines < LINES && lines * steps * tiles * halves < o.end - o.line) lines *= 2;
        for (int64_t h = 0; h < halves; h++) {
            const char *weights = j->scratch->chunk[c % 2] + h * HALF_BYTES;
            for (int64_t t = 0; t < tiles; t++) {
                float(*sums)[16 * 16] = j->scratch->sums[h * TILES_MAX + t];
                if (c == 0) {
                    AMX_ZERO(0);
                    AMX_ZERO(1);
                } else {
                    AMX_LOAD(0, sums[0], 64);
                    AMX_LOAD(1, sums[1], 64);
                }
                multiply(j, weights, packed_tile(j->tokens, from + t, step), steps, &o, lines, back,
                         f, values);
                if (c + 1 == chunks && t)
                    put_sums(j, j->scratch->sums[h * TILES_MAX + t - 1], from + t - 1, (int)h,
                             back);
                AMX_STORE(0, sums[0], 64);
                AMX_STORE(1, sums[1], 64);
                if (c + 1 == chunks && t + 1 == tiles) put_sums(j, sums, from + t, (int)h, back);
            }
        }
        while (o.line < o.end) open_lines(j, &o, lines, back, f, values);
    }
}

AMX_INLINE void run(const Job *j, bool back, const Format *f) {
    int64_t tiles = (j->tokens->m + TILE_TOKENS - 1) / TILE_TOKENS;
    int64_t groups = (tiles + TILES_MAX - 1) / TILES_MAX;
    for (int64_t g = 0; g < groups; g++) {
        int64_t from = tiles * g / groups;
        run_tokens(j, from, tiles * (g + 1) / groups - from, back, f);
    }
}

/* ---- one copy per format ---- */

typedef struct Run {
    void (*forward)(const Job *), (*backward)(const Job *);
} Run;

enum {
#define X(name, bytes, tail, turned) BLOCK_BYTES_##name = bytes,
    PACKED_DTYPES(X)
#undef X
#define X(name, n, bytes, st) BLOCK_BYTES_##name = 0, VALUE_BYTES_##name = bytes,
        PLAIN_DTYPES(X)
#undef X
#define X(name, ...) VALUE_BYTES_##name = 0,
            PACKED_DTYPES(X)
#undef X
};

#define RUNS(name, ...)                                                                            \
    AMX_TARGET static void forward_##name(const Job *j) { run(j, false, &(Format){__VA_ARGS__}); } \
    AMX_TARGET static void backward_##name(const Job *j) { run(j, true, &(Format){__VA_ARGS__}); }
#define X(name, values)                                                                            \
    RUNS(name, open_##name, values, VALUE_BYTES_##name, BLOCK_BYTES_##name, false)
AVX512_FORMATS(X)
#undef X
RUNS(slow, open_f32, INT4_VALUE, 0, 0, true)

static const Run run_of[DT_COUNT] = {
#define X(name, values) [DT_##name] = {forward_##name, backward_##name},
    AVX512_FORMATS(X)
#undef X
};

static Run run_for(DType d) {
    return run_of[d].forward ? run_of[d] : (Run){forward_slow, backward_slow};
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void forward(const ForwardTask *t, void *scratch) {
    int64_t cols = tensor_cols(t->w);
    const DTypeInfo *d = &dtype_info[t->w->dtype];
    Job j = {.tokens = t->x, .out = t->y, .ld = t->ldy, .n = t->n, .scratch = scratch};
    j.weight = (Walk){.count = ceil_div(cols, BLOCK_COLS),
                      .rows = t->n,
                      .cols = cols,
                      .col_step = BLOCK_COLS,
                      .w = t->w,
                      .row = t->row};
    if (d->packed) {
        j.weight.first = t->panel;
        j.weight.step = d->packed->block_bytes;
        j.weight.tail = j.weight.first + j.weight.count * j.weight.step;
        j.weight.after = panel_bytes(t->w->dtype, cols);
    } else {
        j.weight.ld = cols * d->block_bytes;
        j.weight.first = (const char *)t->w->data + t->row * j.weight.ld;
        j.weight.step = BLOCK_COLS * d->block_bytes;
        j.weight.after = PANEL_ROWS * j.weight.ld;
    }
    j.low_rank_at = j.weight.count;
    if (t->b) {
        j.low_rank = (Walk){.first = (const char *)t->b,
                            .count = ceil_div(t->R, BLOCK_COLS),
                            .step = BLOCK_COLS * 4,
                            .ld = t->R * 4,
                            .rows = t->n,
                            .cols = t->R,
                            .col_step = BLOCK_COLS};
    }
    run_for(t->w->dtype).forward(&j);
}

static void backward(const BackwardTask *t, void *scratch) {
    int64_t cols = tensor_cols(t->w);
    const DTypeInfo *d = &dtype_info[t->w->dtype];
    Job j = {
        .tokens = t->dy, .out = t->dx, .ld = t->lddx, .n = t->n, .add = t->add, .scratch = scratch};
    j.weight = (Walk){.count = panel_count(t->rows),
                      .rows = t->rows,
                      .cols = t->n,
                      .row_step = PANEL_ROWS,
                      .w = t->w,
                      .row = t->row,
                      .col = t->col};
    if (d->packed) {
        j.weight.first = (const char *)t->panel + t->col / BLOCK_COLS * d->packed->block_bytes;
        j.weight.step = j.weight.tail_step = panel_bytes(t->w->dtype, cols);
        j.weight.tail =
            (const char *)t->panel + ceil_div(cols, BLOCK_COLS) * d->packed->block_bytes;
        j.weight.after = d->packed->block_bytes;
    } else {
        j.weight.ld = cols * d->block_bytes;
        j.weight.first = (const char *)t->w->data + t->row * j.weight.ld + t->col * d->block_bytes;
        j.weight.step = PANEL_ROWS * j.weight.ld;
        j.weight.after = BLOCK_COLS * d->block_bytes;
    }
    j.low_rank_at = j.weight.count;
    if (t->a) {
        j.low_rank_at = t->dy->n_k - t->dy->n_lora;
        j.low_rank = (Walk){.first = (const char *)t->a,
                            .count = ceil_div(t->R, PANEL_ROWS),
                            .step = PANEL_ROWS * t->lda * 4,
                            .ld = t->lda * 4,
                            .rows = t->R,
                            .cols = t->n,
                            .row_step = PANEL_ROWS};
    }
    run_for(t->w->dtype).backward(&j);
}

AMX_TARGET static void begin(void) { amx_begin(); }
AMX_TARGET static void end(void) { amx_end(); }

const MatmulKernels matmul_amx = {begin, end, forward, backward, sizeof(Scratch)};
