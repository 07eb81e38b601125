/* ops.h - what the ops take beside tensors, and their prototypes made from the table. Letters:
 * T tokens, D width, H/K heads and KV heads, d head size, E experts, k used per token,
 * F expert width, V vocabulary, R rank, I/O inputs and outputs of a linear. */
#ifndef OPS_H
#define OPS_H
#include "tape.h"

/* A low-rank addition to a linear or grouped product: y += s * (x aT) bT. All NULL: none.
 *   linear:  x (T,I)  a (R,I)    b (O,R)
 *   grouped: x (T,I)  a (E,R,I)  b (E,O,R)
 * x is the input the addition reads: the product's own, or that after dropout. */
typedef struct Lora {
    Tensor *x, *a, *b;
    float s;
} Lora;

/* How rows of q, k, v belong together. Sequence i owns query rows q_at[i]..q_at[i+1]-1 and key
 * rows k_at[i]..k_at[i+1]-1; its last query stands at its last key (so a decoder with a cache
 * passes more keys than queries). Sequences never see each other. */
typedef struct Attend {
    Tensor *q_at, *k_at; /* i32 (n_seq + 1) */
    int n_head, n_kv, head_dim;
    int window;  /* a query sees the last `window` keys including its own; 0: all before it */
    float scale; /* of q kT */
} Attend;

/* How rmsnorm weighs what it has normed: by plus + w. Models that keep their gains around 0 have
 * plus 1 (what learns, and decays, is w); all others 0. */
typedef struct Norm {
    float eps, plus;
} Norm;

/* Rotary embedding, half-split pairs (i, i + d/2). The first n_angles of the d/2 pairs turn by
 * pos * theta^(-2i/d) / factor; the rest stay. */
typedef struct Rope {
    int n_head, head_dim, n_angles;
    float theta, factor; /* factor 1: none; above: a longer context than theta was made for */
} Rope;

/* Cosines, then sines, of each position's angles: (T, 2*n_angles), from tape->step; no derivative.
 * They cost more than the turning: made once for all layers. */
Tensor *rope_angles(Tape *, Tensor *pos, Rope r);

/* Score to weight. renormalise: weights of the chosen sum to 1 before the per-expert scale. */
typedef struct RouteSpec {
    int k;
    bool renormalise;
} RouteSpec;

/* Where each token's rows go when rows are sorted by expert. Plain integers, no derivative.
 * choice (T,k) i32 -> row_of (T*k): sorted row of token t's j-th choice; token_of (T*k): the
 * token a sorted row came from; off (E+1): rows off[e]..off[e+1]-1 belong to expert e. Within an
 * expert rows keep token order. */
typedef struct Dispatch {
    Tensor *row_of, *token_of, *off;
} Dispatch;

#define OP(name, ...)                                                                              \
    Tensor *name(Tape *, __VA_ARGS__);                                                             \
    extern const Op op_##name;
#include "ops.def"
#undef OP

/* Its tensors come from tape->step. */
Dispatch dispatch_by_expert(Tape *, Tensor *choice, int64_t n_expert);
#endif
