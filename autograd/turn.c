/* turn.c - see turn.h. A block of 16 and more is worked on in vectors of 16 values: steps further
 * apart than that add whole vectors, nearer ones a vector and its own values in another order. */
#include "turn.h"
#include <math.h>
#include <stdbool.h>
#include "simd.h"

enum { TURN_MAX = 256, VECTOR = 16 };

int64_t turn_block(int64_t cols) {
    int64_t block = cols & -cols;
    return block < TURN_MAX ? block : TURN_MAX;
}

/* The sign bit of a column: the top bit of an integer hash (multiplications and shifts as in
 * MurmurHash3's finaliser). */
SIMD_INLINE uint32_t sign_of(uint32_t column) {
    uint32_t h = column * 0x9e3779b1u + 0x7f4a7c15u;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return (h ^ h >> 16) & 0x80000000u;
}

SIMD static void signs_of(int64_t column, int64_t n, uint32_t *sign) {
    for (int64_t i = 0; i < n; i++) sign[i] = sign_of((uint32_t)(column + i));
}

static void hadamard_small(float *x, int64_t n) {
    for (int64_t h = 1; h < n; h *= 2) {
        for (int64_t i = 0; i < n; i++) {
            if (i & h) continue;
            float a = x[i], b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
    }
}

typedef float Vector __attribute__((vector_size(VECTOR * sizeof(float))));
/* v = H v for pairs a distance apart: every value becomes its partner plus or minus itself. */
#define NEAR(v, s, ...) (v) = __builtin_shufflevector(v, v, __VA_ARGS__) + (v) * (s)

SIMD static void hadamard(float *x, int64_t n) {
    const Vector s1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
    const Vector s2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
    const Vector s4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
    const Vector s8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
    for (int64_t i = 0; i < n; i += VECTOR) {
        Vector v;
        memcpy(&v, x + i, sizeof v);
        NEAR(v, s1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
        NEAR(v, s2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
        NEAR(v, s4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
        NEAR(v, s8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
        memcpy(x + i, &v, sizeof v);
    }
    for (int64_t h = VECTOR; h < n; h *= 2) {
        for (int64_t i = 0; i < n; i += 2 * h) {
            float *low = x + i, *high = x + i + h;
            for (int64_t j = 0; j < h; j++) {
                float a = low[j], b = high[j];
                low[j] = a + b;
                high[j] = a - b;
            }
        }
    }
}

static void transform(float *x, int64_t n) {
    if (n < VECTOR)
        hadamard_small(x, n);
    else
        hadamard(x, n);
}

/* x = +-s x */
SIMD static void apply_signs(float *x, const uint32_t *sign, float s, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = bits_to_f32(f32_to_bits(x[i]) ^ sign[i]) * s;
}

/* Columns [from, from + some), x at the first. Forward the signs come first, back they come last;
 * the scale goes with them. */
static void turn(float *x, int64_t n, int64_t block, int64_t from, int64_t some, int64_t ld,
                 bool back) {
    float s = 1 / sqrtf((float)block);
    for (int64_t col = 0; col < some; col += block) {
        uint32_t sign[TURN_MAX];
        signs_of(from + col, block, sign);
        for (int64_t r = 0; r < n; r++) {
            float *at = x + r * ld + col;
            if (back) transform(at, block);
            apply_signs(at, sign, s, block);
            if (!back) transform(at, block);
        }
    }
}

void turn_rows(float *x, int64_t n, int64_t cols, int64_t ld) {
    turn(x, n, turn_block(cols), 0, cols, ld, false);
}
void turn_rows_back(float *x, int64_t n, int64_t cols, int64_t ld) {
    turn_columns_back(x, n, cols, 0, cols, ld);
}
void turn_columns_back(float *x, int64_t n, int64_t cols, int64_t from, int64_t some, int64_t ld) {
    turn(x, n, turn_block(cols), from, some, ld, true);
}
