/* matmul_amx.c - the products of matmul_kernels.h on the tile unit (AMX) of x86-64.
 *
 * Both directions are one walk. The weight is met block by block (32 rows x 64 columns): forward
 * along a panel, backward down a column of blocks; then the low-rank factor, opened in the same
 * way. Some blocks make a chunk. A chunk is opened to tiles of bfloat16 in scratch that the first
 * level cache holds, every tile of tokens is multiplied with it, and meanwhile the next chunk is
 * opened into the other half of the scratch, a few lines after each pair of tile products: the
 * vector units and the tile unit work at the same time, and memory is read all the time. Sums wait
 * in scratch between the chunks.
 *
 * Two accumulators and one tile of each operand are live at a time: where the core's other thread
 * belongs to somebody else, more tile registers than that make the unit stall. Weights are cold
 * (no cache holds a model), so what is read later is prefetched. Tokens go in groups of at most
 * 256, whose tiles the second level cache holds. */
#include "amx.h"
#include "matmul_kernels.h"
#include "quant/avx512_gguf.h"
#include "quant/line.h"
#include "weight.h"

enum {
    TILES_MAX = 256 / TILE_TOKENS, /* of tokens that share an opened chunk */
    FEW_TILES = 4,  /* of tokens: so few that reading weights takes longer than multiplying */
    STEPS_MAX = 12, /* tiles along the inner side of a chunk */
    HALF_BYTES = STEPS_MAX * 2 * TILE_BYTES /* 32 rows of y, or 32 columns of dx, of a chunk */
};

typedef struct Scratch {
    char opened[2][2 * HALF_BYTES];        /* [this chunk or the next][half] */
    float sums[2 * TILES_MAX][2][16 * 16]; /* [half, tile of tokens][accumulator] */
    float block[PANEL_ROWS * BLOCK_COLS];  /* what weight_open gives */
} Scratch;

/* Blocks of a strip of a matrix in the order in which they are met. Packed formats stand block by
 * block, the others row by row; first is NULL where weight_open alone reads them. */
typedef struct Walk {
    const char *first, *tail; /* packed: the first block, what stands behind it; else: its row */
    int64_t count;
    int64_t step, tail_step;      /* packed: bytes from a block to the next */
    int64_t after, tail_after;    /* packed: from the first block to that of the next strip */
    int64_t ld, col;              /* row by row: bytes of a row, the first block's column */
    int64_t rows, cols;           /* of the matrix, from the first block on */
    int64_t row_step, col_step;   /* from a block to the next */
    int64_t row_after, col_after; /* from the first block to that of the next strip */
} Walk;

/* What gives some columns of the results: a panel forward, a column of blocks backward. */
typedef struct Strip {
    Walk weight, low_rank;
    int64_t row, col; /* of w, where it starts */
    float *out;       /* of token 0 */
    int64_t n;        /* columns of it, up to the job's last */
} Strip;

typedef struct Job {
    Strip first;
    const Tensor *w; /* for weight_open */
    const Packed *tokens;
    int64_t ld;           /* of out */
    bool back, add;       /* add: to what out holds */
    int64_t chunk_blocks; /* about as many make a chunk */
    Scratch *scratch;
} Job;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t strip_columns(const Job *j) { return j->back ? BLOCK_COLS : PANEL_ROWS; }

static Strip strip_at(const Job *j, int64_t s) {
    Strip strip = j->first;
    int64_t columns = s * strip_columns(j);
    Walk *walks[] = {&strip.weight, &strip.low_rank};
    for (int i = 0; i < 2; i++) {
        Walk *w = walks[i];
        if (w->first) w->first += s * (w->after + w->row_after * w->ld);
        if (w->tail) w->tail += s * w->tail_after;
        w->col += s * w->col_after;
        w->rows -= s * w->row_after;
        w->cols -= s * w->col_after;
    }
    *(j->back ? &strip.col : &strip.row) += columns;
    strip.out += columns;
    strip.n -= columns;
    return strip;
}

/* ---- opening blocks ---- */

/* What distinguishes the formats: constants to the compiler. */
typedef struct Format {
    Line (*open)(const Block *, int i, __m512 values);
    const float *values;
    int unit_n, unit_bytes; /* values that are stored together; n 0: a block of a packed format */
    bool slow;              /* no opener: blocks go through weight_open */
} Format;
static const Format plain_f32 = {open_f32, INT4_VALUE, 1, 4, false};

/* Lines that are being opened: lines i.. of block b, and so on, `left` in all. */
typedef struct Opening {
    const Strip *strip;
    Block block;
    const char *ahead; /* where a block stands that is met later: to be prefetched */
    char *to;          /* where the block's tiles are made */
    int64_t b;
    int i, left;
} Opening;

/* Where rows and columns behind a strip's first block stand, in formats that stand row by row. */
AMX_INLINE int64_t offset_of(const Walk *w, int64_t rows, int64_t cols, const Format *f) {
    return rows * w->ld + (w->col + cols) / f->unit_n * f->unit_bytes;
}
AMX_INLINE Block block_at(const Walk *w, int64_t b, const Format *f) {
    int64_t rows = b * w->row_step, cols = b * w->col_step;
    Block block = {.ld = w->ld, .rows = (int)(w->rows - rows), .cols = (int)(w->cols - cols)};
    if (f->unit_n) {
        block.bytes = w->first + offset_of(w, rows, cols, f);
        block.from = (int)((w->col + cols) % f->unit_n);
    } else {
        block.bytes = w->first + b * w->step;
        block.tail = w->tail ? w->tail + b * w->tail_step : NULL;
    }
    return block;
}

/* A block that is met n blocks after block b, perhaps by the next task. It need not exist. */
AMX_INLINE const char *ahead_of(const Walk *w, int64_t b, int64_t n, const Format *f) {
    bool past = b + n >= w->count;
    int64_t i = b + n - past * w->count, at = past * w->after + i * w->step;
    if (f->unit_n)
        at = offset_of(w, past * w->row_after + i * w->row_step,
                       past * w->col_after + i * w->col_step, f);
    return (const char *)((uintptr_t)w->first + (uintptr_t)at);
}
AMX_INLINE void prefetch(const char *ahead, int64_t at) {
    _mm_prefetch((const char *)((uintptr_t)ahead + (uintptr_t)at), _MM_HINT_T0);
}
/* The i-th sixteenth of the block ahead. */
AMX_INLINE void prefetch_line(const Opening *o, const Format *f) {
    const int bytes = f->unit_bytes, whole = bytes / (LINES * 64), rest = bytes % (LINES * 64);
    if (f->unit_n) {
        const int row = BLOCK_COLS * f->unit_bytes / f->unit_n;
        for (int at = 0; at < row; at += 64) {
            prefetch(o->ahead, 2 * o->i * o->block.ld + at);
            prefetch(o->ahead, (2 * o->i + 1) * o->block.ld + at);
        }
        return;
    }
    for (int k = 0; k < whole; k++) prefetch(o->ahead, (k * LINES + o->i) * 64);
    if (o->i * 64 < rest) prefetch(o->ahead, (whole * LINES + o->i) * 64);
}

/* A block of a format without an opener, as plain rows of float32. */
static Block block_slowly(const Job *j, const Strip *s, int64_t b) {
    const Walk *w = &s->weight;
    int64_t row = b * w->row_step, col = b * w->col_step;
    int64_t rows = min64(w->rows - row, PANEL_ROWS), cols = min64(w->cols - col, BLOCK_COLS);
    float *block = j->scratch->block;
    for (int64_t r = 0; r < rows; r++) {
        weight_open(j->w, s->row + row + r, s->col + col, cols, block + r * BLOCK_COLS);
    }
    return (Block){
        .bytes = (const char *)block, .ld = BLOCK_COLS * 4, .rows = (int)rows, .cols = (int)cols};
}

/* Line i of a block as rows of left operands: a tile has 16 rows of one half. */
AMX_INLINE void put_left(const Line *v, char *to, int i) {
    char *row = to + i * 128;
    for (int h = 0; h < 2; h++) {
        _mm512_store_si512(row + h * 2 * TILE_BYTES, v->half[0][h]);
        _mm512_store_si512(row + h * 2 * TILE_BYTES + 64, v->half[1][h]);
    }
}
/* As row i of right operands: a tile has pairs of rows of 16 columns. */
AMX_INLINE void put_right(const Line *v, char *to, int i) {
    for (int h = 0; h < 2; h++) {
        char *row = to + h * HALF_BYTES + i * 64;
        _mm512_store_si512(row, _mm512_unpacklo_epi16(v->half[0][h], v->half[1][h]));
        _mm512_store_si512(row + TILE_BYTES, _mm512_unpackhi_epi16(v->half[0][h], v->half[1][h]));
    }
}
AMX_INLINE void put_line(const Line *v, char *to, int i, bool back) {
    if (back)
        put_right(v, to, i);
    else
        put_left(v, to, i);
}
/* What a block takes of the inner side, in tiles, and of each half of a chunk, in bytes. */
AMX_INLINE int64_t block_steps(bool back) { return back ? 1 : 2; }
AMX_INLINE int64_t block_opened(bool back) { return block_steps(back) * 2 * TILE_BYTES; }

/* Prefetching reaches over a chunk, so that the next task's first one, which nothing is multiplied
 * beside, is there. */
AMX_INLINE void start_block(const Job *j, Opening *o, const Format *f) {
    const Walk *w = &o->strip->weight;
    o->block = f->slow ? block_slowly(j, o->strip, o->b) : block_at(w, o->b, f);
    o->ahead = ahead_of(w, o->b, j->chunk_blocks + 1, f);
}

/* The next n lines, all of one block. */
AMX_INLINE void open_lines(const Job *j, Opening *o, int n, bool back, const Format *f,
                           __m512 values) {
    o->left -= n;
    if (o->i == 0) start_block(j, o, f);
    for (int end = o->i + n; o->i < end; o->i++) {
        Line v = f->open(&o->block, o->i, values);
        put_line(&v, o->to, o->i, back);
        if (!f->slow) prefetch_line(o, f);
    }
    if (o->i < LINES) return;
    o->i = 0;
    o->b++;
    o->to += block_opened(back);
}

AMX_INLINE void open_all(const Job *j, Opening *o, bool back, const Format *f) {
    __m512 values = _mm512_loadu_ps(f->values);
    while (o->left) open_lines(j, o, LINES - o->i, back, f, values);
}

/* Adds to the sums (tile registers 0 and 1) the products of a tile of tokens with half a chunk.
 * After each step some lines of the next chunk are opened: a power of two, so that they are of one
 * block. */
AMX_INLINE void multiply(const Job *j, const char *weights, const char *tokens, int64_t steps,
                         Opening *next, int lines, bool back, const Format *f) {
    __m512 values = _mm512_loadu_ps(f->values);
    Opening o = *next;
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
        if (o.left) open_lines(j, &o, lines, back, f, values);
    }
    *next = o;
}

/* ---- one copy per format and direction ---- */

typedef struct Kernel {
    void (*open)(const Job *, Opening *);
    void (*multiply)(const Job *, const char *weights, const char *tokens, int64_t steps,
                     Opening *next, int lines);
} Kernel;

enum {
#define X(name, bytes, tail, turned) UNIT_N_##name = 0, UNIT_BYTES_##name = bytes,
    PACKED_DTYPES(X)
#undef X
#define X(name, n, bytes, ...) UNIT_N_##name = n, UNIT_BYTES_##name = bytes,
        PLAIN_DTYPES(X) BLOCK_DTYPES(X)
#undef X
};

#define KERNEL(name, back, ...)                                                                    \
    AMX_TARGET static void open_##name(const Job *j, Opening *o) {                                 \
        open_all(j, o, back, &(Format){__VA_ARGS__});                                              \
    }                                                                                              \
    AMX_TARGET static void multiply_##name(const Job *j, const char *weights, const char *tokens,  \
                                           int64_t steps, Opening *next, int lines) {              \
        multiply(j, weights, tokens, steps, next, lines, back, &(Format){__VA_ARGS__});            \
    }
#define KERNELS(name, ...)                                                                         \
    KERNEL(name##_forward, false, __VA_ARGS__)                                                     \
    KERNEL(name##_backward, true, __VA_ARGS__)
#define X(name, values) KERNELS(name, open_##name, values, UNIT_N_##name, UNIT_BYTES_##name, false)
AVX512_FORMATS(X)
AVX512_GGUF_FORMATS(X)
#undef X
KERNELS(slow, open_f32, INT4_VALUE, 0, 0, true)

static const Kernel kernels[DT_COUNT][2] = {
#define X(name, values)                                                                            \
    [DT_##name] = {{open_##name##_forward, multiply_##name##_forward},                             \
                   {open_##name##_backward, multiply_##name##_backward}},
    AVX512_FORMATS(X) AVX512_GGUF_FORMATS(X)
#undef X
};
static const Kernel slow_kernels[2] = {{open_slow_forward, multiply_slow_forward},
                                       {open_slow_backward, multiply_slow_backward}};

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
AMX_TARGET static void put_sums(const Job *j, const Strip *s, float (*sums)[16 * 16], int64_t tile,
                                int half) {
    int64_t t = tile * TILE_TOKENS;
    int tokens = (int)min64(TILE_TOKENS, j->tokens->m - t);
    for (int q = 0; q < 2; q++) {
        int column = half * 32 + q * 16;
        int n = (int)min64(s->n - column, 16);
        float *out = s->out + t * j->ld + column;
        if (n <= 0) return;
        if (j->back)
            put_rows(sums[q], out, j->ld, tokens, n, j->add);
        else
            put_transposed(sums[q], out, j->ld, tokens, n);
    }
}

/* What put_sums will write, on its way to the cache. */
AMX_INLINE void fetch_out(const Job *j, const Strip *s, int64_t tile, int half) {
    int64_t t = tile * TILE_TOKENS, n = min64(s->n - half * 32, 32);
    int64_t tokens = min64(TILE_TOKENS, j->tokens->m - t);
    for (int64_t i = 0; i < tokens; i++) {
        const float *out = s->out + (t + i) * j->ld + half * 32;
        for (int64_t c = 0; c < n; c += 16) __builtin_prefetch(out + c, 1);
    }
}

/* ---- the loops ---- */

/* Blocks [first, end) of those of a strip, low-rank ones included. */
typedef struct Chunk {
    const Strip *strip;
    int64_t first, end;
    char *opened;
    bool first_of_all, last_of_all;
} Chunk;

static int64_t strip_blocks(const Job *j) {
    return j->first.weight.count + j->first.low_rank.count;
}

/* Chunk c of all strips', n of each, of a strip that is in hand. */
static Chunk chunk_at(const Job *j, int64_t c, int64_t n, const Strip *strip) {
    int64_t at = c % n, blocks = strip_blocks(j);
    return (Chunk){.strip = strip,
                   .first = blocks * at / n,
                   .end = blocks * (at + 1) / n,
                   .opened = j->scratch->opened[c % 2],
                   .first_of_all = at == 0,
                   .last_of_all = at + 1 == n};
}

/* Opens the low-rank blocks of a chunk and leaves the rest to be opened. */
AMX_TARGET static Opening start_opening(const Job *j, const Chunk *c) {
    int64_t count = c->strip->weight.count;
    for (int64_t b = c->first < count ? count : c->first; b < c->end; b++) {
        Block block = block_at(&c->strip->low_rank, b - count, &plain_f32);
        for (int i = 0; i < LINES; i++) {
            Line v = open_f32(&block, i, _mm512_setzero_ps());
            put_line(&v, c->opened + (b - c->first) * block_opened(j->back), i, j->back);
        }
    }
    int64_t blocks = min64(c->end, count) - c->first;
    return (Opening){.strip = c->strip,
                     .to = c->opened,
                     .b = c->first,
                     .left = blocks > 0 ? (int)blocks * LINES : 0};
}

/* Lines to be opened after each of so many steps. */
static int lines_per_step(const Opening *o, int64_t steps) {
    int lines = 1;
    while (lines < LINES && lines * steps < o->left) lines *= 2;
    return lines;
}

/* A chunk times token tiles [from, from + tiles). Results go out one tile late: by then the sums
 * have reached the cache, and the next products are under way. */
AMX_TARGET static void run_chunk(const Job *j, const Kernel *k, const Chunk *c, int64_t from,
                                 int64_t tiles, Opening *next) {
    int64_t halves = c->strip->n > 32 && j->back ? 2 : 1, step = c->first * block_steps(j->back);
    int64_t steps = min64(c->end * block_steps(j->back), j->tokens->n_k) - step;
    int lines = lines_per_step(next, steps * halves * tiles);
    bool stays = halves * tiles == 1; /* the sums, in their registers, between the chunks */
    for (int h = 0; h < halves; h++) {
        float(*sums)[2][16 * 16] = j->scratch->sums + h * TILES_MAX;
        for (int64_t t = 0; t < tiles; t++) {
            if (c->first_of_all) {
                AMX_ZERO(0);
                AMX_ZERO(1);
            } else if (!stays) {
                AMX_LOAD(0, sums[t][0], 64);
                AMX_LOAD(1, sums[t][1], 64);
            }
            if (c->last_of_all) fetch_out(j, c->strip, from + t, h);
            k->multiply(j, c->opened + h * HALF_BYTES, packed_tile(j->tokens, from + t, step),
                        steps, next, lines);
            if (c->last_of_all && t > 0) put_sums(j, c->strip, sums[t - 1], from + t - 1, h);
            if (stays && !c->last_of_all) continue;
            AMX_STORE(0, sums[t][0], 64);
            AMX_STORE(1, sums[t][1], 64);
        }
        if (c->last_of_all) put_sums(j, c->strip, sums[tiles - 1], from + tiles - 1, h);
    }
}

static void run_tiles(const Job *j, const Kernel *k, int64_t from, int64_t tiles) {
    int64_t strips = ceil_div(j->first.n, strip_columns(j));
    int64_t chunks = max64((strip_blocks(j) + j->chunk_blocks / 2) / j->chunk_blocks, 1);
    Strip strip[2] = {j->first}; /* this one and the next, in turn */
    Chunk chunk = chunk_at(j, 0, chunks, &strip[0]);
    Opening opening = start_opening(j, &chunk);
    k->open(j, &opening);
    for (int64_t c = 1; c <= strips * chunks; c++) {
        int64_t s = c / chunks;
        Chunk next = chunk_at(j, c, chunks, &strip[s % 2]);
        bool last = s == strips;
        if (next.first_of_all && !last) strip[s % 2] = strip_at(j, s);
        opening = last ? (Opening){.left = 0} : start_opening(j, &next);
        run_chunk(j, k, &chunk, from, tiles, &opening);
        if (!last) k->open(j, &opening);
        chunk = next;
    }
}

static void run(Job *j) {
    DType d = j->w->dtype;
    const Kernel *k = (kernels[d][0].open ? kernels[d] : slow_kernels) + j->back;
    int64_t tiles = ceil_div(j->tokens->m, TILE_TOKENS), groups = ceil_div(tiles, TILES_MAX);
    j->chunk_blocks = tiles <= FEW_TILES ? 2 : j->back ? 8 : 4;
    for (int64_t g = 0; g < groups; g++) {
        int64_t from = tiles * g / groups;
        run_tiles(j, k, from, tiles * (g + 1) / groups - from);
    }
}

/* ---- tasks ---- */

static void forward(const ForwardTask *t, void *scratch) {
    const DTypeInfo *d = &dtype_info[t->w->dtype];
    int64_t cols = tensor_cols(t->w);
    Job j = {.first = {.row = t->row, .out = t->y, .n = t->n},
             .w = t->w,
             .tokens = t->x,
             .ld = t->ldy,
             .scratch = scratch};
    Walk *w = &j.first.weight;
    *w = (Walk){.count = ceil_div(cols, BLOCK_COLS),
                .rows = t->n,
                .cols = cols,
                .col_step = BLOCK_COLS,
                .row_after = PANEL_ROWS};
    if (d->packed) {
        w->first = t->panel;
        w->step = d->packed->block_bytes;
        w->tail = w->first + w->count * w->step;
        w->after = w->tail_after = panel_bytes(t->w->dtype, cols);
    } else if (d->block_n) {
        w->ld = dtype_bytes(t->w->dtype, cols);
        w->first = (const char *)t->w->data + t->row * w->ld;
    }
    if (t->b) {
        j.first.low_rank = (Walk){.first = (const char *)t->b,
                                  .count = ceil_div(t->R, BLOCK_COLS),
                                  .ld = t->R * 4,
                                  .rows = t->n,
                                  .cols = t->R,
                                  .col_step = BLOCK_COLS,
                                  .row_after = PANEL_ROWS};
    }
    run(&j);
}

static void backward(const BackwardTask *t, void *scratch) {
    const DTypeInfo *d = &dtype_info[t->w->dtype];
    int64_t cols = tensor_cols(t->w);
    Job j = {.first = {.row = t->row, .col = t->col, .out = t->dx, .n = t->n},
             .w = t->w,
             .tokens = t->dy,
             .ld = t->lddx,
             .back = true,
             .add = t->add,
             .scratch = scratch};
    Walk *w = &j.first.weight;
    *w = (Walk){.count = ceil_div(t->rows, PANEL_ROWS),
                .rows = t->rows,
                .cols = t->n,
                .row_step = PANEL_ROWS,
                .col_after = BLOCK_COLS};
    if (d->packed) {
        int64_t block = d->packed->block_bytes;
        w->first = (const char *)t->panel + t->col / BLOCK_COLS * block;
        w->tail = (const char *)t->panel + ceil_div(cols, BLOCK_COLS) * block;
        w->step = w->tail_step = panel_bytes(t->w->dtype, cols);
        w->after = block;
    } else if (d->block_n) {
        w->ld = dtype_bytes(t->w->dtype, cols);
        w->first = (const char *)t->w->data + t->row * w->ld;
        w->col = t->col;
    }
    if (t->a) {
        j.first.low_rank = (Walk){.first = (const char *)t->a,
                                  .count = ceil_div(t->R, PANEL_ROWS),
                                  .ld = t->lda * 4,
                                  .rows = t->R,
                                  .cols = t->n,
                                  .row_step = PANEL_ROWS,
                                  .col_after = BLOCK_COLS};
    }
    run(&j);
}

AMX_TARGET static void begin(void) { amx_begin(); }
AMX_TARGET static void end(void) { amx_end(); }

const MatmulKernels matmul_amx = {begin, end, forward, backward, sizeof(Scratch)};
