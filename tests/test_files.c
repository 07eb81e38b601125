/* test_files.c - reading, writing beside, and what failing at any point leaves behind. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "scratch.h"

static void put(const char *name, const char *text) {
    assert_int_equal(files_write_whole(in(name), text, strlen(text), &err), 0);
}

static void assert_holds(const char *name, const char *text) {
    Buf b = {0};
    assert_int_equal(files_read(in(name), &b, &err), 0);
    assert_string_equal(b.p ? b.p : "", text);
    buf_free(&b);
}

/* One sentence, and it says this. */
static void assert_says(const char *part) {
    assert_null(strchr(err.text, '\n'));
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void assert_no_leftovers(const char *name) {
    char path[600];
    snprintf(path, sizeof path, "%s.moesmith.partial", in(name));
    assert_false(files_exists(path));
    snprintf(path, sizeof path, "%s.moesmith.old", in(name));
    assert_false(files_exists(path));
}

static void test_paths(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"a", "/b", "/b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *path = files_join(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        mem_free(path);
    }
    static const char *const parents[][2] = {
        {"a/b", "a"}, {"a", "."}, {"/a", "/"}, {"a/b/", "a"}, {"/", "/"}};
    for (size_t i = 0; i < COUNT_OF(parents); i++) {
        char *path = files_parent(parents[i][0]);
        assert_string_equal(path, parents[i][1]);
        mem_free(path);
    }
}

static void test_write_and_read(void **state) {
    (void)state;
    put("a", "old");
    put("a", "new");
    assert_holds("a", "new");
    assert_no_leftovers("a");
    assert_int_equal(files_copy(in("a"), in("b"), &err), 0);
    assert_holds("b", "new");
    put("empty", "");
    assert_int_equal(files_copy(in("empty"), in("b"), &err), 0);
    assert_holds("b", "");
    Buf b = {0};
    assert_int_equal(files_read(in("missing"), &b, &err), -1);
    assert_says("missing: No such file");
    assert_int_equal(files_read(root, &b, &err), -1);
    assert_says("Is a directory");
    buf_free(&b);
}

static void test_map(void **state) {
    (void)state;
    const void *data;
    size_t n;
    put("a", "text");
    assert_int_equal(files_map(in("a"), &data, &n, &err), 0);
    assert_int_equal(n, 4);
    assert_memory_equal(data, "text", 4);
    files_unmap(data, n);
    put("a", "");
    assert_int_equal(files_map(in("a"), &data, &n, &err), 0);
    assert_int_equal(n, 0);
    files_unmap(data, n);
    assert_int_equal(files_map(root, &data, &n, &err), -1);
    assert_says("not a regular file");
    assert_int_equal(mkfifo(in("pipe"), 0600), 0);
    assert_int_equal(files_map(in("pipe"), &data, &n, &err), -1);
    assert_says("not a regular file");
}

static void test_refused_places(void **state) {
    (void)state;
    put("file", "x");
    assert_int_equal(files_write_whole(root, "x", 1, &err), -1);
    assert_says("is a directory");
    assert_int_equal(files_write_whole("/dev/null", "x", 1, &err), -1);
    assert_says("a device or pipe");
    assert_int_equal(files_write_whole(in("file/b"), "x", 1, &err), -1);
    assert_says("a part of the path is a file");
    assert_int_equal(files_check_regular(root, &err), -1);
    assert_says("is a directory");
    assert_int_equal(files_check_writable(in("file/b"), &err), -1);
    assert_says("a part of the path is a file");
    assert_int_equal(files_check_writable(in("none/b"), &err), 0);
    assert_false(files_exists(in("none")));
    assert_int_equal(files_write_whole(in("none/b/c"), "x", 1, &err), 0);
    assert_holds("none/b/c", "x");
    assert_int_equal(files_check_writable(in("none/b"), &err), 0);
    assert_int_equal(files_make_dirs(in("file/a/b"), &err), -1);
    assert_says("a part of the path is a file");
    DirOut d;
    assert_int_equal(files_dir_begin(&d, in("file"), &err), -1);
    assert_says("it is a file");
}

/* Writing through a link keeps the link. */
static void test_links(void **state) {
    (void)state;
    put("real", "old");
    assert_int_equal(symlink("real", in("link")), 0);
    put("link", "new");
    assert_holds("real", "new");
    char target[16] = {0};
    assert_int_equal(readlink(in("link"), target, sizeof target), 4);
}

/* A disk is full to a process whose files may not grow: the old file stays, nothing else does. */
static void test_full_disk(void **state) {
    (void)state;
    put("a", "old");
    FileOut f = {.path = mem_copy_text("full"), .temp = mem_copy_text(in("t"))};
    f.fd = open("/dev/full", O_WRONLY);
    assert_int_equal(files_write(&f, "x", 1, &err), -1);
    assert_says("No space left on device; free some space");
    assert_null(f.path);

    struct rlimit was, small = {4096, 4096};
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    char *big = mem_alloc(10000);
    setrlimit(RLIMIT_FSIZE, &small);
    int bad = files_write_whole(in("a"), big, 10000, &err);
    setrlimit(RLIMIT_FSIZE, &was);
    mem_free(big);
    assert_int_equal(bad, -1);
    assert_says("File too large");
    assert_holds("a", "old");
    assert_no_leftovers("a");
}

static void write_in(const DirOut *d, const char *name, const char *text) {
    char *path = files_join(d->temp, name);
    assert_int_equal(files_write_whole(path, text, strlen(text), &err), 0);
    mem_free(path);
}

static void test_directory(void **state) {
    (void)state;
    DirOut d;
    for (int round = 0; round < 3; round++) { /* new, then replacing what is there */
        assert_int_equal(files_dir_begin(&d, in("x/y/out/"), &err), 0);
        write_in(&d, round == 1 ? "b" : "a", "text");
        assert_int_equal(files_exists(in("x/y/out")), round > 0);
        assert_int_equal(files_dir_commit(&d, &err), 0);
        files_dir_abort(&d);
        assert_int_equal(files_exists(in("x/y/out/a")), round != 1);
        assert_int_equal(files_exists(in("x/y/out/b")), round == 1);
        assert_no_leftovers("x/y/out");
    }
    assert_int_equal(files_dir_begin(&d, in("x/y/out"), &err), 0);
    write_in(&d, "c", "text");
    files_dir_abort(&d);
    assert_true(files_exists(in("x/y/out/a")));
    assert_no_leftovers("x/y/out");
}

/* What a killed run left: a half-written directory; an old one that had stepped aside. */
static void test_leftovers(void **state) {
    (void)state;
    DirOut d;
    assert_int_equal(files_make_dirs(in("out.moesmith.partial/deep"), &err), 0);
    assert_int_equal(files_make_dirs(in("out.moesmith.old"), &err), 0);
    put("out.moesmith.old/a", "kept");
    assert_int_equal(files_dir_recover(in("out"), &err), 0);
    assert_holds("out/a", "kept");
    assert_int_equal(files_make_dirs(in("out.moesmith.old/deep"), &err), 0);
    assert_int_equal(files_dir_begin(&d, in("out"), &err), 0);
    assert_holds("out/a", "kept");
    assert_int_equal(files_dir_commit(&d, &err), 0);
    assert_true(files_is_dir(in("out")));
    assert_true(files_is_empty(in("out")));
    assert_no_leftovers("out");
}

static void test_remove_and_empty(void **state) {
    (void)state;
    assert_int_equal(files_make_dirs(in("d/e/f"), &err), 0);
    put("d/e/file", "x");
    put("outside", "x");
    assert_int_equal(symlink(in("outside"), in("d/link")), 0);
    assert_false(files_is_empty(in("d")));
    assert_true(files_is_empty(in("d/e/f")));
    assert_true(files_is_empty(in("nothing")));
    assert_false(files_is_empty(in("outside")));
    assert_int_equal(files_remove(in("d"), &err), 0);
    assert_int_equal(files_remove(in("d"), &err), 0);
    assert_false(files_exists(in("d")));
    assert_true(files_exists(in("outside")));
}

static void test_lines(void **state) {
    (void)state;
    assert_int_equal(files_drop_torn_line(in("log"), &err), 0);
    assert_int_equal(files_append_line(in("log"), "one", &err), 0);
    assert_int_equal(files_append_line(in("log"), "two", &err), 0);
    assert_int_equal(files_drop_torn_line(in("log"), &err), 0);
    assert_holds("log", "one\ntwo\n");
    char *torn = mem_alloc(10001);
    memset(torn, 'x', 10000);
    Buf text = {0};
    buf_printf(&text, "one\n%s", torn);
    put("log", text.p);
    assert_int_equal(files_drop_torn_line(in("log"), &err), 0);
    assert_holds("log", "one\n");
    put("log", torn);
    assert_int_equal(files_drop_torn_line(in("log"), &err), 0);
    assert_holds("log", "");
    assert_int_equal(files_append_line("/dev/full", "x", &err), -1);
    assert_says("No space left on device");
    buf_free(&text);
    mem_free(torn);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_paths),     TEST(test_write_and_read), TEST(test_map),
        TEST(test_links),     TEST(test_refused_places), TEST(test_full_disk),
        TEST(test_directory), TEST(test_leftovers),      TEST(test_remove_and_empty),
        TEST(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
