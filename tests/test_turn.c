/* test_turn.c - the rotation is the one that turn.h says, orthonormal, undone by turning back, and
 * the same for a row whatever stands beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "../autograd/base.h"
#include "../autograd/turn.h"

static float *floats(int64_t n) { return mem_alloc((size_t)n * sizeof(float)); }

/* Column by column against its definition: orthonormal, +-1/sqrt(block) within blocks, 0 outside;
 * the first row of H is all ones, so it shows the signs alone. */
static void test_turn(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 2, 5, 8, 24, 64, 96, 192, 256, 704};
    for (size_t k = 0; k < COUNT_OF(widths); k++) {
        int64_t cols = widths[k], block = 1;
        while (block < 256 && cols % (2 * block) == 0) block *= 2;
        float *unit = floats(cols * cols), *back = floats(cols * cols),
              size = 1 / sqrtf((float)block);
        for (int64_t i = 0; i < cols; i++) unit[i * cols + i] = 1;
        turn_rows(unit, cols, cols, cols);
        memcpy(back, unit, sizeof *unit * (size_t)(cols * cols));
        turn_rows_back(back, cols, cols, cols);
        for (int64_t i = 0; i < cols; i++) {
            int64_t at = i / block * block;
            for (int64_t j = 0; j < cols; j++) {
                float is = unit[i * cols + j], sign = unit[i * cols + at] > 0 ? 1 : -1;
                int ones = __builtin_popcountll((unsigned long long)((i - at) & (j - at)));
                float want = j / block == i / block ? size * sign * (ones % 2 ? -1 : 1) : 0;
                if (fabsf(is - want) > 1e-6f || (want == 0 && is != 0))
                    fail_msg("%ld columns: %ld turns to %g at %ld, not %g", (long)cols, (long)i,
                             (double)is, (long)j, (double)want);
                assert_true(fabsf(back[i * cols + j] - (i == j)) < 1e-6f);
            }
        }
        mem_free(unit);
        mem_free(back);
    }
}

/* Rows do not see each other, nor what lies between them. */
static void test_turn_rows(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 320, LD = 333 };
    float *x = floats(ROWS * LD), *y = floats(ROWS * LD);
    Rng rng = {3, 1, 0};
    for (int i = 0; i < ROWS * LD; i++) x[i] = rng_normal(&rng);
    memcpy(y, x, sizeof *x * ROWS * LD);
    turn_rows(y, ROWS, COLS, LD);
    for (int r = 0; r < ROWS; r++) {
        float alone[COLS];
        double before = 0, after = 0;
        memcpy(alone, x + r * LD, sizeof alone);
        turn_rows(alone, 1, COLS, COLS);
        assert_memory_equal(alone, y + r * LD, sizeof alone);
        assert_memory_equal(x + r * LD + COLS, y + r * LD + COLS, sizeof *x * (LD - COLS));
        for (int c = 0; c < COLS; c++) {
            before += (double)x[r * LD + c] * (double)x[r * LD + c];
            after += (double)alone[c] * (double)alone[c];
        }
        assert_true(fabs(after / before - 1) < 1e-5);
    }
    mem_free(x);
    mem_free(y);
}

static void test_fair_signs(void **state) {
    (void)state;
    enum { MANY = 4096, BLOCK = 256 };
    int plus = 0, repeats = 0;
    bool positive[MANY];
    for (int c = 0; c < MANY; c++) {
        float *unit = floats(MANY);
        unit[c] = 1;
        turn_rows(unit, 1, MANY, MANY);
        positive[c] = unit[c / BLOCK * BLOCK] > 0;
        plus += positive[c];
        repeats += c >= BLOCK && positive[c] == positive[c - BLOCK];
        mem_free(unit);
    }
    assert_true(abs(plus - MANY / 2) < 4 * 32); /* four deviations of sqrt(MANY) / 2 */
    assert_true(abs(repeats - (MANY - BLOCK) / 2) < 4 * 32);
}

/* Some columns of rows, as if all were at hand. */
static void test_turn_columns_back(void **state) {
    (void)state;
    enum { ROWS = 3, COLS = 1024, FROM = 256, SOME = 512 };
    float *x = floats(ROWS * COLS), *y = floats(ROWS * COLS);
    Rng rng = {4, 1, 0};
    for (int i = 0; i < ROWS * COLS; i++) x[i] = y[i] = rng_normal(&rng);
    turn_rows_back(y, ROWS, COLS, COLS);
    turn_columns_back(x + FROM, ROWS, COLS, FROM, SOME, COLS);
    assert_int_equal(turn_block(COLS), 256);
    for (int r = 0; r < ROWS; r++)
        assert_memory_equal(x + r * COLS + FROM, y + r * COLS + FROM, sizeof *x * SOME);
    mem_free(x);
    mem_free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turn),
        cmocka_unit_test(test_turn_rows),
        cmocka_unit_test(test_fair_signs),
        cmocka_unit_test(test_turn_columns_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
