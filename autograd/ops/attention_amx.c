/* attention_amx.c - attention's forward in bfloat16 tiles. q, k, v and P are rounded to bfloat16 as
 * operands; scores, the running softmax and all sums are float32.
 *
 * K (as right operand of q kT) and V (as right operand of P v) are packed into tiles once per KV
 * head, some heads at a time, by all threads. Then a task is a strip of queries of some heads of
 * one group: they share what they read of K and V. It goes over blocks of keys: scores, softmax,
 * P v.
 *
 * The packed keys of a sequence, of one KV head: K as [2 a strip][wide] tiles, then V as
 * [2*wide][strips] tiles. */
#include "../cpu.h"
#include "attention_amx.h"
#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    HEADS_MAX = 8,          /* of a task: keys that come from beyond level 2 serve them all */
    BLOCK = 8,              /* strips of keys in a block */
    PACKS_BYTES = 16 << 20, /* packed at a time, if that is one KV head or more */
    QUERIES_MIN = 8,        /* fewer than that, heads together: not worth packing the keys */
};

/* A strip of queries or of keys of a sequence; the sequence's packed keys start with strip `base`.
 */
typedef struct Strip {
    Seq s;
    int64_t i, base;
} Strip;

typedef struct Fwd {
    const Node *n;
    const Attr *a;
    int64_t wide, group, heads; /* heads of a task, at most */
    Strip *q, *k;
    int64_t n_q, n_k;
    int64_t packed; /* KV heads packed at a time */
    char *packs;    /* (packed, n_k) strips of 4*wide tiles */
    char *room;     /* a block per thread */
} Fwd;

bool attention_amx(const Node *n) {
    const Attr *a = ATTR(n, Attr);
    int64_t rows = n->in[Q]->dim[0] * (a->n_head / a->n_kv);
    return n->compute == COMPUTE_BF16 && rows >= QUERIES_MIN * attention_n_seq(n) &&
           cpu_isa() == ISA_AMX;
}

/* ---- sizes ---------------------------------------------------------------------------------- */

static int64_t most_strips(const Node *n, int which) {
    return n->in[which]->dim[0] / STRIP + attention_n_seq(n);
}
static size_t pack_bytes(const Node *n, int64_t strips) {
    return (size_t)(strips * 4 * head_tiles(n) * TILE_PACK);
}
static int64_t packed_heads(const Node *n) {
    size_t one = pack_bytes(n, most_strips(n, K));
    return min64(ATTR(n, Attr)->n_kv, max64(1, (int64_t)(PACKS_BYTES / (one + 1))));
}
static int64_t task_heads(const Attr *a) { return min64(HEADS_MAX, a->n_head / a->n_kv); }

/* Of one head of a task: q (2*wide tiles), scores (4*BLOCK), P (2*BLOCK), the result (4*wide); max,
 * sum and fade of each row. */
enum { ROWS_BYTES = 3 * STRIP * sizeof(float) };
static size_t head_room(int64_t wide) {
    return (size_t)(6 * wide + 6 * BLOCK) * TILE_PACK + ROWS_BYTES;
}
static size_t thread_room(const Node *n) {
    return (size_t)task_heads(ATTR(n, Attr)) * head_room(head_tiles(n));
}

size_t attention_amx_fwd_bytes(const Node *n) {
    size_t lists = (size_t)(most_strips(n, Q) + most_strips(n, K)) * sizeof(Strip);
    return lists + (size_t)packed_heads(n) * pack_bytes(n, most_strips(n, K)) +
           (size_t)omp_get_max_threads() * thread_room(n) + 4 * ARENA_ALIGN;
}

/* ---- packing -------------------------------------------------------------------------------- */

/* One strip of keys of a KV head. */
AMX_TARGET static void pack_keys(const Fwd *f, const Strip *at, int64_t kv, char *pack) {
    int64_t d = f->a->head_dim, wide = f->wide, ld = f->a->n_kv * d, from = at->i * STRIP;
    int64_t strips = strip_count(at->s.nk), rows = at->s.nk - from;
    const float *k = f32(f->n->in[K]) + (at->s.k_at + from) * ld + kv * d;
    const float *v = f32(f->n->in[V]) + (at->s.k_at + from) * ld + kv * d;
    char *to = pack + at->i * 2 * wide * TILE_PACK, tile[TILE_PACK] __attribute__((aligned(64)));
    for (int64_t half = 0; half < 2; half++) {
        for (int64_t c = 0; c < wide; c++, to += TILE_PACK) {
            tile_pack_rows(k + 16 * half * ld, ld, rows - 16 * half, d, 32 * c, tile);
            tile_transpose(tile, to);
        }
    }
    to = pack + (strips * 2 * wide + at->i) * TILE_PACK;
    for (int64_t c = 0; c < 2 * wide; c++) {
        tile_pack_pairs(v, ld, rows, d, 16 * c, to + c * strips * TILE_PACK);
    }
}

/* ---- one head of a task --------------------------------------------------------------------- */

typedef struct Head {
    char *q, *score, *p, *y;
    float *max, *sum, *fade; /* (STRIP) each; max of the scores times scale * log2(e) */
} Head;

static Head head_at(char *room, int64_t wide) {
    Head h = {.q = room};
    h.score = h.q + 2 * wide * TILE_PACK;
    h.p = h.score + 4 * BLOCK * TILE_PACK;
    h.y = h.p + 2 * BLOCK * TILE_PACK;
    h.max = (float *)(void *)(h.y + 4 * wide * TILE_PACK);
    h.sum = h.max + STRIP;
    h.fade = h.sum + STRIP;
    return h;
}

/* A block of n strips of keys: the first query stands at `place`, counted from its first key. */
typedef struct Block {
    int64_t place, window, n;
    float scale; /* of scores, times log2(e) */
} Block;

static const char *score_row(const Head *h, int64_t r) {
    return h->score + r / 16 * 2 * BLOCK * TILE_PACK + r % 16 * 64;
}

AMX_INLINE __m512 scores(const char *row, int64_t tile) {
    return sums_row(row + tile * TILE_PACK, 0);
}

/* New max of all rows, and how what was summed up so far fades. */
AMX_TARGET static void find_max(const Head *h, const Block *b) {
    __m512 scale = _mm512_set1_ps(b->scale), none = _mm512_set1_ps(-INFINITY);
    float new[STRIP] __attribute__((aligned(64)));
    for (int64_t r = 0; r < STRIP; r++) {
        const char *row = score_row(h, r);
        __m512 m0 = none, m1 = none;
        for (int64_t j = 0; j < b->n; j++) {
            __m512 x0 = _mm512_mul_ps(scores(row, 2 * j), scale);
            __m512 x1 = _mm512_mul_ps(scores(row, 2 * j + 1), scale);
            if (!all_seen(b->place - j * STRIP, b->window)) {
                uint32_t seen = seen_bits(b->place + r - j * STRIP, b->window);
                x0 = _mm512_mask_mov_ps(none, (__mmask16)seen, x0);
                x1 = _mm512_mask_mov_ps(none, (__mmask16)(seen >> 16), x1);
            }
            m0 = _mm512_max_ps(m0, x0);
            m1 = _mm512_max_ps(m1, x1);
        }
        new[r] = _mm512_reduce_max_ps(_mm512_max_ps(m0, m1));
    }
    for (int64_t r = 0; r < STRIP; r += 16) {
        __m512 old = _mm512_load_ps(h->max + r), m = _mm512_max_ps(_mm512_load_ps(new + r), old);
        __m512 fade = exp2_lanes(_mm512_sub_ps(old, m));
        fade =
            _mm512_mask_mov_ps(_mm512_set1_ps(1), _mm512_cmp_ps_mask(m, none, _CMP_NEQ_OQ), fade);
        _mm512_store_ps(h->max + r, m);
        _mm512_store_ps(h->fade + r, fade);
        _mm512_store_ps(h->sum + r, _mm512_mul_ps(_mm512_load_ps(h->sum + r), fade));
    }
}

/* P = exp(score - max) as left operand; its sums. */
AMX_TARGET static void make_p(const Head *h, const Block *b) {
    __m512 scale = _mm512_set1_ps(b->scale);
    for (int64_t r = 0; r < STRIP; r++) {
        const char *row = score_row(h, r);
        char *p = h->p + r / 16 * BLOCK * TILE_PACK + r % 16 * 64;
        __m512 max = _mm512_set1_ps(h->max[r]), sum0 = _mm512_setzero_ps(), sum1 = sum0;
        for (int64_t j = 0; j < b->n; j++, p += TILE_PACK) {
            __m512 p0 = exp2_lanes(_mm512_fmsub_ps(scores(row, 2 * j), scale, max));
            __m512 p1 = exp2_lanes(_mm512_fmsub_ps(scores(row, 2 * j + 1), scale, max));
            if (!all_seen(b->place - j * STRIP, b->window)) {
                uint32_t seen = seen_bits(b->place + r - j * STRIP, b->window);
                p0 = _mm512_maskz_mov_ps((__mmask16)seen, p0);
                p1 = _mm512_maskz_mov_ps((__mmask16)(seen >> 16), p1);
            }
            sum0 = _mm512_add_ps(sum0, p0);
            sum1 = _mm512_add_ps(sum1, p1);
            _mm512_store_si512(p, tile_round(p0, p1));
        }
        h->sum[r] += _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
    }
}

AMX_TARGET static void fade_result(const Head *h, int64_t tiles) {
    for (int64_t r = 0; r < STRIP; r++) {
        if (h->fade[r] == 1) continue;
        __m512 fade = _mm512_set1_ps(h->fade[r]);
        char *row = h->y + r / 16 * tiles * TILE_PACK + r % 16 * 64;
        for (int64_t c = 0; c < tiles; c++, row += TILE_PACK) {
            _mm512_store_ps(row, _mm512_mul_ps(sums_row(row, 0), fade));
        }
    }
}

/* y (rows, d) and the log-sum-exp. Whole lines of y go past the cache: reading them first would
 * cost as much as writing them. */
AMX_TARGET static void head_finish(const Head *h, int64_t wide, int64_t rows, int64_t d, float *y,
                                   int64_t ldy, float *lse, int64_t H) {
    for (int64_t r = 0; r < rows; r++) {
        __m512 part = _mm512_set1_ps(1 / h->sum[r]);
        const char *row = h->y + r / 16 * 2 * wide * TILE_PACK + r % 16 * 64;
        for (int64_t c = 0; c < d; c += 16, row += TILE_PACK) {
            __m512 value = _mm512_mul_ps(sums_row(row, 0), part);
            if (d % 16 == 0)
                _mm512_stream_ps(y + r * ldy + c, value);
            else
                _mm512_mask_storeu_ps(y + r * ldy + c, tile_lanes(d - c), value);
        }
        lse[r * H] = LN_2 * (h->max[r] + log2f(h->sum[r]));
    }
}

/* ---- a task --------------------------------------------------------------------------------- */

AMX_TARGET static void head_begin(const Head *h, const float *q, int64_t ld, int64_t rows,
                                  int64_t d, int64_t wide) {
    for (int64_t half = 0; half < 2; half++) {
        for (int64_t c = 0; c < wide; c++) {
            tile_pack_rows(q + 16 * half * ld, ld, rows - 16 * half, d, 32 * c,
                           h->q + (half * wide + c) * TILE_PACK);
        }
    }
    for (int64_t r = 0; r < STRIP; r++) {
        h->max[r] = -INFINITY;
        h->sum[r] = 0;
    }
}

/* A strip of queries of heads [first, first + n_head) with the packed keys of its sequence. */
AMX_TARGET static void fwd_task(const Fwd *f, const Strip *at, int64_t first, int64_t n_head,
                                const char *k, char *room) {
    const Seq *s = &at->s;
    int64_t d = f->a->head_dim, H = f->a->n_head, ld = H * d, wide = f->wide;
    int64_t row = s->q_at + at->i * STRIP, rows = min64(STRIP, s->nq - at->i * STRIP);
    int64_t strips = strip_count(s->nk), line = wide * TILE_PACK;
    const char *v = k + strips * 2 * line;
    Head head[HEADS_MAX];
    for (int64_t j = 0; j < n_head; j++) {
        head[j] = head_at(room + (size_t)j * head_room(wide), wide);
        head_begin(&head[j], f32(f->n->in[Q]) + row * ld + (first + j) * d, ld, rows, d, wide);
    }
    Strips seen = attention_strips(s, f->a->window, at->i);
    for (int64_t from = seen.from; from < seen.to; from += BLOCK) {
        Block b = {.place = (at->i - from) * STRIP + s->nk - s->nq,
                   .window = f->a->window,
                   .n = min64(BLOCK, seen.to - from),
                   .scale = f->a->scale * LOG2_E};
        for (int64_t i = 0; i < b.n; i++) {
            for (int64_t j = 0; j < n_head; j++) {
                tile_sums_zero();
                tile_sums_add(head[j].q, line, k + (from + i) * 2 * line, line, wide);
                tile_sums_store(head[j].score + 2 * i * TILE_PACK, 2 * BLOCK * TILE_PACK,
                                TILE_PACK);
            }
        }
        for (int64_t j = 0; j < n_head; j++) {
            find_max(&head[j], &b);
            make_p(&head[j], &b);
            if (from > seen.from) fade_result(&head[j], 2 * wide);
        }
        for (int64_t c = 0; c < wide; c++) {
            const char *vc = v + (2 * c * strips + from) * TILE_PACK;
            for (int64_t j = 0; j < n_head; j++) {
                char *y = head[j].y + 2 * c * TILE_PACK;
                if (from > seen.from)
                    tile_sums_load(y, 2 * line, TILE_PACK);
                else
                    tile_sums_zero();
                tile_sums_add(head[j].p, BLOCK * TILE_PACK, vc, strips * TILE_PACK, b.n);
                tile_sums_store(y, 2 * line, TILE_PACK);
            }
        }
    }
    for (int64_t j = 0; j < n_head; j++) {
        head_finish(&head[j], wide, rows, d, f32(f->n->out[0]) + row * ld + (first + j) * d, ld,
                    f32(f->n->saved[0]) + row * H + first + j, H);
    }
}

/* ---- the op --------------------------------------------------------------------------------- */

static Fwd fwd_open(Tape *t, const Node *n) {
    const Attr *a = ATTR(n, Attr);
    Fwd f = {.n = n,
             .a = a,
             .wide = head_tiles(n),
             .group = a->n_head / a->n_kv,
             .heads = task_heads(a),
             .packed = packed_heads(n)};
    f.q = arena_push(t->step, (size_t)most_strips(n, Q) * sizeof(Strip));
    f.k = arena_push(t->step, (size_t)most_strips(n, K) * sizeof(Strip));
    for (int64_t i = 0; i < attention_n_seq(n); i++) {
        Seq s = seen_keys(attention_seq(n, i), a->window);
        int64_t base = f.n_k;
        if (s.nq == 0) continue;
        for (int64_t j = 0; j < strip_count(s.nk); j++) f.k[f.n_k++] = (Strip){s, j, base};
        for (int64_t j = 0; j < strip_count(s.nq); j++) f.q[f.n_q++] = (Strip){s, j, base};
    }
    f.packs = arena_push(t->step, (size_t)f.packed * pack_bytes(n, f.n_k));
    f.room = arena_push(t->step, (size_t)omp_get_max_threads() * thread_room(n));
    return f;
}

static char *pack_of(const Fwd *f, int64_t slot, const Strip *at) {
    return f->packs + pack_bytes(f->n, slot * f->n_k + at->base);
}

void attention_amx_fwd(Tape *t, Node *n) {
    size_t mark = arena_mark(t->step), room = thread_room(n);
    Fwd f = fwd_open(t, n);
    int64_t n_kv = f.a->n_kv, cuts = (f.group + f.heads - 1) / f.heads;
    for (int64_t kv = 0; kv < n_kv; kv += f.packed) {
        int64_t n_now = min64(f.packed, n_kv - kv);
#pragma omp parallel
        {
            amx_begin();
#pragma omp for schedule(dynamic, 4) collapse(2)
            for (int64_t j = 0; j < n_now; j++) {
                for (int64_t i = 0; i < f.n_k; i++) {
                    pack_keys(&f, &f.k[i], kv + j, pack_of(&f, j, &f.k[i]));
                }
            }
#pragma omp for schedule(dynamic) collapse(3)
            for (int64_t j = 0; j < n_now; j++) {
                for (int64_t cut = 0; cut < cuts; cut++) {
                    for (int64_t i = f.n_q - 1; i >= 0; i--) { /* the longest first */
                        int64_t first = cut * f.heads;
                        fwd_task(&f, &f.q[i], (kv + j) * f.group + first,
                                 min64(f.heads, f.group - first), pack_of(&f, j, &f.q[i]),
                                 f.room + room * (size_t)omp_get_thread_num());
                    }
                }
            }
            _mm_sfence();
            amx_end();
        }
    }
    arena_release(t->step, mark);
}
