/* test_jinja.c - the template language against the reference implementation: a table of small
 * templates with what Jinja2 makes of them (tests/golden/jinja), the published chat templates of
 * the oracle, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "data/jinja.h"
#include "data/files.h"

static int render(const char *source, size_t n, const json_t *vars, Buf *out, Err *e) {
    Jinja *j;
    if (jinja_compile(&j, source, n, "test.jinja", e) != 0) return -1;
    int failed = jinja_render(j, vars, out, e);
    jinja_free(j);
    return failed;
}

/* Whether a template gives this text, or an error where want is NULL. */
static bool gives(const json_t *source, const json_t *vars, const json_t *want) {
    Buf out = {0};
    Err e = {{0}};
    int failed = render(json_string_value(source), json_string_length(source), vars, &out, &e);
    bool same = want ? !failed && out.n == json_string_length(want) &&
                           memcmp(out.p ? out.p : "", json_string_value(want), out.n) == 0
                     : failed;
    if (!same)
        print_error("%s\n  wanted %s\n  found  %s%.*s\n", json_string_value(source),
                    want ? json_string_value(want) : "an error", failed ? e.text : "", (int)out.n,
                    out.p ? out.p : "");
    buf_free(&out);
    return same;
}

typedef void EachLine(const json_t *row, void *arg);

static int for_lines(const char *path, EachLine *each, void *arg) {
    Buf text = {0};
    Err e;
    int rows = 0;
    if (files_read(path, &text, &e) != 0) fail_msg("%s", e.text);
    for (char *at = text.p, *end = text.p + text.n, *next; at < end; at = next + 1, rows++) {
        next = memchr(at, '\n', (size_t)(end - at));
        if (!next) next = end;
        json_t *row = json_loadb(at, (size_t)(next - at), JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        each(row, arg);
        json_decref(row);
    }
    buf_free(&text);
    return rows;
}

typedef struct Tally {
    const json_t *vars;
    const char *source;
    int wrong;
} Tally;

static void check_golden(const json_t *row, void *arg) {
    Tally *t = arg;
    t->wrong += !gives(json_object_get(row, "template"), t->vars, json_object_get(row, "text"));
}

static void test_golden(void **state) {
    (void)state;
    json_t *vars = json_load_file("tests/golden/jinja/vars.json", JSON_ALLOW_NUL, NULL);
    assert_non_null(vars);
    Tally t = {.vars = vars};
    assert_true(for_lines("tests/golden/jinja/cases.jsonl", check_golden, &t) > 700);
    assert_int_equal(t.wrong, 0);
    json_decref(vars);
}

static void test_refusals(void **state) {
    static const struct {
        const char *template, *says;
    } CASES[] = {
        {"a\nb\n{{ x | nofilter }}", "line 3: there is no filter 'nofilter'"},
        {"{{ x is notest }}", "there is no test 'notest'"},
        {"\n{% nosuch %}", "line 2: unknown tag 'nosuch'"},
        {"{% include 'x' %}", "the tag 'include' is not for chat templates"},
        {"{{ nope.attribute }}", "'nope' is undefined"},
        {"{{ given.nope.more }}", "'dict object' has no attribute 'nope'"},
        {"{{ raise_exception('roles must alternate') }}", "roles must alternate"},
        {"{{ given.update({}) }}", "the sandbox refuses"},
        {"\n{% if x %}\n\n", "{% endif %} is missing; its block opens in line 2"},
        {"{{ 'abc }}", "a string is not closed"},
        {"{{ x\n", "the template ends inside a tag"},
        {"{# x", "a comment is not closed"},
        {"{{ (1] }}", "unexpected ']', expected ')'"},
        {"{{ 99999999999999999999 }}", "does not fit 64 bits"},
        {"{{ 9223372036854775807 + 1 }}", "does not fit a 64-bit number"},
        {"{{ 2 ** 64 }}", "does not fit a 64-bit number"},
        {"{% break %}", "expected a for loop around it"},
        {"{% set ns = namespace(_x=1) %}", "underscore"},
        {"{{ [1]|map('upper') }}", "needs `| list`"},
        {"\xff", "not UTF-8"},
        {"{{ '\\ud800' }}", "not a character"},
    };
    (void)state;
    json_t *vars = json_pack("{s:{}}", "given");
    for (size_t i = 0; i < COUNT_OF(CASES); i++) {
        Buf out = {0};
        Err e = {{0}};
        buf_add_text(&out, "kept");
        assert_int_equal(render(CASES[i].template, strlen(CASES[i].template), vars, &out, &e), -1);
        if (!strstr(e.text, CASES[i].says) || !strstr(e.text, "test.jinja"))
            fail_msg("%s: '%s' does not say '%s'", CASES[i].template, e.text, CASES[i].says);
        assert_string_equal(out.p, "kept");
        buf_free(&out);
    }
    json_decref(vars);
}

/* `lead`, then `piece` many times, then `tail`. */
static void check_limit(const char *lead, const char *piece, int times, const char *tail,
                        const char *says) {
    Buf source = {0}, out = {0};
    Err e = {{0}};
    buf_add_text(&source, lead);
    for (int i = 0; i < times; i++) buf_add_text(&source, piece);
    buf_add_text(&source, tail);
    assert_int_equal(render(source.p, source.n, NULL, &out, &e), -1);
    if (!strstr(e.text, says)) fail_msg("%s...: '%s' does not say '%s'", lead, e.text, says);
    buf_free(&source);
    buf_free(&out);
}

static void test_limits(void **state) {
    (void)state;
    check_limit("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
                "", 0, "", "more than 20000000 steps");
    check_limit("{{ range(10**9) }}", "", 0, "", "Range too big");
    check_limit("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "", 0, "", "deep");
    check_limit("{{ ", "(", 5000, "1 }}", "deep");
    check_limit("{{ ", "not ", 5000, "1 }}", "deep");
    check_limit("", "{% if a %}", 5000, "", "deep");
    check_limit("{{ 1", "+1", 5000, " }}", "deep");
    check_limit("{{ x", "|list", 5000, " }}", "deep");
    check_limit("{% set ns = namespace(s=[]) %}{% set ns.s = ns %}{{ ns }}", "", 0, "", "deep");
    check_limit(
        "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}",
        "", 0, "", "MiB of memory");
    check_limit("{% set x = 'x' * 99999 %}{% for a in range(1000) %}{{ x }}{% endfor %}", "", 0, "",
                "beyond 64 MiB");
    check_limit("{{ '%999999999d' % 1 }}", "", 0, "", "too large");
}

static void test_clock(void **state) {
    (void)state;
    json_t *source = json_string("{{ strftime_now('%d %b %Y, %H:%M') }}");
    json_t *want = json_string("21 Nov 2026, 12:00");
    setenv("SOURCE_DATE_EPOCH", "1795262400", 1);
    assert_true(gives(source, NULL, want));
    setenv("SOURCE_DATE_EPOCH", "soon", 1);
    assert_true(gives(source, NULL, NULL));
    unsetenv("SOURCE_DATE_EPOCH");
    json_decref(source);
    json_decref(want);
}

static void test_nul_is_text(void **state) {
    (void)state;
    json_t *vars = json_object(), *source = json_string("{{ x }}{{ x|length }}"), *want;
    json_object_set_new(vars, "x", json_stringn_nocheck("a\0b", 3));
    want = json_stringn_nocheck("a\0b3", 4);
    assert_true(gives(source, vars, want));
    json_decref(vars);
    json_decref(source);
    json_decref(want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_clock),
        cmocka_unit_test(test_nul_is_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
