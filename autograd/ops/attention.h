/* attention.h - what attention.c (the op, and float32) and attention_amx.c (bfloat16 tiles) share.
 */
#ifndef ATTENTION_H
#define ATTENTION_H
#include "../gemm.h"

enum { Q, K, V, Q_AT, K_AT, N_IN };

typedef struct Attr {
    int n_head, n_kv, head_dim, window;
    float scale;
} Attr;

/* One sequence: where its rows start, how many there are. */
typedef struct Seq {
    int64_t q_at, nq, k_at, nk;
} Seq;

static inline int64_t attention_n_seq(const Node *n) { return n->in[Q_AT]->dim[0] - 1; }
static inline Seq attention_seq(const Node *n, int64_t i) {
    const int32_t *q = i32(n->in[Q_AT]), *k = i32(n->in[K_AT]);
    return (Seq){q[i], q[i + 1] - q[i], k[i], k[i + 1] - k[i]};
}

/* Where the gradients of a task go: to the columns of its first query head, or of its KV head, in
 * the sequence's first row; NULL: not wanted. set_: they are set rather than added to. */
typedef struct Grads {
    float *dq, *dk, *dv;
    bool set_dq, set_dk, set_dv;
} Grads;
/* The first `rows` rows of dk and dv become zero, where they are set. */
void attention_clear_keys(const Grads *g, int64_t rows, int64_t d, int64_t ld);

/* Tiles work on strips: STRIP neighbouring queries, or keys, of one sequence. */
enum { STRIP = 32 };
static inline int64_t strip_count(int64_t n) { return (n + STRIP - 1) / STRIP; }

/* Strips of keys [from, to) that some query of strip i sees. A query at key position p sees the
 * last `window` keys up to p; 0: all of them. */
typedef struct Strips {
    int64_t from, to;
} Strips;
static inline Strips attention_strips(const Seq *s, int64_t window, int64_t i) {
    int64_t shift = s->nk - s->nq, first = i * STRIP + shift;
    int64_t last = min64((i + 1) * STRIP, s->nq) - 1 + shift;
    return (Strips){window ? max64(0, first - window + 1) / STRIP : 0, last / STRIP + 1};
}

/* True if the node is computed in bfloat16 tiles; from shapes, precision and machine alone. */
bool attention_amx(const Node *n);
void attention_amx_fwd(Tape *t, Node *n);
size_t attention_amx_fwd_bytes(const Node *n); /* of t->step, at most */
/* Gradients of query heads [head, end), all of one KV head, of one sequence. Serial; scratch:
 * attention_amx_bwd_room(n) bytes, 64-byte aligned (their number is a multiple of that). */
void attention_amx_bwd(const Node *n, const Seq *s, int64_t head, int64_t end, Grads g,
                       char *scratch);
size_t attention_amx_bwd_room(const Node *n);
#endif
