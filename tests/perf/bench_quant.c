/* bench_quant.c - how fast one thread packs and opens each format, in millions of values a second,
 * the best of some tries: pack with and without the report of what is lost; opened to float32; and
 * the turn.
 *   bench_quant [COLS] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "../../autograd/turn.h"
#include "../../autograd/weight.h"

enum { ROWS = 64, TRIES = 12 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
/* Keeps the least time since start. */
static void keep(double *best, double start) {
    double took = now() - start;
    if (took < *best) *best = took;
}

int main(int argc, char **argv) {
    int64_t cols = argc > 1 ? atol(argv[1]) : 2816, n = ROWS * cols, dim[] = {ROWS, cols};
    if (cols < 1) return 1;
    float *x = mem_alloc((size_t)n * 4), *copy = mem_alloc((size_t)n * 4);
    Rng rng = {1, 2, 0};
    for (int64_t i = 0; i < n; i++) x[i] = rng_normal(&rng);
    printf("%-10s %8s %8s %8s %9s   M values/s, %ld columns\n", "format", "report", "pack", "open",
           "rel. MSE", (long)cols);
    for (DType d = 0; d < DT_COUNT; d++) {
        if (!dtype_is_packed(d) && d != DT_nf4_flat) continue;
        Tensor w = {.dtype = d, .n_dim = 2, .dim = {ROWS, cols}};
        w.data = mem_alloc((size_t)weight_bytes(d, 2, dim));
        double report = 1e9, pack = 1e9, open = 1e9, lost = 0, all = 0;
        for (int i = 0; i < TRIES; i++) {
            lost = all = 0;
            memcpy(copy, x, (size_t)n * 4);
            double start = now();
            if (dtype_is_packed(d))
                weight_pack(d, copy, ROWS, cols, w.data, &lost, &all);
            else
                weight_pack_flat(copy, n, w.data, &lost, &all);
            keep(&report, start);
            start = now();
            for (int r = 0; r < ROWS && dtype_is_packed(d); r += PANEL_ROWS)
                dtype_info[d].packed->pack(copy + r * cols, PANEL_ROWS, cols,
                                           (char *)w.data + r / PANEL_ROWS * panel_bytes(d, cols));
            keep(&pack, start);
            start = now();
            for (int r = 0; r < ROWS; r++) weight_open(&w, r, 0, cols, copy + r * cols);
            keep(&open, start);
        }
        printf("%-10s %8.0f ", dtype_info[d].name, (double)n / report / 1e6);
        if (dtype_is_packed(d))
            printf("%8.0f ", (double)n / pack / 1e6);
        else
            printf("%8s ", "");
        printf("%8.0f %9.5f\n", (double)n / open / 1e6, lost / all);
        mem_free(w.data);
    }
    double turn = 1e9;
    for (int i = 0; i < TRIES; i++) {
        double start = now();
        turn_rows(x, ROWS, cols, cols);
        keep(&turn, start);
    }
    printf("%-10s %8.0f\n", "turn", (double)n / turn / 1e6);
    mem_free(x);
    mem_free(copy);
    return 0;
}
