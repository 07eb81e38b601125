/* test_progress.c - the bar as a terminal sees it, and what is said while it is shown. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "train/progress.h"

/* Standard error becomes a terminal of the test's own. */
static int terminal, was;

static int set_up(void **state) {
    (void)state;
    terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return -1;
    int screen = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    was = dup(STDERR_FILENO);
    if (screen < 0 || was < 0 || dup2(screen, STDERR_FILENO) < 0) return -1;
    return close(screen);
}

static int tear_down(void **state) {
    (void)state;
    return dup2(was, STDERR_FILENO) < 0 || close(was) || close(terminal);
}

/* What has been shown since the last time. "\1" is written behind it to know its end. */
static const char *shown(void) {
    static char text[4096];
    size_t n = 0;
    fputc(1, stderr);
    fflush(stderr);
    while (n + 1 < sizeof text && read(terminal, text + n, 1) == 1 && text[n] != 1) n++;
    text[n] = 0;
    return text;
}

static Progress half_way(void) {
    Progress p;
    progress_begin(&p, "walking", "steps", 0, 10);
    p.began -= 60; /* work of a minute is worth a bar */
    progress_show(&p, 5, "uphill");
    return p;
}

/* A rate and the time left are told once something is done. */
static void test_nothing_done_yet(void **state) {
    (void)state;
    Progress p;
    progress_begin(&p, "walking", "steps", 0, 10);
    p.began -= 60, p.terminal = false;
    progress_show(&p, 0, "lacing boots");
    assert_string_equal(shown(), "walking 0 of 10 steps, lacing boots\r\n");
    progress_end(&p);
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

static void test_bar(void **state) {
    (void)state;
    Progress p = half_way();
    const char *text = shown();
    assert_true(p.terminal);
    assert_non_null(strstr(text, "walking "));
    assert_true(ends_with(text, "uphill")); /* the cursor stays on the line */
    progress_end(&p);
    assert_string_equal(shown(), "\r\n");
}

static void test_error_has_its_own_line(void **state) {
    (void)state;
    Progress p = half_way();
    shown();
    progress_break();
    assert_string_equal(shown(), "\r\n");
    progress_break();
    assert_string_equal(shown(), "");
    progress_end(&p);
    assert_string_equal(shown(), "");
}

static void test_words_beside_a_bar(void **state) {
    (void)state;
    Progress p = half_way();
    shown();
    progress_say(&p, "a view"); /* above the bar, which is drawn again */
    const char *text = shown();
    assert_non_null(strstr(text, "\033[Ka view\r\n"));
    assert_true(ends_with(text, "uphill"));
    progress_say(NULL, "a word"); /* from one who knows of no bar */
    assert_string_equal(shown(), "\r\na word\r\n");
    progress_end(&p);
    assert_string_equal(shown(), "");
}

static void test_the_end_is_told_once(void **state) {
    (void)state;
    Progress p = half_way();
    p.terminal = false;
    shown();
    progress_show(&p, 10, "");
    assert_non_null(strstr(shown(), "walking 10 of 10 steps"));
    progress_show(&p, 10, "");
    assert_string_equal(shown(), "");
    p.terminal = true;
    progress_end(&p);
    shown();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bar),
        cmocka_unit_test(test_nothing_done_yet),
        cmocka_unit_test(test_error_has_its_own_line),
        cmocka_unit_test(test_words_beside_a_bar),
        cmocka_unit_test(test_the_end_is_told_once),
    };
    int probe = posix_openpt(O_RDWR | O_NOCTTY);
    if (probe < 0) return puts("skipped 5 checks: no terminal can be made here"), 77;
    close(probe);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
