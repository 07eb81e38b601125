/* matmul.c - see matmul.h. Two steps each way, every one a parallel region whose tasks own what
 * they write: rows are packed into tiles (64 at a time, with the thin product whose result is
 * packed behind them), then the tiles meet the weight. The kernels of matmul_kernels.h multiply;
 * here is only what meets what. */
#include "matmul.h"
#include "cpu.h"
#include "matmul_kernels.h"
#include "pack.h"
#include "rows.h"
#include "turn.h"
#include "weight.h"
#include <omp.h>

enum {
    PACK_TOKENS = 64,       /* rows that a thread packs at a time */
    BLOCK_TOKENS = 256,     /* rows that meet w at a time: a core's cache holds their tiles */
    LONG_ROWS = 8192,       /* of w: dy's tiles are too long for that, and meet it slice by slice */
    SLICE_ROWS = 1024,      /* of w, whole panels */
    OUTER_COLS = 512,       /* columns of da, rows of db in one task */
    STRIPS_MOST = 8,        /* of w that one task takes, */
    TASKS_EACH = 8,         /* if there are that many tasks for each thread */
    PARALLEL_FROM = 1 << 20 /* multiplications worth waking the other threads for */
};

static size_t aligned(size_t bytes) {
    return (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
}
static int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }
/* Tiles along the columns of x: whole blocks of w; of anything else. */
static int64_t x_tiles(int64_t I) { return ceil_div(I, BLOCK_COLS) * (BLOCK_COLS / TILE_COLS); }
static int64_t tiles_along(int64_t n) { return ceil_div(n, TILE_COLS); }

/* ---- what a product needs to know ------------------------------------------------------------ */

/* Rows of one group: the first, how many, and their first token tile. */
typedef struct Block {
    int64_t e, row, n, tile;
} Block;
typedef struct Blocks {
    Block *at;
    int64_t n;
} Blocks;

typedef struct Work {
    const Matmul *m;
    const MatmulKernels *kernels;
    int64_t I, O, E, R;
    bool turned, parallel;
    Blocks groups, blocks, pieces; /* whole; of BLOCK_TOKENS rows at most; of PACK_TOKENS */
    char *tile;                    /* of all groups, one after the other */
    int64_t n_k, n_lora;           /* as in Packed */
    char *lora;      /* tiles of g, where they do not stand behind those of dy; n_k: of R */
    const float *a;  /* (E,R,I), turned where it rides along with a turned w */
    float *turned_a; /* room for it */
    float *turned_x; /* x as w meets it, where rows of x are read more than once */
    float *g;        /* (T,R) = dy b */
    char *own;       /* per thread: the kernels' scratch, then ours */
    size_t own_bytes, kernel_bytes;
} Work;

static const MatmulKernels *kernels(void) {
    return cpu_isa() == ISA_AMX ? &matmul_amx : &matmul_vector;
}

static Work work_of(const Matmul *m) {
    const Tensor *w = m->w;
    CHECK(w->n_dim == 2 || w->n_dim == 3, "matmul: a weight of %d dimensions", w->n_dim);
    int64_t O = w->dim[w->n_dim - 2], I = tensor_cols(w);
    return (Work){.m = m,
                  .kernels = kernels(),
                  .I = I,
                  .O = O,
                  .E = w->n_dim == 3 ? w->dim[0] : 1,
                  .R = m->a ? m->a->dim[m->a->n_dim - 2] : 0,
                  .turned = weight_is_turned(w),
                  .parallel = m->T * O * I >= PARALLEL_FROM,
                  .a = m->a ? f32(m->a) : NULL,
                  .kernel_bytes = aligned(kernels()->scratch_bytes)};
}

/* ---- memory: one piece of the arena, laid out for the worst spread of rows over groups ----------
 */

/* Columns of dx that one task computes. */
static int64_t strip_of(const Work *k) { return k->turned ? pack_strip(k->I) : BLOCK_COLS; }

/* Pieces of at most `most` rows, however T rows are spread over the groups. */
static int64_t most_pieces(const Work *k, int64_t most) {
    return (k->m->T + (most - 1) * min64(k->E, k->m->T)) / most;
}

/* The next bytes of base (NULL: only counted). */
static void *take(char *base, size_t *at, size_t bytes) {
    char *p = base ? base + *at : NULL;
    *at += aligned(bytes);
    return p;
}

/* Room for rows of x that are turned. */
static size_t turning_bytes(const Work *k) {
    return k->turned ? TILE_TOKENS * (size_t)strip_of(k) * sizeof(float) : 0;
}

/* Sets the pointers of k into base and returns the bytes there must be. joined: a meets what w
 * meets, turned where w is. */
static size_t lay_out(Work *k, bool own_lx, bool back, bool joined, char *base) {
    int64_t T = k->m->T, token_tiles = most_pieces(k, TILE_TOKENS);
    bool turn_a = k->turned && k->R && joined;
    size_t at = 0, ours = 0;
    k->groups.at = take(base, &at, (size_t)min64(k->E, T) * sizeof(Block));
    k->blocks.at = take(base, &at, (size_t)most_pieces(k, BLOCK_TOKENS) * sizeof(Block));
    k->pieces.at = take(base, &at, (size_t)most_pieces(k, PACK_TOKENS) * sizeof(Block));
    k->n_k = back ? tiles_along(k->O) : x_tiles(k->I);
    k->n_lora = own_lx && back ? 0 : tiles_along(k->R);
    k->n_k += k->n_lora;
    k->tile = take(base, &at, (size_t)(token_tiles * k->n_k * TILE_BYTES));
    if (back && own_lx)
        k->lora = take(base, &at, (size_t)(token_tiles * tiles_along(k->R) * TILE_BYTES));
    if (back) k->g = take(base, &at, (size_t)(T * k->R) * sizeof(float));
    if (turn_a) k->turned_a = take(base, &at, (size_t)(k->E * k->R * k->I) * sizeof(float));
    if (!back && k->turned && k->m->x_row && T > k->m->x_rows)
        k->turned_x = take(base, &at, (size_t)(k->m->x_rows * k->I) * sizeof(float));
    if (back && k->turned) ours = BLOCK_TOKENS * (size_t)strip_of(k) * sizeof(float);
    if (!back) ours = turning_bytes(k);
    if (!back && own_lx) ours += PACK_TOKENS / TILE_TOKENS * (size_t)x_tiles(k->I) * TILE_BYTES;
    k->own_bytes = k->kernel_bytes + ours;
    k->own = take(base, &at, k->own_bytes * (size_t)omp_get_max_threads());
    return at;
}

size_t matmul_scratch(const Matmul *m, bool own_lx, bool back) {
    Work k = work_of(m);
    return lay_out(&k, own_lx, back, !own_lx, NULL) + ARENA_ALIGN;
}

static char *my_own(const Work *k) { return k->own + k->own_bytes * (size_t)omp_get_thread_num(); }

/* ---- groups ------------------------------------------------------------------------------------
 */

static int64_t group_start(const Work *k, int64_t e) {
    return k->m->off ? k->m->off[e] : e ? k->m->T : 0;
}

/* Every group's rows in blocks of about one size, at most `most`: a multiple of a tile's, or T. */
static void cut(const Work *k, Blocks *b, int64_t most) {
    int64_t tile = 0;
    for (int64_t e = 0; e < k->E; e++) {
        int64_t first = group_start(k, e), m = group_start(k, e + 1) - first;
        int64_t tiles = ceil_div(m, TILE_TOKENS), n = ceil_div(m, most);
        int64_t size = n ? ceil_div(tiles, n) * TILE_TOKENS : 1;
        for (int64_t at = 0; at < m; at += size)
            b->at[b->n++] = (Block){e, first + at, min64(size, m - at), tile + at / TILE_TOKENS};
        tile += tiles;
    }
}

static Packed packed_of(const Work *k, const Block *b) {
    return (Packed){k->tile + b->tile * k->n_k * TILE_BYTES, b->n, k->n_k, k->n_lora};
}

/* Matrix e of a or b as a weight. */
static Tensor factor_of(const Tensor *x, const float *data, int64_t e) {
    int64_t rows = x->dim[x->n_dim - 2], cols = tensor_cols(x);
    return (Tensor){
        .dtype = DT_f32, .n_dim = 2, .dim = {rows, cols}, .data = (float *)data + e * rows * cols};
}

static const void *panel_of(const Tensor *w, int64_t e, int64_t panel) {
    return dtype_is_packed(w->dtype) ? weight_panel(w, e, panel) : NULL;
}

/* a of every group with rows, turned. */
static void turn_a(Work *k) {
    if (!k->turned_a) return;
    int64_t n = k->R * k->I;
#pragma omp parallel for schedule(static) if (k->parallel)
    for (int64_t i = 0; i < k->groups.n; i++) {
        float *a = k->turned_a + k->groups.at[i].e * n;
        memcpy(a, f32(k->m->a) + k->groups.at[i].e * n, (size_t)n * sizeof *a);
        turn_rows(a, k->R, k->I, k->I);
    }
    k->a = k->turned_a;
}

/* x, turned. */
static const float *turn_x(const Work *k, const float *x) {
    if (!k->turned_x) return x;
#pragma omp parallel for schedule(static) if (k->parallel)
    for (int64_t i = 0; i < k->m->x_rows; i += TILE_TOKENS) {
        int64_t some = min64(TILE_TOKENS, k->m->x_rows - i);
        memcpy(k->turned_x + i * k->I, x + i * k->I, (size_t)(some * k->I) * sizeof *x);
        turn_rows(k->turned_x + i * k->I, some, k->I, k->I);
    }
    return k->turned_x;
}

static Work work_open(Tape *t, const Matmul *m, bool own_lx, bool back, bool joined) {
    Work k = work_of(m);
    CHECK(group_start(&k, 0) == 0 && group_start(&k, k.E) == m->T,
          "matmul: groups of %ld rows, not %ld", (long)group_start(&k, k.E), (long)m->T);
    size_t bytes = lay_out(&k, own_lx, back, joined, NULL);
    lay_out(&k, own_lx, back, joined, arena_push(t->step, bytes));
    cut(&k, &k.groups, m->T);
    cut(&k, &k.blocks, BLOCK_TOKENS);
    cut(&k, &k.pieces, PACK_TOKENS);
    turn_a(&k);
    return k;
}

/* Of the strips (panels, columns of blocks) that every block of rows meets, how many one task
 * takes: the next one is opened while the last one is multiplied, as long as all threads have some
 * tasks each. */
static int64_t strips_at_once(const Work *k, int64_t strips) {
    int64_t each = k->blocks.n * strips / (omp_get_max_threads() * (int64_t)TASKS_EACH);
    return each < 1 ? 1 : min64(each, min64(STRIPS_MOST, strips));
}

/* ---- forward -----------------------------------------------------------------------------------
 */

/* h = x aT for the rows of one block, already packed in p. */
static void low_rank(const Work *k, const Block *b, const Packed *p, float *h, void *own) {
    Tensor a = factor_of(k->m->a, k->a, b->e);
    k->kernels->forward(&(ForwardTask){.w = &a, .n = k->R, .x = p, .y = h, .ldy = k->R}, own);
}

/* Packs the rows of one block of x, and behind them s*h, which is computed here (of lx; NULL: of
 * the packed x). */
static void pack_x(const Work *k, const Block *b, const float *x, const float *lx, float *h) {
    Packed p = packed_of(k, b);
    int64_t n = k->n_k - k->n_lora;
    char *own = my_own(k), *ours = own + k->kernel_bytes;
    if (k->R) h += b->row * k->R;
    if (k->R && lx) {
        Packed q = {ours + turning_bytes(k), b->n, n, 0};
        pack_rows(&q, 0, n, &(Rows){lx + b->row * k->I, NULL, k->I, 1}, true, NULL);
        low_rank(k, b, &q, h, own);
    }
    const int32_t *at = k->m->x_row ? k->m->x_row + b->row : NULL;
    pack_rows(&p, 0, n, &(Rows){at ? x : x + b->row * k->I, at, k->I, 1}, true,
              k->turned && !k->turned_x ? (float *)(void *)ours : NULL);
    if (k->R && !lx) low_rank(k, b, &p, h, own);
    pack_rows(&p, n, k->n_lora, &(Rows){h, NULL, k->R, k->m->s}, true, NULL);
}

/* Columns [32 panel, 32 (panel + n)) of y for one block. */
static void multiply_panels(const Work *k, const Block *b, int64_t panel, int64_t n, float *y) {
    Packed p = packed_of(k, b);
    int64_t o = panel * PANEL_ROWS, row = b->e * k->O + o;
    ForwardTask f = {.w = k->m->w,
                     .row = row,
                     .panel = panel_of(k->m->w, b->e, panel),
                     .n = min64(n * PANEL_ROWS, k->O - o),
                     .x = &p,
                     .b = k->R ? f32(k->m->b) + row * k->R : NULL,
                     .R = k->R,
                     .y = y + b->row * k->O + o,
                     .ldy = k->O};
    k->kernels->forward(&f, my_own(k));
}

void matmul_forward(Tape *t, const Matmul *m, const float *x, const float *lx, float *h, float *y) {
    if (m->T <= 0) return;
    size_t mark = arena_mark(t->step);
    bool own_lx = m->a && lx != x;
    Work k = work_open(t, m, own_lx, false, !own_lx);
    int64_t some = strips_at_once(&k, panel_count(k.O));
    int64_t tasks = ceil_div(panel_count(k.O), some);
    x = turn_x(&k, x);
    if (!own_lx) lx = NULL;
#pragma omp parallel if (k.parallel)
    {
        k.kernels->begin();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < k.pieces.n; i++) pack_x(&k, &k.pieces.at[i], x, lx, h);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < k.blocks.n * tasks; i++)
            multiply_panels(&k, &k.blocks.at[i / tasks], i % tasks * some, some, y);
        k.kernels->end();
    }
    arena_release(t->step, mark);
}

/* ---- backward ----------------------------------------------------------------------------------
 */

/* Packs the rows of one block of dy, and s*g, which is computed here: behind them, or apart. */
static void pack_dy(const Work *k, const Block *b, const float *dy, bool low) {
    Packed p = packed_of(k, b), lora = p;
    int64_t n = k->n_k - k->n_lora, first = n, n_lora = k->n_lora;
    pack_rows(&p, 0, n, &(Rows){dy + b->row * k->O, NULL, k->O, 1}, false, NULL);
    if (!low) return;
    Tensor w = factor_of(k->m->b, f32(k->m->b), b->e);
    float *g = k->g + b->row * k->R;
    BackwardTask f = {.w = &w, .rows = k->O, .n = k->R, .dy = &p, .dx = g, .lddx = k->R};
    k->kernels->backward(&f, my_own(k));
    if (k->lora) {
        n_lora = tiles_along(k->R);
        first = 0;
        lora = (Packed){k->lora + b->tile * n_lora * TILE_BYTES, b->n, n_lora, 0};
    }
    pack_rows(&lora, first, n_lora, &(Rows){g, NULL, k->R, k->m->s}, false, NULL);
}

/* Rows [from, from + n) of a matrix of w, and whether the low-rank part stands behind them. */
typedef struct Slice {
    int64_t from, n;
    bool joined;
} Slice;

/* Columns [col, col + n) of dx (ld apart, at col) for one block, as far as the slice goes. */
static void multiply_columns(const Work *k, const Block *b, const Slice *s, int64_t col, int64_t n,
                             float *dx, int64_t ld, bool add) {
    Packed p = packed_of(k, b);
    p.tile += s->from / TILE_COLS * TILE_BYTES;
    BackwardTask f = {.w = k->m->w,
                      .row = b->e * k->O + s->from,
                      .rows = s->n,
                      .panel = panel_of(k->m->w, b->e, s->from / PANEL_ROWS),
                      .col = col,
                      .n = n,
                      .dy = &p,
                      .a = s->joined ? k->a + b->e * k->R * k->I + col : NULL,
                      .R = k->R,
                      .lda = k->I,
                      .dx = dx,
                      .lddx = ld,
                      .add = add};
    k->kernels->backward(&f, my_own(k));
}

/* The same for a turned w: computed aside and turned back. */
static void multiply_turned(const Work *k, const Block *b, const Slice *s, int64_t col, int64_t n,
                            float *dx, bool add) {
    float *aside = (float *)(void *)(my_own(k) + k->kernel_bytes);
    multiply_columns(k, b, s, col, n, aside, n, false);
    turn_columns_back(aside, b->n, k->I, col, n, n);
    for (int64_t i = 0; i < b->n; i++) row_put_scaled(dx + i * k->I, aside + i * n, 1, n, !add);
}

static void dx_strip(const Work *k, const Block *b, const Slice *s, int64_t strip, int64_t wide,
                     const MatmulGrads *g) {
    int64_t col = strip * wide, n = min64(wide, k->I - col);
    float *dx = g->dx + b->row * k->I + col;
    bool add = !g->set_dx || s->from > 0;
    if (k->turned)
        multiply_turned(k, b, s, col, n, dx, add);
    else
        multiply_columns(k, b, s, col, n, dx, k->I, add);
}

/* Columns of dlx = s g a alone. */
static void dlx_strip(const Work *k, const Block *b, int64_t strip, int64_t wide,
                      const MatmulGrads *g) {
    int64_t col = strip * wide, n_k = tiles_along(k->R);
    Tensor a = factor_of(k->m->a, f32(k->m->a), b->e);
    Packed p = {k->lora + b->tile * n_k * TILE_BYTES, b->n, n_k, 0};
    BackwardTask f = {.w = &a,
                      .rows = k->R,
                      .col = col,
                      .n = min64(wide, k->I - col),
                      .dy = &p,
                      .dx = g->dlx + b->row * k->I + col,
                      .lddx = k->I,
                      .add = !g->set_dlx};
    k->kernels->backward(&f, my_own(k));
}

static void da_strip(const Work *k, const Block *b, int64_t strip, const float *lx, float *da) {
    int64_t col = strip * OUTER_COLS, n = min64(OUTER_COLS, k->I - col);
    const int32_t *at = k->m->x_row ? k->m->x_row + b->row : NULL;
    outer_add(b->n, k->R, n, k->m->s, k->g + b->row * k->R, (at ? lx : lx + b->row * k->I) + col,
              k->I, at, da + b->e * k->R * k->I + col, k->I, false);
}

static void db_strip(const Work *k, const Block *b, int64_t strip, const float *dy, const float *h,
                     float *db) {
    int64_t col = strip * OUTER_COLS, n = min64(OUTER_COLS, k->O - col);
    outer_add(b->n, k->R, n, k->m->s, h + b->row * k->R, dy + b->row * k->O + col, k->O, NULL,
              db + (b->e * k->O + col) * k->R, k->R, true);
}

/* Shares tasks (block of a list, strip) among the threads of the region around it. */
#define FOR_STRIPS(list, per_block, task)                                                          \
    for (int64_t i = 0; i < k.list.n * (per_block); i++) {                                         \
        const Block *b = &k.list.at[i / (per_block)];                                              \
        int64_t strip = i % (per_block);                                                           \
        task;                                                                                      \
    }

void matmul_backward(Tape *t, const Matmul *m, const float *dy, const float *lx, const float *h,
                     const MatmulGrads *g) {
    if (m->T <= 0) return;
    size_t mark = arena_mark(t->step);
    bool apart = g->dlx && g->dlx != g->dx, low = g->dlx || g->da;
    bool joined = g->dlx && !apart;
    Work k = work_open(t, m, apart, true, joined);
    int64_t slice = k.O > LONG_ROWS && !joined ? SLICE_ROWS : k.O;
    int64_t lx_wide = BLOCK_COLS * strips_at_once(&k, ceil_div(k.I, BLOCK_COLS));
    int64_t x_wide = k.turned ? strip_of(&k) : lx_wide;
    int64_t x_strips = g->dx ? ceil_div(k.I, x_wide) : 0;
    int64_t lx_strips = apart ? ceil_div(k.I, lx_wide) : 0;
    int64_t a_strips = g->da ? ceil_div(k.I, OUTER_COLS) : 0;
    int64_t b_strips = g->db ? ceil_div(k.O, OUTER_COLS) : 0;
    int64_t pieces = g->dx || low ? k.pieces.n : 0;
#pragma omp parallel if (k.parallel)
    {
        k.kernels->begin();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < pieces; i++) pack_dy(&k, &k.pieces.at[i], dy, low);
#pragma omp for schedule(dynamic) nowait
        FOR_STRIPS(groups, b_strips, db_strip(&k, b, strip, dy, h, g->db))
#pragma omp for schedule(dynamic) nowait
        FOR_STRIPS(groups, a_strips, da_strip(&k, b, strip, lx, g->da))
#pragma omp for schedule(dynamic) nowait
        FOR_STRIPS(blocks, lx_strips, dlx_strip(&k, b, strip, lx_wide, g))
        for (int64_t from = 0; from < k.O; from += slice) {
            Slice s = {from, min64(slice, k.O - from), joined};
#pragma omp for schedule(dynamic)
            FOR_STRIPS(blocks, x_strips, dx_strip(&k, b, &s, strip, x_wide, g))
        }
        k.kernels->end();
    }
    arena_release(t->step, mark);
}
