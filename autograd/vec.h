/* vec.h - vectors of VEC floats (4, 8 or 16) for kernels that are written once and compiled for
 * each instruction set: a header of kernels includes this one, and a .c file includes that header
 * once per VEC. NAME(x) is x's name in this copy, TARGET stands before its functions. Products are
 * fused into sums where the instruction set can. */
#include "simd.h"
#include <immintrin.h>

#ifndef VEC_H
#define VEC_H
#define VEC_JOIN(a, b) a##_##b
#define VEC_NAME(a, b) VEC_JOIN(a, b)
#define NAME(x)        VEC_NAME(x, VEC)
#define V              NAME(Vec)
#define U              NAME(Bits)
#define TARGET_INLINE  static inline TARGET __attribute__((always_inline))

/* Four floats at a time, the same everywhere. */
typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t QuadBits __attribute__((vector_size(16), aligned(4), may_alias));
static inline Quad quad_load(const float *p) {
    Quad q;
    memcpy(&q, p, sizeof q);
    return q;
}
static inline void quad_store(float *p, Quad q) { memcpy(p, &q, sizeof q); }
/* Column i of the four rows at from becomes row i of to. */
static inline __attribute__((always_inline)) void quad_transpose(const Quad *from, Quad *to) {
    Quad a = __builtin_shufflevector(from[0], from[1], 0, 4, 1, 5);
    Quad b = __builtin_shufflevector(from[0], from[1], 2, 6, 3, 7);
    Quad c = __builtin_shufflevector(from[2], from[3], 0, 4, 1, 5);
    Quad d = __builtin_shufflevector(from[2], from[3], 2, 6, 3, 7);
    to[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    to[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    to[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    to[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
#endif

#undef TARGET
#if VEC == 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#elif VEC == 8
#define TARGET __attribute__((target("avx2,fma")))
#else
#define TARGET
#endif

typedef float V __attribute__((vector_size(VEC * 4), may_alias));
typedef uint32_t U __attribute__((vector_size(VEC * 4), may_alias));

TARGET_INLINE V NAME(load)(const float *p) {
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}
TARGET_INLINE void NAME(store)(float *p, V v) { memcpy(p, &v, sizeof v); }
TARGET_INLINE V NAME(all)(float x) {
#if VEC == 16
    return (V)_mm512_set1_ps(x);
#elif VEC == 8
    return (V)_mm256_set1_ps(x);
#else
    return (V){x, x, x, x};
#endif
}
/* a * b + c */
TARGET_INLINE V NAME(fma)(V a, V b, V c) {
#if VEC == 16
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VEC == 8
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
/* Rounded to bfloat16, to nearest, ties to even (NaN as arithmetic makes it stays NaN). */
TARGET_INLINE V NAME(bf16)(V x) {
    U u = (U)x;
    return (V)((u + (0x7fff + (u >> 16 & 1))) & 0xffff0000u);
}
