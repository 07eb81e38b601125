/* test_h5.c - arrays, rows and attributes out and in; files that are foreign, cut short or cannot
 * be written. */
#include <fcntl.h>
#include <unistd.h>
#include "data/h5.h"
#include "scratch.h"

/* HDF5 loses a chunk's buffer of its own when it cannot write the chunk. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static char path[512];

static int set_up_file(void **state) {
    int bad = set_up(state);
    if (!bad) snprintf(path, sizeof path, "%s", in("x.h5"));
    return bad;
}

static const int32_t experts[2][3] = {{1, 2, 3}, {4, 5, 6}};
static const int64_t experts_dim[2] = {2, 3};

static void write_sample(void) {
    const float weights[2] = {0.5f, -0.0f};
    const int64_t offsets[3] = {0, 1, 1ll << 40}, two = 2, three = 3, none[2] = {0, 5};
    const uint8_t bytes[2] = {0, 255};
    bool there = files_exists(path);
    HdfFile *f;
    ok(h5_create(&f, path, &err));
    ok(h5_write(f, "/layer.3/experts", HDF_I32, 2, experts_dim, experts, &err));
    ok(h5_write(f, "/layer.3/weights", HDF_F32, 1, &two, weights, &err));
    ok(h5_write(f, "/offsets", HDF_I64, 1, &three, offsets, &err));
    ok(h5_write(f, "/bytes", HDF_U8, 1, &two, bytes, &err));
    ok(h5_write(f, "/empty", HDF_F32, 2, none, NULL, &err));
    ok(h5_write_text(f, "/", "name", "g\xc3\xbc", &err));
    ok(h5_write_text(f, "/", "name", "gr\xc3\xbcn", &err)); /* a second time replaces */
    ok(h5_write_text(f, "/layer.3", "none", "", &err));
    ok(h5_write_i64(f, "/layer.3/experts", "step", -5000000000, &err));
    ok(h5_write_f64(f, "/", "rate", 0.1, &err));
    assert_int_equal(files_exists(path), there); /* nothing appears before it is whole */
    ok(h5_commit(f, &err));
    assert_true(files_exists(path));
}

static void test_arrays(void **state) {
    (void)state;
    write_sample();
    HdfFile *f;
    int32_t e[2][3];
    float w[2];
    int64_t o[3], two = 2, three = 3, dim[HDF_DIMS];
    uint8_t b[2];
    HdfType type;
    int n_dim;
    ok(h5_open(&f, path, &err));
    ok(h5_read(f, "/layer.3/experts", HDF_I32, 2, experts_dim, e, &err));
    assert_memory_equal(e, experts, sizeof e);
    ok(h5_read(f, "/layer.3/weights", HDF_F32, 1, &two, w, &err));
    assert_memory_equal(w, ((float[]){0.5f, -0.0f}), sizeof w);
    ok(h5_read(f, "/offsets", HDF_I64, 1, &three, o, &err));
    assert_true(o[0] == 0 && o[1] == 1 && o[2] == 1ll << 40);
    ok(h5_read(f, "/bytes", HDF_U8, 1, &two, b, &err));
    assert_true(b[0] == 0 && b[1] == 255);
    ok(h5_shape(f, "/empty", &type, &n_dim, dim, &err));
    assert_true(type == HDF_F32 && n_dim == 2 && dim[0] == 0 && dim[1] == 5);
    ok(h5_read(f, "/empty", HDF_F32, 2, dim, w, &err));
    assert_true(h5_has(f, "/layer.3/experts") && h5_has(f, "/layer.3") && !h5_has(f, "/layer.4/x"));

    HdfNames names;
    ok(h5_list(f, &names, &err));
    static const char *const expected[] = {"/bytes", "/empty", "/layer.3/experts",
                                           "/layer.3/weights", "/offsets"};
    assert_int_equal(names.n, COUNT_OF(expected));
    for (int i = 0; i < names.n; i++) assert_string_equal(names.name[i], expected[i]);
    h5_names_free(&names);

    refused(h5_read(f, "/offsets", HDF_I64, 1, &two, o, &err),
            "/offsets is int64 [3], expected int64 [2]");
    refused(h5_read(f, "/layer.3/experts", HDF_F32, 2, experts_dim, e, &err),
            "/layer.3/experts is int32 [2, 3], expected float32 [2, 3]");
    refused(h5_read(f, "/nothing", HDF_F32, 1, &two, w, &err), "cannot read /nothing");
    refused(h5_read(f, "/layer.3", HDF_F32, 1, &two, w, &err), "cannot read /layer.3");
    h5_close(f);
}

static void test_attributes(void **state) {
    (void)state;
    write_sample();
    HdfFile *f;
    Buf text = {0};
    int64_t i;
    double d;
    ok(h5_open(&f, path, &err));
    ok(h5_read_text(f, "/", "name", &text, &err));
    assert_string_equal(text.p, "gr\xc3\xbcn");
    ok(h5_read_text(f, "/layer.3", "none", &text, &err));
    assert_string_equal(text.p, "gr\xc3\xbcn");
    ok(h5_read_i64(f, "/layer.3/experts", "step", &i, &err));
    assert_true(i == -5000000000);
    ok(h5_read_f64(f, "/", "rate", &d, &err));
    assert_true(d == 0.1);
    refused(h5_read_i64(f, "/", "name", &i, &err), "attribute name of / is not one whole number");
    refused(h5_read_text(f, "/", "rate", &text, &err), "attribute rate of / is not one text");
    refused(h5_read_f64(f, "/", "missing", &d, &err), "missing");
    buf_free(&text);
    h5_close(f);
}

/* A text longer than the 64 KiB that HDF5 keeps in an object's header. */
static void test_long_text(void **state) {
    (void)state;
    enum { LONG = 300000 };
    char *text = memset(mem_alloc(LONG + 1), 'x', LONG);
    HdfFile *f;
    Buf back = {0};
    ok(h5_create(&f, path, &err));
    ok(h5_write_text(f, "/", "names", text, &err));
    ok(h5_commit(f, &err));
    ok(h5_open(&f, path, &err));
    ok(h5_read_text(f, "/", "names", &back, &err));
    assert_string_equal(back.p, text);
    h5_close(f);
    buf_free(&back);
    mem_free(text);
}

/* Blocks of uneven size, narrow rows (many to a chunk) and rows wider than a chunk. */
static void test_rows(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 7, 100000};
    static const int blocks[] = {1, 0, 5, 3, 8};
    enum { ROWS = 17 };
    for (size_t c = 0; c < COUNT_OF(widths); c++) {
        int64_t cols = widths[c];
        size_t bytes = (size_t)(ROWS * cols) * 4;
        float *all = mem_alloc(bytes), *back = mem_alloc(bytes);
        for (int64_t i = 0; i < ROWS * cols; i++) all[i] = (float)i;
        HdfFile *f;
        HdfRows *r;
        ok(h5_create(&f, path, &err));
        ok(h5_rows_begin(&r, f, "/logits", HDF_F32, cols, &err));
        int64_t at = 0;
        for (size_t k = 0; k < COUNT_OF(blocks); at += blocks[k++])
            ok(h5_rows_add(r, blocks[k], all + at * cols, &err));
        assert_int_equal(at, ROWS);
        ok(h5_rows_end(r, &err));
        ok(h5_commit(f, &err));
        ok(h5_open(&f, path, &err));
        ok(h5_read(f, "/logits", HDF_F32, 2, (int64_t[]){ROWS, cols}, back, &err));
        assert_memory_equal(back, all, bytes);
        ok(h5_read_rows(f, "/logits", HDF_F32, 15, 2, cols, back, &err));
        assert_memory_equal(back, all + 15 * cols, (size_t)(2 * cols) * 4);
        refused(h5_read_rows(f, "/logits", HDF_F32, 16, 2, cols, back, &err), "has 17 rows");
        refused(h5_read_rows(f, "/logits", HDF_F32, 0, 2, cols + 1, back, &err), "expected");
        h5_close(f);
        mem_free(all);
        mem_free(back);
    }
}

static void test_foreign_and_short(void **state) {
    (void)state;
    HdfFile *f;
    refused(h5_open(&f, path, &err), "No such file");
    refused(h5_open(&f, root, &err), "not a regular file");
    ok(files_write_whole(path, "not HDF5 at all", 15, &err));
    refused(h5_open(&f, path, &err), "not an HDF5 file, or cut short");
    write_sample();
    Buf whole = {0};
    ok(files_read(path, &whole, &err));
    for (size_t cut = 0; cut < whole.n; cut += whole.n / 32 + 1) {
        ok(files_write_whole(path, whole.p, cut, &err));
        refused(h5_open(&f, path, &err), "not an HDF5 file, or cut short");
    }
    buf_free(&whole);
}

/* From now on every write to the file being made finds the disk full. */
static void fill_disk(void) {
    int full = open("/dev/full", O_RDWR);
    for (int fd = 3; fd < 64; fd++) {
        char link[64], target[600] = {0};
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, target, sizeof target - 1) > 0 && strstr(target, ".moesmith.partial"))
            dup2(full, fd);
    }
    close(full);
}

/* What a run does until something fails: one array, or rows for ever. */
static int write_array(HdfFile *f, const float *big) {
    const int64_t n = 100000;
    return h5_write(f, "/x", HDF_F32, 1, &n, big, &err);
}

static int write_rows(HdfFile *f, const float *big) {
    HdfRows *r;
    int bad = h5_rows_begin(&r, f, "/x", HDF_F32, 1000, &err);
    if (bad) return bad;
    for (int i = 0; i < 3000 && !bad; i++) bad = h5_rows_add(r, 1, big, &err);
    Err later;
    return h5_rows_end(r, bad ? &later : &err) || bad ? -1 : 0;
}

static int write_few_rows(HdfFile *f, const float *big) {
    HdfRows *r;
    if (h5_rows_begin(&r, f, "/x", HDF_F32, 1000, &err)) return -1;
    int bad = h5_rows_add(r, 1, big, &err);
    return h5_rows_end(r, &err) || bad ? -1 : 0;
}

static int write_attributes(HdfFile *f, const float *big) {
    (void)big;
    return h5_write_i64(f, "/", "step", 1, &err);
}

/* The old file stays whole, and nothing else stays, where the new one is given up or the disk is
 * full; HDF5 survives it (this program's exit is part of the test). */
static void test_given_up(void **state) {
    (void)state;
    static const struct {
        int (*write)(HdfFile *, const float *);
        const char *says;
    } writers[] = {
        {write_array, "No space left on device"},
        {write_rows, "No space left on device"},
        {write_few_rows, "No space left on device"},
        {write_attributes, "cannot write the file"}, /* only found out by commit */
    };
    write_sample();
    float *big = mem_alloc(100000 * sizeof *big);
    for (size_t i = 0; i < 2 * COUNT_OF(writers); i++) {
        bool full = i % 2;
        HdfFile *f;
        ok(h5_create(&f, path, &err));
        if (full) fill_disk();
        int bad = writers[i / 2].write(f, big);
        if (!full) ok(bad);
        if (bad || !full)
            h5_close(f);
        else
            bad = h5_commit(f, &err);
        if (full) refused(bad, writers[i / 2].says);
        char temp[600];
        snprintf(temp, sizeof temp, "%s.moesmith.partial", path);
        assert_false(files_exists(temp));
        ok(h5_open(&f, path, &err));
        assert_true(h5_has(f, "/layer.3/experts"));
        h5_close(f);
    }
    mem_free(big);
    HdfFile *f;
    refused(h5_create(&f, root, &err), "is a directory");
}

/* Same content, same bytes. */
static void test_same_bytes(void **state) {
    (void)state;
    Buf one = {0}, two = {0};
    write_sample();
    ok(files_read(path, &one, &err));
    write_sample();
    ok(files_read(path, &two, &err));
    assert_int_equal(one.n, two.n);
    assert_memory_equal(one.p, two.p, one.n);
    buf_free(&one);
    buf_free(&two);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up_file, tear_down)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_arrays),     TEST(test_attributes),        TEST(test_long_text),
        TEST(test_rows),       TEST(test_foreign_and_short), TEST(test_given_up),
        TEST(test_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
