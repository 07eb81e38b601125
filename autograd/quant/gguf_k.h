/* gguf_k.h - llama.cpp's K formats, byte for byte as GGUF files hold them: blocks of 256 values,
 * whose small scales are themselves quantised. NAME_part opens values 32 part .. 32 part + 31.
 *
 *     q4_k  f16 d, dmin; 12 bytes of 6-bit scales and minima; 128 bytes
 *     q5_k  the same with 32 bytes of fifth bits before the 128
 *           value = (d scale[part]) q - dmin min[part]; byte 32 (part / 2) + i of the 128 holds the
 *           four low bits of value i of an even part (low nibble) and of the odd one behind it;
 *           bit `part` of fifth byte i is the fifth bit
 *     q6_k  128 bytes of low bits, 64 of high ones, int8 scale[16], f16 d
 *           value = (d scale[of 16 values]) (q - 32)
 * Source: as gguf.h. */
#ifndef QUANT_GGUF_K_H
#define QUANT_GGUF_K_H
#include "gguf.h"

/* The 6-bit scale and minimum of a part. Those of parts 4 to 7 have their high bits in the spare
 * bits of the first four. */
SIMD_INLINE void scale_and_min(const uint8_t *s, int part, int *scale, int *min) {
    if (part < 4) {
        *scale = s[part] & 63;
        *min = s[part + 4] & 63;
    } else {
        *scale = (s[part + 4] & 15) | (s[part - 4] >> 6) << 4;
        *min = (s[part + 4] >> 4) | (s[part] >> 6) << 4;
    }
}

/* fifth: NULL, or the bytes of the fifth bits. */
SIMD_INLINE void k_nibbles_part(const uint8_t *block, const uint8_t *q, const uint8_t *fifth,
                                int part, float *dst) {
    int scale, min, shift = part % 2 * 4;
    scale_and_min(block + 4, part, &scale, &min);
    const float d = f16_at(block) * (float)scale, m = f16_at(block + 2) * (float)min;
    q += part / 2 * PART;
    for (int i = 0; i < PART; i++) {
        int code = q[i] >> shift & 15;
        if (fifth) code |= (fifth[i] >> part & 1) << 4;
        dst[i] = d * (float)code - m;
    }
}
SIMD_INLINE void q4_k_part(const uint8_t *block, int part, float *dst) {
    k_nibbles_part(block, block + 16, NULL, part, dst);
}
SIMD_INLINE void q5_k_part(const uint8_t *block, int part, float *dst) {
    k_nibbles_part(block, block + 48, block + 16, part, dst);
}

SIMD_INLINE void q6_k_part(const uint8_t *block, int part, float *dst) {
    const int half = part / 4, quarter = part % 4;
    const uint8_t *low = block + half * 64 + quarter % 2 * PART, *high = block + 128 + half * PART;
    const int8_t *scale = (const int8_t *)block + 192 + part * 2;
    const float d = f16_at(block + 208);
    for (int i = 0; i < PART; i++) {
        int code = (low[i] >> quarter / 2 * 4 & 15) | (high[i] >> quarter * 2 & 3) << 4;
        dst[i] = d * (float)scale[i / 16] * (float)(code - 32);
    }
}
#endif
