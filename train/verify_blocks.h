/* verify_blocks.h - values as a number format stores them against exact ones: what each format's
 * definition says of its scales and codes, worked out in float64. */
#ifndef VERIFY_BLOCKS_H
#define VERIFY_BLOCKS_H
#include "verify.h"

/* n values (whole blocks) of a plain format, Q8_0, Q4_0 or MXFP4. Plain: within half a unit in the
 * last place. Blocks: the scale is the nearest to what the largest magnitude asks for, and each code
 * the nearest at that scale. Returns the first value that is not so; -1: there is none. */
int64_t verify_stored_values(DType d, const void *stored, const double *exact, int64_t n);
#endif
