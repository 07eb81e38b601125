/* simd.h - how a loop becomes fast on the machine it runs on, while the build stays baseline
 * x86-64: the compiler makes one copy of a SIMD function per instruction set and the loader
 * picks. (By feature, not by "arch=": that asks for one exact processor model.) Mark row- or
 * tile-level functions (a few hundred values and more): the copies are called through a pointer and
 * are never inlined. An OpenMP parallel region must not stand inside one (its body would be
 * compiled for the baseline only): call a SIMD function from it.
 *
 * The functions below are plain branch-free C, so that loops over them vectorise. Without
 * contraction to fused multiply-add (C11's default in gcc) every copy gives the same bits as
 * long as the order of its sums is the same: use the reductions below, not `omp simd`. */
#ifndef SIMD_H
#define SIMD_H
#include "quant/plain.h"

/* Sanitizer builds call resolvers before their own start-up, which crashes: no copies there. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define SIMD
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#undef SIMD
#define SIMD
#endif
#ifndef SIMD
#define SIMD __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

/* Before a loop whose number of rounds is known when compiling. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define SIMD_INLINE static inline __attribute__((always_inline))

/* exp(x), within 1.5 ulp; 0 below -104, infinity above 88.73, NaN stays NaN.
 * x = n ln2 + r, |r| <= ln2/2; polynomial of the Cephes library (Moshier, expf). Adding 1.5 * 2^23
 * rounds to an integer; 2^n is applied in two halves so that subnormal results come out right. */
SIMD_INLINE float simd_exp(float x) {
    const float magic = 12582912.0f;
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 1.44269504088896341f + magic;
    float n = shifted - magic;
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    uint32_t bits = f32_to_bits(shifted) - f32_to_bits(magic);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t k = (int32_t)bits, half = k >> 1;
    float a = bits_to_f32((uint32_t)(half + 127) << 23);
    float b = bits_to_f32((uint32_t)(k - half + 127) << 23);
    return p * a * b;
}

/* tanh(x), within 2 ulp. Small |x|: the odd polynomial of Cephes (Moshier, tanhf); else by exp. */
SIMD_INLINE float simd_tanh(float x) {
    float a = x < 0 ? -x : x, z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float small = p * z * x + x;
    float large = 1.0f - 2.0f / (simd_exp(2.0f * a) + 1.0f);
    large = x < 0 ? -large : large;
    return a < 0.625f ? small : large;
}

/* x rounded to bfloat16 and back: to nearest, ties to even. */
SIMD_INLINE float simd_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

/* What f16_to_f32 gives, without its branches: every value is opened as normal and as subnormal,
 * and its exponent chooses. */
SIMD_INLINE float simd_f16(uint16_t h) {
    uint32_t man = h & 0x3ff, exp = h & 0x7c00, body = (uint32_t)(h & 0x7fff) << 13;
    uint32_t is_normal = 0u - (exp != 0);
    uint32_t normal = body + (exp == 0x7c00 ? 224u << 23 : 112u << 23);
    uint32_t subnormal = f32_to_bits((float)(int32_t)man * 5.9604644775390625e-8f);
    return bits_to_f32((normal & is_normal) | (subnormal & ~is_normal) |
                       (uint32_t)(h & 0x8000) << 16);
}

/* Reductions over a row: value i goes into lane i % SIMD_LANES, then the lanes are folded in half
 * until one is left. That order is fixed, vectorises without licence to reorder, and its error
 * grows with n / SIMD_LANES only. STEP(lane, i) takes value i in; FOLD(lane, lane). */
enum { SIMD_LANES = 32 };
#define SIMD_REDUCE(n, start, STEP, FOLD)                                                          \
    float lane[SIMD_LANES];                                                                        \
    for (int l = 0; l < SIMD_LANES; l++) lane[l] = (start);                                        \
    int64_t at = 0;                                                                                \
    for (; at + SIMD_LANES <= (n); at += SIMD_LANES) {                                             \
        for (int l = 0; l < SIMD_LANES; l++) lane[l] = STEP(lane[l], at + l);                      \
    }                                                                                              \
    for (int l = 0; at + l < (n); l++) lane[l] = STEP(lane[l], at + l);                            \
    for (int half = SIMD_LANES / 2; half > 0; half /= 2) {                                         \
        for (int l = 0; l < half; l++) lane[l] = FOLD(lane[l], lane[l + half]);                    \
    }                                                                                              \
    return lane[0]
#define SIMD_ADD(a, b)    ((a) + (b))
#define SIMD_LARGER(a, b) ((b) > (a) ? (b) : (a))

SIMD_INLINE float simd_sum(const float *x, int64_t n) {
#define STEP(a, i) SIMD_ADD(a, x[i])
    SIMD_REDUCE(n, 0, STEP, SIMD_ADD);
#undef STEP
}
SIMD_INLINE float simd_dot(const float *x, const float *y, int64_t n) {
#define STEP(a, i) SIMD_ADD(a, x[i] * y[i])
    SIMD_REDUCE(n, 0, STEP, SIMD_ADD);
#undef STEP
}
/* The largest of x and least. */
SIMD_INLINE float simd_max(const float *x, int64_t n, float least) {
#define STEP(a, i) SIMD_LARGER(a, x[i])
    SIMD_REDUCE(n, least, STEP, SIMD_LARGER);
#undef STEP
}
#endif
