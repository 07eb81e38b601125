/* turn.c - see turn.h. A block of 16 and more is held in vectors of 16 values: steps further apart
 * than that add whole vectors, nearer ones a vector and its own values in another order. */
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

/* +-s for n columns. */
SIMD static void factors_of(int64_t column, int64_t n, float s, float *factor) {
    for (int64_t i = 0; i < n; i++)
        factor[i] = bits_to_f32(f32_to_bits(s) ^ sign_of((uint32_t)(column + i)));
}

static void turn_small(float *x, int64_t rows, int64_t ld, const float *factor, bool back,
                       int64_t n) {
    for (; rows > 0; rows--, x += ld) {
        for (int64_t i = 0; i < n && !back; i++) x[i] *= factor[i];
        for (int64_t h = 1; h < n; h *= 2) {
            for (int64_t i = 0; i < n; i++) {
                if (i & h) continue;
                float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
        }
        for (int64_t i = 0; i < n && back; i++) x[i] *= factor[i];
    }
}

typedef float Vector __attribute__((vector_size(VECTOR * sizeof(float))));
/* v = H v for pairs a distance apart: every value becomes its partner plus or minus itself. */
#define NEAR(v, s, ...) (v) = __builtin_shufflevector(v, v, __VA_ARGS__) + (v) * (s)

/* One block of n vectors, held in registers where there are as many. */
SIMD_INLINE void turn_vectors(float *x, const float *factor, bool back, int n) {
    const Vector s1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
    const Vector s2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
    const Vector s4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
    const Vector s8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
    Vector v[TURN_MAX / VECTOR], f;
    UNROLL
    for (int i = 0; i < n; i++) {
        memcpy(&v[i], x + i * VECTOR, sizeof f);
        memcpy(&f, factor + i * VECTOR, sizeof f);
        if (!back) v[i] *= f;
        NEAR(v[i], s1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
        NEAR(v[i], s2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
        NEAR(v[i], s4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
        NEAR(v[i], s8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    UNROLL
    for (int h = 1; h < n; h *= 2) {
        UNROLL
        for (int i = 0; i < n; i++) {
            if (i & h) continue;
            Vector a = v[i], b = v[i + h];
            v[i] = a + b;
            v[i + h] = a - b;
        }
    }
    UNROLL
    for (int i = 0; i < n; i++) {
        memcpy(&f, factor + i * VECTOR, sizeof f);
        if (back) v[i] *= f;
        memcpy(x + i * VECTOR, &v[i], sizeof f);
    }
}

#define TURN(n)                                                                                    \
    SIMD static void turn_##n(float *x, int64_t rows, int64_t ld, const float *factor,             \
                              bool back) {                                                         \
        for (; rows > 0; rows--, x += ld) {                                                        \
            if (back)                                                                              \
                turn_vectors(x, factor, true, n / VECTOR);                                         \
            else                                                                                   \
                turn_vectors(x, factor, false, n / VECTOR);                                        \
        }                                                                                          \
    }
TURN(16)
TURN(32)
TURN(64)
TURN(128)
TURN(256)

/* One block of columns of some rows. Forward the signs come first, back they come last; the scale
 * goes with them. */
static void turn_rows_of_block(float *x, int64_t rows, int64_t ld, const float *factor, bool back,
                               int64_t n) {
    switch (n) {
    case 16:
        turn_16(x, rows, ld, factor, back);
        break;
    case 32:
        turn_32(x, rows, ld, factor, back);
        break;
    case 64:
        turn_64(x, rows, ld, factor, back);
        break;
    case 128:
        turn_128(x, rows, ld, factor, back);
        break;
    case 256:
        turn_256(x, rows, ld, factor, back);
        break;
    default:
        turn_small(x, rows, ld, factor, back, n);
    }
}

static void turn(float *x, int64_t n, int64_t cols, int64_t from, int64_t some, int64_t ld,
                 bool back) {
    int64_t block = turn_block(cols);
    float s = 1 / sqrtf((float)block), factor[TURN_MAX];
    for (int64_t col = 0; col < some; col += block) {
        factors_of(from + col, block, s, factor);
        turn_rows_of_block(x + col, n, ld, factor, back, block);
    }
}

void turn_rows(float *x, int64_t n, int64_t cols, int64_t ld) {
    turn(x, n, cols, 0, cols, ld, false);
}
void turn_rows_back(float *x, int64_t n, int64_t cols, int64_t ld) {
    turn(x, n, cols, 0, cols, ld, true);
}
void turn_columns(float *x, int64_t n, int64_t cols, int64_t from, int64_t some, int64_t ld) {
    turn(x, n, cols, from, some, ld, false);
}
void turn_columns_back(float *x, int64_t n, int64_t cols, int64_t from, int64_t some, int64_t ld) {
    turn(x, n, cols, from, some, ld, true);
}
