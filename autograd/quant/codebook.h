/* codebook.h - what the codes of the 4-bit formats stand for, before their scale. */
#ifndef QUANT_CODEBOOK_H
#define QUANT_CODEBOOK_H
#include "../simd.h"

/* NF4: quantiles of the normal distribution (Dettmers et al., QLoRA, arXiv 2305.14314); digits as
 * in bitsandbytes. A value above NF4_ABOVE[i] takes a code above i: these are bitsandbytes' own
 * thresholds, not always the float32 midpoints. */
enum { NF4_ZERO = 7 }; /* the code of 0 */
static const float NF4_VALUE[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
static const float NF4_ABOVE[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f,
};

SIMD_INLINE uint8_t nf4_code(float x) {
    uint32_t code = 0;
    for (int i = 0; i < 15; i++) code += x > NF4_ABOVE[i];
    return (uint8_t)code;
}
/* bitsandbytes multiplies by the inverse: dividing would round otherwise. */
SIMD_INLINE float nf4_inverse(float absmax) { return absmax > 0 ? 1 / absmax : 0; }

/* TurboQuant at 4 bits: the Lloyd-Max quantiser of the normal distribution, in standard
 * deviations. Symmetric; thresholds lie midway between neighbours. */
static const float TQ4_VALUE[16] = {
    -2.732589571f, -2.069017227f, -1.618046386f, -1.256231197f, -0.942340456f, -0.656759119f,
    -0.388048299f, -0.128395030f, 0.128395030f,  0.388048299f,  0.656759119f,  0.942340456f,
    1.256231197f,  1.618046386f,  2.069017227f,  2.732589571f,
};
/* Between the magnitudes of codes 8 + i and 9 + i. */
static const float TQ4_ABOVE[7] = {
    0.258221665f, 0.522403709f, 0.799549788f, 1.099285827f,
    1.437138792f, 1.843531806f, 2.400803399f,
};

/* E2M1 of the OCP Microscaling formats: a sign bit, two of exponent, one of mantissa. */
static const float E2M1_VALUE[16] = {
    0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6,
};
/* E8M0, their scale: 2^(e - 127). */
SIMD_INLINE float e8m0_value(uint8_t e) {
    return bits_to_f32(e ? (uint32_t)e << 23 : 0x00400000); /* 2^-127 is below the normal range */
}

/* Plain integers; code 8 is 0. */
static const float INT4_VALUE[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
#endif
