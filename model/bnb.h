/* bnb.h - bitsandbytes' codes moved, as they are, into the layout that the kernels read. */
#ifndef BNB_H
#define BNB_H
#include "../data/weights.h"

/* v: a view with bnb set; dst: weight_bytes of its dtype and dims. Nothing is rounded but the
 * scales of 8-bit codes, once. */
void bnb_repack(const WeightView *v, void *dst);
#endif
