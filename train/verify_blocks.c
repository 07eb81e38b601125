/* verify_blocks.c - see verify_blocks.h. The formats, of 32 values each:
 *     Q8_0   f16 d; int8 q[32]      d = most / 127, value d q
 *     Q4_0   f16 d; 16 bytes        d = -x / 8 of the largest |x|, value d (q - 8), q in 0..15
 *     MXFP4  byte e; 16 bytes       e = 125 + exponent of most, value 2^(e-128) g[q]
 * Low nibbles are values 0..15, high ones 16..31. Whoever writes them works in float32, so a code on
 * the border between two may be either. */
#include "verify_blocks.h"
#include <math.h>
#include <string.h>

enum { N = 32 };
static const double SLACK = 0x1p-20; /* of some float32 operations, relative */

static double largest(const double *x) {
    double most = 0;
    for (int i = 0; i < N; i++) most = fmax(most, fabs(x[i]));
    return most;
}

static double f16_of(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return (double)f16_to_f32(h);
}

static bool is_nearest_f16(double is, double should) {
    return fabs(is - should) <= verify_half_ulp(should, DT_f16) + SLACK * fabs(should);
}

static int nibble(const uint8_t *q, int i) { return i < N / 2 ? q[i] & 15 : q[i - N / 2] >> 4; }

/* Each returns the first value of the block that is wrong, or -1. A scale that is wrong makes all of
 * them so. */
static int check_q8_0(const uint8_t *block, const double *x) {
    double d = largest(x) / 127;
    if (!is_nearest_f16(f16_of(block), d)) return 0;
    for (int i = 0; i < N; i++) {
        int q = (int8_t)block[2 + i];
        if (d == 0 ? q != 0 : fabs(x[i] / d - q) > 0.5 + 127 * SLACK) return i;
    }
    return -1;
}

/* Codes at the scale that a largest magnitude of one sign makes. */
static int check_q4_0_codes(const uint8_t *block, const double *x, double d) {
    if (!is_nearest_f16(f16_of(block), d)) return 0;
    for (int i = 0; i < N && d != 0; i++) {
        double code = x[i] / d + 8;
        int q = nibble(block + 2, i);
        bool cut = q == 15 && code > 15; /* there is no 16 */
        if (!cut && fabs(code - q) > 0.5 + 16 * SLACK) return i;
    }
    return -1;
}

static int check_q4_0(const uint8_t *block, const double *x) {
    double most = largest(x);
    int bad = 0;
    for (int sign = -1; sign <= 1; sign += 2) {
        bool has = false; /* a largest one of this sign */
        for (int i = 0; i < N; i++) has |= sign * x[i] >= most * (1 - SLACK);
        int first = has ? check_q4_0_codes(block, x, -sign * most / 8) : 0;
        if (has && first < 0) return -1;
        if (has) bad = first;
    }
    return bad;
}

static int check_mxfp4(const uint8_t *block, const double *x) {
    static const double g[] = {0, 1, 2, 3, 4, 6, 8, 12};
    double most = largest(x);
    int e = block[0], low = 0, high = 0;
    if (most > 0) {
        low = ilogb(most * (1 - SLACK)) + 125, high = ilogb(most * (1 + SLACK)) + 125;
        low = low > 0 ? low : 0, high = high > 0 ? high : 0;
    }
    if (e < low || e > high) return 0;
    for (int i = 0; i < N; i++) {
        int q = nibble(block + 1, i);
        double u = ldexp(x[i], 128 - e), is = q & 8 ? -g[q & 7] : g[q & 7], least = INFINITY;
        for (int k = 0; k < 8; k++) least = fmin(least, fabs(fabs(u) - g[k]));
        if (fabs(u - is) > least + 12 * SLACK) return i;
    }
    return -1;
}

static int (*const check_block[DT_COUNT])(const uint8_t *block, const double *x) = {
    [DT_q8_0] = check_q8_0, [DT_q4_0] = check_q4_0, [DT_mxfp4_gguf] = check_mxfp4};

static int64_t check_plain(DType d, const void *stored, const double *exact, int64_t n) {
    float is;
    for (int64_t i = 0; i < n; i++) {
        dtype_info[d].to_f32((const char *)stored + dtype_bytes(d, i), &is, 1);
        if (!(fabs((double)is - exact[i]) <= verify_half_ulp(exact[i], d))) return i;
    }
    return -1;
}

int64_t verify_stored_values(DType d, const void *stored, const double *exact, int64_t n) {
    if (!dtype_in_blocks(d)) return check_plain(d, stored, exact, n);
    CHECK(check_block[d], "nothing writes %s", dtype_info[d].name);
    for (int64_t i = 0; i < n; i += N) {
        int bad = check_block[d]((const uint8_t *)stored + dtype_bytes(d, i), exact + i);
        if (bad >= 0) return i + bad;
    }
    return -1;
}
