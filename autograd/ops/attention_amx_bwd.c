/* attention_amx_bwd.c - attention's backward in bfloat16 tiles. q, k, v, dy, P and dS are rounded
 * to bfloat16 as operands; everything else is float32.
 *
 * A call has the query heads of one sequence that one thread works on. The keys are packed once,
 * each head's q and dy once. Then blocks of keys are the outer loop and blocks of queries the inner
 * one, so that dkT and dvT of the block stay in the cache. Per pair of strips scores and dP are
 * made, and become at once what the three products that follow read:
 *   dvT += dyT P     P, dS as right operands: pairs of queries interleaved
 *   dkT += qT dS
 *   dq  += dS k      dS as left operand; its sums are kept as tiles, until the last block
 * Interleaving works within 128 bits, so the columns of P and dS, and with them of dkT and dvT,
 * stand in the order of key_of; it is undone when these are added to dk and dv. */
#include "attention_amx.h"
#include <math.h>

enum {
    BLOCK_Q = 8, /* strips of queries in a block */
    BLOCK_K = 8, /* strips of keys: fewer read dq too often, more leave the level-2 cache */
    PAIR = 2 * TILE_PACK
};

typedef struct Bwd {
    const Attr *a;
    Seq s;
    int64_t d, wide, strips_q, strips_k;
    int64_t ldq, ldk;     /* from row to row of q, y and their gradients; of k, v and theirs */
    int64_t line;         /* bytes of wide tiles */
    char *kt, *vt;        /* right operands kT, vT: [2 a strip][wide] */
    char *k;              /* right operand k: [2*wide][strips_k] */
    char *q, *dy;         /* left operands: [2 a strip][wide] */
    char *qt, *dyt;       /* left operands qT, dyT: [2*wide][strips_q] */
    float *shift, *delta; /* of each query: log-sum-exp times log2(e); rowsum(dy * y) */
    char *p, *ds;         /* right operands: [2*BLOCK_K][BLOCK_Q] */
    char *ds_left;        /* left operand: [2 a strip of queries][BLOCK_K] */
    char *dkt, *dvt;      /* sums: [2*wide][2*BLOCK_K] */
    char *dq;             /* sums: [2 a strip][2*wide] */
    char *score, *dscore; /* sums: [2][2] */
} Bwd;

/* A block of keys [k0, k1), of queries [q0, q1), in strips, and what these see of it. */
typedef struct Block {
    int64_t k0, k1, q0, q1;
    Strips seen[BLOCK_Q];
    bool first; /* of its blocks of queries: the sums start */
} Block;

static int64_t room_tiles(int64_t wide, int64_t strips_q, int64_t strips_k) {
    return 6 * wide * strips_k + 12 * wide * strips_q + 6 * BLOCK_K * BLOCK_Q + 8 * wide * BLOCK_K +
           8;
}
size_t attention_amx_bwd_room(const Node *n) {
    int64_t q = strip_count(n->in[Q]->dim[0]), k = strip_count(n->in[K]->dim[0]);
    return (size_t)(room_tiles(head_tiles(n), q, k) * TILE_PACK) +
           (size_t)(2 * q * STRIP) * sizeof(float);
}

static char *take(char **at, int64_t tiles) {
    char *p = *at;
    *at += tiles * TILE_PACK;
    return p;
}

static Bwd bwd_open(const Node *n, const Seq *s, char *scratch) {
    const Attr *a = ATTR(n, Attr);
    Bwd b = {.a = a,
             .s = seen_keys(*s, a->window),
             .d = a->head_dim,
             .ldq = (int64_t)a->n_head * a->head_dim,
             .ldk = (int64_t)a->n_kv * a->head_dim,
             .wide = head_tiles(n),
             .strips_q = strip_count(s->nq)};
    b.strips_k = strip_count(b.s.nk);
    b.line = b.wide * TILE_PACK;
    int64_t keys = 2 * b.wide * b.strips_k, queries = 2 * b.wide * b.strips_q;
    b.kt = take(&scratch, keys);
    b.vt = take(&scratch, keys);
    b.k = take(&scratch, keys);
    b.q = take(&scratch, queries);
    b.dy = take(&scratch, queries);
    b.qt = take(&scratch, queries);
    b.dyt = take(&scratch, queries);
    b.p = take(&scratch, 2 * BLOCK_K * BLOCK_Q);
    b.ds = take(&scratch, 2 * BLOCK_K * BLOCK_Q);
    b.ds_left = take(&scratch, 2 * BLOCK_K * BLOCK_Q);
    b.dkt = take(&scratch, 4 * b.wide * BLOCK_K);
    b.dvt = take(&scratch, 4 * b.wide * BLOCK_K);
    b.dq = take(&scratch, 2 * queries);
    b.score = take(&scratch, 4);
    b.dscore = take(&scratch, 4);
    b.shift = (float *)(void *)scratch;
    b.delta = b.shift + b.strips_q * STRIP;
    return b;
}

/* ---- packing -------------------------------------------------------------------------------- */

/* One strip of x (rows, d) as rows tiles [2][wide], transposed ones if that is asked, and as pairs
 * tiles, tile c at pairs + c*apart bytes; NULL: not wanted. Fetches the rows of the strip
 * behind it. */
AMX_INLINE void pack_strip(const Bwd *b, const float *x, int64_t ld, int64_t rows, char *to,
                           bool swap_rows, char *pairs, int64_t apart, bool swap_pairs) {
    char tile[TILE_PACK] __attribute__((aligned(64)));
    for (int64_t c = 0; c < b->wide; c++) {
        for (int64_t r = STRIP; r < min64(rows, 2 * STRIP); r++)
            tile_fetch(x + r * ld + 32 * c, 32);
        for (int64_t half = 0; half < 2; half++) {
            char *out = to + (half * b->wide + c) * TILE_PACK;
            tile_pack_rows(x + 16 * half * ld, ld, rows - 16 * half, b->d, 32 * c,
                           swap_rows ? tile : out);
            if (swap_rows) tile_transpose(tile, out);
        }
        for (int64_t half = 0; half < 2 && pairs; half++) {
            char *out = pairs + (2 * c + half) * apart;
            tile_pack_pairs(x, ld, rows, b->d, 32 * c + 16 * half, swap_pairs ? tile : out);
            if (swap_pairs) tile_transpose(tile, out);
        }
    }
}

AMX_TARGET static void pack_keys(const Bwd *b, const float *k, const float *v, int64_t ld) {
    for (int64_t i = 0; i < b->strips_k; i++) {
        int64_t at = i * STRIP, rows = b->s.nk - at;
        pack_strip(b, k + at * ld, ld, rows, b->kt + i * 2 * b->line, true, b->k + i * TILE_PACK,
                   b->strips_k * TILE_PACK, false);
        pack_strip(b, v + at * ld, ld, rows, b->vt + i * 2 * b->line, true, NULL, 0, false);
    }
}

AMX_INLINE float row_dot(const float *x, const float *y, int64_t d) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < d; c += 16) {
        __mmask16 m = tile_lanes(d - c);
        sum =
            _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, x + c), _mm512_maskz_loadu_ps(m, y + c), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* q, dy and y of one head: first row, rows ld apart. Rows that fill up the last strip are zero, and
 * their P is: exp(0 - infinity). */
AMX_TARGET static void pack_queries(const Bwd *b, const float *q, const float *dy, const float *y,
                                    int64_t ld, const float *lse, int64_t H) {
    for (int64_t i = 0; i < b->strips_q; i++) {
        int64_t at = i * STRIP, rows = b->s.nq - at, apart = b->strips_q * TILE_PACK;
        pack_strip(b, q + at * ld, ld, rows, b->q + i * 2 * b->line, false, b->qt + i * TILE_PACK,
                   apart, true);
        pack_strip(b, dy + at * ld, ld, rows, b->dy + i * 2 * b->line, false,
                   b->dyt + i * TILE_PACK, apart, true);
        for (int64_t r = at; r < at + STRIP; r++) {
            bool real = r < b->s.nq;
            if (r + STRIP < b->s.nq) tile_fetch(y + (r + STRIP) * ld, b->d);
            b->shift[r] = real ? lse[r * H] * LOG2_E : INFINITY;
            b->delta[r] = real ? row_dot(dy + r * ld, y + r * ld, b->d) : 0;
        }
    }
}

/* ---- P and dS ------------------------------------------------------------------------------- */

/* The two halves of a row of scores and of dP become P and dS, rounded: 32 keys. */
typedef struct RowPair {
    __m512i p, ds;
} RowPair;
AMX_INLINE RowPair row_softmax(const Bwd *b, int64_t tile, int64_t r, int64_t query,
                               uint32_t seen) {
    __m512 scale = _mm512_set1_ps(b->a->scale), scale2 = _mm512_set1_ps(b->a->scale * LOG2_E);
    __m512 shift = _mm512_set1_ps(b->shift[query]), delta = _mm512_set1_ps(b->delta[query]);
    __m512 p[2], ds[2];
    for (int half = 0; half < 2; half++) {
        const char *s = b->score + (tile + half) * TILE_PACK;
        const char *dp = b->dscore + (tile + half) * TILE_PACK;
        p[half] = exp2_lanes(_mm512_fmsub_ps(sums_row(s, r), scale2, shift));
        if (seen != ~0u) p[half] = _mm512_maskz_mov_ps((__mmask16)(seen >> 16 * half), p[half]);
        ds[half] =
            _mm512_mul_ps(_mm512_mul_ps(p[half], scale), _mm512_sub_ps(sums_row(dp, r), delta));
    }
    return (RowPair){tile_round(p[0], p[1]), tile_round(ds[0], ds[1])};
}

/* Strip i of queries against strip j of keys; row and col: their numbers in the block. */
AMX_TARGET static void pair_softmax(const Bwd *b, int64_t i, int64_t j, int64_t row, int64_t col) {
    int64_t place = (i - j) * STRIP + b->s.nk - b->s.nq, window = b->a->window;
    bool all = all_seen(place, window);
    char *p = b->p + (2 * col * BLOCK_Q + row) * TILE_PACK;
    char *ds = b->ds + (2 * col * BLOCK_Q + row) * TILE_PACK;
    for (int64_t r = 0; r < STRIP; r += 2, p += 64, ds += 64) {
        uint32_t seen0 = all ? ~0u : seen_bits(place + r, window);
        uint32_t seen1 = all ? ~0u : seen_bits(place + r + 1, window);
        RowPair x = row_softmax(b, r / 16 * 2, r % 16, i * STRIP + r, seen0);
        RowPair y = row_softmax(b, r / 16 * 2, r % 16 + 1, i * STRIP + r + 1, seen1);
        _mm512_store_si512(p, _mm512_unpacklo_epi16(x.p, y.p));
        _mm512_store_si512(p + BLOCK_Q * TILE_PACK, _mm512_unpackhi_epi16(x.p, y.p));
        _mm512_store_si512(ds, _mm512_unpacklo_epi16(x.ds, y.ds));
        _mm512_store_si512(ds + BLOCK_Q * TILE_PACK, _mm512_unpackhi_epi16(x.ds, y.ds));
        char *left = b->ds_left + ((2 * row + r / 16) * BLOCK_K + col) * TILE_PACK + r % 16 * 64;
        _mm512_store_si512(left, x.ds);
        _mm512_store_si512(left + 64, y.ds);
    }
}

AMX_TARGET static void block_softmax(const Bwd *b, const Block *k) {
    for (int64_t i = k->q0; i < k->q1; i++) {
        const char *q = b->q + i * 2 * b->line, *dy = b->dy + i * 2 * b->line;
        for (int64_t j = k->seen[i - k->q0].from; j < k->seen[i - k->q0].to; j++) {
            tile_sums_zero();
            tile_sums_add(q, b->line, b->kt + j * 2 * b->line, b->line, b->wide);
            tile_sums_store(b->score, PAIR, TILE_PACK);
            tile_sums_zero();
            tile_sums_add(dy, b->line, b->vt + j * 2 * b->line, b->line, b->wide);
            tile_sums_store(b->dscore, PAIR, TILE_PACK);
            pair_softmax(b, i, j, i - k->q0, j - k->k0);
        }
    }
}

/* ---- gradients ------------------------------------------------------------------------------ */

/* dkT or dvT of the block: sum[2*wide][2*BLOCK_K] += left (qT or dyT) times right (dS or P). */
AMX_TARGET static void block_key_sums(const Bwd *b, const Block *k, const char *left,
                                      const char *right, char *sum) {
    for (int64_t j = k->k0; j < k->k1; j++) {
        int64_t from = k->q0, to = k->q1, col = 2 * (j - k->k0), down = 2 * BLOCK_K * TILE_PACK;
        while (from < to && k->seen[from - k->q0].to <= j) from++;
        while (to > from && k->seen[to - 1 - k->q0].from > j) to--;
        const char *r = right + (col * BLOCK_Q + from - k->q0) * TILE_PACK;
        for (int64_t c = 0; c < 2 * b->wide; c += 2) {
            char *at = sum + c * down + col * TILE_PACK;
            if (k->first)
                tile_sums_zero();
            else if (from < to)
                tile_sums_load(at, down, TILE_PACK);
            else
                break;
            tile_sums_add(left + (c * b->strips_q + from) * TILE_PACK, b->strips_q * TILE_PACK, r,
                          BLOCK_Q * TILE_PACK, to - from);
            tile_sums_store(at, down, TILE_PACK);
        }
    }
}

/* Sets or adds to 16 values, of which m are there. What is set goes past the cache where the line
 * is whole: reading it first would cost as much as writing it. */
AMX_INLINE void put_lanes(float *to, __mmask16 m, __m512 x, bool set) {
    if (!set)
        _mm512_mask_storeu_ps(to, m, _mm512_add_ps(_mm512_maskz_loadu_ps(m, to), x));
    else if (m == 0xffff && (uintptr_t)to % 64 == 0)
        _mm512_stream_ps(to, x);
    else
        _mm512_mask_storeu_ps(to, m, x);
}

/* The sums of dq of one strip, complete. */
AMX_TARGET static void put_query_sums(const Bwd *b, int64_t i, const Grads *g) {
    int64_t rows = min64(STRIP, b->s.nq - i * STRIP);
    for (int64_t r = 0; r < rows; r++) {
        float *to = g->dq + (i * STRIP + r) * b->ldq;
        const char *from = b->dq + (2 * i + r / 16) * 2 * b->line + r % 16 * 64;
        for (int64_t c = 0; c < b->d; c += 16, from += TILE_PACK)
            put_lanes(to + c, tile_lanes(b->d - c), sums_row(from, 0), g->set_dq);
    }
}

/* dq of the block's queries += dS k. */
AMX_TARGET static void block_query_sums(const Bwd *b, const Block *k, const Grads *g) {
    for (int64_t i = k->q0; i < k->q1; i++) {
        Strips seen = k->seen[i - k->q0], all = attention_strips(&b->s, b->a->window, i);
        int64_t apart = b->strips_k * TILE_PACK;
        const char *left = b->ds_left + (2 * (i - k->q0) * BLOCK_K + seen.from - k->k0) * TILE_PACK;
        if (seen.from >= seen.to) continue;
        for (int64_t c = 0; c < b->wide; c++) {
            char *sum = b->dq + i * 4 * b->line + 2 * c * TILE_PACK;
            if (seen.from == all.from)
                tile_sums_zero();
            else
                tile_sums_load(sum, 2 * b->line, TILE_PACK);
            tile_sums_add(left, BLOCK_K * TILE_PACK, b->k + 2 * c * apart + seen.from * TILE_PACK,
                          apart, seen.to - seen.from);
            tile_sums_store(sum, 2 * b->line, TILE_PACK);
        }
        if (seen.to == all.to) put_query_sums(b, i, g);
    }
}

/* The key of a strip that column c of its tile `half` of P and dS belongs to. */
static inline int64_t key_of(int64_t half, int64_t c) { return c / 4 * 8 + half * 4 + c % 4; }

/* The transposed sums go to dk or dv of the block's keys. */
AMX_TARGET static void put_key_sums(const Bwd *b, const Block *k, const char *sum, float *to,
                                    int64_t ld, bool set) {
    for (int64_t j = k->k0; j < k->k1; j++) {
        float *strip = to + j * STRIP * ld;
        int64_t keys = b->s.nk - j * STRIP;
        for (int64_t c = 0; c < (b->d + 15) / 16 * 2; c++) { /* both halves of 16 columns */
            const char *tile = sum + (c / 2 * 2 * BLOCK_K + 2 * (j - k->k0) + c % 2) * TILE_PACK;
            __mmask16 m = tile_lanes(b->d - c / 2 * 16);
            __m512i row[16];
            for (int64_t r = 0; r < 16; r++) row[r] = _mm512_castps_si512(sums_row(tile, r));
            tile_swap(row);
            for (int64_t r = 0; r < 16; r++) {
                int64_t key = key_of(c % 2, r);
                if (key >= keys) continue;
                put_lanes(strip + key * ld + c / 2 * 16, m, _mm512_castsi512_ps(row[r]), set);
            }
        }
    }
}

/* The strips of queries [from, to) that see some of the block's keys. */
static Strips block_queries(const Bwd *b, const Block *k) {
    int64_t shift = b->s.nk - b->s.nq, first = max64(0, k->k0 * STRIP - shift), last = b->s.nq - 1;
    if (b->a->window) last = min64(last, k->k1 * STRIP + b->a->window - 2 - shift);
    return (Strips){first / STRIP, last < 0 ? 0 : last / STRIP + 1};
}

AMX_TARGET static void bwd_block(const Bwd *b, Block *k, const Grads *g) {
    Strips q = block_queries(b, k);
    if (q.from >= q.to) return;
    for (k->q0 = q.from; k->q0 < q.to; k->q0 = k->q1) {
        k->q1 = min64(k->q0 + BLOCK_Q, q.to);
        k->first = k->q0 == q.from;
        for (int64_t i = k->q0; i < k->q1; i++) {
            Strips seen = attention_strips(&b->s, b->a->window, i);
            k->seen[i - k->q0] = (Strips){max64(seen.from, k->k0), min64(seen.to, k->k1)};
        }
        block_softmax(b, k);
        if (g->dv) block_key_sums(b, k, b->dyt, b->p, b->dvt);
        if (g->dk) block_key_sums(b, k, b->qt, b->ds, b->dkt);
        if (g->dq) block_query_sums(b, k, g);
    }
    if (g->dk) put_key_sums(b, k, b->dkt, g->dk, b->ldk, g->set_dk);
    if (g->dv) put_key_sums(b, k, b->dvt, g->dv, b->ldk, g->set_dv);
}

void attention_amx_bwd(const Node *n, const Seq *s, int64_t head, int64_t end, Grads g,
                       char *scratch) {
    Bwd b = bwd_open(n, s, scratch);
    int64_t H = b.a->n_head, kv_at = head / (H / b.a->n_kv) * b.d;
    int64_t unseen = s->nq ? b.s.k_at - s->k_at : s->nk;
    attention_clear_keys(&g, unseen, b.d, b.ldk);
    if (s->nq == 0) return;
    if (g.dk) g.dk += unseen * b.ldk;
    if (g.dv) g.dv += unseen * b.ldk;
    amx_begin();
    pack_keys(&b, f32(n->in[K]) + b.s.k_at * b.ldk + kv_at,
              f32(n->in[V]) + b.s.k_at * b.ldk + kv_at, b.ldk);
    for (int64_t j = head; j < end; j++) {
        int64_t at = s->q_at * b.ldq + j * b.d;
        pack_queries(&b, f32(n->in[Q]) + at, f32(n->out[0]->grad) + at, f32(n->out[0]) + at, b.ldq,
                     f32(n->saved[0]) + s->q_at * H + j, H);
        for (int64_t from = 0; from < b.strips_k; from += BLOCK_K) {
            Block k = {.k0 = from, .k1 = min64(from + BLOCK_K, b.strips_k)};
            bwd_block(&b, &k, &g);
        }
        if (g.dq) g.dq += b.d;
        g.set_dk = g.set_dv = false;
    }
    _mm_sfence();
    amx_end();
}
