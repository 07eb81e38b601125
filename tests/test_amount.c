/* test_amount.c - amounts as people read them, at the edges of their units. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "autograd/amount.h"
#include "autograd/base.h"

typedef struct Case {
    double n;
    const char *text;
} Case;

static void check(Amount (*of)(double), const Case *c, size_t n) {
    for (size_t i = 0; i < n; i++) assert_string_equal(of(c[i].n).text, c[i].text);
}

static void test_bytes(void **state) {
    (void)state;
    static const Case cases[] = {{0, "0 B"},
                                 {1023, "1023 B"},
                                 {1024, "1 KiB"},
                                 {1536, "1.5 KiB"},
                                 {6.55 * 1048576, "6.55 MiB"},
                                 {1048576.0 * 1020, "1020 MiB"},
                                 {18.66 * 1073741824, "18.7 GiB"},
                                 {3e15, "2728 TiB"}};
    check(amount_bytes, cases, COUNT_OF(cases));
}

static void test_counts(void **state) {
    (void)state;
    static const Case cases[] = {
        {0, "0"},          {0.314159, "0.314"}, {9999, "9999"},       {10000, "10 k"},
        {882247, "882 k"}, {3430000, "3.43 M"}, {2.5233e10, "25.2 G"}};
    check(amount_count, cases, COUNT_OF(cases));
}

static void test_seconds(void **state) {
    (void)state;
    static const Case cases[] = {{2.15e-5, "21.5 us"}, {0.25, "250 ms"}, {1, "1 s"},
                                 {59.4, "59.4 s"},     {90, "1.5 min"},  {3600, "1 h"},
                                 {86400, "24 h"},      {864000, "10 d"}};
    check(amount_seconds, cases, COUNT_OF(cases));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_seconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
