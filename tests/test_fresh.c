/* test_fresh.c - a gradient that backward may set (Op.sets, Node.fresh) comes out as one that was
 * cleared and added to, bit for bit, whatever stood in it before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include "../autograd/ops.h"

enum { NODES = 64, MAX_CASES = 64 };

static const Op *const ALL[] = {
#define OP(name, ...) &op_##name,
#include "../autograd/ops.def"
#undef OP
};

static bool is_first(const Node *n, int i) {
    for (int j = 0; j < i; j++) {
        if (n->in[j] == n->in[i]) return false;
    }
    return n->in[i] && n->in[i]->wants_grad;
}

/* What backward makes of the inputs' gradients, one behind the other. */
static int64_t run(Tape *t, Node *n, unsigned fresh, float *out) {
    int64_t at = 0;
    n->fresh = 0;
    for (int i = 0; i < n->n_in; i++) {
        if (!is_first(n, i)) continue;
        bool set = fresh & 1u << i;
        Tensor *g = tape_grad(t, n->in[i]);
        memset(g->data, set ? 0xff : 0, (size_t)tensor_bytes(g));
        if (set) n->fresh |= 1u << i;
    }
    n->op->bwd[DEV_CPU](t, n);
    for (int i = 0; i < n->n_in; i++) {
        if (!is_first(n, i)) continue;
        memcpy(out + at, n->in[i]->grad->data, (size_t)tensor_bytes(n->in[i]->grad));
        at += tensor_numel(n->in[i]);
    }
    return at;
}

static int check_case(const Op *op, int i, bool *last) {
    Arena arena;
    Err e;
    Node node[NODES];
    assert_int_equal(arena_open(&arena, (size_t)1 << 28, &e), 0);
    Tape t = {.step = &arena, .cap = NODES, .node = node};
    Rng rng = {1, (uint64_t)i, 0};
    OpCase c = op->sample(&t, &rng, i);
    Node *n = &node[t.n ? t.n - 1 : 0];
    *last = c.last;
    int checked = 0;
    if (t.n && n->op == op && op->sets) {
        Tensor *dy = tape_grad(&t, c.out);
        for (int64_t k = 0; k < tensor_numel(dy); k++) f32(dy)[k] = rng_normal(&rng);
        int64_t room = 0;
        for (int k = 0; k < n->n_in; k++) room += n->in[k] ? tensor_numel(n->in[k]) : 0;
        float *added = arena_push(&arena, (size_t)room * sizeof(float)),
              *set = arena_push(&arena, (size_t)room * sizeof(float));
        int64_t values = run(&t, n, 0, added);
        run(&t, n, op->sets, set);
        for (int64_t k = 0; k < values; k++) {
            if (added[k] != set[k])
                fail_msg("%s case %d: value %ld is %g when set, %g when added", op->name, i,
                         (long)k, (double)set[k], (double)added[k]);
        }
        checked = 1;
    }
    arena_close(&arena);
    return checked;
}

static void test_set_is_added(void **state) {
    (void)state;
    int checked = 0;
    for (size_t k = 0; k < COUNT_OF(ALL); k++) {
        bool last = false;
        for (int i = 0; !last && i < MAX_CASES; i++) checked += check_case(ALL[k], i, &last);
    }
    assert_true(checked >= 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_set_is_added)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
