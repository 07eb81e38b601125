/* test_attention.c - attention in bfloat16 tiles (test_ops has the float32 kernels).
 *
 * Against float64. Rounding operands to bfloat16 costs what it costs: the same formulas in float64
 * with q, k, v, dy, P and dS rounded where the kernels round them ("plain" below) say how much. The
 * kernels may be off by twice that: as root mean square, and in the worst value. (P is rounded
 * before it is divided by its sum there, after it here; sums are float32 there.)
 *
 * And what has no tolerance: sequences do not see each other, keys outside the window are not
 * touched, every number of threads gives the same bits, scratch is what was declared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <omp.h>
#include <string.h>
#include "../autograd/cpu.h"
#include "../autograd/ops/attention.h"

enum { SEQS = 3, GRADS = 3, OUTS = GRADS + 1, NODES = 4 };

typedef struct Case {
    int H, K, d, window, q_at[SEQS + 1], k_at[SEQS + 1];
} Case;
static const Case CASES[] = {
    {1, 1, 32, 0, {0, 40, 40, 41}, {0, 40, 40, 41}},        /* lengths 40, 0 and 1 */
    {2, 1, 16, 0, {0, 5, 12, 100}, {0, 5, 12, 100}},        /* two heads to a KV head; short ones */
    {4, 2, 24, 0, {0, 33, 97, 130}, {0, 33, 97, 130}},      /* not whole tiles of columns */
    {6, 1, 10, 7, {0, 64, 65, 160}, {0, 64, 65, 160}},      /* six heads to one; a narrow window */
    {2, 2, 64, 48, {0, 300, 300, 300}, {0, 300, 300, 300}}, /* a window, several blocks */
    {3, 1, 48, 0, {0, 20, 50, 50}, {0, 300, 400, 400}},     /* more keys than queries */
    {2, 1, 32, 50, {0, 20, 70, 70}, {0, 300, 400, 400}},    /* the same with a window */
    {2, 1, 128, 64, {0, 90, 290, 291}, {0, 90, 290, 291}},
    {2, 1, 256, 0, {0, 400, 400, 400}, {0, 400, 400, 400}},
    {5, 1, 512, 96, {0, 150, 200, 200}, {0, 150, 200, 200}},
    {1, 1, 300, 0, {0, 290, 330, 330}, {0, 290, 330, 330}},
};
static const float SCALE = 0.35f;

/* ---- an attention of its own for every case ------------------------------------------------- */

typedef struct Trial {
    Arena arena;
    Node node[NODES];
    Tape t;
    Node *n;
    int64_t Tq, Tk;
} Trial;

static Tensor *normals(Tape *t, Rng *rng, int64_t rows, int64_t cols, double size) {
    Tensor *x = tensor_2d(t->step, DT_f32, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) f32(x)[i] = (float)size * rng_normal(rng);
    x->wants_grad = true;
    return x;
}

static Tensor *starts(Tape *t, const int *at) {
    Tensor *x = tensor_1d(t->step, DT_i32, SEQS + 1);
    for (int i = 0; i <= SEQS; i++) i32(x)[i] = at[i];
    return x;
}

/* Forward has run; the gradients are there and hold something already. */
static void trial_open(Trial *r, const Case *c) {
    Err e;
    Rng rng = {.seed = 5, .stream = (uint64_t)(c - CASES)};
    assert_int_equal(arena_open(&r->arena, (size_t)1 << 28, &e), 0);
    r->t = (Tape){.step = &r->arena, .cap = NODES, .node = r->node, .compute = COMPUTE_BF16};
    r->Tq = c->q_at[SEQS];
    r->Tk = c->k_at[SEQS];
    double size = 1.5 / sqrt(sqrt((double)c->d)); /* scores of about 0.8 */
    Tensor *q = normals(&r->t, &rng, r->Tq, (int64_t)c->H * c->d, size);
    Tensor *k = normals(&r->t, &rng, r->Tk, (int64_t)c->K * c->d, size);
    Tensor *v = normals(&r->t, &rng, r->Tk, (int64_t)c->K * c->d, 1);
    Attend a = {starts(&r->t, c->q_at), starts(&r->t, c->k_at), c->H, c->K, c->d, c->window, SCALE};
    Tensor *y = attention(&r->t, q, k, v, a);
    r->n = &r->node[0];
    assert_true(attention_amx(r->n));
    Tensor *dy = tape_grad(&r->t, y);
    for (int64_t i = 0; i < tensor_numel(dy); i++) f32(dy)[i] = rng_normal(&rng);
    for (int i = 0; i < GRADS; i++) tape_grad(&r->t, r->n->in[i]);
}
static void trial_close(Trial *r) { arena_close(&r->arena); }

/* Result 0 is y, 1..3 are the gradients of q, k, v. */
static Tensor *result(const Trial *r, int i) { return i ? r->n->in[i - 1]->grad : r->n->out[0]; }

/* Forward into NaN; backward into `before`. */
static void trial_run(Trial *r, float before) {
    memset(r->n->out[0]->data, 0xff, (size_t)tensor_bytes(r->n->out[0]));
    r->n->op->fwd[DEV_CPU](&r->t, r->n);
    for (int i = 1; i < OUTS; i++) {
        Tensor *g = result(r, i);
        for (int64_t j = 0; j < tensor_numel(g); j++) f32(g)[j] = before;
    }
    r->n->op->bwd[DEV_CPU](&r->t, r->n);
}

/* ---- float64 -------------------------------------------------------------------------------- */

typedef struct Reference {
    const Trial *r;
    const Case *c;
    bool plain;        /* round what the kernels round */
    double *out[OUTS]; /* as result() */
    double *p, *y;     /* (Tk), (d) */
} Reference;

static double rounded(const Reference *f, double x) {
    return f->plain ? (double)bf16_to_f32(f32_to_bf16((float)x)) : x;
}
static double value(const Reference *f, const Tensor *x, int64_t i) {
    return rounded(f, (double)f32(x)[i]);
}

/* One query of one head against keys [from, to); offsets of its rows. */
static void reference_row(const Reference *f, int64_t q, int64_t kv, int64_t from, int64_t to) {
    const Node *n = f->r->n;
    const Tensor *dy = n->out[0]->grad;
    int64_t d = f->c->d, ld = f->c->K * d;
    double max = -INFINITY, sum = 0, delta = 0;
    for (int64_t j = from; j < to; j++) {
        f->p[j] = 0;
        for (int64_t c = 0; c < d; c++)
            f->p[j] += value(f, n->in[Q], q + c) * value(f, n->in[K], j * ld + kv + c);
        f->p[j] *= (double)SCALE;
        max = fmax(max, f->p[j]);
    }
    for (int64_t j = from; j < to; j++) sum += f->p[j] = exp(f->p[j] - max);
    for (int64_t j = from; j < to; j++) f->p[j] /= sum;
    for (int64_t c = 0; c < d; c++) {
        double y = 0;
        for (int64_t j = from; j < to; j++)
            y += rounded(f, f->p[j]) * value(f, n->in[V], j * ld + kv + c);
        f->out[0][q + c] = y;
        delta += y * (double)f32(dy)[q + c];
    }
    for (int64_t j = from; j < to; j++) {
        double dp = 0;
        int64_t k = j * ld + kv;
        for (int64_t c = 0; c < d; c++) dp += value(f, dy, q + c) * value(f, n->in[V], k + c);
        double ds = rounded(f, (double)SCALE * f->p[j] * (dp - delta));
        for (int64_t c = 0; c < d; c++) {
            f->out[1 + Q][q + c] += ds * value(f, n->in[K], k + c);
            f->out[1 + K][k + c] += ds * value(f, n->in[Q], q + c);
            f->out[1 + V][k + c] += rounded(f, f->p[j]) * value(f, dy, q + c);
        }
    }
}

static void reference_run(Reference *f, Trial *r, const Case *c, bool plain) {
    *f = (Reference){.r = r, .c = c, .plain = plain};
    for (int i = 0; i < OUTS; i++) {
        size_t bytes = (size_t)tensor_numel(result(r, i)) * sizeof(double);
        f->out[i] = arena_push_zero(&r->arena, bytes);
    }
    f->p = arena_push(&r->arena, (size_t)r->Tk * sizeof(double));
    for (int s = 0; s < SEQS; s++) {
        int64_t shift = c->k_at[s + 1] - c->q_at[s + 1];
        for (int64_t i = c->q_at[s]; i < c->q_at[s + 1]; i++) {
            int64_t to = i + shift + 1, from = c->window ? to - c->window : 0;
            for (int h = 0; h < c->H; h++) {
                reference_row(f, (i * c->H + h) * c->d, h / (c->H / c->K) * c->d,
                              max64(from, c->k_at[s]), to);
            }
        }
    }
}

typedef struct Gap {
    double rms, worst;
} Gap;

static void test_float64(void **state) {
    static const char *const name[OUTS] = {"y", "dq", "dk", "dv"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        Trial r;
        Reference exact, plain;
        const float before = 0.5f;
        trial_open(&r, &CASES[i]);
        trial_run(&r, before);
        reference_run(&exact, &r, &CASES[i], false);
        reference_run(&plain, &r, &CASES[i], true);
        for (int o = 0; o < OUTS; o++) {
            Gap ours = {0, 0}, theirs = {0, 0};
            int64_t n = tensor_numel(result(&r, o));
            for (int64_t j = 0; j < n; j++) {
                double got = (double)f32(result(&r, o))[j] - (o ? (double)before : 0);
                double a = fabs(got - exact.out[o][j]);
                double b = fabs(plain.out[o][j] - exact.out[o][j]);
                if (!(a <= 1e30)) fail_msg("case %zu: %s[%ld] is %g", i, name[o], (long)j, got);
                ours = (Gap){ours.rms + a * a, fmax(ours.worst, a)};
                theirs = (Gap){theirs.rms + b * b, fmax(theirs.worst, b)};
            }
            if (!(ours.rms <= 4 * theirs.rms && ours.worst <= 2 * theirs.worst)) {
                fail_msg("case %zu: %s is off by rms %.3g, worst %.3g; plain code by %.3g, %.3g", i,
                         name[o], sqrt(ours.rms / (double)n), ours.worst,
                         sqrt(theirs.rms / (double)n), theirs.worst);
            }
        }
        trial_close(&r);
    }
}

/* ---- bit for bit ---------------------------------------------------------------------------- */

typedef struct Bits {
    float *x[OUTS];
} Bits;

static Bits bits_of(Trial *r) {
    Bits b;
    trial_run(r, 0);
    for (int o = 0; o < OUTS; o++) {
        size_t bytes = (size_t)tensor_bytes(result(r, o));
        b.x[o] = memcpy(arena_push(&r->arena, bytes), result(r, o)->data, bytes);
    }
    return b;
}

/* Rows [from, to) of result o. */
static bool same_rows(const Trial *r, const Bits *a, const Bits *b, int o, int64_t from,
                      int64_t to) {
    int64_t cols = tensor_cols(result(r, o));
    return !memcmp(a->x[o] + from * cols, b->x[o] + from * cols,
                   (size_t)((to - from) * cols) * sizeof(float));
}

static void fill_rows(Tensor *x, int64_t from, int64_t to, float value) {
    for (int64_t i = from * tensor_cols(x); i < to * tensor_cols(x); i++) f32(x)[i] = value;
}

static void test_threads(void **state) {
    int threads = omp_get_max_threads();
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        Trial r;
        omp_set_num_threads(1);
        trial_open(&r, &CASES[i]);
        Bits one = bits_of(&r);
        for (int n = 2; n <= 3; n++) {
            omp_set_num_threads(n);
            Bits more = bits_of(&r);
            for (int o = 0; o < OUTS; o++)
                assert_true(same_rows(&r, &one, &more, o, 0, tensor_rows(result(&r, o))));
        }
        omp_set_num_threads(threads);
        trial_close(&r);
    }
}

/* Gradients that are set come out as those that were cleared and added to. */
static void test_fresh_gradients(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        Trial r;
        trial_open(&r, &CASES[i]);
        trial_run(&r, 0);
        float *added[OUTS];
        for (int o = 1; o < OUTS; o++) {
            size_t bytes = (size_t)tensor_bytes(result(&r, o));
            added[o] = memcpy(arena_push(&r.arena, bytes), result(&r, o)->data, bytes);
        }
        r.n->fresh = r.n->op->sets;
        trial_run(&r, NAN);
        for (int o = 1; o < OUTS; o++) {
            for (int64_t j = 0; j < tensor_numel(result(&r, o)); j++)
                assert_true(f32(result(&r, o))[j] == added[o][j]);
        }
        trial_close(&r);
    }
}

/* The middle sequence turns into NaN; the others keep their bits. */
static void test_isolated(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        Trial r;
        const Case *c = &CASES[i];
        trial_open(&r, c);
        Bits before = bits_of(&r);
        fill_rows(r.n->in[Q], c->q_at[1], c->q_at[2], NAN);
        fill_rows(r.n->in[K], c->k_at[1], c->k_at[2], NAN);
        fill_rows(r.n->in[V], c->k_at[1], c->k_at[2], NAN);
        fill_rows(r.n->out[0]->grad, c->q_at[1], c->q_at[2], NAN);
        Bits after = bits_of(&r);
        for (int o = 0; o < OUTS; o++) {
            const int *at = o < 2 ? c->q_at : c->k_at;
            assert_true(same_rows(&r, &before, &after, o, 0, at[1]));
            assert_true(same_rows(&r, &before, &after, o, at[2], at[3]));
        }
        trial_close(&r);
    }
}

/* Keys that queries from some place on cannot see turn into NaN: those queries keep their bits,
 * and so do the gradients of the keys that only they see. */
static void test_outside_window(void **state) {
    static const Case c = {2, 1, 64, 50, {0, 600, 600, 600}, {0, 600, 600, 600}};
    enum { GONE = 256, SAFE = GONE + 50 + STRIP };
    Trial r;
    (void)state;
    trial_open(&r, &c);
    Bits before = bits_of(&r);
    fill_rows(r.n->in[K], 0, GONE, NAN);
    fill_rows(r.n->in[V], 0, GONE, NAN);
    Bits after = bits_of(&r);
    for (int o = 0; o < 2; o++) assert_true(same_rows(&r, &before, &after, o, SAFE, r.Tq));
    for (int o = 2; o < OUTS; o++) assert_true(same_rows(&r, &before, &after, o, SAFE, r.Tk));
    trial_close(&r);
}

/* Strips of keys that the queries of a sequence of T meet. */
static int64_t strips_met(int64_t T, int64_t window) {
    Seq s = {0, T, 0, T};
    int64_t sum = 0;
    for (int64_t i = 0; i < strip_count(T); i++) {
        Strips seen = attention_strips(&s, window, i);
        sum += seen.to - seen.from;
    }
    return sum;
}

static void test_linear_cost(void **state) {
    (void)state;
    for (int64_t window = 256; window <= 1024; window *= 2) {
        /* window/STRIP + 1 strips for a strip of queries, once that many are there. */
        int64_t each = window / STRIP + 1,
                step = strips_met(8192, window) - strips_met(4096, window);
        assert_int_equal(step, 4096 / STRIP * each);
        assert_int_equal(strips_met(16384, window) - strips_met(8192, window), 2 * step);
    }
    assert_int_equal(strips_met(64 * STRIP, 0), 64 * 65 / 2);
}

static void test_scratch(void **state) {
    int threads = omp_get_max_threads();
    (void)state;
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        for (int n = 1; n <= 3; n++) {
            Trial r;
            omp_set_num_threads(n);
            trial_open(&r, &CASES[i]);
            for (int back = 0; back < 2; back++) {
                const Op *op = r.n->op;
                size_t top = r.arena.top;
                r.arena.peak = top;
                (back ? op->bwd : op->fwd)[DEV_CPU](&r.t, r.n);
                assert_int_equal(r.arena.top, top);
                assert_true(r.arena.peak - top <= op->scratch(&r.t, r.n, back));
            }
            trial_close(&r);
        }
    }
    omp_set_num_threads(threads);
}

/* Few queries, float32 and older machines keep to float32. */
static void test_choice(void **state) {
    Trial r;
    (void)state;
    trial_open(&r, &CASES[1]);
    cpu_limit_isa(ISA_AVX512);
    assert_false(attention_amx(r.n));
    cpu_limit_isa(ISA_AMX);
    r.n->compute = COMPUTE_F32;
    assert_false(attention_amx(r.n));
    trial_close(&r);
}

static int need_amx(void **state) {
    (void)state;
    if (cpu_isa() != ISA_AMX) {
        print_message("no AMX on this machine: skipped\n");
        skip();
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_cost),
        cmocka_unit_test_setup(test_choice, need_amx),
        cmocka_unit_test_setup(test_float64, need_amx),
        cmocka_unit_test_setup(test_threads, need_amx),
        cmocka_unit_test_setup(test_fresh_gradients, need_amx),
        cmocka_unit_test_setup(test_isolated, need_amx),
        cmocka_unit_test_setup(test_outside_window, need_amx),
        cmocka_unit_test_setup(test_scratch, need_amx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
