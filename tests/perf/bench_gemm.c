/* bench_gemm.c - how fast linear, grouped, attention and the head are, beside the OpenBLAS they are
 * made of: GFLOP/s of the median of some rounds, and their ratio to plain single-threaded
 * cblas_sgemm calls of the linear's shape, one on every thread at once (what the machine gives when
 * nothing is shared, opened or masked). All are measured in turn within each round, so that what
 * else the machine does weighs on all of them alike. Run with nothing beside; a few seconds. */
#include "../../autograd/blas.h"
#include "../../autograd/tape.h"
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#undef I

enum {
    T = 1024,
    D = 512,
    E = 32,
    K = 4,
    HEADS = 8,
    HEAD_DIM = 64,
    VOCABULARY = 8192,
    ROUNDS = 9,
    CASES_MAX = 32
};

typedef struct Case {
    const char *name;
    double flop;
    Node *node; /* NULL: the plain product */
    bool backward;
    double seconds[ROUNDS];
} Case;

static Case cases[CASES_MAX];
static int n_case;
static Node nodes[CASES_MAX];
static float *plain[3];
static int64_t offsets_step = T * K / E;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void plain_products(void) {
#pragma omp parallel
    {
        size_t at = (size_t)omp_get_thread_num() * T * D;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, T, D, D, 1, plain[0] + at, D, plain[1],
                    D, 0, plain[2] + at, D);
    }
}

static double run(Tape *t, const Case *c) {
    double at = now();
    if (!c->node)
        plain_products();
    else
        (c->backward ? c->node->op->bwd : c->node->op->fwd)[DEV_CPU](t, c->node);
    return now() - at;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static Tensor *filled(Tape *t, Rng *rng, Tensor *x, DType stored, bool learns) {
    Tensor *y = stored == DT_f32 ? x : tensor_new(t->step, stored, x->n_dim, x->dim);
    for (int64_t i = 0; i < tensor_numel(x); i++) f32(x)[i] = (float)(rng_uniform(rng) - 0.5);
    if (y != x) dtype_info[stored].from_f32(f32(x), y->data, tensor_numel(x));
    y->wants_grad = learns;
    return y;
}

static Tensor *filled_2d(Tape *t, Rng *rng, int64_t rows, int64_t cols, DType stored, bool learns) {
    return filled(t, rng, tensor_2d(t->step, DT_f32, rows, cols), stored, learns);
}

/* The node that the last op call left, forward and (if it has one) backward. */
static void add_node(Tape *t, Tensor *y, const char *forward, double flop, const char *backward,
                     double flop_back) {
    Node *n = &t->node[t->n - 1];
    cases[n_case++] = (Case){.name = forward, .flop = flop, .node = n};
    if (!backward) return;
    Tensor *dy = tape_grad(t, y);
    for (int64_t i = 0; i < tensor_numel(dy); i++) f32(dy)[i] = 0.01f;
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] && n->in[i]->wants_grad) tape_grad(t, n->in[i]);
    }
    cases[n_case++] = (Case){.name = backward, .flop = flop_back, .node = n, .backward = true};
}

static void add_linear(Tape *t, Rng *rng, Tensor *x, DType stored, const char *forward,
                       const char *backward) {
    Tensor *w = filled_2d(t, rng, D, D, stored, false);
    double flop = 2.0 * (double)tensor_rows(x) * D * D;
    add_node(t, linear(t, x, w, (Lora){0}), forward, flop, backward, flop);
}

static void add_grouped(Tape *t, Rng *rng, Tensor *x, DType stored, const char *forward,
                        const char *backward) {
    Tensor *w = filled(t, rng, tensor_3d(t->step, DT_f32, E, D, D), stored, false);
    Tensor *off = tensor_1d(t->step, DT_i32, E + 1);
    for (int e = 0; e <= E; e++) i32(off)[e] = (int32_t)(e * offsets_step);
    double flop = 2.0 * T * K * D * D;
    add_node(t, grouped(t, x, w, (Dispatch){.off = off}, (Lora){0}), forward, flop, backward, flop);
}

static void add_attention(Tape *t, Tensor *q, Tensor *k, Tensor *v, int window, const char *forward,
                          const char *backward) {
    Tensor *at = tensor_1d(t->step, DT_i32, 2);
    i32(at)[0] = 0;
    i32(at)[1] = T;
    double seen = window ? (double)T * window - 0.5 * window * (window - 1) : 0.5 * T * (T + 1);
    double flop = 2.0 * 2 * seen * HEADS * HEAD_DIM; /* two products forward, five back */
    Attend a = {at, at, HEADS, HEADS, HEAD_DIM, window, 0.125f};
    add_node(t, attention(t, q, k, v, a), forward, flop, backward, 2.5 * flop);
}

int main(int argc, char **argv) {
    (void)argc;
    blas_prepare(argv);
    Arena arena;
    Err err;
    if (arena_open(&arena, (size_t)4 << 30, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    Tape f = {.step = &arena, .node = nodes, .cap = CASES_MAX};
    Rng rng = {1, 0, 0};
    size_t threads = (size_t)omp_get_max_threads();
    for (int i = 0; i < 3; i++) {
        plain[i] = f32(filled_2d(&f, &rng, (int64_t)threads * T, D, DT_f32, false));
    }
    double flop = 2.0 * T * D * D;
    cases[n_case++] = (Case){.name = "plain sgemm", .flop = flop * (double)threads};
    Tensor *x = filled_2d(&f, &rng, T, D, DT_f32, true),
           *one = filled_2d(&f, &rng, 1, D, DT_f32, true);
    Tensor *sorted = filled_2d(&f, &rng, T * K, D, DT_f32, true);
    add_linear(&f, &rng, x, DT_f32, "linear f32", "linear f32 dx");
    add_linear(&f, &rng, x, DT_bf16, "linear bf16", "linear bf16 dx");
    add_linear(&f, &rng, one, DT_f32, "linear f32, 1 row", NULL);
    add_linear(&f, &rng, one, DT_bf16, "linear bf16, 1 row", NULL);
    add_grouped(&f, &rng, sorted, DT_f32, "grouped f32", "grouped f32 dx");
    add_grouped(&f, &rng, sorted, DT_bf16, "grouped bf16", "grouped bf16 dx");
    Tensor *q = filled_2d(&f, &rng, T, D, DT_f32, true),
           *k = filled_2d(&f, &rng, T, D, DT_f32, true);
    Tensor *v = filled_2d(&f, &rng, T, D, DT_f32, true);
    add_attention(&f, q, k, v, 0, "attention", "attention back");
    add_attention(&f, q, k, v, 256, "attention, window 256", "attention, window 256 back");
    Tensor *head = filled_2d(&f, &rng, VOCABULARY, D, DT_f32, false),
           *labels = tensor_1d(&f.step[0], DT_i32, T);
    for (int i = 0; i < T; i++) i32(labels)[i] = i;
    add_node(&f, head_loss(&f, x, head, labels, 30, 1), "head_loss with dh",
             4.0 * T * D * VOCABULARY, NULL, 0);

    for (int r = -1; r < ROUNDS; r++) { /* the first warms up */
        for (int c = 0; c < n_case; c++) cases[c].seconds[r < 0 ? 0 : r] = run(&f, &cases[c]);
    }
    printf("%zu threads, %s kernels; %d tokens, %d x %d, %d experts of which %d\n", threads,
           openblas_get_corename(), T, D, D, E, K);
    for (int c = 0; c < n_case; c++) {
        qsort(cases[c].seconds, ROUNDS, sizeof(double), by_size);
        double rate = cases[c].flop / cases[c].seconds[ROUNDS / 2] * 1e-9;
        double base = cases[0].flop / cases[0].seconds[ROUNDS / 2] * 1e-9;
        printf("%-28s %8.1f us %7.1f GFLOP/s %5.2f of plain\n", cases[c].name,
               cases[c].seconds[ROUNDS / 2] * 1e6, rate, rate / base);
    }
    arena_close(&arena);
    return 0;
}
