/* adamw_8bit.h - AdamW whose moments are kept in 8 bits, as bitsandbytes' AdamW8bit does (Dettmers
 * et al. 2022): blocks of 256 values, each an absolute maximum in float32 and a code a value, which
 * is the nearest entry of a table that is denser towards 0. A tensor of less than ADAMW_8BIT_LEAST
 * values keeps its moments in float32. */
#ifndef ADAMW_8BIT_H
#define ADAMW_8BIT_H
#include "optimizer.h"

enum { ADAMW_8BIT_BLOCK = 256, ADAMW_8BIT_LEAST = 4096 };

size_t adamw_8bit_bytes(int64_t n); /* of one moment of n values, a multiple of 4 */
OptimizerUpdate adamw_8bit_update;
bool adamw_8bit_finite(const void *moment, int64_t n);

/* Ascending. The first moment has both signs, the second none. */
void adamw_8bit_table(float table[256], bool both_signs);
#endif
