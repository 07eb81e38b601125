/* test_epochs.c - which rows a step takes: every row once an epoch, bins that hold what they may,
 * the same whatever was asked before. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "train/epochs.h"

enum { N = 101, ROOM = 64 };
static Sample rows[N];

static Config config(bool packing, bool shuffle, int64_t max_steps) {
    return (Config){.sample_packing = packing,
                    .shuffle = shuffle,
                    .max_steps = max_steps,
                    .sequence_len = ROOM,
                    .micro_batch_size = 2,
                    .gradient_accumulation_steps = 3,
                    .num_epochs = 4,
                    .seed = 5};
}

/* Lengths from 1 on; one is longer than a bin. */
static int set_up(void **state) {
    (void)state;
    for (int i = 0; i < N; i++) rows[i].n = 1 + (int32_t)(rng_at(1, 2, (uint64_t)i) % 40);
    rows[17].n = ROOM + 9;
    return 0;
}

/* First-fit written down plainly. */
static int64_t plain_bins(const int64_t *order, int64_t *bin_of) {
    int64_t room[N], n = 0;
    for (int i = 0; i < N; i++) {
        int64_t tokens = rows[order[i]].n < ROOM ? rows[order[i]].n : ROOM, b = 0;
        while (b < n && room[b] < tokens) b++;
        if (b == n) room[n++] = ROOM;
        room[b] -= tokens;
        bin_of[order[i]] = b;
    }
    return n;
}

static void test_first_fit(void **state) {
    (void)state;
    Config cfg = config(true, true, 0);
    Epochs e;
    epochs_open(&e, &cfg, rows, N);
    for (int64_t epoch = 0, step = 0; epoch < cfg.num_epochs; epoch++) {
        int64_t order[N], bin_of[N], seen = 0, bin = 0;
        dataset_order(5, epoch, N, true, order);
        int64_t bins = plain_bins(order, bin_of);
        assert_int_equal(epochs_steps(&e, epoch), (bins + 5) / 6);
        for (int64_t last = step + epochs_steps(&e, epoch); step < last; step++) {
            StepRows r = epochs_step(&e, step);
            assert_int_equal(r.at[0], 0);
            assert_int_equal(r.at[r.n_micro], r.n_rows);
            assert_true(r.n_micro <= 3);
            for (int64_t i = 0, m = 0; i < r.n_rows; i++, seen++) {
                int64_t row = r.row[i] - rows;
                if (i == r.at[m + 1]) m++;
                assert_true(bin_of[row] == bin || bin_of[row] == bin + 1);
                bin = bin_of[row];
                assert_int_equal(bin / 2 % 3, m);
                bin_of[row] = -1; /* once */
            }
            step_rows_free(&r);
        }
        assert_int_equal(seen, N);
        assert_true(epochs_at(&e, step) == (double)(epoch + 1));
    }
    epochs_close(&e);
}

/* A step asked for at once, as after a resume, and after all before it. */
static void test_any_order(void **state) {
    (void)state;
    for (int k = 0; k < 8; k++) {
        Config cfg = config(k & 1, k & 2, k & 4 ? 60 : 0);
        Epochs whole, once;
        double before = 0;
        epochs_open(&whole, &cfg, rows, N);
        int64_t steps = epochs_total_steps(&whole);
        assert_true(cfg.max_steps ? steps == 60 : steps > 4);
        for (int64_t i = 0; i < steps; i++) {
            StepRows a = epochs_step(&whole, i), b;
            epochs_open(&once, &cfg, rows, N);
            b = epochs_step(&once, i);
            assert_int_equal(a.n_rows, b.n_rows);
            assert_int_equal(a.n_micro, b.n_micro);
            assert_memory_equal(a.row, b.row, sizeof *a.row * (size_t)a.n_rows);
            assert_memory_equal(a.at, b.at, sizeof *a.at * (size_t)(a.n_micro + 1));
            assert_true(epochs_at(&once, i + 1) == epochs_at(&whole, i + 1));
            assert_true(epochs_at(&whole, i + 1) > before);
            before = epochs_at(&whole, i + 1);
            step_rows_free(&a);
            step_rows_free(&b);
            epochs_close(&once);
        }
        if (!cfg.max_steps) assert_true(before == 4);
        epochs_close(&whole);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_fit),
        cmocka_unit_test(test_any_order),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
