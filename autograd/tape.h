/* tape.h - the whole autograd. An op runs as soon as it is called and leaves a Node behind;
 * backward walks the nodes from last to first. Recording order is already a topological order,
 * so nothing is ever sorted. */
#ifndef TAPE_H
#define TAPE_H
#include "tensor.h"

enum { DEV_CPU, DEV_CUDA, DEV_COUNT };
enum { NODE_IN = 8, NODE_OUT = 4, NODE_SAVED = 4, NODE_ATTR = 96 };

/* compute: f32 multiplies in float32; bf16 rounds both operands of every product of a linear,
 * grouped or head op (and, on machines with AMX, of attention) to bfloat16 once and accumulates in
 * float32. Attention scores, router, norms, softmax and loss are float32 in both. */
typedef enum Compute { COMPUTE_F32, COMPUTE_BF16 } Compute;

typedef struct Tape Tape;
typedef struct Node {
    const struct Op *op;
    Tensor *in[NODE_IN], *out[NODE_OUT], *saved[NODE_SAVED]; /* in[i] may be NULL: not given */
    int n_in;
    unsigned fresh;  /* backward: bit i: in[i]->grad is new and unset, and bwd sets it */
    Compute compute; /* the tape's when it was recorded; backward runs under the same */
    union {          /* the op's own small struct */
        char bytes[NODE_ATTR];
        void *align;
        double align2;
    } attr;
} Node;

typedef void (*OpFn)(Tape *, Node *);

/* A test case an op builds for itself: its result, and whether it was the last one. */
typedef struct OpCase {
    Tensor *out;
    bool last;
} OpCase;

typedef struct Op {
    const char *name;
    OpFn fwd[DEV_COUNT], bwd[DEV_COUNT];    /* bwd adds into in[i]->grad where wanted */
    OpCase (*sample)(Tape *, Rng *, int i); /* builds test case i; the tests need nothing else */
    /* Bytes of t->step that fwd (back: bwd) takes and gives back, at most; NULL: none. */
    size_t (*scratch)(const Tape *, const Node *, bool back);
    /* Bit i: bwd sets in[i]->grad whole, rather than adding, where node->fresh has the bit. (An
     * input that stands in two places is fresh at the first: bwd goes through them in order.) */
    unsigned sets;
    /* Bit i: in[i]'s gradient is out[0]'s. Where in[i] has none yet it takes over out[0]'s, which
     * nobody needs after bwd, and bwd has nothing to do for it (passed_on). */
    unsigned passes;
} Op;
#ifdef USE_CUDA
#define CUDA(fn) fn
#else
#define CUDA(fn) NULL
#endif

struct Tape {
    Arena *step; /* every result, saved value, gradient and scratch of one step */
    int device;
    Compute compute;
    int paused;  /* > 0: run, record nothing */
    bool replay; /* a checkpointed segment is being played again: choices are kept, not made */
    bool dry;    /* shapes and memory only: no kernel runs (what a step will need, before it) */
    int n, cap;
    Node *node;
};

static inline bool passed_on(const Node *n, int i) { return n->in[i]->grad == n->out[0]->grad; }

/* For bwd. Where the gradient of an input goes; NULL: nobody asks for it. */
static inline float *grad_of(const Tensor *x) {
    return x && x->wants_grad && x->grad ? f32(x->grad) : NULL;
}
/* For bwd that only adds: clears what it was left to set. */
void node_clear_fresh(const Node *n);

#define ATTR(n, Type) ((Type *)(void *)(n)->attr.bytes)

/* Opens a node with these inputs; the op fills attr, out and saved, then calls tape_run. */
Node *tape_node(Tape *, const Op *, int n_in, Tensor *const *in);
/* Runs it now, keeps it if a gradient may flow through it; returns out[0]. */
Tensor *tape_run(Tape *, Node *);
/* True if a gradient will be asked of this node (so that fwd may save for it). */
bool tape_will_go_back(const Tape *, const Node *);
/* From a scalar, d loss / d loss = 1. Gradients of what wants one are added to t->grad. */
void tape_backward(Tape *, Tensor *loss);
void tape_backward_all(Tape *, int n, Tensor *const *loss); /* from the sum of n scalars */
/* The gradient of t, zeroed when made on first ask. */
Tensor *tape_grad(Tape *, Tensor *t);
void tape_reset(Tape *); /* forgets the nodes; the arena is the caller's */

/* A segment is a stretch of the model (one layer). It takes and returns lists of tensors of any
 * shape; the caller makes the results (out[i]) beforehand, so that they outlive it.
 * recompute: nothing inside is kept, backward plays the segment again (gradient checkpointing;
 * Chen et al. 2016). Otherwise its nodes stay, and only the gradients inside it are given back
 * as soon as they are used. Tensors that must be the same in the replay (routing choices) are
 * made by the caller outside and read by the ops when tape->replay is set.
 * Whatever learns and is made outside is an input, or has its gradient already (parameters do).
 * Results are new tensors: neither inputs nor one another. */
typedef void (*SegmentFn)(Tape *, void *ctx, Tensor *const *in, Tensor **out);
void tape_segment(Tape *, SegmentFn, void *ctx, bool recompute, int n_in, Tensor *const *in,
                  int n_out, Tensor *const *out);

#include "ops.h"
#endif
