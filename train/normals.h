/* normals.h - normal random numbers by the billion, for models of random weights. Cheaper than
 * rng_normal, and of other values: rng_at gives a key to each 512 numbers, within which a 32-bit
 * hash counts (murmur3's finaliser) and Box and Muller's transform makes two of each pair. */
#ifndef NORMALS_H
#define NORMALS_H
#include "../autograd/base.h"

/* Numbers [first, first + n) of a stream: each depends on seed, stream and its place alone. */
void normals_fill(uint64_t seed, uint64_t stream, int64_t first, int64_t n, float mean,
                  float deviation, float *dst);
#endif
