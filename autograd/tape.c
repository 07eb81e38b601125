/* tape.c - see tape.h. */
#include "tape.h"
#include <string.h>

Node *tape_node(Tape *t, const Op *op, int n_in, Tensor *const *in) {
    CHECK(t->n < t->cap, "%s: the tape is full (%d nodes)", op->name, t->cap);
    CHECK(n_in <= NODE_IN, "%s: %d inputs", op->name, n_in);
    Node *n = &t->node[t->n];
    memset(n, 0, sizeof *n);
    n->op = op;
    n->n_in = n_in;
    n->compute = t->compute;
    memcpy(n->in, in, sizeof in[0] * (size_t)n_in);
    return n;
}

static bool node_wants(const Node *n) {
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i] && n->in[i]->wants_grad) return true;
    }
    return false;
}

bool tape_will_go_back(const Tape *t, const Node *n) { return !t->paused && node_wants(n); }

void node_clear_fresh(const Node *n) {
    for (int i = 0; i < n->n_in; i++) {
        if (n->fresh & 1u << i) memset(n->in[i]->grad->data, 0, (size_t)tensor_bytes(n->in[i]));
    }
}

/* What the node's kernel would take for itself, so that a dry tape knows. */
static void run_dry(Tape *t, const Node *n, bool back) {
    if (!n->op->scratch) return;
    size_t mark = arena_mark(t->step);
    arena_push(t->step, n->op->scratch(t, n, back));
    arena_release(t->step, mark);
}

Tensor *tape_run(Tape *t, Node *n) {
    bool wants = node_wants(n);
    for (int i = 0; i < NODE_OUT && n->out[i]; i++) n->out[i]->wants_grad = wants;
    CHECK(n->op->fwd[t->device], "%s: no forward on this device", n->op->name);
    Tensor *y = n->out[0];
    if (t->dry)
        run_dry(t, n, false);
    else
        n->op->fwd[t->device](t, n);
    if (wants && !t->paused) t->n++;
    return y;
}

Tensor *tape_grad(Tape *t, Tensor *x) {
    if (!x->grad) {
        x->grad = tensor_like(t->step, x);
        if (!t->dry) memset(x->grad->data, 0, (size_t)tensor_bytes(x->grad));
    }
    return x->grad;
}

/* ---- segments ---------------------------------------------------------------------------- */

typedef struct Segment {
    SegmentFn fn;
    void *ctx;
    bool recompute;
    int lo, n_out;   /* first of its nodes, where they were kept */
    size_t from, to; /* where in the arena its results and values were made */
} Segment;

static void segment_bwd(Tape *t, Node *n);
static const Op op_segment = {"segment", {NULL}, {segment_bwd, segment_bwd}, NULL, NULL, 0, 0};

static bool node_reached(const Node *n) {
    for (int i = 0; i < NODE_OUT && n->out[i]; i++) {
        if (n->out[i]->grad) return true;
    }
    return false;
}

static bool stands_twice(const Node *n, int i) {
    for (int j = 0; j < n->n_in; j++) {
        if (j != i && n->in[j] == n->in[i]) return true;
    }
    return false;
}

/* Gradients of the node's inputs that backward will add to. Most are made here, and are set rather
 * than cleared and added to: that saves two passes over them. */
static void ask_gradients(Tape *t, Node *n) {
    n->fresh = 0;
    for (int i = 0; i < n->n_in; i++) {
        Tensor *x = n->in[i];
        if (!x || !x->wants_grad) continue;
        if (!x->grad && n->op->passes & 1u << i && !stands_twice(n, i)) {
            x->grad = n->out[0]->grad;
            continue;
        }
        if (x->grad || !(n->op->sets & 1u << i)) {
            tape_grad(t, x);
            continue;
        }
        x->grad = tensor_like(t->step, x);
        n->fresh |= 1u << i;
    }
}

/* Walks nodes hi-1 .. lo. A segment whose nodes were kept stands behind them and walks them
 * itself, so they are skipped here. */
static void backward_range(Tape *t, int lo, int hi) {
    Compute was = t->compute;
    for (int i = hi - 1; i >= lo; i--) {
        Node *n = &t->node[i];
        bool segment = n->op == &op_segment;
        int next = segment && !ATTR(n, Segment)->recompute ? ATTR(n, Segment)->lo : i;
        if (node_reached(n)) {
            CHECK(n->op->bwd[t->device], "%s: no backward on this device", n->op->name);
            if (!segment) ask_gradients(t, n);
            t->compute = n->compute;
            if (t->dry && !segment)
                run_dry(t, n, true);
            else
                n->op->bwd[t->device](t, n);
        }
        i = next;
    }
    t->compute = was;
}

void tape_backward_all(Tape *t, int n, Tensor *const *loss) {
    for (int i = 0; i < n; i++) {
        CHECK(tensor_numel(loss[i]) == 1, "backward starts from a scalar");
        if (!loss[i]->wants_grad) continue; /* nothing learns */
        Tensor *g = tape_grad(t, loss[i]);
        if (!t->dry) f32(g)[0] = 1;
    }
    backward_range(t, 0, t->n);
}

void tape_backward(Tape *t, Tensor *loss) { tape_backward_all(t, 1, &loss); }

void tape_reset(Tape *t) { t->n = 0; }

/* The gradients of results are set from outside, so a result is a tensor of its own. */
static void check_results(int n_in, Tensor *const *in, int n_out, Tensor *const *inner) {
    for (int i = 0; i < n_out; i++) {
        CHECK(inner[i], "a segment left result %d out", i);
        for (int j = 0; j < n_in; j++) CHECK(inner[i] != in[j], "a segment returns input %d", j);
        for (int j = 0; j < i; j++) CHECK(inner[i] != inner[j], "a segment returns %d twice", j);
    }
}

void tape_segment(Tape *t, SegmentFn fn, void *ctx, bool recompute, int n_in, Tensor *const *in,
                  int n_out, Tensor *const *out) {
    CHECK(n_out >= 1 && n_out <= NODE_OUT, "a segment of %d results", n_out);
    Tensor *inner[NODE_OUT] = {0};
    bool keep = !recompute && !t->paused, learns = false;
    int lo = t->n;
    size_t mark = arena_mark(t->step);
    if (!keep) t->paused++;
    fn(t, ctx, in, inner);
    if (!keep) t->paused--;
    check_results(n_in, in, n_out, inner);
    for (int i = 0; i < n_out; i++) {
        CHECK(tensor_bytes(inner[i]) == tensor_bytes(out[i]), "segment result %d has another size",
              i);
        out[i]->wants_grad = inner[i]->wants_grad;
        learns = learns || inner[i]->wants_grad;
        if (!t->dry) memcpy(out[i]->data, inner[i]->data, (size_t)tensor_bytes(out[i]));
    }
    size_t top = arena_mark(t->step);
    if (!learns) t->n = lo;
    if (!keep || !learns) arena_release(t->step, mark);
    if (t->paused || !learns) return;
    Node *n = tape_node(t, &op_segment, n_in, in);
    *ATTR(n, Segment) = (Segment){fn, ctx, recompute, lo, n_out, mark, top};
    for (int i = 0; i < n_out; i++) {
        n->out[i] = out[i];
        if (keep) n->saved[i] = inner[i];
    }
    t->n++;
}

/* A gradient made above the mark goes with the segment: only what was made in the segment too may
 * have its gradient there. Whatever else learns (a weight in ctx, a tensor not listed among the
 * inputs) needs its gradient before, or it would be lost without a word. */
static void check_gradients(const Tape *t, const Segment *s, int first, int last, size_t mark,
                            const Tensor *inherits) {
    const char *base = t->step->base, *end = base + t->step->cap;
    for (int i = first; i < last; i++) {
        for (int j = 0; j < t->node[i].n_in; j++) {
            const Tensor *x = t->node[i].in[j];
            if (!x || !x->grad || x == inherits) continue;
            const char *at = (const char *)x, *grad = (const char *)x->grad;
            if (grad < base + mark || grad >= end) continue;
            bool played = at >= base + mark && at < end;
            bool kept = !s->recompute && at >= base + s->from && at < base + s->to;
            CHECK(played || kept, "segment: %s learns, but is no input and has no gradient yet",
                  x->name ? x->name : "a tensor");
        }
    }
}

/* What the segment allocates is above the mark, what must outlive it was made below. The first
 * input's gradient takes over the memory of the first result's, which nobody needs any more: the
 * residual stream of the whole model has one gradient. */
static void segment_bwd(Tape *t, Node *n) {
    Segment s = *ATTR(n, Segment);
    Tensor *in[NODE_IN], *out[NODE_OUT], *inner[NODE_OUT] = {0};
    int n_in = n->n_in, first = s.lo, last = (int)(n - t->node);
    memcpy(in, n->in, sizeof in);
    memcpy(out, n->out, sizeof out);
    memcpy(inner, n->saved, sizeof inner);

    Tensor *x = in[0], *dy = out[0]->grad;
    bool inherit = x->wants_grad && !x->grad && dy && tensor_numel(x) == tensor_numel(out[0]);
    for (int i = inherit ? 1 : 0; i < n_in; i++) {
        if (in[i] && in[i]->wants_grad) tape_grad(t, in[i]);
    }
    size_t mark = arena_mark(t->step);
    if (s.recompute) {
        bool was = t->replay;
        t->replay = true;
        first = t->n;
        s.fn(t, s.ctx, in, inner);
        last = t->n;
        t->replay = was;
    }
    for (int i = 0; i < s.n_out; i++) inner[i]->grad = out[i]->grad;
    backward_range(t, first, last);
    check_gradients(t, &s, first, last, mark, inherit ? x : NULL);
    if (s.recompute) t->n = first;
    if (inherit) {
        if (x->grad && x->grad != dy && !t->dry)
            memcpy(dy->data, x->grad->data, (size_t)tensor_bytes(dy));
        x->grad = x->grad ? dy : NULL;
    }
    arena_release(t->step, mark);
}
