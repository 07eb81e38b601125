/* scratch.h - for tests that write files: a directory of the test's own, and what calls return. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "data/files.h"

static Err err;
static char *root;

static inline int set_up(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    root = mkdtemp(files_join(base ? base : P_tmpdir, "moesmith-test-XXXXXX"));
    return root ? 0 : -1;
}

static inline int tear_down(void **state) {
    (void)state;
    int bad = files_remove(root, &err);
    mem_free(root);
    return bad;
}

/* The path of a file there; good until 8 more are asked for. */
static inline const char *in(const char *name) {
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static inline void ok(int rc) {
    if (rc) fail_msg("%s", err.text);
}

static inline void refused(int rc, const char *part) {
    if (rc != -1) fail_msg("accepted what should be refused: '%s'", part);
    assert_null(strchr(err.text, '\n'));
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}
#endif
