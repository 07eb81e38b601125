/* bench_attention.c - how fast attention is in float32 and in bfloat16 tiles, forward and backward:
 * GFLOP/s of what is not masked, the ratio of the two, and the share of what the tile unit gives
 * (with operands in the level-1 cache, and from registers alone). Everything is measured in turn
 * within each round; medians of some rounds. Run with nothing beside.
 *   bench_attention [TOKENS]    1024 unless given; a few seconds for 1024, a minute for 8192 */
#include "../../autograd/blas.h"
#include "../../autograd/cpu.h"
#include "../../autograd/tape.h"
#include "../../autograd/tiles.h"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 7, SHAPES = 4, PEAKS = 2, PEAK_STEPS = 16, PEAK_TIMES = 4096 };
/* Of a shape, in this order. */
enum { FWD_F32, FWD_BF16, BWD_F32, BWD_BF16, KINDS };

static const struct {
    int H, K, d, window;
} shapes[SHAPES] = {{16, 8, 256, 1024}, {16, 2, 512, 0}, {8, 4, 64, 256}, {8, 2, 128, 0}};
static double seconds[SHAPES][KINDS][ROUNDS], peak_seconds[PEAKS][ROUNDS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *x) {
    qsort(x, ROUNDS, sizeof(double), by_size);
    return x[ROUNDS / 2];
}

/* 2 x 2 sums over PEAK_STEPS tiles: operands loaded each time, or standing in registers. */
AMX_TARGET static void peak(bool load) {
    static char tile[4 * PEAK_STEPS * TILE_PACK] __attribute__((aligned(64)));
    amx_begin();
    tile_sums_zero();
    for (int i = 0; i < PEAK_TIMES; i++) {
        if (load) {
            tile_sums_add(tile, PEAK_STEPS * TILE_PACK, tile + 2 * PEAK_STEPS * TILE_PACK,
                          PEAK_STEPS * TILE_PACK, PEAK_STEPS);
            continue;
        }
        for (int k = 0; k < PEAK_STEPS; k++) {
            AMX_ADD(0, 4, 5);
            AMX_ADD(1, 4, 6);
            AMX_ADD(2, 4, 5);
            AMX_ADD(3, 4, 6);
        }
    }
    amx_end();
}
static double peak_run(bool load) {
    double at = now();
#pragma omp parallel
    peak(load);
    return now() - at;
}

static Tensor *filled(Tape *t, Rng *rng, int64_t rows, int64_t cols) {
    Tensor *x = tensor_2d(t->step, DT_f32, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) f32(x)[i] = 0.2f * rng_normal(rng);
    x->wants_grad = true;
    return x;
}

static Node *open_shape(Tape *t, Rng *rng, int i, int64_t T) {
    int64_t q = (int64_t)shapes[i].H * shapes[i].d, k = (int64_t)shapes[i].K * shapes[i].d;
    Tensor *at = tensor_1d(t->step, DT_i32, 2);
    i32(at)[0] = 0;
    i32(at)[1] = (int32_t)T;
    Attend a = {at, at, shapes[i].H, shapes[i].K, shapes[i].d, shapes[i].window, 1};
    Tensor *y = attention(t, filled(t, rng, T, q), filled(t, rng, T, k), filled(t, rng, T, k), a);
    Node *n = &t->node[t->n - 1];
    Tensor *dy = tape_grad(t, y);
    for (int64_t j = 0; j < tensor_numel(dy); j++) f32(dy)[j] = rng_normal(rng);
    for (int j = 0; j < 3; j++) tape_grad(t, n->in[j]);
    return n;
}

static double run(Tape *t, Node *n, int kind) {
    n->compute = t->compute = kind == FWD_BF16 || kind == BWD_BF16 ? COMPUTE_BF16 : COMPUTE_F32;
    double at = now();
    (kind >= BWD_F32 ? n->op->bwd : n->op->fwd)[DEV_CPU](t, n);
    return now() - at;
}

int main(int argc, char **argv) {
    blas_prepare(argv);
    int64_t T = argc > 1 ? strtol(argv[1], NULL, 10) : 1024;
    Arena arena;
    Err err;
    Node nodes[SHAPES], *node[SHAPES];
    if (cpu_isa() != ISA_AMX || T < 1 || T > 1 << 20) {
        fprintf(stderr, "bench_attention [TOKENS]: needs AMX, and up to 2^20 tokens\n");
        return 1;
    }
    if (arena_open(&arena, (size_t)16 << 30, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    Tape t = {.step = &arena, .node = nodes, .cap = SHAPES, .compute = COMPUTE_BF16};
    Rng rng = {1, 0, 0};
    for (int i = 0; i < SHAPES; i++) node[i] = open_shape(&t, &rng, i, T);
    for (int r = -1; r < ROUNDS; r++) { /* the first warms up */
        int to = r < 0 ? 0 : r;
        for (int p = 0; p < PEAKS; p++) peak_seconds[p][to] = peak_run(p == 0);
        for (int i = 0; i < SHAPES; i++) {
            for (int k = 0; k < KINDS; k++) seconds[i][k][to] = run(&t, node[i], k);
        }
    }
    double rate[PEAKS], flop = 4.0 * PEAK_TIMES * PEAK_STEPS * 2 * 16 * 16 * 32;
    for (int p = 0; p < PEAKS; p++)
        rate[p] = flop * omp_get_max_threads() / median(peak_seconds[p]) * 1e-9;
    printf("%d threads, %ld tokens; tiles: %.0f GFLOP/s from level 1, %.0f from registers\n",
           omp_get_max_threads(), (long)T, rate[0], rate[1]);
    for (int i = 0; i < SHAPES; i++) {
        double w = shapes[i].window ? shapes[i].window : (double)T, n = (double)T;
        double seen = n <= w ? 0.5 * n * (n + 1) : n * w - 0.5 * w * (w - 1);
        for (int back = 0; back < 2; back++) {
            double work = (back ? 10 : 4) * seen * shapes[i].H * shapes[i].d * 1e-9;
            double f = work / median(seconds[i][2 * back]),
                   b = work / median(seconds[i][2 * back + 1]);
            printf(
                "H %2d K %d d %3d window %4d %s  f32 %7.1f  bf16 %7.1f GFLOP/s  x%5.2f  %4.2f of "
                "level 1, %4.2f of registers\n",
                shapes[i].H, shapes[i].K, shapes[i].d, shapes[i].window, back ? "back" : "    ", f,
                b, b / f, b / rate[0], b / rate[1]);
        }
    }
    arena_close(&arena);
    return 0;
}
