/* test_matmul.c - the products of matmul.h with every set of kernels and every format, against
 * float64 sums of the same bfloat16 operands.
 *
 * Plain code (one float32 sum after the other) has an error too, which is measured here on the same
 * operands; the largest error of the kernels may be twice its largest. Where a value that is
 * rounded to bfloat16 on the way (s*h, s*g) lies so near the middle of two neighbours that such an
 * error decides, either neighbour is right: `doubt` is what that may change in the result. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "../autograd/cpu.h"
#include "../autograd/matmul.h"
#include "../autograd/turn.h"
#include "stored.h"

enum { GROUPS = 8 };
static const double UNIT = 0x1p-24; /* half an ulp of 1 */

/* rows: of every group; one group: a plain matrix. */
typedef struct Shape {
    int I, O, R, groups, rows[GROUPS];
    bool own_lx, x_row;
} Shape;
static const Shape shapes[] = {
    {2816, 40, 8, 8, {0, 1, 15, 0, 16, 17, 100, 0}, false, false},
    {704, 1056, 1, 1, {17}, false, false},
    {96, 40, 40, 4, {1, 0, 2, 5}, true, false},
    {24, 24, 0, 1, {5}, false, false},
    {40, 704, 40, 3, {15, 0, 1}, false, true},
    {192, 2112, 8, 1, {4}, true, false},
    {256, 72, 8, 2, {300, 3}, false, true}, /* more rows than kernels and packing take at once */
    {72, 8300, 0, 1, {7}, false, false},    /* more rows of w than go at a time in backward */
    {64, 32, 8, 2, {0, 0}, false, false},
};

/* ---- memory and made values ------------------------------------------------------------------ */

static Arena keep;
static float *kept(int64_t n) { return arena_push(&keep, (size_t)n * sizeof(float)); }
static double *doubles(int64_t n) { return arena_push_zero(&keep, (size_t)n * sizeof(double)); }
static float *normals(Rng *rng, int64_t n, float size) {
    float *x = kept(n);
    for (int64_t i = 0; i < n; i++) x[i] = size * rng_normal(rng);
    return x;
}
static float bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }
static float *rounded(const float *x, int64_t n) {
    float *y = kept(n);
    for (int64_t i = 0; i < n; i++) y[i] = bf16(x[i]);
    return y;
}
static float *turned(const float *x, int64_t rows, int64_t cols) {
    float *y = kept(rows * cols);
    memcpy(y, x, (size_t)(rows * cols) * sizeof *y);
    turn_rows(y, rows, cols, cols);
    return y;
}

static Tensor *weight_made(Rng *rng, DType d, int64_t E, int64_t O, int64_t I) {
    int64_t n = O * I;
    double error = 0, value = 0;
    Tensor *w = tensor_3d(&keep, d, E, O, I);
    char *at = w->data;
    if (E == 1) {
        w->n_dim = 2;
        w->dim[0] = O, w->dim[1] = I;
    }
    if (d == DT_nf4_flat) {
        weight_pack_flat(normals(rng, E * n, 1), E * n, at, &error, &value);
        return w;
    }
    for (int64_t e = 0; e < E; e++, at += weight_bytes(d, 2, (int64_t[]){O, I}))
        store(d, normals(rng, n, 1), 2, (int64_t[]){O, I}, rng, at);
    return w;
}

/* ---- one case: inputs, and what must come out --------------------------------------------------
 */

/* A result: what is right, how far off plain code is, and what roundings in doubt may change. */
typedef struct Right {
    int64_t n;
    double *want, *doubt;
    float *plain;
} Right;
static Right right(int64_t n) {
    return (Right){n, doubles(n), doubles(n), arena_push_zero(&keep, (size_t)n * sizeof(float))};
}

typedef struct Case {
    const Shape *s;
    Matmul m;
    int64_t x_rows;
    float *x, *lx, *dy;
    Right h, y, dx, dlx, da, db;
} Case;

static double worst_plain(const Right *r) {
    double worst = 0;
    for (int64_t i = 0; i < r->n; i++)
        worst = fmax(worst, fabs((double)r->plain[i] - r->want[i]) - r->doubt[i]);
    return worst;
}

/* How far bfloat16(v) may lie off where v is only known to within d. */
static double rounding_doubt(double v, double d) {
    return (double)bf16((float)(v + d)) - (double)bf16((float)(v - d));
}

/* out[i] += left[i, :] . right[j, :] over n values that lie so far apart. */
static void dot(Right *out, int64_t at, const float *a, int64_t da, const float *b, int64_t db,
                int64_t n) {
    double sum = 0;
    float plain = out->plain[at];
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i * da] * (double)b[i * db];
        plain += a[i * da] * b[i * db];
    }
    out->want[at] += sum;
    out->plain[at] = plain;
}

/* The thin factor s*v rounded to bfloat16: as it is right, as plain code has it, and its doubt. */
typedef struct Thin {
    float *want, *plain;
    double *doubt;
} Thin;
static Thin thin_of(const Right *v, float s) {
    Thin t = {kept(v->n), kept(v->n), doubles(v->n)};
    double off = 2 * worst_plain(v) * fabs((double)s);
    for (int64_t i = 0; i < v->n; i++) {
        t.want[i] = bf16((float)(v->want[i] * (double)s));
        t.plain[i] = bf16(v->plain[i] * s);
        t.doubt[i] = rounding_doubt(v->want[i] * (double)s, off);
    }
    return t;
}
static void thin_dot(Right *out, int64_t at, const Thin *t, int64_t row, const float *b, int64_t db,
                     int64_t R) {
    for (int64_t r = 0; r < R; r++) {
        out->want[at] += (double)t->want[row * R + r] * (double)b[r * db];
        out->plain[at] += t->plain[row * R + r] * b[r * db];
        out->doubt[at] += t->doubt[row * R + r] * fabs((double)b[r * db]);
    }
}

/* Rows of r turned back, `want` in float64 by the matrix of the rotation. */
static void turn_back(Right *r, int64_t cols) {
    int64_t block = turn_block(cols), rows = r->n / cols;
    float *unit = arena_push_zero(&keep, (size_t)(cols * block) * sizeof(float));
    double *was = doubles(cols), *doubt = doubles(cols);
    for (int64_t c = 0; c < cols; c++) unit[c % block * cols + c] = 1;
    turn_rows(unit, block, cols, cols); /* row j: where column j of every block goes */
    for (int64_t t = 0; t < rows; t++) {
        memcpy(was, r->want + t * cols, (size_t)cols * sizeof *was);
        memcpy(doubt, r->doubt + t * cols, (size_t)cols * sizeof *was);
        for (int64_t c = 0; c < cols; c++) {
            double sum = 0, in_doubt = 0;
            for (int64_t k = c / block * block; k < c / block * block + block; k++) {
                sum += was[k] * (double)unit[c % block * cols + k];
                in_doubt += doubt[k] * fabs((double)unit[c % block * cols + k]);
            }
            r->want[t * cols + c] = sum;
            r->doubt[t * cols + c] = in_doubt;
        }
    }
    turn_rows_back(r->plain, rows, cols, cols);
}

/* Operand matrices as the product reads them, rounded. */
typedef struct Operands {
    const float *w, *x, *lx, *a, *a_own, *b, *dy; /* a: beside w; a_own: in its own basis */
} Operands;

static Operands operands_of(const Case *c, bool w_turned) {
    const Shape *s = c->s;
    int64_t E = s->groups, I = s->I, O = s->O, R = s->R;
    float *w = kept(E * O * I);
    for (int64_t r = 0; r < E * O; r++) weight_open(c->m.w, r, 0, I, w + r * I);
    Operands p = {.w = rounded(w, E * O * I), .dy = rounded(c->dy, c->m.T * O)};
    p.x = rounded(w_turned ? turned(c->x, c->x_rows, I) : c->x, c->x_rows * I);
    p.lx = s->own_lx ? rounded(c->lx, c->x_rows * I) : p.x;
    if (R) {
        p.a_own = rounded(f32(c->m.a), E * R * I);
        p.b = rounded(f32(c->m.b), E * O * R);
        p.a = w_turned ? rounded(turned(f32(c->m.a), E * R, I), E * R * I) : p.a_own;
    }
    return p;
}

static void expect_forward(Case *c, const Operands *p, const int32_t *group) {
    int64_t I = c->s->I, O = c->s->O, R = c->s->R, T = c->m.T;
    c->h = right(T * R), c->y = right(T * O);
    for (int64_t t = 0; t < T; t++) {
        int64_t e = group[t], row = c->m.x_row ? c->m.x_row[t] : t;
        const float *a = (c->s->own_lx ? p->a_own : p->a) + e * R * I;
        for (int64_t r = 0; r < R; r++) dot(&c->h, t * R + r, p->lx + row * I, 1, a + r * I, 1, I);
    }
    Thin h = thin_of(&c->h, c->m.s);
    for (int64_t i = 0; i < T * O; i++) {
        int64_t t = i / O, e = group[t], o = e * O + i % O, row = c->m.x_row ? c->m.x_row[t] : t;
        dot(&c->y, i, p->x + row * I, 1, p->w + o * I, 1, I);
        thin_dot(&c->y, i, &h, t, p->b + o * R, 1, R);
    }
}

static void expect_backward(Case *c, const Operands *p, const int32_t *group, bool w_turned) {
    int64_t I = c->s->I, O = c->s->O, R = c->s->R, T = c->m.T, E = c->s->groups;
    Right g = right(T * R);
    c->dx = right(T * I), c->dlx = right(T * I), c->da = right(E * R * I), c->db = right(E * O * R);
    for (int64_t i = 0; i < T * R; i++)
        dot(&g, i, p->dy + i / R * O, 1, p->b + group[i / R] * O * R + i % R, R, O);
    Thin thin = thin_of(&g, c->m.s);
    for (int64_t i = 0; i < T * I; i++) {
        int64_t t = i / I, e = group[t], col = i % I;
        dot(&c->dx, i, p->dy + t * O, 1, p->w + e * O * I + col, I, O);
        if (!c->s->own_lx) thin_dot(&c->dx, i, &thin, t, p->a + e * R * I + col, I, R);
        if (c->s->own_lx) thin_dot(&c->dlx, i, &thin, t, p->a_own + e * R * I + col, I, R);
    }
    if (w_turned) turn_back(&c->dx, I);
    for (int64_t t = 0; t < T; t++) { /* float32 throughout */
        int64_t e = group[t], row = c->m.x_row ? c->m.x_row[t] : t;
        for (int64_t i = 0; i < R * I; i++) {
            float x = c->lx[row * I + i % I];
            int64_t v = t * R + i / I;
            c->da.want[e * R * I + i] += (double)c->m.s * g.want[v] * (double)x;
            c->da.plain[e * R * I + i] += c->m.s * g.plain[v] * x;
        }
        for (int64_t i = 0; i < O * R; i++) {
            float dy = c->dy[t * O + i / R], h = c->h.plain[t * R + i % R];
            c->db.want[e * O * R + i] += (double)c->m.s * (double)dy * (double)h;
            c->db.plain[e * O * R + i] += c->m.s * dy * h;
        }
    }
}

static Case case_of(const Shape *s, DType d) {
    Rng rng = {.seed = 5, .stream = (uint64_t)d};
    int64_t E = s->groups, I = s->I, O = s->O, R = s->R, T = 0;
    int32_t *off = arena_push(&keep, sizeof *off * (GROUPS + 1)), *group;
    for (int e = 0; e < E; e++) off[e] = (int32_t)T, T += s->rows[e];
    off[E] = (int32_t)T;
    group = arena_push(&keep, sizeof *group * (size_t)T);
    for (int32_t e = 0; e < E; e++)
        for (int32_t t = off[e]; t < off[e + 1]; t++) group[t] = e;
    Case c = {.s = s, .x_rows = s->x_row ? 7 : T};
    c.m =
        (Matmul){.w = weight_made(&rng, d, E, O, I), .off = E > 1 ? off : NULL, .T = T, .s = 0.75f};
    if (s->x_row) {
        int32_t *row = arena_push(&keep, sizeof *row * (size_t)T);
        for (int64_t t = 0; t < T; t++) row[t] = (int32_t)(rng_u64(&rng) % 7);
        c.m.x_row = row;
        c.m.x_rows = c.x_rows;
    }
    c.x = normals(&rng, c.x_rows * I, 1);
    c.lx = s->own_lx ? normals(&rng, c.x_rows * I, 1) : c.x;
    c.dy = normals(&rng, T * O, 1);
    if (R) {
        c.m.a = tensor_over(&keep, DT_f32, 3, (int64_t[]){E, R, I}, normals(&rng, E * R * I, 0.1f));
        c.m.b = tensor_over(&keep, DT_f32, 3, (int64_t[]){E, O, R}, normals(&rng, E * O * R, 1));
    }
    Operands p = operands_of(&c, weight_is_turned(c.m.w));
    expect_forward(&c, &p, group);
    expect_backward(&c, &p, group, weight_is_turned(c.m.w));
    return c;
}

/* ---- what comes out -------------------------------------------------------------------------- */

/* Results of one run, one after the other. */
typedef struct Out {
    float *h, *y, *dx, *dlx, *da, *db, *end;
} Out;
static Out out_of(const Case *c) {
    int64_t n[] = {c->h.n, c->y.n, c->dx.n, c->s->own_lx ? c->dx.n : 0, c->da.n, c->db.n};
    int64_t all = n[0] + n[1] + n[2] + n[3] + n[4] + n[5];
    float *p = kept(all);
    memset(p, 0xff, (size_t)all * sizeof *p); /* NaN: what stays unwritten shows */
    Out o = {.h = p, .y = p + n[0]};
    o.dx = o.y + n[1], o.dlx = o.dx + n[2], o.da = o.dlx + n[3], o.db = o.da + n[4];
    o.end = o.db + n[5];
    return o;
}

typedef struct Bench {
    Arena arena;
    Tape t;
} Bench;

static void within(const Bench *b, size_t bound, const char *what) {
    if (b->arena.peak > bound) fail_msg("%s takes %zu bytes, not %zu", what, b->arena.peak, bound);
}

/* Forward and backward; before: what da, db (and dx, dlx unless they are set) hold already. */
static Out run(Bench *b, const Case *c, const float *before) {
    Out o = out_of(c);
    b->arena.peak = 0;
    matmul_forward(&b->t, &c->m, c->x, c->lx, o.h, o.y);
    within(b, matmul_scratch(&c->m, c->s->own_lx, false), "forward");
    MatmulGrads g = {.dx = o.dx, .da = c->s->R ? o.da : NULL, .db = c->s->R ? o.db : NULL};
    if (c->s->R) g.dlx = c->s->own_lx ? o.dlx : o.dx;
    g.set_dx = g.set_dlx = !before;
    memset(o.da, 0, (size_t)(o.end - o.da) * sizeof(float));
    if (before) memcpy(o.dx, before, (size_t)(o.end - o.dx) * sizeof(float));
    b->arena.peak = 0;
    matmul_backward(&b->t, &c->m, c->dy, c->lx, c->h.plain, &g);
    within(b, matmul_scratch(&c->m, c->s->own_lx, true), "backward");
    return o;
}

static void check(const Case *c, const char *what, const float *got, const Right *r,
                  const float *before) {
    double plain = worst_plain(r), largest = 0, worst = 0, was = 0;
    for (int64_t i = 0; i < r->n; i++) largest = fmax(largest, fabs(r->want[i]));
    for (int64_t i = 0; i < r->n; i++) {
        double v = before ? (double)before[i] : 0, off = fabs((double)got[i] - v - r->want[i]);
        was = fmax(was, fabs(v));
        worst = fmax(worst, off - r->doubt[i]);
        if (isnan(got[i])) worst = INFINITY;
    }
    double allowed = 2 * plain + 2 * UNIT * (largest + was);
    if (worst > allowed) {
        fail_msg("%s, %s, I %d O %d R %d: %s is off by %.3g of %.3g; plain code by %.3g",
                 dtype_info[c->m.w->dtype].name, isa_name[cpu_isa()], c->s->I, c->s->O, c->s->R,
                 what, worst, largest, plain);
    }
}

/* Parts of the gradients asked for alone have the bits that they have together. */
static void check_parts(Bench *b, const Case *c, const Out *whole) {
    Out o = out_of(c);
    if (!c->s->R) return;
    memset(o.da, 0, (size_t)(o.end - o.da) * sizeof(float));
    matmul_backward(&b->t, &c->m, c->dy, NULL, c->h.plain, &(MatmulGrads){.db = o.db});
    assert_memory_equal(o.db, whole->db, c->db.n * sizeof(float));
    matmul_backward(&b->t, &c->m, c->dy, c->lx, NULL, &(MatmulGrads){.da = o.da});
    assert_memory_equal(o.da, whole->da, c->da.n * sizeof(float));
    if (!c->s->own_lx) return;
    matmul_backward(&b->t, &c->m, c->dy, NULL, NULL, &(MatmulGrads){.dlx = o.dlx, .set_dlx = true});
    assert_memory_equal(o.dlx, whole->dlx, c->dlx.n * sizeof(float));
    matmul_backward(&b->t, &c->m, c->dy, NULL, NULL, &(MatmulGrads){.dx = o.dx, .set_dx = true});
    assert_memory_equal(o.dx, whole->dx, c->dx.n * sizeof(float));
}

static void check_case(Bench *b, const Case *c) {
    omp_set_num_threads(2);
    Out o = run(b, c, NULL);
    check(c, "h", o.h, &c->h, NULL);
    check(c, "y", o.y, &c->y, NULL);
    check(c, "dx", o.dx, &c->dx, NULL);
    if (c->s->own_lx) check(c, "dlx", o.dlx, &c->dlx, NULL);
    check(c, "da", o.da, &c->da, NULL);
    check(c, "db", o.db, &c->db, NULL);
    check_parts(b, c, &o);
    Rng rng = {.seed = 9};
    const float *before = normals(&rng, o.end - o.dx, 1);
    Out more = run(b, c, before);
    check(c, "dx added to", more.dx, &c->dx, before);
    if (c->s->own_lx) check(c, "dlx added to", more.dlx, &c->dlx, before + (o.dlx - o.dx));
    check(c, "da added to", more.da, &c->da, before + (o.da - o.dx));
    check(c, "db added to", more.db, &c->db, before + (o.db - o.dx));
    for (int threads = 1; threads <= 3; threads += 2) {
        omp_set_num_threads(threads);
        Out again = run(b, c, NULL);
        assert_memory_equal(again.h, o.h, (size_t)(o.end - o.h) * sizeof(float));
    }
}

static void test_formats(void **state) {
    (void)state;
    Err e;
    Bench b = {.t = {.step = &b.arena, .compute = COMPUTE_BF16}};
    assert_int_equal(arena_open(&b.arena, (size_t)1 << 30, &e), 0);
    assert_int_equal(arena_open(&keep, (size_t)1 << 32, &e), 0);
    for (DType d = 0; d < DT_COUNT; d++) {
        if (!dtype_is_weight(d)) continue;
        for (size_t s = 0; s < COUNT_OF(shapes); s++) {
            size_t mark = arena_mark(&keep);
            if (!is_storable(d, shapes[s].I)) continue;
            Case c = case_of(&shapes[s], d);
            for (int isa = ISA_PLAIN; isa <= ISA_AMX; isa++) {
                size_t before = arena_mark(&keep);
                cpu_limit_isa((Isa)isa);
                if (cpu_isa() == (Isa)isa) check_case(&b, &c);
                arena_release(&keep, before);
            }
            arena_release(&keep, mark);
        }
    }
    arena_close(&keep);
    arena_close(&b.arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
