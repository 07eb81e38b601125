/* weights_bnb.h - checkpoints that bitsandbytes quantised, as they are published. Beside a tensor
 * of codes X there lie
 *     4 bits: X.absmax, X.quant_map, X.quant_state.bitsandbytes__nf4 (JSON: shape, blocksize) and,
 *             where the scales are quantised too, X.nested_absmax, X.nested_quant_map
 *     8 bits: SCB for weight (row maxima), weight_format (0, or absent: by rows)
 * Recognised, the codes' view takes the shape and the format of the weight they stand for, and
 * those beside it count as read. Source: bitsandbytes' functional.py and autograd/_functions.py. */
#ifndef WEIGHTS_BNB_H
#define WEIGHTS_BNB_H
#include "weights.h"

typedef struct Bnb {
    int64_t block;         /* values that share a scale: a multiple of 64; 8 bits: a row */
    const float *absmax;   /* per block; NULL: quantised as follows */
    const uint8_t *nested; /* absmax = offset + nested_map[nested[i]] * nested_absmax[i / 256] */
    const float *nested_map, *nested_absmax;
    int64_t nested_block;
    float offset;
} Bnb;

/* The largest magnitude of block i, which its codes are shares of. */
static inline float bnb_absmax(const Bnb *b, int64_t i) {
    if (b->absmax) return b->absmax[i];
    return b->nested_map[b->nested[i]] * b->nested_absmax[i / b->nested_block] + b->offset;
}

/* The first block whose scale is no finite number; -1: none. */
int64_t bnb_nonfinite(const WeightView *v);

/* Called by weights_open. */
int bnb_recognise(Weights *w, Err *e);
#endif
