/* bench_fused.c - the products of matmul_kernels.h with cold weights: GFLOP/s (median of some
 * rounds) per format, forward and backward, for several numbers of tokens; beside them, in the same
 * rounds, opening the nf4 weight to float32 and multiplying with OpenBLAS, and a loop of tile
 * products over the first level cache (what the tile unit gives at the moment). All are measured in
 * turn, so that what else the machine does weighs on all of them alike. Run with nothing beside:
 *     bench_fused [threads [rows cols]]        both 1 and 2 threads, three shapes: a minute
 * cols: a multiple of 256. */
#include "../../autograd/amx.h"
#include "../../autograd/blas.h"
#include "../../autograd/cpu.h"
#include "../../autograd/matmul_kernels.h"
#include "../../autograd/weight.h"
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#undef I

enum {
    STRIPS = 8,
    ROUNDS = 5,
    TOKENS = 512,
    BLOCK_TOKENS = 256,
    COLD_BYTES = 500000000,
    TILE_LOOPS = 4000
};
static const int tokens[] = {1, 8, 16, 32, 64, 128, 256, 512};
static const DType formats[] = {DT_bf16, DT_nf4_bf16, DT_nf4,  DT_tq4,
                                DT_int8, DT_q8_0,     DT_q4_k, DT_q6_k};
enum { N_TOKENS = 8, N_FORMATS = COUNT_OF(formats), OPEN_AND_SGEMM = N_FORMATS, TILES, N_COLUMNS };

/* Copies of one weight, more than any cache holds. */
typedef struct Cold {
    Tensor w;
    char *data;
    size_t bytes;
    int n, at;
} Cold;

static const MatmulKernels *kernels;
static Arena memory; /* as in the program: in huge pages where the system gives them */
static Err err;
static char *packed_rows, *scratch;
static float *opened, *result, *plain;
static double seconds[N_TOKENS][2][N_COLUMNS][ROUNDS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Blocks that nothing here writes: any bytes are some, and these are small numbers. */
static Cold cold_new(DType d, int64_t rows, int64_t cols) {
    Cold c = {.w = {.dtype = d, .n_dim = 2, .dim = {rows, cols}}};
    double lost = 0, size = 0;
    Rng rng = {1, 0, 0};
    float *values = mem_alloc((size_t)(rows * cols) * sizeof *values);
    for (int64_t i = 0; i < rows * cols; i++) values[i] = (float)rng_uniform(&rng) - 0.5f;
    c.bytes = (size_t)weight_bytes(d, 2, c.w.dim);
    c.n = (int)(COLD_BYTES / c.bytes);
    c.data = arena_push(&memory, c.bytes * (size_t)c.n);
    if (dtype_is_packed(d))
        weight_pack(d, values, rows, cols, c.data, &lost, &size);
    else if (dtype_info[d].from_f32)
        dtype_info[d].from_f32(values, c.data, rows * cols);
    else
        memset(c.data, 0x11, c.bytes);
    for (int i = 1; i < c.n; i++) memcpy(c.data + c.bytes * (size_t)i, c.data, c.bytes);
    mem_free(values);
    return c;
}

static void cold_next(Cold *c) {
    c->w.data = c->data + c->bytes * (size_t)c->at;
    c->at = (c->at + 1) % c->n;
}

/* ---- what is measured ---- */

static const void *first_panel(const Tensor *w, int64_t panel) {
    return dtype_is_packed(w->dtype) ? weight_panel(w, 0, panel) : NULL;
}

/* A task takes STRIPS panels, or columns of blocks, as matmul.c deals them. */
static void forward(const Tensor *w, const Packed *x, int64_t token, int64_t task, char *own) {
    int64_t rows = w->dim[0], panel = task * STRIPS, row = panel * PANEL_ROWS;
    ForwardTask t = {.w = w,
                     .row = row,
                     .panel = first_panel(w, panel),
                     .n = min64(STRIPS * PANEL_ROWS, rows - row),
                     .x = x,
                     .y = result + token * rows + row,
                     .ldy = rows};
    kernels->forward(&t, own);
}

static void backward(const Tensor *w, const Packed *dy, int64_t token, int64_t task, char *own) {
    int64_t cols = w->dim[1], col = task * STRIPS * BLOCK_COLS;
    BackwardTask t = {.w = w,
                      .rows = w->dim[0],
                      .panel = first_panel(w, 0),
                      .col = col,
                      .n = min64(STRIPS * BLOCK_COLS, cols - col),
                      .dy = dy,
                      .dx = result + token * cols + col,
                      .lddx = cols};
    kernels->backward(&t, own);
}

static void fused(Cold *c, int m, bool back) {
    cold_next(c);
    int64_t n_k = (back ? c->w.dim[0] : c->w.dim[1]) / TILE_COLS;
    int64_t strips = back ? c->w.dim[1] / BLOCK_COLS : c->w.dim[0] / PANEL_ROWS;
    int64_t tasks = (strips + STRIPS - 1) / STRIPS;
    int64_t blocks = (m + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
#pragma omp parallel
    {
        char *own = scratch + kernels->scratch_bytes * (size_t)omp_get_thread_num();
        kernels->begin();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < blocks * tasks; i++) {
            int64_t at = i / tasks * BLOCK_TOKENS, left = m - at;
            Packed p = {packed_rows + at * n_k * TILE_COLS * 2,
                        left < BLOCK_TOKENS ? left : BLOCK_TOKENS, n_k, 0};
            (back ? backward : forward)(&c->w, &p, at, i % tasks, own);
        }
        kernels->end();
    }
}

/* The whole weight opened, then one product; both on all threads. */
static void open_and_sgemm(Cold *c, int m, bool back) {
    cold_next(c);
    int rows = (int)c->w.dim[0], cols = (int)c->w.dim[1];
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) weight_open(&c->w, r, 0, cols, opened + r * cols);
    if (back)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, cols, rows, 1, plain, rows,
                    opened, cols, 0, result, cols);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, rows, cols, 1, plain, cols, opened,
                    cols, 0, result, rows);
}

AMX_TARGET static void tile_loop(const char *tiles) {
    amx_begin();
    AMX_ZERO(0);
    AMX_ZERO(1);
    for (int i = 0; i < TILE_LOOPS; i++) {
        const char *t = tiles + i % 4 * 3 * TILE_BYTES;
        AMX_LOAD(3, t, 64);
        AMX_LOAD(2, t + TILE_BYTES, 64);
        AMX_ADD(0, 2, 3);
        AMX_LOAD(2, t + 2 * TILE_BYTES, 64);
        AMX_ADD(1, 2, 3);
    }
    amx_end();
}
static void tile_loops(void) {
    if (cpu_isa() != ISA_AMX) return;
#pragma omp parallel
    tile_loop(packed_rows + 16 * TILE_BYTES * omp_get_thread_num());
}

/* ---- one shape ---- */

static double flop(int64_t rows, int64_t cols, int m, int column) {
    return column == TILES ? 2.0 * 16 * 16 * 32 * 2 * TILE_LOOPS * omp_get_max_threads()
                           : 2.0 * (double)rows * (double)cols * m;
}

static void measure(Cold *c, int column, int m_at, bool back, int round) {
    double at = now();
    if (column == TILES)
        tile_loops();
    else
        (column == OPEN_AND_SGEMM ? open_and_sgemm : fused)(c, tokens[m_at], back);
    seconds[m_at][back][column][round] = now() - at;
}

static void print_table(int64_t rows, int64_t cols) {
    for (int back = 0; back < 2; back++) {
        printf("\n%s, %ld x %ld, %d threads: GFLOP/s\ntokens", back ? "dx = dy w" : "y = x wT",
               (long)rows, (long)cols, omp_get_max_threads());
        for (int f = 0; f < N_FORMATS; f++) printf("%10s", dtype_info[formats[f]].name);
        printf("  open+sgemm  tile loop\n");
        for (int i = 0; i < N_TOKENS; i++) {
            printf("%6d", tokens[i]);
            for (int column = 0; column < N_COLUMNS; column++) {
                double *s = seconds[i][back][column];
                qsort(s, ROUNDS, sizeof *s, by_size);
                printf("%*.0f",
                       column == OPEN_AND_SGEMM ? 12
                       : column == TILES        ? 11
                                                : 10,
                       flop(rows, cols, tokens[i], column) / s[ROUNDS / 2] * 1e-9);
            }
            printf("\n");
        }
    }
}

static void shape(int threads, int64_t rows, int64_t cols) {
    Cold cold[N_FORMATS];
    size_t mark = arena_mark(&memory);
    omp_set_num_threads(threads);
    openblas_set_num_threads(threads);
    for (int f = 0; f < N_FORMATS; f++) cold[f] = cold_new(formats[f], rows, cols);
    opened = arena_push(&memory, (size_t)(rows * cols) * sizeof *opened);
    for (int round = -1; round < ROUNDS; round++) { /* the first warms up */
        for (int i = 0; i < N_TOKENS * 2 * N_COLUMNS; i++) {
            int column = i % N_COLUMNS;
            measure(&cold[column < N_FORMATS ? column : 2], column, i / N_COLUMNS / 2,
                    i / N_COLUMNS % 2, round < 0 ? 0 : round);
        }
    }
    print_table(rows, cols);
    arena_release(&memory, mark);
}

int main(int argc, char **argv) {
    blas_prepare(argv);
    static const int64_t shapes[3][2] = {{2816, 2816}, {1408, 2816}, {2816, 704}};
    int64_t widest = argc > 3 ? atol(argv[2]) + atol(argv[3]) : 2816;
    int only = argc > 1 ? atoi(argv[1]) : 0;
    kernels = cpu_isa() == ISA_AMX ? &matmul_amx : &matmul_vector;
    if (arena_open(&memory, (size_t)2 * COLD_BYTES * N_FORMATS, &err)) {
        fprintf(stderr, "bench_fused: %s\n", err.text);
        return 1;
    }
    packed_rows = arena_push(&memory, (size_t)(TOKENS * widest * 2));
    memset(packed_rows, 0x3c, (size_t)(TOKENS * widest * 2)); /* 0.0115 each */
    scratch = arena_push(&memory, kernels->scratch_bytes * (size_t)(only > 2 ? only : 2));
    result = arena_push_zero(&memory, (size_t)(TOKENS * widest) * sizeof *result);
    plain = arena_push_zero(&memory, (size_t)(TOKENS * widest) * sizeof *plain);
    printf("%s kernels, OpenBLAS %s\n", isa_name[cpu_isa()], openblas_get_corename());
    for (int threads = 1; threads <= 2; threads++) {
        if (argc > 3) {
            shape(only, atol(argv[2]), atol(argv[3]));
            break;
        }
        for (int i = 0; i < 3 && (!only || only == threads); i++)
            shape(threads, shapes[i][0], shapes[i][1]);
    }
    arena_close(&memory);
    return 0;
}
