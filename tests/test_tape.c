/* test_tape.c - segments must not show: a stack of layers gives the same bits whether its nodes
 * are kept, played again, nested or not in segments at all. The layers are small but have all
 * that makes checkpointing hard: several inputs and results, an input that all layers share,
 * a result of the first that all later ones read, low-rank weights hidden in the context, dropout,
 * and a router whose choice must not be made twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "../autograd/ops.h"

enum {
    LAYERS = 6,
    T = 20,
    D = 24,
    E = 5,
    K = 2,
    F = 12,
    R = 3,
    VOCAB = 11,
    NODES = 400,
    PARAMS = 64
};

typedef struct Layer {
    Tensor *norm, *w, *a, *b, *router, *expert_scale, *gate_up, *down, *from_side;
    Tensor *angles, *choice;
    int number, *played;
} Layer;

typedef struct World {
    Arena keep, step;
    Node node[NODES];
    Tape t;
    Layer layer[LAYERS];
    Tensor *param[PARAMS], *head, *labels, *x, *shared, *loss;
    int n_param, played;
} World;

/* How the layers are run. MIXED: by turns. PAIRS: two layers, one in a kept segment of its own, in
 * a recomputed one; they hand on other side inputs, so the result is another. */
typedef enum Way { PLAIN, KEPT, RECOMPUTED, MIXED, PAIRS, WAYS } Way;

/* ---- the model ----------------------------------------------------------------------------------
 */

static Tensor *random_tensor(Arena *a, Rng *rng, int n_dim, const int64_t *dim, float size) {
    Tensor *x = tensor_new(a, DT_f32, n_dim, dim);
    for (int64_t i = 0; i < tensor_numel(x); i++) f32(x)[i] = size * rng_normal(rng);
    return x;
}

/* What learns has its gradient beforehand, outside the step, as parameters do. */
static Tensor *param(World *w, Rng *rng, bool learns, int n_dim, const int64_t *dim) {
    Tensor *x = random_tensor(&w->keep, rng, n_dim, dim, 0.4f);
    x->wants_grad = learns;
    if (!learns) return x;
    assert_true(w->n_param < PARAMS);
    x->grad = tensor_like(&w->keep, x);
    memset(x->grad->data, 0, (size_t)tensor_bytes(x));
    w->param[w->n_param++] = x;
    return x;
}
#define SHAPE(...)                                                                                 \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static const Rope TURN = {2, D / 2, 4, 1e4f, 1};

static Layer layer_make(World *w, Rng *rng, bool learns, int number, Tensor *angles) {
    return (Layer){.norm = param(w, rng, learns, SHAPE(D)),
                   .w = param(w, rng, false, SHAPE(D, D)),
                   .a = param(w, rng, learns, SHAPE(R, D)),
                   .b = param(w, rng, learns, SHAPE(D, R)),
                   .router = param(w, rng, learns, SHAPE(E, D)),
                   .expert_scale = param(w, rng, learns, SHAPE(E)),
                   .gate_up = param(w, rng, learns, SHAPE(E, 2 * F, D)),
                   .down = param(w, rng, false, SHAPE(E, D, F)),
                   .from_side = param(w, rng, false, SHAPE(D, E)),
                   .angles = angles,
                   .choice = tensor_2d(&w->keep, DT_i32, T, K),
                   .number = number,
                   .played = &w->played};
}

/* in: the residual stream (T,D), what all layers share (T,D), the first layer's logits (T,E) or
 * NULL. out: the stream (T,D), this layer's logits (T,E). */
static void layer_forward(Tape *t, void *ctx, Tensor *const *in, Tensor **out) {
    const Layer *l = ctx;
    Tensor *x = in[0], *shared = in[1], *side = in[2];
    ++*l->played;
    Tensor *h = rmsnorm(t, x, l->norm, NULL, D, (Norm){1e-6f, 0});
    Tensor *dropped = dropout(t, h, 0.25f, 77, (uint64_t)l->number);
    h = linear(t, h, l->w, (Lora){dropped, l->a, l->b, 0.5f});
    h = rope(t, h, l->angles, TURN);
    if (side) h = add(t, h, linear(t, side, l->from_side, (Lora){0}), 0.3f);
    x = add(t, x, mul(t, h, shared), 1);

    Tensor *logits =
        linear(t, rmsnorm(t, x, NULL, NULL, D, (Norm){1e-6f, 0}), l->router, (Lora){0});
    Tensor *weight = route(t, logits, l->choice, l->expert_scale, (RouteSpec){K, true});
    Dispatch d = dispatch_by_expert(t, l->choice, E);
    Tensor *rows = geglu(t, grouped(t, x, l->gate_up, d, (Lora){0}), NULL);
    rows = grouped(t, rows, l->down, (Dispatch){.off = d.off}, (Lora){0});
    out[0] = add(t, x, combine(t, rows, weight, d.row_of), 1);
    out[1] = scale(t, logits, 0.5f);
}

static void segment(Tape *t, SegmentFn fn, void *ctx, bool recompute, Tensor *const *in,
                    Tensor **out) {
    out[0] = tensor_2d(t->step, DT_f32, T, D);
    out[1] = tensor_2d(t->step, DT_f32, T, E);
    tape_segment(t, fn, ctx, recompute, 3, in, 2, out);
}

/* Two layers behind one another; the second's side is the first's where there is none. */
static void pair_forward(Tape *t, void *ctx, Tensor *const *in, Tensor **out) {
    Layer *l = ctx;
    Tensor *first[2];
    segment(t, layer_forward, &l[0], false, in, first);
    Tensor *second[3] = {first[0], in[1], in[2] ? in[2] : first[1]};
    layer_forward(t, &l[1], second, out);
    out[1] = add(t, out[1], first[1], 1);
}

static void run_layers(World *w, Way way) {
    Tape *t = &w->t;
    Tensor *in[3] = {w->x, w->shared, NULL}, *out[2];
    for (int i = 0; i < LAYERS; i += way == PAIRS ? 2 : 1) {
        Layer *l = &w->layer[i];
        if (way == PLAIN) {
            layer_forward(t, l, in, out);
        } else if (way == PAIRS) {
            segment(t, pair_forward, l, true, in, out);
        } else {
            segment(t, layer_forward, l, way == RECOMPUTED || (way == MIXED && i % 2), in, out);
        }
        in[0] = out[0];
        if (!in[2]) in[2] = out[1];
    }
    Tensor *h = add(t, out[0], linear(t, out[1], w->layer[0].from_side, (Lora){0}), 0.1f);
    w->loss = head_loss(t, h, w->head, w->labels, 0, 1.0f / T);
}

/* ---- worlds ---------------------------------------------------------------------------------- */

static void world_open(World *w, bool learns) {
    Err e;
    Rng rng = {.seed = 31};
    memset(w, 0, sizeof *w);
    assert_int_equal(arena_open(&w->keep, (size_t)1 << 26, &e), 0);
    assert_int_equal(arena_open(&w->step, (size_t)1 << 28, &e), 0);
    w->t = (Tape){.step = &w->step, .cap = NODES, .node = w->node};
    Tensor *pos = tensor_1d(&w->keep, DT_i32, T);
    w->labels = tensor_1d(&w->keep, DT_i32, T);
    for (int i = 0; i < T; i++) {
        i32(pos)[i] = i;
        i32(w->labels)[i] = i % 4 == 3 ? -100 : i % VOCAB;
    }
    Tensor *angles = rope_angles(&(Tape){.step = &w->keep}, pos, TURN);
    for (int i = 0; i < LAYERS; i++) w->layer[i] = layer_make(w, &rng, learns, i, angles);
    w->head = param(w, &rng, false, SHAPE(VOCAB, D));
    w->x = random_tensor(&w->step, &rng, SHAPE(T, D), 1);
    w->shared = random_tensor(&w->step, &rng, SHAPE(T, D), 1);
    w->x->wants_grad = w->shared->wants_grad = learns;
}

static void world_close(World *w) {
    arena_close(&w->keep);
    arena_close(&w->step);
}

/* Every gradient there is, and the loss. */
static Buf world_result(const World *w) {
    Buf b = {0};
    buf_add(&b, w->loss->data, sizeof(float));
    for (int i = 0; i < w->n_param; i++) {
        buf_add(&b, w->param[i]->grad->data, (size_t)tensor_bytes(w->param[i]));
    }
    buf_add(&b, w->x->grad->data, (size_t)tensor_bytes(w->x));
    buf_add(&b, w->shared->grad->data, (size_t)tensor_bytes(w->shared));
    return b;
}

static World w; /* too large for a stack */

static Buf result_of(Way way, size_t *peak) {
    world_open(&w, true);
    run_layers(&w, way);
    tape_backward(&w.t, w.loss);
    Buf b = world_result(&w);
    *peak = w.step.peak;
    world_close(&w);
    return b;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_same_bits(void **state) {
    (void)state;
    Buf got[PAIRS];
    size_t peak[PAIRS];
    for (int way = 0; way < PAIRS; way++) got[way] = result_of((Way)way, &peak[way]);
    int64_t zeros = 0, n = (int64_t)(got[PLAIN].n / sizeof(float));
    const char *bytes = got[PLAIN].p;
    for (int64_t i = 0; i < n; i++) {
        float v;
        memcpy(&v, bytes + (size_t)i * sizeof v, sizeof v);
        assert_true(v == v);
        zeros += v == 0;
    }
    assert_true(zeros < n / 10); /* something was learnt nearly everywhere */
    for (int way = KEPT; way < PAIRS; way++) {
        assert_int_equal(got[way].n, got[PLAIN].n);
        if (memcmp(got[way].p, got[PLAIN].p, got[PLAIN].n) != 0) fail_msg("way %d differs", way);
    }
    assert_true(peak[RECOMPUTED] < peak[MIXED] && peak[MIXED] < peak[KEPT]);
    assert_true(peak[KEPT] < peak[PLAIN]); /* gradients inside are given back */
    for (int way = 0; way < PAIRS; way++) buf_free(&got[way]);
}

/* A segment within a segment, against the same calls without either. */
static void test_nested(void **state) {
    (void)state;
    Buf got[2];
    size_t peak;
    got[0] = result_of(PAIRS, &peak);
    world_open(&w, true);
    Tensor *in[3] = {w.x, w.shared, NULL}, *out[2], *first[2];
    for (int i = 0; i < LAYERS; i += 2) {
        layer_forward(&w.t, &w.layer[i], in, first);
        Tensor *second[3] = {first[0], in[1], in[2] ? in[2] : first[1]};
        layer_forward(&w.t, &w.layer[i + 1], second, out);
        out[1] = add(&w.t, out[1], first[1], 1);
        in[0] = out[0];
        if (!in[2]) in[2] = out[1];
    }
    Tensor *h = add(&w.t, out[0], linear(&w.t, out[1], w.layer[0].from_side, (Lora){0}), 0.1f);
    w.loss = head_loss(&w.t, h, w.head, w.labels, 0, 1.0f / T);
    tape_backward(&w.t, w.loss);
    got[1] = world_result(&w);
    world_close(&w);
    assert_int_equal(got[0].n, got[1].n);
    assert_memory_equal(got[0].p, got[1].p, got[0].n);
    buf_free(&got[0]);
    buf_free(&got[1]);
}

/* A choice changed between forward and backward is read, not made again. */
static void test_replay_keeps_choices(void **state) {
    (void)state;
    int32_t kept[LAYERS][T * K];
    world_open(&w, true);
    run_layers(&w, RECOMPUTED);
    assert_int_equal(w.played, LAYERS);
    for (int l = 0; l < LAYERS; l++) {
        int32_t *choice = i32(w.layer[l].choice);
        for (int i = 0; i < T * K; i++) choice[i] = (choice[i] + 1) % E;
        memcpy(kept[l], choice, sizeof kept[l]);
    }
    tape_backward(&w.t, w.loss);
    assert_int_equal(w.played, 2 * LAYERS);
    assert_false(w.t.replay);
    assert_int_equal(w.t.paused, 0);
    for (int l = 0; l < LAYERS; l++) {
        assert_memory_equal(w.layer[l].choice->data, kept[l], sizeof kept[l]);
    }
    world_close(&w);
}

/* A result nobody uses brings nothing back, nor does a segment none of whose results is used. */
static void test_unused_results(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        Tensor *in[3], *out[2], *unused[2];
        Buf got[2];
        for (int way = 0; way < 2; way++) {
            world_open(&w, true);
            memcpy(in, (Tensor *[]){w.x, w.shared, NULL}, sizeof in);
            if (way == 0) {
                layer_forward(&w.t, &w.layer[0], in, out);
            } else {
                segment(&w.t, layer_forward, &w.layer[0], recompute, in, out);
                segment(&w.t, layer_forward, &w.layer[1], recompute, in, unused);
            }
            w.loss = head_loss(&w.t, out[0], w.head, w.labels, 0, 1);
            tape_backward(&w.t, w.loss);
            got[way] = world_result(&w);
            world_close(&w);
        }
        assert_memory_equal(got[0].p, got[1].p, got[0].n);
        buf_free(&got[0]);
        buf_free(&got[1]);
    }
}

/* One stream read by two segments and by an op outside: the first of them to go back leaves its
 * gradient where the others add. */
static void test_stream_read_twice(void **state) {
    (void)state;
    Buf got[3];
    for (int way = 0; way < 3; way++) {
        Tensor *in[3], *left[2], *right[2];
        world_open(&w, true);
        memcpy(in, (Tensor *[]){w.x, w.shared, NULL}, sizeof in);
        if (way == 0) {
            layer_forward(&w.t, &w.layer[0], in, left);
            layer_forward(&w.t, &w.layer[1], in, right);
        } else {
            segment(&w.t, layer_forward, &w.layer[0], way == 2, in, left);
            segment(&w.t, layer_forward, &w.layer[1], way == 2, in, right);
        }
        Tensor *h = add(&w.t, add(&w.t, left[0], right[0], -0.5f), w.x, 0.25f);
        w.loss = head_loss(&w.t, h, w.head, w.labels, 0, 1);
        tape_backward(&w.t, w.loss);
        got[way] = world_result(&w);
        world_close(&w);
    }
    for (int way = 1; way < 3; way++) assert_memory_equal(got[0].p, got[way].p, got[0].n);
    for (int way = 0; way < 3; way++) buf_free(&got[way]);
}

/* Where nothing learns nothing is recorded, and backward has nothing to do. */
static void test_nothing_learns(void **state) {
    (void)state;
    for (int way = 0; way < WAYS; way++) {
        world_open(&w, false);
        run_layers(&w, (Way)way);
        assert_int_equal(w.t.n, 0);
        assert_false(w.loss->wants_grad);
        tape_backward(&w.t, w.loss);
        assert_null(w.loss->grad);
        assert_null(w.x->grad);
        world_close(&w);
    }
}

/* A paused tape records nothing either, and gives the same loss. */
static void test_paused(void **state) {
    (void)state;
    float loss[2];
    for (int paused = 0; paused < 2; paused++) {
        world_open(&w, true);
        w.t.paused = paused;
        run_layers(&w, MIXED);
        assert_true((w.t.n == 0) == (paused == 1));
        loss[paused] = f32(w.loss)[0];
        tape_reset(&w.t);
        assert_int_equal(w.t.n, 0);
        world_close(&w);
    }
    assert_memory_equal(&loss[0], &loss[1], sizeof loss[0]);
}

/* ---- dry ------------------------------------------------------------------------------------- */

/* Layers of ops that take no scratch: the norm, the elements and the router. */
static void light_forward(Tape *t, void *ctx, Tensor *const *in, Tensor **out) {
    const Layer *l = ctx;
    Tensor *h = rmsnorm(t, in[0], l->norm, NULL, D, (Norm){1e-6f, 0});
    h = geglu(t, rope(t, h, l->angles, TURN), mul(t, in[1], h));
    h = softcap(t, dropout(t, h, 0.1f, 1, 2), 5);
    out[1] = scale(t, columns(t, h, 1, E), 2);
    Tensor *weight = route(t, out[1], l->choice, l->expert_scale, (RouteSpec){K, false});
    Dispatch d = dispatch_by_expert(t, l->choice, E);
    Tensor *rows = tensor_2d(t->step, DT_f32, T * K, D); /* as an expert's results */
    if (!t->dry) memset(rows->data, 0, (size_t)tensor_bytes(rows));
    h = add(t, h, combine(t, rows, weight, d.row_of), 1);
    out[0] = add(t, in[0], h, 1);
}

static void forget_data(Tensor *x) {
    x->data = NULL;
    if (x->grad) x->grad->data = NULL;
}

/* Dry: no weight, choice or input is there to be read or written. */
static size_t light_peak(bool recompute, bool dry) {
    world_open(&w, true);
    w.t.dry = dry;
    if (dry) {
        for (int i = 0; i < w.n_param; i++) forget_data(w.param[i]);
        for (int i = 0; i < LAYERS; i++) forget_data(w.layer[i].choice);
        forget_data(w.x);
        forget_data(w.shared);
        forget_data(w.layer[0].angles);
    }
    Tensor *in[3] = {w.x, w.shared, NULL}, *out[2];
    for (int i = 0; i < LAYERS; i++) {
        segment(&w.t, light_forward, &w.layer[i], recompute, in, out);
        in[0] = out[0];
    }
    /* a scalar without scratch: the rows added up as if one token's, and a column of that */
    Tensor *ones = tensor_2d(&w.keep, DT_f32, 1, T), *row_of = tensor_1d(&w.keep, DT_i32, T);
    for (int i = 0; i < T; i++) {
        f32(ones)[i] = 1;
        i32(row_of)[i] = i;
    }
    Tensor *loss = columns(&w.t, combine(&w.t, out[0], ones, row_of), 0, 1);
    tape_backward(&w.t, loss);
    size_t peak = w.step.peak;
    world_close(&w);
    return peak;
}

static void test_dry(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        assert_int_equal(light_peak(recompute, true), light_peak(recompute, false));
    }
    assert_true(light_peak(true, true) < light_peak(false, true));
}

static void test_gradient_first_asked(void **state) {
    (void)state;
    world_open(&w, true);
    Tensor *g = tape_grad(&w.t, w.x);
    for (int i = 0; i < T * D; i++) assert_true(f32(g)[i] == 0);
    assert_ptr_equal(tape_grad(&w.t, w.x), g);
    world_close(&w);
}

/* The first input lends its gradient the memory of the first result's only if it is read. */
static void unread_forward(Tape *t, void *ctx, Tensor *const *in, Tensor **out) {
    (void)ctx;
    out[0] = scale(t, in[1], 2);
    out[1] = columns(t, in[1], 0, E);
}

static void test_input_not_read(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        world_open(&w, true);
        Tensor *in[3] = {w.x, w.shared, NULL}, *out[2];
        segment(&w.t, unread_forward, NULL, recompute, in, out);
        tape_backward(&w.t, head_loss(&w.t, out[0], w.head, w.labels, 0, 1));
        assert_null(w.x->grad);
        assert_non_null(w.shared->grad);
        world_close(&w);
    }
}

/* A tensor made outside that learns, yet is neither an input nor has a gradient, would lose what
 * it learns with the segment's memory: the tape stops (in a child of this process). */
static void test_hidden_learner(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        pid_t child = fork();
        if (child == 0) {
            if (!freopen("/dev/null", "w", stderr)) _exit(0);
            signal(SIGABRT, SIG_DFL);
            world_open(&w, true);
            w.t.dry = true; /* the threads of the parent are not here */
            Tensor *in[3] = {w.x, w.shared, NULL}, *out[2];
            w.layer[0].a->grad = NULL;
            segment(&w.t, layer_forward, &w.layer[0], recompute, in, out);
            tape_backward(&w.t, head_loss(&w.t, out[0], w.head, w.labels, 0, 1));
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

/* What an op says it takes of the arena for itself is what it takes, or more: a dry tape relies on
 * it. Every op, every case, both precisions. */
static void check_scratch(Tape *t, Node *n, OpFn run, bool back) {
    Arena *a = t->step;
    size_t top = a->top, was = a->peak, said = n->op->scratch ? n->op->scratch(t, n, back) : 0;
    a->peak = top;
    run(t, n);
    size_t took = a->peak - top;
    if (took > said)
        fail_msg("%s: %s took %zu bytes of scratch and says %zu", n->op->name,
                 back ? "backward" : "forward", took, said);
    assert_int_equal(a->top, top);
    a->peak = a->peak > was ? a->peak : was;
}

static void test_scratch(void **state) {
    static const Op *const all[] = {
#define OP(name, ...) &op_##name,
#include "../autograd/ops.def"
#undef OP
    };
    (void)state;
    for (size_t i = 0; i < 2 * COUNT_OF(all); i++) {
        const Op *op = all[i / 2];
        bool last = false;
        for (int k = 0; !last; k++) {
            static Node node[64];
            Arena step;
            Err e;
            Rng rng = {7, (uint64_t)k, 0};
            assert_int_equal(arena_open(&step, (size_t)1 << 28, &e), 0);
            Tape t = {.step = &step, .cap = 64, .node = node, .compute = (Compute)(i % 2)};
            last = op->sample(&t, &rng, k).last;
            Node *n = &node[t.n ? t.n - 1 : 0];
            assert_ptr_equal(n->op, op);
            check_scratch(&t, n, op->fwd[DEV_CPU], false);
            for (int j = 0; j < NODE_OUT && n->out[j]; j++) tape_grad(&t, n->out[j]);
            for (int j = 0; j < n->n_in; j++)
                if (n->in[j] && n->in[j]->wants_grad) tape_grad(&t, n->in[j]);
            if (t.n) check_scratch(&t, n, op->bwd[DEV_CPU], true);
            arena_close(&step);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scratch),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_replay_keeps_choices),
        cmocka_unit_test(test_unused_results),
        cmocka_unit_test(test_stream_read_twice),
        cmocka_unit_test(test_nothing_learns),
        cmocka_unit_test(test_paused),
        cmocka_unit_test(test_dry),
        cmocka_unit_test(test_gradient_first_asked),
        cmocka_unit_test(test_input_not_read),
        cmocka_unit_test(test_hidden_learner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
