/* adapter_order.c - (E,O,R) adapters flattened with the expert outermost have the same shape as
 * PEFT's, and used as those they are garbage without any error. Training leaves a trace: the
 * columns of one expert are sums over the same few tokens' gradients, so they point along or
 * against each other far more than columns of different experts do. Measured on adapters of 3 to 40
 * steps, squared cosines within an expert average 3 to 5 times those in groups formed by the wrong
 * order; on random ones the two differ by less than a third. */
#include "adapter_order.h"
#include <math.h>
#include <string.h>

enum { PAIRS_NEEDED = 64, PAIRS_ENOUGH = 1 << 13, TIMES = 2 };

/* The columns as rows of length 1 (or 0). On the heap. */
static float *unit_columns(const WeightView *b, int64_t n) {
    int64_t O = b->dim[0];
    float *row = mem_alloc(sizeof *row * (size_t)n),
          *unit = mem_alloc(sizeof *unit * (size_t)(n * O));
    for (int64_t o = 0; o < O; o++) {
        dtype_info[b->dtype].to_f32((const char *)b->data + dtype_bytes(b->dtype, o * n), row, n);
        for (int64_t c = 0; c < n; c++) unit[c * O + o] = row[c];
    }
    for (int64_t c = 0; c < n; c++) {
        double sum = 0;
        for (int64_t o = 0; o < O; o++) sum += (double)unit[c * O + o] * (double)unit[c * O + o];
        for (int64_t o = 0; o < O && sum > 0; o++) unit[c * O + o] /= (float)sqrt(sum);
    }
    mem_free(row);
    return unit;
}

/* 0 also where a column is zero: such a pair shows nothing. */
static double likeness(const float *unit, int64_t O, int64_t c, int64_t d) {
    double dot = 0;
    for (int64_t o = 0; o < O; o++) dot += (double)unit[c * O + o] * (double)unit[d * O + o];
    return dot * dot;
}

#define ADD(sign, c, d)                                                                            \
    do {                                                                                           \
        double like = likeness(unit, O, c, d);                                                     \
        (sign).likeness += like, (sign).pairs += like > 0;                                         \
    } while (0)

void order_add(OrderSigns *s, const WeightView *b, int64_t E, int64_t R) {
    int64_t O = b->dim[0];
    if (E < 2 || R < 2 || s->fastest.pairs >= PAIRS_ENOUGH) return;
    float *unit = unit_columns(b, E * R);
    for (int64_t e = 0; e < E; e++) {
        for (int64_t j = 0; j < R; j++) {
            for (int64_t k = j + 1; k < R; k++) {
                ADD(s->fastest, j * E + e, k * E + e);
                ADD(s->major, e * R + j, e * R + k);
            }
            /* R columns apart: under the other order another expert's too, of the same rank */
            if (e + R < E) ADD(s->twins, j * E + e, j * E + e + R);
        }
    }
    mem_free(unit);
}

/* Experts that share one B look like the wrong order; their twins give them away. */
bool order_looks_expert_major(const OrderSigns *s) {
    if (s->fastest.pairs < PAIRS_NEEDED || s->major.pairs < PAIRS_NEEDED) return false;
    double fastest = s->fastest.likeness / (double)s->fastest.pairs;
    double major = s->major.likeness / (double)s->major.pairs;
    double twins = s->twins.pairs ? s->twins.likeness / (double)s->twins.pairs : 0;
    return major > TIMES * fastest && major > TIMES * twins;
}
