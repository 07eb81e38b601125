/* attention_amx.h - what the forward and the backward tile kernels share. */
#ifndef ATTENTION_AMX_H
#define ATTENTION_AMX_H
#include "../tiles.h"
#include "attention.h"

static const float LOG2_E = 1.44269504f, LN_2 = 0.693147182f;

/* The tiles of a head: d columns make `wide` rows tiles, or 2*wide pairs tiles. */
static inline int64_t head_tiles(const Node *n) { return strip_count(ATTR(n, Attr)->head_dim); }

/* The sequence without the keys that lie before every query's window. */
static inline Seq seen_keys(Seq s, int64_t window) {
    int64_t skip = window && s.nq ? max64(0, s.nk - s.nq - window + 1) : 0;
    return (Seq){s.q_at, s.nq, s.k_at + skip, s.nk - skip};
}

/* A query at `place`, counted from the first key of a strip, sees these keys of it: a bit each. */
static inline uint32_t low_bits(int64_t n) {
    return n >= STRIP ? ~0u : n <= 0 ? 0u : (1u << n) - 1;
}
static inline uint32_t seen_bits(int64_t place, int64_t window) {
    return low_bits(place + 1) & ~(window ? low_bits(place - window + 1) : 0u);
}
/* True if all of a strip of queries, the first at place, see all keys of the strip. */
static inline bool all_seen(int64_t place, int64_t window) {
    return place >= STRIP - 1 && (!window || place + STRIP - window <= 0);
}

/* 2^t, within 1.5 ulp; 0 for -infinity. 2^floor(t) times a polynomial of the rest r in [0, 1), the
 * least-squares fit of (2^r - 1)/r weighted to even out its relative error (8e-8). */
AMX_INLINE __m512 exp2_lanes(__m512 t) {
    __m512 r = _mm512_reduce_ps(t, 1), p = _mm512_set1_ps(1.867130515e-3f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.017028846e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.579991266e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.401644439e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931512952e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, t);
}

/* Row r (0..15) of a tile of sums. */
AMX_INLINE __m512 sums_row(const char *tile, int64_t r) {
    return _mm512_load_ps((const float *)(const void *)(tile + 64 * r));
}
#endif
