/* normals.c - see normals.h. Branch-free, so that the loop over a block vectorises. */
#include "normals.h"
#include <math.h>
#include <string.h>
#include "../autograd/simd.h"

enum { PAIRS = 256, BLOCK = 2 * PAIRS };

SIMD_INLINE uint32_t hash32(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

/* In (0, 1), of 24 bits. */
SIMD_INLINE float unit(uint32_t bits) {
    return ((float)(int32_t)(bits >> 8) + 0.5f) * 5.9604644775390625e-8f;
}

/* log(x) for normal x > 0, within 2 ulp: Cephes' polynomial (Moshier, logf). */
SIMD_INLINE float fast_log(float x) {
    uint32_t bits = f32_to_bits(x) - 0x3f3504f3u; /* sqrt(1/2) becomes the least mantissa */
    float e = (float)((int32_t)bits >> 23);
    float m = bits_to_f32((bits & 0x7fffff) + 0x3f3504f3u) - 1.0f, z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    return (p * m * z - 0.5f * z + m) + e * 0.693147180559945f;
}

/* Sine and cosine of t turns, 0 <= t < 1: an eighth of a turn by Taylor's series, then quadrants.
 */
SIMD_INLINE void turn_sin_cos(float t, float *sine, float *cosine) {
    int32_t quadrant = (int32_t)(t * 4.0f + 0.5f);
    float a = (t - (float)quadrant * 0.25f) * 6.28318530717958648f, z = a * a;
    float s = a + a * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    float c =
        1.0f - 0.5f * z +
        z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    float first = quadrant & 1 ? c : s, second = quadrant & 1 ? s : c;
    *sine = quadrant & 2 ? -first : first;
    *cosine = (quadrant + 1) & 2 ? -second : second;
}

SIMD static void fill_block(uint64_t key, float mean, float deviation, float *dst) {
    uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
    for (uint32_t i = 0; i < PAIRS; i++) {
        float u = unit(hash32(low + i * 0x9e3779b9u)), t = unit(hash32(high ^ i * 0x7feb352du));
        float radius = sqrtf(-2.0f * fast_log(u)) * deviation, sine, cosine;
        turn_sin_cos(t, &sine, &cosine);
        dst[i] = mean + radius * cosine;
        dst[PAIRS + i] = mean + radius * sine;
    }
}

void normals_fill(uint64_t seed, uint64_t stream, int64_t first, int64_t n, float mean,
                  float deviation, float *dst) {
    for (int64_t at = first; at < first + n;) {
        int64_t block = at / BLOCK, skip = at % BLOCK, some = BLOCK - skip;
        if (some > first + n - at) some = first + n - at;
        float part[BLOCK];
        bool whole = some == BLOCK;
        fill_block(rng_at(seed, stream, (uint64_t)block), mean, deviation,
                   whole ? dst + (at - first) : part);
        if (!whole) memcpy(dst + (at - first), part + skip, (size_t)some * sizeof *dst);
        at += some;
    }
}
