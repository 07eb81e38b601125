/* grouped: y_e = x_e w_eT + s h_e b_eT,  h_e = l.x_e a_eT   for each expert e, where x_e are the
 * rows off[e]..off[e+1]-1 of x.   x (T,I) w (E,O,I) off (E+1) y (T,O) a (E,R,I) b (E,O,R) h (T,R)
 * With token_of (T), x is not sorted yet: row t of the product reads x[token_of[t]], and dx of a
 * token is the sum over its rows row_of[token, 0..k), in that order.
 *   dx_e += dy_e w_e    dw_e += dy_eT x_e    with g_e = s dy_e b_e (T,R):
 *   db_e += s dy_eT h_e   da_e += g_eT l.x_e   dl.x_e += g_e a_e
 * Threads take (expert, panel) tasks as they come; every task owns what it writes, so the order in
 * which they come does not matter. An expert without rows has no tasks worth the name. */
#include "../gemm.h"
#include "../matmul.h"
#include "../rows.h"
#include "sample.h"
#include <omp.h>
#include <string.h>

enum { X, W, OFF, LX, A, B, TOKEN_OF, ROW_OF, N_IN };
enum { PANEL = 512 }; /* rows (y, dw) or columns (dx) of a weight in one task */
typedef struct Attr {
    float s;
} Attr;

static int64_t panels(int64_t n) { return (n + PANEL - 1) / PANEL; }
static int64_t rows_of(const Node *n) { return n->out[0]->dim[0]; }
static const int32_t *token_of(const Node *n) {
    return n->in[TOKEN_OF] ? i32(n->in[TOKEN_OF]) : NULL;
}

static void check_offsets(const Node *n) {
    const int32_t *off = i32(n->in[OFF]);
    int64_t E = n->in[W]->dim[0], T = rows_of(n);
    CHECK(off[0] == 0 && off[E] == T, "grouped: offsets %d..%d over %ld rows", off[0], off[E],
          (long)T);
    for (int64_t e = 0; e < E; e++)
        CHECK(off[e] <= off[e + 1], "grouped: offsets of expert %ld fall", (long)e);
}

/* dw_e += dy_eT x_e, whose rows are operands already. */
static void bwd_w(const Node *n, const float *dy, const float *x) {
    const int32_t *off = i32(n->in[OFF]);
    int64_t E = n->in[W]->dim[0], O = n->in[W]->dim[1], I = n->in[W]->dim[2];
    float *dw = f32(n->in[W]->grad);
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t e = 0; e < E; e++) {
        for (int64_t p = 0; p < panels(O); p++) {
            int64_t o = p * PANEL, r = off[e], rows = off[e + 1] - r;
            if (!rows) continue;
            gemm_serial(true, false, min64(PANEL, O - o), I, rows, 1, dy + r * O + o, O, x + r * I,
                        I, 1, dw + (e * O + o) * I, I);
        }
    }
}

/* ---- rows that are not sorted yet ---- */

/* The rows of x by expert: x itself where it is sorted. */
static const float *sorted_x(Tape *t, const Node *n) {
    const int32_t *from = token_of(n);
    int64_t T = rows_of(n), I = tensor_cols(n->in[X]);
    const float *x = f32(n->in[X]);
    if (!from) return x;
    float *rows = arena_push(t->step, (size_t)(T * I) * sizeof *rows);
    FOR_ROWS(r, T, I) { memcpy(rows + r * I, x + from[r] * I, (size_t)I * sizeof *rows); }
    return rows;
}

/* What dx of the sorted rows becomes. */
static void add_tokens(const Node *n, const float *rows) {
    int64_t T = tensor_rows(n->in[X]), I = tensor_cols(n->in[X]), k = rows_of(n) / T;
    const int32_t *row = i32(n->in[ROW_OF]);
    float *dx = f32(n->in[X]->grad);
    bool set = n->fresh & 1u << X;
    FOR_ROWS(i, T, k * I) {
        for (int64_t j = 0; j < k; j++)
            row_put_scaled(dx + i * I, rows + row[i * k + j] * I, 1, I, set && j == 0);
    }
}

static size_t sorted_bytes(const Node *n) {
    if (!n->in[TOKEN_OF]) return 0;
    return (size_t)(rows_of(n) * tensor_cols(n->in[X])) * sizeof(float) + ARENA_ALIGN;
}

/* ---- compute: bf16 ---- */

static Matmul matmul_of(const Node *n) {
    return (Matmul){.w = n->in[W],
                    .off = i32(n->in[OFF]),
                    .T = rows_of(n),
                    .x_row = token_of(n),
                    .x_rows = tensor_rows(n->in[X]),
                    .a = n->in[A],
                    .b = n->in[B],
                    .s = ATTR(n, Attr)->s};
}

static void fwd_bf16(Tape *t, Node *n) {
    Matmul m = matmul_of(n);
    const float *lx = m.a ? f32(n->in[LX]) : NULL;
    matmul_forward(t, &m, f32(n->in[X]), lx, m.a ? f32(n->saved[0]) : NULL, f32(n->out[0]));
}

static void bwd_bf16(Tape *t, Node *n) {
    Matmul m = matmul_of(n);
    const Tensor *x = n->in[X], *dy = n->out[0]->grad;
    const float *lx = m.a ? f32(n->in[LX]) : NULL;
    MatmulGrads g = {.dx = grad_of(x),
                     .dlx = grad_of(n->in[LX]),
                     .da = grad_of(n->in[A]),
                     .db = grad_of(n->in[B]),
                     .set_dx = n->fresh & 1u << X,
                     .set_dlx = n->fresh & 1u << LX};
    size_t mark = arena_mark(t->step);
    if (g.dx && m.x_row) {
        g.dx = arena_push(t->step, (size_t)(m.T * tensor_cols(x)) * sizeof *g.dx);
        g.set_dx = true;
        if (g.dlx) g.dlx = g.dx;
    }
    matmul_backward(t, &m, f32(dy), lx, m.a ? f32(n->saved[0]) : NULL, &g);
    if (g.dx && m.x_row) add_tokens(n, g.dx);
    arena_release(t->step, mark);
    if (!n->in[W]->wants_grad) return;
    bwd_w(n, gemm_rounded(t, f32(dy), tensor_numel(dy)),
          gemm_rounded(t, sorted_x(t, n), m.T * tensor_cols(x)));
    arena_release(t->step, mark);
}

static size_t scratch_bf16(const Node *n, bool back) {
    Matmul m = matmul_of(n);
    size_t bytes = matmul_scratch(&m, m.a && n->in[LX] != n->in[X], back), dw = 0;
    if (back && n->in[W]->wants_grad)
        dw = gemm_rounded_bytes(tensor_numel(n->out[0])) +
             gemm_rounded_bytes(rows_of(n) * tensor_cols(n->in[X])) + sorted_bytes(n);
    if (back && n->in[X]->wants_grad) bytes += sorted_bytes(n);
    return bytes > dw ? bytes : dw;
}

/* ---- compute: f32 ---- */

/* What every product here needs to know, taken from the node once. */
typedef struct Work {
    const Tensor *w;
    const int32_t *off;
    const float *x, *lx, *a, *b, *dy;
    float *dx, *dlx; /* of sorted rows; NULL: no gradient */
    float *scratch;  /* per thread: one opened panel */
    int64_t scratch_n;
    int64_t T, I, O, E, R;
    float s;
} Work;

static float *my_scratch(const Work *k) {
    return k->scratch ? k->scratch + k->scratch_n * omp_get_thread_num() : NULL;
}

static Work work_of(Tape *t, const Node *n, int64_t panel_values) {
    const Tensor *w = n->in[W], *x = n->in[X], *a = n->in[A];
    Work k = {.w = w,
              .off = i32(n->in[OFF]),
              .x = sorted_x(t, n),
              .T = rows_of(n),
              .I = tensor_cols(x),
              .E = w->dim[0],
              .O = w->dim[1],
              .R = a ? a->dim[1] : 0,
              .s = ATTR(n, Attr)->s};
    if (a) k.a = f32(a), k.b = f32(n->in[B]);
    if (a) k.lx = n->in[LX] == x ? k.x : f32(n->in[LX]);
    if (gemm_needs_scratch(w)) {
        k.scratch_n = panel_values;
        k.scratch =
            arena_push(t->step, (size_t)(panel_values * omp_get_max_threads()) * sizeof(float));
    }
    return k;
}

/* y_e[:, o0..o1) */
static void fwd_panel(const Work *k, int64_t e, int64_t o0, const float *h, float *y) {
    int64_t r = k->off[e], rows = k->off[e + 1] - r, o1 = min64(o0 + PANEL, k->O), at = e * k->O;
    float *out = y + r * k->O + o0;
    if (gemm_few(k->w, rows)) {
        gemm_few_rows(k->w, at + o0, at + o1, k->x + r * k->I, rows, out, k->O);
    } else {
        GemmPanel p = gemm_open(k->w, at + o0, at + o1, 0, k->I, my_scratch(k));
        gemm_serial(false, true, rows, o1 - o0, k->I, 1, k->x + r * k->I, k->I, p.p, p.ld, 0, out,
                    k->O);
    }
    if (k->R) {
        gemm_serial(false, true, rows, o1 - o0, k->R, k->s, h + r * k->R, k->R,
                    k->b + (at + o0) * k->R, k->R, 1, out, k->O);
    }
}

static void fwd_f32(Tape *t, Node *n) {
    size_t mark = arena_mark(t->step);
    Work k = work_of(t, n, PANEL * tensor_cols(n->in[X]));
    float *h = k.R ? f32(n->saved[0]) : NULL;
    k.x = gemm_turned(t, k.w, k.x, k.T);
#pragma omp parallel for schedule(dynamic) if (k.R)
    for (int64_t e = 0; e < k.E; e++) {
        int64_t r = k.off[e], rows = k.off[e + 1] - r;
        gemm_serial(false, true, rows, k.R, k.I, 1, k.lx + r * k.I, k.I, k.a + e * k.R * k.I, k.I,
                    0, h + r * k.R, k.R);
    }
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t e = 0; e < k.E; e++) {
        for (int64_t p = 0; p < panels(k.O); p++) {
            if (k.off[e] < k.off[e + 1]) fwd_panel(&k, e, p * PANEL, h, f32(n->out[0]));
        }
    }
    arena_release(t->step, mark);
}

/* db_e, and g_e, which da and dl.x need. */
static void bwd_lora(const Work *k, const Node *n, int64_t e, float *g) {
    int64_t r = k->off[e], rows = k->off[e + 1] - r, R = k->R;
    const float *dy = k->dy + r * k->O;
    Tensor *b = n->in[B];
    if (b->wants_grad) {
        gemm_serial(true, false, k->O, R, rows, k->s, dy, k->O, f32(n->saved[0]) + r * R, R, 1,
                    f32(b->grad) + e * k->O * R, R);
    }
    gemm_serial(false, false, rows, R, k->O, k->s, dy, k->O, k->b + e * k->O * R, R, 0, g + r * R,
                R);
}

/* Columns i0..i1 of dx_e, dl.x_e and da_e. x and l.x may be one tensor: one task adds both. */
static void bwd_x_panel(const Work *k, const Node *n, int64_t e, int64_t i0, const float *g) {
    int64_t r = k->off[e], rows = k->off[e + 1] - r, i1 = min64(i0 + PANEL, k->I), R = k->R;
    if (k->dx) {
        GemmPanel p = gemm_open(k->w, e * k->O, (e + 1) * k->O, i0, i1, my_scratch(k));
        gemm_serial(false, false, rows, i1 - i0, k->O, 1, k->dy + r * k->O, k->O, p.p, p.ld, 1,
                    k->dx + r * k->I + i0, k->I);
    }
    if (k->dlx) {
        gemm_serial(false, false, rows, i1 - i0, R, 1, g + r * R, R, k->a + e * R * k->I + i0, k->I,
                    1, k->dlx + r * k->I + i0, k->I);
    }
    if (R && n->in[A]->wants_grad) {
        gemm_serial(true, false, R, i1 - i0, rows, 1, g + r * R, R, k->lx + r * k->I + i0, k->I, 1,
                    f32(n->in[A]->grad) + e * R * k->I + i0, k->I);
    }
}

static void bwd_f32(Tape *t, Node *n) {
    size_t mark = arena_mark(t->step);
    Work k = work_of(t, n, PANEL * n->in[W]->dim[1]);
    float *g = k.R ? arena_push(t->step, (size_t)(k.T * k.R) * sizeof *g) : NULL;
    k.dy = f32(n->out[0]->grad);
    float *dx = grad_of(n->in[X]);
    if (dx && token_of(n)) {
        dx = arena_push_zero(t->step, (size_t)(k.T * k.I) * sizeof *dx);
        k.dlx = k.R ? dx : NULL;
    } else {
        k.dlx = grad_of(n->in[LX]);
        node_clear_fresh(n);
    }
#pragma omp parallel for schedule(dynamic) if (k.R)
    for (int64_t e = 0; e < k.E; e++) {
        if (k.R && k.off[e] < k.off[e + 1]) bwd_lora(&k, n, e, g);
    }
    if (dx) k.dx = gemm_turned_dx(t, k.w, dx, k.T);
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t e = 0; e < k.E; e++) {
        for (int64_t p = 0; p < panels(k.I); p++) {
            if (k.off[e] < k.off[e + 1]) bwd_x_panel(&k, n, e, p * PANEL, g);
        }
    }
    if (k.dx) gemm_turned_add(k.w, k.dx, dx, k.T);
    if (dx && token_of(n)) add_tokens(n, dx);
    if (n->in[W]->wants_grad) bwd_w(n, k.dy, k.x);
    arena_release(t->step, mark);
}

/* A panel of w for each thread, turned rows, and g. */
static size_t scratch_f32(const Node *n, bool back) {
    const Tensor *w = n->in[W], *a = n->in[A];
    int64_t T = rows_of(n), O = w->dim[1], I = w->dim[2];
    size_t bytes = gemm_turned_bytes(w, T) + sorted_bytes(n);
    if (back && n->in[X]->wants_grad) bytes += sorted_bytes(n);
    if (gemm_needs_scratch(w))
        bytes +=
            (size_t)(PANEL * (back ? O : I) * omp_get_max_threads()) * sizeof(float) + ARENA_ALIGN;
    if (back && a) bytes += (size_t)(T * a->dim[1]) * sizeof(float) + ARENA_ALIGN;
    return bytes;
}

static void fwd(Tape *t, Node *n) {
    check_offsets(n);
    (t->compute == COMPUTE_BF16 ? fwd_bf16 : fwd_f32)(t, n);
}
static void bwd(Tape *t, Node *n) { (t->compute == COMPUTE_BF16 ? bwd_bf16 : bwd_f32)(t, n); }
static size_t scratch(const Tape *t, const Node *n, bool back) {
    return t->compute == COMPUTE_BF16 ? scratch_bf16(n, back) : scratch_f32(n, back);
}

/* Token i's rows are i, i + T/k, ...: any order serves, as long as each row has one token. */
static void sample_places(Tape *t, int k, int64_t T, Dispatch *d) {
    d->token_of = tensor_1d(t->step, DT_i32, T);
    d->row_of = tensor_2d(t->step, DT_i32, T / k, k);
    for (int64_t r = 0; r < T; r++) {
        int64_t token = r % (T / k), j = r / (T / k);
        i32(d->token_of)[r] = (int32_t)token;
        i32(d->row_of)[token * k + j] = (int32_t)r;
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    enum { EXPERTS = 3 };
    static const struct {
        int I, O, R, off[EXPERTS + 1];
        DType w;
        bool w_learns, own_lx;
        int k; /* x is not sorted: so many experts a token; 0: it is */
    } cases[] = {
        {4, 5, 0, {0, 2, 2, 9}, DT_f32, true, false, 0}, /* full training; expert 1 gets nothing */
        {6, 3, 2, {0, 5, 11, 11}, DT_f32, false, false, 0}, /* LoRA on the same x */
        {5, 4, 3, {0, 0, 6, 12}, DT_bf16, false, true, 0},  /* an x of its own, stored in bf16 */
        {70, 3, 1, {0, 1, 4, 5}, DT_f16, false, false, 0},  /* few rows: w is read as stored */
        {64, 35, 2, {0, 5, 5, 9}, DT_nf4, false, false, 0}, /* whole blocks; a panel and a bit */
        {528, 5, 1, {0, 2, 3, 6}, DT_tq4, false, false, 0}, /* turned; more than one panel of dx */
        {64, 3, 0, {0, 2, 2, 4}, DT_tq4_b64, false, false, 0},
        {40, 3, 1, {0, 1, 2, 4}, DT_int4_g32, false, true, 0},
        {37, 5, 0, {0, 3, 4, 4}, DT_nf4_flat, false, false, 0},
        {96, 5, 1, {0, 3, 4, 6}, DT_q4_0, false, false, 0}, /* in blocks along the row */
        {3, 520, 1, {0, 5, 5, 6}, DT_f32, false, false, 0}, /* more than one panel */
        {6, 5, 2, {0, 4, 6, 8}, DT_f32, true, false, 2},
        {64, 7, 1, {0, 5, 5, 6}, DT_tq4, false, false, 1},
        {5, 4, 0, {0, 0, 3, 6}, DT_bf16, false, false, 2},
    };
    int64_t I = cases[i].I, O = cases[i].O, R = cases[i].R, T = cases[i].off[EXPERTS];
    Tensor *x = sample_2d(t, rng, cases[i].k ? T / cases[i].k : T, I);
    Tensor *w = sample_fill(tensor_3d(t->step, DT_f32, EXPERTS, O, I), rng);
    Tensor *off = tensor_1d(t->step, DT_i32, EXPERTS + 1);
    for (int e = 0; e <= EXPERTS; e++) i32(off)[e] = cases[i].off[e];
    w->wants_grad = cases[i].w_learns;
    w = sample_stored(t, w, cases[i].w);
    Lora l = {0};
    if (R) {
        Tensor *lx = cases[i].own_lx ? sample_2d(t, rng, T, I) : x;
        l = (Lora){lx, sample_fill(tensor_3d(t->step, DT_f32, EXPERTS, R, I), rng),
                   sample_fill(tensor_3d(t->step, DT_f32, EXPERTS, O, R), rng), 0.75f};
    }
    Dispatch d = {.off = off};
    if (cases[i].k) sample_places(t, cases[i].k, T, &d);
    return (OpCase){grouped(t, x, w, d, l), i + 1 == (int)COUNT_OF(cases)};
}

const Op op_grouped = {"grouped",
                       {fwd, CUDA(grouped_fwd_cuda)},
                       {bwd, CUDA(grouped_bwd_cuda)},
                       sample,
                       scratch,
                       1u << X | 1u << LX,
                       0};

Tensor *grouped(Tape *t, Tensor *x, Tensor *w, Dispatch d, Lora l) {
    int64_t T = d.token_of ? tensor_numel(d.token_of) : tensor_rows(x), I = tensor_cols(x);
    CHECK(w->n_dim == 3 && tensor_cols(w) == I, "grouped: x has %ld columns, w %ld", (long)I,
          (long)tensor_cols(w));
    int64_t E = w->dim[0], O = w->dim[1];
    CHECK(w->dtype == DT_f32 || !w->wants_grad, "grouped: a %s weight cannot learn",
          dtype_info[w->dtype].name);
    CHECK(d.off->dtype == DT_i32 && tensor_numel(d.off) == E + 1,
          "grouped: %ld offsets for %ld experts", (long)tensor_numel(d.off), (long)E);
    CHECK(!d.token_of ||
              (tensor_numel(d.row_of) == T && T % tensor_rows(x) == 0 && (!l.x || l.x == x)),
          "grouped: %ld tokens, %ld rows, %ld places; or a low-rank input of its own",
          (long)tensor_rows(x), (long)T, (long)tensor_numel(d.row_of));
    Node *n = tape_node(t, &op_grouped, N_IN,
                        (Tensor *[]){x, w, d.off, l.x, l.a, l.b, d.token_of, d.row_of});
    if (l.a) {
        CHECK(l.x && l.b && l.a->n_dim == 3 && l.b->n_dim == 3,
              "grouped: half a low-rank addition");
        CHECK(tensor_rows(l.x) == tensor_rows(x) && tensor_cols(l.x) == I && l.a->dim[0] == E &&
                  tensor_cols(l.a) == I && l.b->dim[0] == E && l.b->dim[1] == O &&
                  l.b->dim[2] == l.a->dim[1],
              "grouped: a (%ld,%ld,%ld) and b (%ld,%ld,%ld) do not fit w (%ld,%ld,%ld)",
              (long)l.a->dim[0], (long)l.a->dim[1], (long)l.a->dim[2], (long)l.b->dim[0],
              (long)l.b->dim[1], (long)l.b->dim[2], (long)E, (long)O, (long)I);
        n->saved[0] = tensor_2d(t->step, DT_f32, T, l.a->dim[1]);
    }
    ATTR(n, Attr)->s = l.s;
    n->out[0] = tensor_2d(t->step, DT_f32, T, O);
    return tape_run(t, n);
}
