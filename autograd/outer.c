/* outer.c - the gradients of thin matrices: outer_add of matmul_kernels.h. Sums over a chunk of
 * tokens stay in registers, a block of rows by one or two vectors of columns; chunk after chunk is
 * added in turn: one order. A result that lies the other way is summed aside, then transposed. */
#include "cpu.h"
#include "matmul_kernels.h"

enum {
    CHUNK = 32,       /* tokens: STRIP_COLS columns of theirs fill the first cache */
    AHEAD = 32,       /* tokens whose columns are asked for */
    LANES = 16,       /* of a vector, at most */
    STRIP_COLS = 512, /* wide: rows are read as the processor reads ahead in them */
    STRIP_ROWS = 64   /* of what is summed aside */
};

/* A kernel of outer.h. */
typedef void OuterBlock(int64_t T, float s, const float *p, int64_t ldp, const float *const *x,
                        int64_t col, float *out, int64_t ldout);
typedef struct Outer {
    int lanes, most[3];      /* rows of a block with 1 and 2 vectors */
    OuterBlock *block[3][9]; /* [vectors][rows] */
} Outer;

#define VEC 4
#include "outer.h"
#undef VEC
#define VEC 8
#include "outer.h"
#undef VEC
#define VEC 16
#include "outer.h"
#undef VEC

static const Outer *kernels(void) {
    Isa isa = cpu_isa();
    return isa >= ISA_AVX512 ? &outer_16 : isa == ISA_AVX2 ? &outer_8 : &outer_4;
}

/* s pT x: R columns of p, rows ldp apart. */
typedef struct Sum {
    int64_t T, R, ldp;
    float s;
    const float *p, *x;
    int64_t ldx;
    const int32_t *x_row;
} Sum;

/* nv vectors of columns from col on, all rows. */
static void add_vectors(const Outer *k, const Sum *m, int64_t T, const float *p,
                        const float *const *x, int64_t col, int nv, float *out, int64_t ldout) {
    int64_t left = m->R;
    for (int64_t blocks = (left + k->most[nv] - 1) / k->most[nv]; blocks > 0; blocks--) {
        int64_t n = (left + blocks - 1) / blocks;
        k->block[nv][n](T, m->s, p, m->ldp, x, col, out, ldout);
        left -= n, p += n, out += n * ldout;
    }
}

/* n columns from col on that do not fill a vector: x is copied, what is added goes aside first. */
static void add_ragged(const Outer *k, const Sum *m, int64_t T, const float *p,
                       const float *const *x, int64_t col, int64_t n, float *out, int64_t ldout) {
    float copy[CHUNK][LANES], sum[STRIP_ROWS * LANES];
    const float *row[CHUNK + AHEAD];
    for (int64_t t = 0; t < T + AHEAD; t++) row[t] = copy[t < T ? t : 0];
    for (int64_t t = 0; t < T; t++) {
        memset(copy[t], 0, sizeof copy[t]);
        memcpy(copy[t], x[t] + col, (size_t)n * sizeof **copy);
    }
    Sum part = *m;
    for (int64_t r = 0; r < m->R; r += STRIP_ROWS) {
        part.R = m->R - r < STRIP_ROWS ? m->R - r : STRIP_ROWS;
        memset(sum, 0, sizeof sum);
        add_vectors(k, &part, T, p + r, row, 0, 1, sum, LANES);
        for (int64_t i = 0; i < part.R; i++) {
            for (int64_t j = 0; j < n; j++) out[(r + i) * ldout + j] += sum[i * LANES + j];
        }
    }
}

/* out (R, n) += s pT x, columns [col, col + n) of x. */
static void add_strip(const Outer *k, const Sum *m, int64_t col, int64_t n, float *out,
                      int64_t ldout) {
    for (int64_t from = 0; from < m->T; from += CHUNK) {
        const float *x[CHUNK + AHEAD], *p = m->p + from * m->ldp;
        int64_t T = m->T - from < CHUNK ? m->T - from : CHUNK;
        for (int64_t i = 0; i < T + AHEAD; i++) {
            int64_t t = from + i < m->T ? from + i : m->T - 1;
            x[i] = m->x + (m->x_row ? m->x_row[t] : t) * m->ldx + col;
        }
        int64_t j = 0;
        for (; j + 2 * k->lanes <= n; j += 2 * k->lanes)
            add_vectors(k, m, T, p, x, j, 2, out + j, ldout);
        for (; j + k->lanes <= n; j += k->lanes) add_vectors(k, m, T, p, x, j, 1, out + j, ldout);
        if (j < n) add_ragged(k, m, T, p, x, j, n - j, out + j, ldout);
    }
}

/* out (n, R) += sumT, sum (R, n), STRIP_COLS apart. */
static void add_transposed(const float *sum, int64_t R, int64_t n, float *out, int64_t ldout) {
    for (int64_t j = 0; j < n; j += 4) {
        int64_t r = 0;
        for (; r + 4 <= R && j + 4 <= n; r += 4) {
            Quad from[4], to[4];
            for (int i = 0; i < 4; i++) from[i] = quad_load(sum + (r + i) * STRIP_COLS + j);
            quad_transpose(from, to);
            for (int i = 0; i < 4; i++) {
                float *at = out + (j + i) * ldout + r;
                quad_store(at, quad_load(at) + to[i]);
            }
        }
        for (; r < R; r++) {
            for (int64_t i = j; i < n && i < j + 4; i++)
                out[i * ldout + r] += sum[r * STRIP_COLS + i];
        }
    }
}

void outer_add(int64_t T, int64_t R, int64_t I, float s, const float *p, const float *x,
               int64_t ldx, const int32_t *x_row, float *out, int64_t ldout, bool transposed) {
    const Outer *k = kernels();
    Sum m = {T, R, R, s, p, x, ldx, x_row};
    for (int64_t col = 0, n; col < I; col += n) {
        n = I - col < STRIP_COLS ? I - col : STRIP_COLS;
        if (!transposed) {
            add_strip(k, &m, col, n, out + col, ldout);
            continue;
        }
        for (int64_t r = 0; r < R; r += STRIP_ROWS) {
            float aside[STRIP_ROWS * STRIP_COLS];
            Sum part = m;
            part.p = p + r;
            part.R = R - r < STRIP_ROWS ? R - r : STRIP_ROWS;
            memset(aside, 0, (size_t)(part.R * STRIP_COLS) * sizeof *aside);
            add_strip(k, &part, col, n, aside, STRIP_COLS);
            add_transposed(aside, part.R, n, out + col * ldout + r, ldout);
        }
    }
}
