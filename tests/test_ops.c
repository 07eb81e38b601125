/* test_ops.c - every op against differences, the small ones against float64 and golden values.
 *
 * Differences. The loss is c . out, c random, summed in float64. Per direction d, all wanted
 * inputs move at once to x+ = x + h d and x- = x - h d; the step really taken is x+ - x- after
 * rounding, so rounding of the inputs costs nothing. What remains between
 *   D(h) = (loss(x+) - loss(x-)) / 2h     and     G = grad . (x+ - x-) / 2h
 * is (1) the curvature that central differences do not see: h^2/6 of a third derivative, a third
 * of |D(h) - D(2h)|; all of it is allowed; (2) rounding of the outputs: independent errors of
 * ULPS float32 units each, in two losses, over 2h; (3) rounding of the gradient: ULPS units of
 * each product. A test too tolerant to see a gradient wrong by a few percent fails (RESOLUTION). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <omp.h>
#include <string.h>
#include "../autograd/ops.h"

enum { DIRECTIONS = 4, ULPS = 8, NODES = 64, MAX_CASES = 64 };
static const double STEP = 1.0 / 64, RESOLUTION = 0.02, UNIT = 0x1p-24; /* half an ulp of 1 */

static const Op *const ALL[] = {
#define OP(name, ...) &op_##name,
#include "../autograd/ops.def"
#undef OP
};

/* ---- a tape of its own for every case ----------------------------------------------------- */

typedef struct Bench {
    Arena arena;
    Node node[NODES];
    Tape t;
} Bench;

static Tape *bench_open(Bench *b) {
    Err e;
    assert_int_equal(arena_open(&b->arena, (size_t)1 << 28, &e), 0);
    b->t = (Tape){.step = &b->arena, .cap = NODES, .node = b->node};
    return &b->t;
}
static void bench_close(Bench *b) { arena_close(&b->arena); }

/* ---- differences ---------------------------------------------------------------------------- */

/* One distinct input that wants a gradient: where it stood, where it goes, what backward said. */
typedef struct Input {
    Tensor *x;
    int64_t n;
    float *at, *dir, *before, *grad, *plus;
} Input;

typedef struct Probe {
    Tape *t;
    Node *node;
    Input in[NODE_IN];
    int n_in;
    float *c; /* the loss is c . out */
} Probe;

static float *floats(Tape *t, int64_t n) { return arena_push(t->step, (size_t)n * sizeof(float)); }
static float *normals(Tape *t, Rng *rng, int64_t n) {
    float *x = floats(t, n);
    for (int64_t i = 0; i < n; i++) x[i] = rng_normal(rng);
    return x;
}

static void probe_open(Probe *p, Tape *t, Node *node, Rng *rng) {
    *p = (Probe){.t = t, .node = node, .c = normals(t, rng, tensor_numel(node->out[0]))};
    for (int i = 0; i < node->n_in; i++) {
        Tensor *x = node->in[i];
        bool seen = !x || !x->wants_grad;
        for (int j = 0; j < i; j++) seen = seen || node->in[j] == x;
        if (seen) continue;
        assert_int_equal(x->dtype, DT_f32);
        int64_t n = tensor_numel(x);
        Input in = {x,           n, floats(t, n), floats(t, n), normals(t, rng, n), floats(t, n),
                    floats(t, n)};
        memcpy(in.at, x->data, (size_t)n * sizeof(float));
        p->in[p->n_in++] = in;
    }
}

/* Backward, into gradients that are not empty: it must add. */
static void probe_backward(Probe *p) {
    Tensor *out = p->node->out[0];
    memcpy(tape_grad(p->t, out)->data, p->c, (size_t)tensor_bytes(out));
    for (int i = 0; i < p->n_in; i++) {
        Input *in = &p->in[i];
        memcpy(tape_grad(p->t, in->x)->data, in->before, (size_t)in->n * sizeof(float));
    }
    p->node->op->bwd[DEV_CPU](p->t, p->node);
    for (int i = 0; i < p->n_in; i++) {
        memcpy(p->in[i].grad, p->in[i].x->grad->data, (size_t)p->in[i].n * sizeof(float));
    }
}

/* out starts as NaN: what forward leaves unwritten shows. */
static double probe_loss(Probe *p) {
    const Tensor *out = p->node->out[0];
    double loss = 0;
    memset(out->data, 0xff, (size_t)tensor_bytes(out));
    p->node->op->fwd[DEV_CPU](p->t, p->node);
    for (int64_t i = 0; i < tensor_numel(out); i++) loss += (double)p->c[i] * (double)f32(out)[i];
    return loss;
}

static void probe_move(Probe *p, double h) {
    for (int j = 0; j < p->n_in; j++) {
        Input *in = &p->in[j];
        for (int64_t i = 0; i < in->n; i++) {
            f32(in->x)[i] = in->at[i] + (float)(h * (double)in->dir[i]);
        }
    }
}

/* D(h) - G; D too. */
static double probe_gap(Probe *p, double h, double *difference) {
    double along = 0;
    probe_move(p, h);
    double plus = probe_loss(p);
    for (int j = 0; j < p->n_in; j++) {
        memcpy(p->in[j].plus, p->in[j].x->data, (size_t)p->in[j].n * sizeof(float));
    }
    probe_move(p, -h);
    double minus = probe_loss(p);
    for (int j = 0; j < p->n_in; j++) {
        const Input *in = &p->in[j];
        for (int64_t i = 0; i < in->n; i++) {
            along += ((double)in->grad[i] - (double)in->before[i]) *
                     ((double)in->plus[i] - (double)f32(in->x)[i]);
        }
    }
    probe_move(p, 0);
    *difference = (plus - minus) / (2 * h);
    return (plus - minus - along) / (2 * h);
}

static double root_mean_square(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

/* (2) of the opening comment. A sum that cancels carries the rounding of its terms, which are
 * taken to be as large as outputs usually are. */
static double output_noise(const Probe *p) {
    const Tensor *out = p->node->out[0];
    int64_t n = tensor_numel(out);
    double usual = root_mean_square(f32(out), n), sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = (double)p->c[i] * (fabs((double)f32(out)[i]) + usual);
        sum += e * e;
    }
    return ULPS * UNIT * sqrt(sum);
}

/* (3) */
static double gradient_noise(const Probe *p) {
    double sum = 0;
    for (int j = 0; j < p->n_in; j++) {
        const Input *in = &p->in[j];
        double usual = root_mean_square(in->grad, in->n);
        for (int64_t i = 0; i < in->n; i++) {
            double e = (fabs((double)in->grad[i]) + usual + 1) * (double)in->dir[i];
            sum += e * e;
        }
    }
    return ULPS * UNIT * sqrt(sum);
}

/* False where nothing changes at all (a loss without labels): right, but no evidence. */
static bool check_differences(Probe *p, Rng *rng, int which) {
    double noise = output_noise(p) / STEP, loosest = 0, size = 0;
    for (int k = 0; k < DIRECTIONS; k++) {
        double near, far;
        for (int j = 0; j < p->n_in; j++) {
            for (int64_t i = 0; i < p->in[j].n; i++) p->in[j].dir[i] = rng_normal(rng);
        }
        double gap = fabs(probe_gap(p, STEP, &near));
        probe_gap(p, 2 * STEP, &far);
        double allowed = noise + gradient_noise(p) + fabs(near - far);
        if (!(gap <= allowed)) {
            fail_msg("%s case %d: differences %.9g, off by %.3g, allowed %.3g", p->node->op->name,
                     which, near, gap, allowed);
        }
        loosest = fmax(loosest, allowed);
        size += near * near / DIRECTIONS;
    }
    if (size == 0) return false;
    if (!(loosest <= RESOLUTION * sqrt(size))) {
        fail_msg("%s case %d: allows %.3g of derivatives of about %.3g: shows nothing",
                 p->node->op->name, which, loosest, sqrt(size));
    }
    return true;
}

/* ---- the same bits again ----------------------------------------------------------------------
 */

/* Forward and backward with any number of threads give what they gave at first. */
static void check_same_bits(Probe *p, int which) {
    const Tensor *out = p->node->out[0];
    float *y = floats(p->t, tensor_numel(out)), *g[NODE_IN];
    int threads = omp_get_max_threads();
    probe_loss(p);
    memcpy(y, out->data, (size_t)tensor_bytes(out));
    if (p->n_in) probe_backward(p);
    for (int j = 0; j < p->n_in; j++) {
        g[j] = floats(p->t, p->in[j].n);
        memcpy(g[j], p->in[j].grad, (size_t)p->in[j].n * sizeof(float));
    }
    for (int n = 1; n <= 3; n++) {
        omp_set_num_threads(n);
        probe_loss(p);
        bool same = memcmp(y, out->data, (size_t)tensor_bytes(out)) == 0;
        if (p->n_in) probe_backward(p);
        for (int j = 0; j < p->n_in; j++) {
            same = same && !memcmp(g[j], p->in[j].grad, (size_t)p->in[j].n * sizeof(float));
        }
        omp_set_num_threads(threads);
        if (!same) fail_msg("%s case %d: other bits with %d threads", p->node->op->name, which, n);
    }
}

static bool check_case(const Op *op, int which, bool *learns) {
    static Bench b;
    Tape *t = bench_open(&b);
    Rng rng = {.seed = 7, .stream = (uint64_t)which};
    OpCase c = op->sample(t, &rng, which);
    Node *node = &t->node[t->n ? t->n - 1 : 0]; /* a node nobody learns from is not kept */
    if (node->op != op || node->out[0] != c.out) {
        fail_msg("%s case %d: the last thing done is not this op", op->name, which);
    }
    t->replay = true; /* choices stay: they have no derivative */
    Probe p;
    probe_open(&p, t, node, &rng);
    if (p.n_in) {
        if (!op->bwd[DEV_CPU]) fail_msg("%s: no backward", op->name);
        probe_backward(&p);
        if (check_differences(&p, &rng, which)) *learns = true;
    }
    check_same_bits(&p, which);
    bench_close(&b);
    return c.last;
}

static void test_every_op(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ALL); i++) {
        bool learns = false, last = false;
        if (!ALL[i]->fwd[DEV_CPU]) fail_msg("%s: no forward", ALL[i]->name);
        if (!ALL[i]->sample) fail_msg("%s: offers no case", ALL[i]->name);
        for (int which = 0; !last; which++) {
            if (which == MAX_CASES) fail_msg("%s: its cases never end", ALL[i]->name);
            last = check_case(ALL[i], which, &learns);
        }
        if (!learns) fail_msg("%s: no case asks for a gradient", ALL[i]->name);
    }
}

/* ---- against float64 ------------------------------------------------------------------------ */

static Tensor *given(Tape *t, int64_t rows, int64_t cols, const float *values) {
    Tensor *x = tensor_2d(t->step, DT_f32, rows, cols);
    memcpy(x->data, values, (size_t)tensor_bytes(x));
    return x;
}
static Tensor *given_ints(Tape *t, int64_t n, const int32_t *values) {
    Tensor *x = tensor_1d(t->step, DT_i32, n);
    memcpy(x->data, values, (size_t)tensor_bytes(x));
    return x;
}
static Tensor *random_2d(Tape *t, Rng *rng, int64_t rows, int64_t cols) {
    return given(t, rows, cols, normals(t, rng, rows * cols));
}

/* ulps: float32 roundings on the way, each at most UNIT of the value (or of size, where the value
 * comes from a sum that may cancel). */
static void near(double got, double want, double size, double ulps) {
    double allowed = ulps * UNIT * fmax(fabs(want), size);
    if (!(fabs(got - want) <= allowed)) {
        fail_msg("%.9g, not %.9g: off by %.3g, allowed %.3g", got, want, got - want, allowed);
    }
}

/* y = x*r*w rounds three times; r carries half the error of the sum of squares, whose lanes add
 * 32 values each (all positive, so at most 32 roundings of the sum, and one of each square). */
static void test_rmsnorm(void **state) {
    (void)state;
    static Bench b;
    Tape *t = bench_open(&b);
    Rng rng = {.seed = 3};
    for (int64_t cols = 1; cols < 5000; cols = cols * 3 + 1) {
        Tensor *x = random_2d(t, &rng, 2, cols), *w = random_2d(t, &rng, 1, cols);
        w->n_dim = 1, w->dim[0] = cols;
        for (int64_t i = 0; i < cols; i++) f32(x)[i] += 100; /* a large mean */
        Tensor *y = rmsnorm(t, x, w, NULL, cols, (Norm){1e-6f, 0}),
               *plain = rmsnorm(t, x, NULL, NULL, cols, (Norm){1e-6f, 0}),
               *around = rmsnorm(t, x, w, NULL, cols, (Norm){1e-6f, 1});
        for (int64_t i = 0; i < 2 * cols; i++) {
            double ss = 0;
            for (int64_t j = 0; j < cols; j++) ss += pow((double)f32(x)[i / cols * cols + j], 2);
            double n = (double)f32(x)[i] / sqrt(ss / (double)cols + (double)1e-6f);
            near((double)f32(plain)[i], n, 0, 2 + 33.0 / 2);
            near((double)f32(y)[i], n * (double)f32(w)[i % cols], 0, 3 + 33.0 / 2);
            near((double)f32(around)[i], n * (double)(1 + f32(w)[i % cols]), 0, 3 + 33.0 / 2);
        }
    }
    bench_close(&b);
}

/* pos, theta, factor, d, pair -> cosine and sine as float32 implementations compute them (PyTorch
 * 2, every step in float32). cosf and sinf of either side are off by less than one ulp; the
 * frequency may differ by one ulp too, which at these angles moves the result by angle * 2^-23. */
static void test_rope(void **state) {
    (void)state;
    static const struct {
        int d, pair;
        float theta, factor;
        int pos;
        double angle, cosine, sine;
    } golden[] = {{256, 0, 1e4f, 1, 4095, 4095, -0.06597599387168884, -0.9978212118148804},
                  {128, 40, 1e4f, 1, 777, 2.45709, -0.7747335433959961, 0.632287859916687},
                  {256, 3, 1e4f, 1, 100000, 80584.2, -0.7148357033729553, 0.6992924809455872},
                  {512, 5, 1e6f, 1, 131071, 100073.5, 0.3479384779930115, 0.9375174045544624},
                  {256, 20, 1e6f, 8, 40000, 577.391, 0.7887293696403503, -0.6147406101226807}};
    static Bench b;
    Tape *t = bench_open(&b);
    for (size_t i = 0; i < COUNT_OF(golden); i++) {
        int d = golden[i].d, pair = golden[i].pair;
        double c = golden[i].cosine, s = golden[i].sine;
        Tensor *x = random_2d(t, &(Rng){.seed = i}, 1, d), *pos = given_ints(t, 1, &golden[i].pos);
        Rope r = {1, d, pair + 1, golden[i].theta, golden[i].factor};
        Tensor *y = rope(t, x, rope_angles(t, pos, r), r);
        double a = (double)f32(x)[pair], z = (double)f32(x)[pair + d / 2];
        double size = hypot(a, z), ulps = 5 + 2 * golden[i].angle;
        near((double)f32(y)[pair], a * c - z * s, size, ulps);
        near((double)f32(y)[pair + d / 2], z * c + a * s, size, ulps);
        for (int j = pair + 1; j < d / 2; j++) { /* beyond n_angles */
            assert_true(f32(y)[j] == f32(x)[j] && f32(y)[j + d / 2] == f32(x)[j + d / 2]);
        }
    }
    bench_close(&b);
}

/* z, gelu(z), gelu'(z): PyTorch, approximate="tanh", float64. */
static const double GELU[][3] = {{-6.0, -8.43964897967453e-11, -7.709976012836329e-10},
                                 {-3.0, -0.0036373920817729943, -0.011584166630969648},
                                 {-1.0, -0.15880800939172324, -0.08296408384578252},
                                 {-0.1, -0.04601724895456484, 0.4204782107282433},
                                 {0.0, 0.0, 0.5},
                                 {0.1, 0.053982751045435165, 0.5795217892717567},
                                 {0.5, 0.34571400982514394, 0.8673699035346424},
                                 {1.0, 0.8411919906082768, 1.0829640838457826},
                                 {3.0, 2.996362607918227, 1.0115841666309695},
                                 {9.0, 9.0, 1.0}};

/* The float32 v of the sigmoid is off by five roundings, which exp(-2v) multiplies by 2|v|; then
 * exp (3), sum, quotient, product with z, with up. z itself is a float32: 0.1 moves gelu too. */
static void test_geglu(void **state) {
    (void)state;
    static Bench b;
    Tape *t = bench_open(&b);
    enum { N = COUNT_OF(GELU) };
    Tensor *both = tensor_2d(t->step, DT_f32, 1, 2 * N);
    both->wants_grad = true;
    for (int i = 0; i < N; i++) {
        f32(both)[i] = (float)GELU[i][0];
        f32(both)[N + i] = 1.5f;
    }
    Tensor *y = geglu(t, both, NULL);
    for (int i = 0; i < N; i++) f32(tape_grad(t, y))[i] = 1;
    tape_grad(t, both);
    op_geglu.bwd[DEV_CPU](t, &t->node[0]);
    for (int i = 0; i < N; i++) {
        double z = GELU[i][0], v = fabs(0.79788456 * (z + 0.044715 * z * z * z));
        double ulps = 9 + 12 * v, slope = (1 + fabs(z)) * ulps + 16;
        near((double)f32(y)[i], 1.5 * GELU[i][1], 0, ulps);
        near((double)f32(both->grad)[N + i], GELU[i][1], 0, ulps);
        near((double)f32(both->grad)[i], 1.5 * GELU[i][2], z > -2 ? 1 : 0, slope);
    }
    bench_close(&b);
}

static void test_softcap(void **state) {
    (void)state;
    static Bench b;
    Tape *t = bench_open(&b);
    static const float x[] = {-1e30f, -90, -30, -1, -1e-3f, 0, 1e-6f, 0.3f, 20, 29, 400};
    enum { N = COUNT_OF(x) };
    Tensor *y = softcap(t, given(t, 1, N, x), 30);
    for (int i = 0; i < N; i++) { /* x/cap, tanh within 2 ulp (4 halves), times cap */
        near((double)f32(y)[i], 30 * tanh((double)x[i] / 30), 0, 6);
    }
    bench_close(&b);
}

/* ---- the router ------------------------------------------------------------------------------ */

static void test_route_choice(void **state) {
    (void)state;
    static Bench b;
    Tape *t = bench_open(&b);
    /* ties go to the lower index; PyTorch's softmax in float64 */
    static const float x[] = {0.5f, -1, 2, 2, 0.25f, -3};
    static const double p[] = {0.09094624271944902, 0.02029284970288863, 0.4075927819840675,
                               0.4075927819840675,  0.07082900504730895, 0.0027463385622184446};
    static const int32_t best[] = {2, 3, 0, 4};
    static const float s[] = {1, 2, 0.5f, 4, 8, 16};
    Tensor *logits = given(t, 1, 6, x), *choice = tensor_2d(t->step, DT_i32, 1, 4);
    Tensor *scales = given(t, 1, 6, s);
    Tensor *raw = route(t, logits, choice, NULL, (RouteSpec){4, false});
    Tensor *full = route(t, logits, choice, scales, (RouteSpec){4, true});
    double sum = 0;
    for (int j = 0; j < 4; j++) sum += p[best[j]];
    for (int j = 0; j < 4; j++) { /* max - x, exp (3), sum, two products, the scale */
        assert_int_equal(i32(choice)[j], best[j]);
        near((double)f32(raw)[j], p[best[j]], 0, 12);
        near((double)f32(full)[j], p[best[j]] / sum * (double)s[best[j]], 0, 16);
    }
    bench_close(&b);
}

static void test_route_replay_keeps(void **state) {
    (void)state;
    static Bench b;
    Tape *t = bench_open(&b);
    static const float x[] = {3, 2, 1, 0};
    static const int32_t kept[] = {3, 1};
    Tensor *choice = given_ints(t, 2, kept);
    t->replay = true;
    Tensor *y = route(t, given(t, 1, 4, x), choice, NULL, (RouteSpec){2, true});
    assert_memory_equal(choice->data, kept, sizeof kept);
    near((double)f32(y)[0], 1 / (1 + exp(2.0)), 0, 12);
    near((double)f32(y)[1], 1 / (1 + exp(-2.0)), 0, 12);
    bench_close(&b);
}

/* Whatever stands in a row of logits, k different experts come out. */
static void test_route_hostile(void **state) {
    (void)state;
    enum { E = 7, K = 4, ROWS = 2000 };
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 3.4e38f, -3.4e38f, 1, -NAN};
    static Bench b;
    Tape *t = bench_open(&b);
    Rng rng = {.seed = 12};
    Tensor *logits = tensor_2d(t->step, DT_f32, ROWS, E),
           *choice = tensor_2d(t->step, DT_i32, ROWS, K);
    for (int i = 0; i < ROWS * E; i++) f32(logits)[i] = odd[rng_u64(&rng) % COUNT_OF(odd)];
    logits->wants_grad = true;
    Tensor *y = route(t, logits, choice, NULL, (RouteSpec){K, true});
    for (int i = 0; i < ROWS; i++) {
        unsigned seen = 0;
        for (int j = 0; j < K; j++) {
            int32_t e = i32(choice)[i * K + j];
            assert_in_range(e, 0, E - 1);
            assert_false(seen >> e & 1);
            seen |= 1u << e;
        }
    }
    memset(tape_grad(t, y)->data, 0, (size_t)tensor_bytes(y));
    tape_grad(t, logits);
    op_route.bwd[DEV_CPU](t, &t->node[0]); /* survives */
    dispatch_by_expert(t, choice, E);
    bench_close(&b);
}

/* Chosen weights sum to one, and renormalised logits move only where chosen. */
static void test_route_invariants(void **state) {
    (void)state;
    enum { T = 50, E = 16, K = 3 };
    static Bench b;
    Tape *t = bench_open(&b);
    Rng rng = {.seed = 8};
    Tensor *logits = random_2d(t, &rng, T, E), *choice = tensor_2d(t->step, DT_i32, T, K);
    logits->wants_grad = true;
    Tensor *y = route(t, logits, choice, NULL, (RouteSpec){K, true});
    memcpy(tape_grad(t, y)->data, normals(t, &rng, T * K), (size_t)tensor_bytes(y));
    const float *g = f32(tape_grad(t, logits));
    op_route.bwd[DEV_CPU](t, &t->node[0]);
    for (int i = 0; i < T; i++) {
        double sum = 0;
        bool chosen[E] = {false};
        for (int j = 0; j < K; j++) {
            sum += (double)f32(y)[i * K + j];
            chosen[i32(choice)[i * K + j]] = true;
            if (j) assert_true(f32(y)[i * K + j] <= f32(y)[i * K + j - 1]);
        }
        near(sum, 1, 0, 2 * K + 2);
        for (int e = 0; e < E; e++) assert_true(chosen[e] == (g[i * E + e] != 0));
    }
    bench_close(&b);
}

/* ---- moving rows ------------------------------------------------------------------------------
 */

static void test_dispatch(void **state) {
    (void)state;
    enum { T = 200, K = 3, E = 9, ROWS = T * K };
    static Bench b;
    Tape *t = bench_open(&b);
    Rng rng = {.seed = 21};
    Tensor *choice = tensor_2d(t->step, DT_i32, T, K);
    for (int i = 0; i < ROWS; i++) { /* expert 4 gets nothing */
        i32(choice)[i] = (int32_t)((i % K * 3 + rng_u64(&rng) % 3) % E);
        if (i32(choice)[i] == 4) i32(choice)[i] = 3;
    }
    Dispatch d = dispatch_by_expert(t, choice, E);
    const int32_t *row_of = i32(d.row_of), *token_of = i32(d.token_of), *off = i32(d.off);
    bool used[ROWS] = {false};
    assert_true(off[0] == 0 && off[E] == ROWS && off[4] == off[5]);
    for (int i = 0; i < ROWS; i++) {
        int32_t row = row_of[i], e = i32(choice)[i];
        assert_in_range(row, off[e], off[e + 1] - 1);
        assert_int_equal(token_of[row], i / K);
        assert_false(used[row]);
        used[row] = true;
    }
    for (int e = 0; e < E; e++) {
        for (int r = off[e] + 1; r < off[e + 1]; r++) assert_true(token_of[r - 1] <= token_of[r]);
    }
    /* out and back with weights one: k times the token */
    Tensor *x = random_2d(t, &rng, T, 5), *w = tensor_2d(t->step, DT_f32, T, K);
    for (int i = 0; i < ROWS; i++) f32(w)[i] = 1;
    Tensor *rows = tensor_2d(t->step, DT_f32, ROWS, 5);
    for (int i = 0; i < ROWS * 5; i++) f32(rows)[i] = f32(x)[token_of[i / 5] * 5 + i % 5];
    Tensor *z = combine(t, rows, w, d.row_of);
    for (int i = 0; i < T * 5; i++) near((double)f32(z)[i], 3 * (double)f32(x)[i], 0, 2);
    bench_close(&b);
}

static void test_embed_pad(void **state) {
    (void)state;
    static const int32_t ids[] = {1, 0, 2, 1};
    static const float w[] = {1, 2, 3, 4, 5, 6};
    for (int pad = -1; pad <= 1; pad++) {
        static Bench b;
        Tape *t = bench_open(&b);
        Tensor *table = given(t, 3, 2, w);
        table->wants_grad = true;
        Tensor *y = embed(t, table, given_ints(t, 4, ids), 2, pad);
        for (int i = 0; i < 8; i++) {
            assert_true(f32(y)[i] == 2 * w[ids[i / 2] * 2 + i % 2]);
            f32(tape_grad(t, y))[i] = 1;
        }
        const float *g = f32(tape_grad(t, table));
        op_embed.bwd[DEV_CPU](t, &t->node[0]);
        for (int v = 0; v < 3; v++) {
            float want = v == pad ? 0 : v == 1 ? 4 : 2;
            assert_true(g[2 * v] == want && g[2 * v + 1] == want);
        }
        bench_close(&b);
    }
}

/* The share kept is binomial: 6 standard deviations (one run in 10^9 would fail by chance, and
 * the draw is fixed). Another stream draws otherwise; p = 0 changes nothing. */
static void test_dropout(void **state) {
    (void)state;
    enum { N = 40000 };
    static Bench b;
    Tape *t = bench_open(&b);
    Tensor *x = tensor_1d(t->step, DT_f32, N);
    for (int i = 0; i < N; i++) f32(x)[i] = 1;
    const float *y = f32(dropout(t, x, 0.25f, 5, 6)), *again = f32(dropout(t, x, 0.25f, 5, 6));
    const float *other = f32(dropout(t, x, 0.25f, 5, 7)), *all = f32(dropout(t, x, 0, 5, 6));
    int kept = 0, differ = 0;
    for (int i = 0; i < N; i++) {
        assert_true(y[i] == 0 || y[i] == 1 / 0.75f);
        assert_true(y[i] == again[i] && all[i] == 1);
        kept += y[i] != 0;
        differ += y[i] != other[i];
    }
    double p = 0.75, q = 2 * 0.75 * 0.25; /* kept; two independent draws differ */
    assert_true(fabs(kept - N * p) < 6 * sqrt(N * p * (1 - p)));
    assert_true(fabs(differ - N * q) < 6 * sqrt(N * q * (1 - q)));
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_geglu),
        cmocka_unit_test(test_softcap),
        cmocka_unit_test(test_route_choice),
        cmocka_unit_test(test_route_replay_keeps),
        cmocka_unit_test(test_route_hostile),
        cmocka_unit_test(test_route_invariants),
        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_embed_pad),
        cmocka_unit_test(test_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
