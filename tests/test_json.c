/* test_json.c - numbers that jansson alone refuses, and the sentences for those that stay refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "data/json.h"

static Err err;

static json_t *read(const char *text) {
    json_t *j;
    return json_read_text(&j, text, strlen(text), "text", &err) ? NULL : j;
}

static void test_large_integers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"[1000000000000000019884624838656]", 1e30}, /* Transformers' VERY_LARGE_INTEGER */
        {"[ -9999999999999999999 ]", -1e19},
        {"[9223372036854775808]", 9223372036854775808.0},
        {"[123456789012345678901234567890123456789012345]", 1.2345678901234568e44},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        json_t *j = read(cases[i].text);
        if (!j) fail_msg("%s: %s", cases[i].text, err.text);
        const json_t *x = json_array_get(j, 0);
        assert_true(json_is_real(x));
        double off = json_real_value(x) / cases[i].value - 1;
        assert_true(off < 1e-15 && off > -1e-15);
        json_decref(j);
    }
}

/* Its neighbours stay as they are: whole numbers of 64 bits, fractions, and digits inside texts. */
static void test_neighbours(void **state) {
    (void)state;
    json_t *j = read("[9223372036854775807, -9223372036854775807, 0.12345678901234567890123, 1e20, "
                     "\"\\\"1000000000000000019884624838656\", 99999999999999999999, 7]");
    if (!j) fail_msg("%s", err.text);
    assert_true(json_integer_value(json_array_get(j, 0)) == INT64_MAX);
    assert_true(json_integer_value(json_array_get(j, 1)) == -INT64_MAX);
    assert_true(json_real_value(json_array_get(j, 2)) == 0.12345678901234567890123);
    assert_true(json_real_value(json_array_get(j, 3)) == 1e20);
    assert_string_equal(json_string_value(json_array_get(j, 4)),
                        "\"1000000000000000019884624838656");
    assert_true(json_real_value(json_array_get(j, 5)) == 1e20);
    assert_int_equal(json_integer_value(json_array_get(j, 6)), 7);
    json_decref(j);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const cases[] = {"[1e999]", "[99999999999999999999, ]",
                                        "[99999999999999999999", "[\"\\", "99999999999999999999"};
    char many[600] = "[";
    memset(many + 1, '9', sizeof many - 3); /* 10^597 is no double */
    strcpy(many + sizeof many - 2, "]");
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        assert_null(read(cases[i]));
        assert_non_null(strstr(err.text, "not valid JSON at column"));
    }
    assert_null(read(many));
    assert_non_null(strstr(err.text, "too big"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_large_integers),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
