/* test_weights.c - safetensors built byte by byte: what is accepted, what is refused and in which
 * words; the writer against the reader; sharded checkpoints; the oracle's models. */
#include <dirent.h>
#include "data/json.h"
#include "data/safetensors.h"
#include "scratch.h"

/* A file of this header text and this many bytes of data: 0, 1, 2, ... */
static void put(const char *name, const char *header, int data) {
    Buf b = {0};
    uint64_t n = strlen(header);
    buf_add(&b, &n, 8);
    buf_add_text(&b, header);
    for (int i = 0; i < data; i++) buf_add(&b, &(char){(char)i}, 1);
    ok(files_write_whole(in(name), b.p, b.n, &err));
    buf_free(&b);
}

#define T(name, dtype, shape, from, to)                                                            \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #from "," #to \
    "]}"

static void test_views(void **state) {
    (void)state;
    Weights *w;
    put("a.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "1,2", 0, 8) "," T(
            "a", "BF16", "", 8, 10) "," T("c", "I64", "0,9", 10, 10) "," T("d", "U8", "3", 10,
                                                                           13) "}",
        13);
    ok(weights_open(&w, in("a.safetensors"), &err));
    assert_int_equal(weights_count(w), 4);
    static const char *const names[] = {"a", "b", "c", "d"}, *const stored[] = {"BF16", "F32",
                                                                                "I64", "U8"};
    static const DType types[] = {DT_bf16, DT_f32, DT_COUNT, DT_COUNT};
    static const int first[] = {8, 0, 10, 10}, bytes[] = {2, 8, 0, 3};
    for (int i = 0; i < 4; i++) {
        const WeightView *v = weights_at(w, i);
        assert_ptr_equal(v, weights_find(w, names[i]));
        assert_string_equal(v->name, names[i]);
        assert_string_equal(v->stored, stored[i]);
        assert_true(v->dtype == types[i] && v->bytes == bytes[i] && !v->read);
        assert_true(strstr(v->file, "a.safetensors") != NULL);
        for (int k = 0; k < bytes[i]; k++)
            assert_int_equal(((const unsigned char *)v->data)[k], first[i] + k);
    }
    assert_int_equal(weights_find(w, "a")->n_dim, 0);
    assert_int_equal(weights_find(w, "b")->n_dim, 2);
    assert_true(weights_find(w, "b")->dim[0] == 1 && weights_find(w, "b")->dim[1] == 2);
    assert_null(weights_find(w, "e"));
    weights_close(w);
}

/* Every header length and every odd start: the values can be read as what they are. */
static void test_misaligned(void **state) {
    (void)state;
    for (int pad = 0; pad < 8; pad++) {
        Buf header = {0};
        Weights *w;
        buf_printf(&header, "{%*s" T("x", "U8", "1", 0, 1) "," T("y", "F32", "2", 1, 9) "}", pad,
                   "");
        put("a.safetensors", header.p, 9);
        ok(weights_open(&w, in("a.safetensors"), &err));
        const WeightView *y = weights_find(w, "y");
        assert_int_equal((uintptr_t)y->data % 4, 0);
        assert_memory_equal(y->data, "\1\2\3\4\5\6\7\10", 8);
        weights_close(w);
        buf_free(&header);
    }
}

static const struct {
    const char *header;
    int data;
    const char *says; /* NULL: is accepted */
} headers[] = {
    {"{}", 0, NULL},
    {"{" T("a", "F32", "1", 0, 4) "}  ", 4, NULL},
    {"{" T("a", "NEW8", "5", 0, 3) "}", 3, NULL}, /* unknown: known to be there, not how large */
    {"{" T("a", "F4", "4", 0, 2) "}", 2, NULL},
    {"{" T("a", "F32", "9223372036854775807,9223372036854775807,0", 0, 0) "}", 0, NULL},
    {"", 0, "not valid JSON"},
    {"{\"a\":", 0, "not valid JSON"},
    {"{} x", 0, "not valid JSON"},
    {"[]", 0, "no JSON object"},
    {"{\"__metadata__\":[]}", 0, "__metadata__ is no JSON object"},
    {"{" T("a", "U8", "1", 0, 1) "," T("a", "U8", "1", 1, 2) "}", 2, "duplicate"},
    {"{\"a\":5}", 0, "tensor a has no dtype"},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, "tensor a has no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, "tensor a has no data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0]}}", 0, "no data_offsets"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0.5]}}", 0, "no data_offsets"},
    {"{" T("a", "F32", "1,1,1,1,1", 0, 4) "}", 4, "has 5 dimensions, expected at most 4"},
    {"{" T("a", "F32", "-1", 0, 4) "}", 4, "dimension 0 of tensor a"},
    {"{" T("a", "F32", "1.0", 0, 4) "}", 4, "dimension 0 of tensor a"},
    {"{" T("a", "F32", "99999999999999999999", 0, 4) "}", 4, "not valid JSON"},
    {"{" T("a", "F32", "4294967296,4294967296", 0, 0) "}", 0, "the shape of tensor a"},
    {"{" T("a", "F64", "288230376151711744", 0, 0) "}", 0, "the shape of tensor a"},
    {"{" T("a", "F4", "3", 0, 2) "}", 2, "no whole number of bytes"},
    {"{" T("a", "F32", "2", 0, 4) "}", 4, "tensor a has 4 bytes, but its shape in F32 asks for 8"},
    {"{" T("a", "F32", "1", 0, 4) "}", 3, "but the file has 3 bytes of data"},
    {"{" T("a", "U8", "0", 1, 0) "}", 1, "data_offsets 1 to 0"},
    {"{" T("a", "U8", "2", -1, 1) "}", 2, "data_offsets -1 to 1"},
    {"{" T("a", "U8", "2", 0, 2) "," T("b", "U8", "2", 1, 3) "}", 3, "tensor b overlaps another"},
    {"{" T("a", "U8", "2", 0, 2) "," T("b", "U8", "1", 3, 4) "}", 4, "begins behind a hole"},
    {"{" T("a", "U8", "2", 0, 2) "}", 5, "3 bytes behind the last tensor"},
    {"{" T("", "U8", "1", 0, 1) "}", 1, "name is empty"},
    {"{" T("a\\n", "U8", "1", 0, 1) "}", 1, "not plain text"},
    {"{" T("a", "U\\n", "1", 0, 1) "}", 1, "tensor a has no dtype"},
};

static void test_headers(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(headers); i++) {
        Weights *w;
        put("a.safetensors", headers[i].header, headers[i].data);
        int rc = weights_open(&w, in("a.safetensors"), &err);
        if (headers[i].says) {
            refused(rc, headers[i].says);
            assert_non_null(strstr(err.text, "a.safetensors"));
            assert_null(w);
        } else {
            ok(rc);
            weights_close(w);
        }
    }
}

static void test_lengths(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        const char *says;
    } cases[] = {
        {"", 0, "has 0 bytes"},
        {"\2\0\0\0\0\0\0", 7, "has 7 bytes"},
        {"\2\0\0\0\0\0\0\0{", 9, "only 1 follow"},
        {"\377\377\377\377\377\377\377\377{}", 10, "more than 100000000"},
        {"\1\341\365\5\0\0\0\0{}", 10, "more than 100000000"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Weights *w;
        ok(files_write_whole(in("a.safetensors"), cases[i].bytes, cases[i].n, &err));
        refused(weights_open(&w, in("a.safetensors"), &err), cases[i].says);
    }
}

static void put_index(const char *text) {
    ok(files_write_whole(in("model.safetensors.index.json"), text, strlen(text), &err));
}

static void test_shards(void **state) {
    (void)state;
    Weights *w;
    refused(weights_open(&w, root, &err), "looked for model.safetensors, ");
    refused(weights_open(&w, in("none"), &err), "does not exist");
    put("1.safetensors", "{" T("a", "U8", "1", 0, 1) "}", 1);
    put("2.safetensors", "{" T("b", "U8", "1", 0, 1) "," T("c", "U8", "1", 1, 2) "}", 2);
    put("3.safetensors", "{" T("a", "U8", "1", 0, 1) "}", 1);
    static const char *const cases[][2] = {
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}",
         NULL}, /* c: unlisted */
        {"{\"weight_map\":", "not valid JSON"},
        {"[]", "no \"weight_map\""},
        {"{\"weight_map\":{}}", "no \"weight_map\""},
        {"{\"weight_map\":{\"a\":5}}", "the file of tensor a is not"},
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "the file of tensor a is not"},
        {"{\"weight_map\":{\"a\":\"\"}}", "the file of tensor a is not"},
        {"{\"weight_map\":{\"a\\n\":\"1.safetensors\"}}", "not plain text"},
        {"{\"weight_map\":{\"a\":\"4.safetensors\"}}", "4.safetensors, which is not there"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"d\":\"2.safetensors\"}}",
         "tensor d is in 2.safetensors, which lacks it"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\",\"c\":\"2.safetensors\"}"
         "}",
         "tensor b is in 1.safetensors, which lacks it"},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"3.safetensors\"}"
         "}",
         "tensor c is in 3.safetensors, which lacks it"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        put_index(cases[i][0]);
        int rc = weights_open(&w, root, &err);
        if (cases[i][1]) {
            refused(rc, cases[i][1]);
            continue;
        }
        ok(rc);
        assert_int_equal(weights_count(w), 3);
        weights_close(w);
    }
    put_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    put("2.safetensors", "{" T("b", "U8", "1", 0, 1) "," T("a", "U8", "1", 1, 2) "}", 2);
    refused(weights_open(&w, root, &err), "tensor a is in both");
    put("model.safetensors", "{" T("x", "U8", "1", 0, 1) "}", 1);
    ok(weights_open(&w, root, &err)); /* the single file goes first */
    assert_non_null(weights_find(w, "x"));
    weights_close(w);
}

/* Value i of the filled tensor is i; asked from fail_at on, it fails. */
typedef struct Count {
    int64_t asked, fail_at;
} Count;
static int fill_count(void *ctx, int64_t first, int64_t n, void *dst, Err *e) {
    Count *c = ctx;
    if (c->asked != first) return err_set(e, "asked out of order");
    if (c->fail_at && first + n > c->fail_at) return err_set(e, "source broke");
    for (int64_t i = 0; i < n; i++) ((int32_t *)dst)[i] = (int32_t)(first + i);
    c->asked += n;
    return 0;
}

static void test_writer(void **state) {
    (void)state;
    enum { BIG = 3000001 }; /* several chunks and a rest */
    const uint16_t half[3] = {1, 2, 3};
    Count count = {0};
    const SafetensorsEntry entries[] = {
        {.name = "z \"quoted\" \xc3\xbc",
         .dtype = DT_bf16,
         .n_dim = 2,
         .dim = {3, 1},
         .data = half},
        {.name = "empty", .dtype = DT_f32, .n_dim = 2, .dim = {0, 4}},
        {.name = "count",
         .dtype = DT_i32,
         .n_dim = 1,
         .dim = {BIG},
         .fill = fill_count,
         .ctx = &count},
        {.name = "other", .dtype = DT_COUNT, .stored = "U8", .n_dim = 1, .dim = {6}, .data = half},
        {.name = "scalar", .dtype = DT_f16, .data = half},
    };
    const char *const metadata[][2] = {{"made_by", "moesmith"}};
    ok(safetensors_write(in("a.safetensors"), entries, COUNT_OF(entries), metadata, 1, &err));
    Buf whole = {0};
    ok(files_read(in("a.safetensors"), &whole, &err));
    uint64_t header;
    memcpy(&header, whole.p, 8);
    assert_int_equal(header % 8, 0);
    static const char start[] =
        "{\"__metadata__\":{\"format\":\"pt\",\"made_by\":\"moesmith\"},\"z ";
    assert_memory_equal(whole.p + 8, start, sizeof start - 1);
    buf_free(&whole);

    Weights *w;
    ok(weights_open(&w, in("a.safetensors"), &err));
    assert_int_equal(weights_count(w), COUNT_OF(entries));
    for (size_t i = 0; i < COUNT_OF(entries); i++) {
        const WeightView *v = weights_find(w, entries[i].name);
        assert_non_null(v);
        assert_true(v->dtype == entries[i].dtype && v->n_dim == entries[i].n_dim);
        assert_memory_equal(v->dim, entries[i].dim, sizeof v->dim);
        if (entries[i].data) assert_memory_equal(v->data, half, (size_t)v->bytes);
    }
    const int32_t *values = weights_find(w, "count")->data;
    for (int32_t i = 0; i < BIG; i++)
        if (values[i] != i) fail_msg("value %d is %d", i, values[i]);
    weights_close(w);

    count = (Count){0, 2000000};
    refused(safetensors_write(in("a.safetensors"), entries, COUNT_OF(entries), NULL, 0, &err),
            "source broke");
    assert_true(files_exists(in("a.safetensors")));
    assert_false(files_exists(in("a.safetensors.moesmith.partial")));
    const SafetensorsEntry odd = {.name = "\xff", .dtype = DT_bf16, .data = half};
    refused(safetensors_write(in("b.safetensors"), &odd, 1, NULL, 0, &err), "not UTF-8");
    refused(safetensors_write(in("a.safetensors/b"), entries, 1, NULL, 0, &err),
            "a part of the path is a file");
}

static void test_plan(void **state) {
    (void)state;
    const float values[4] = {1, 2, 3, 4};
    SafetensorsEntry x[4];
    for (int i = 0; i < 4; i++)
        x[i] = (SafetensorsEntry){.name = (const char *[]){"d", "b", "c", "a"}[i],
                                  .n_dim = 1,
                                  .dim = {i + 1},
                                  .dtype = DT_f32,
                                  .data = values};
    static const struct {
        int64_t max;
        int files, shard[4];
    } cases[] = {
        {40, 1, {0, 0, 0, 0}}, {39, 2, {0, 0, 0, 1}}, {12, 3, {0, 0, 1, 2}}, {1, 4, {0, 1, 2, 3}}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        int shard[4];
        Weights *w;
        assert_int_equal(safetensors_plan(x, 4, cases[i].max, shard), cases[i].files);
        assert_memory_equal(shard, cases[i].shard, sizeof shard);
        ok(files_remove(in("m"), &err));
        ok(files_make_dirs(in("m"), &err));
        ok(safetensors_write_model(in("m"), x, 4, cases[i].max, &err));
        assert_int_equal(files_exists(in("m/model.safetensors")), cases[i].files == 1);
        ok(weights_open(&w, in("m"), &err));
        assert_int_equal(weights_count(w), 4);
        for (int k = 0; k < 4; k++) {
            const WeightView *v = weights_find(w, x[k].name);
            assert_true(v->dim[0] == k + 1);
            assert_memory_equal(v->data, values, (size_t)v->bytes);
        }
        weights_close(w);
    }
    json_t *index;
    ok(json_read_file(&index, in("m/model.safetensors.index.json"), &err));
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")), 40);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(index, "weight_map"), "c")),
        "model-00003-of-00004.safetensors");
    json_decref(index);
}

/* Every model and adapter of the oracle opens, and has tensors with bytes. */
static void test_oracle(void **state) {
    (void)state;
    const char *given = getenv("MOESMITH_ORACLE"), *oracle = given ? given : "../shared/oracle";
    static const char *const parts[] = {"model", "merged", "adapter/adapter_model.safetensors",
                                        "base.safetensors"};
    DIR *dir = opendir(oracle);
    int opened = 0;
    for (struct dirent *d; dir && (d = readdir(dir));)
        for (size_t i = 0; i < COUNT_OF(parts); i++) {
            if (d->d_name[0] == '.') continue;
            char *model = files_join(oracle, d->d_name), *path = files_join(model, parts[i]);
            Weights *w;
            if (files_exists(path)) {
                ok(weights_open(&w, path, &err));
                assert_true(weights_count(w) > 0 && weights_at(w, 0)->bytes > 0);
                weights_close(w);
                opened++;
            }
            mem_free(model);
            mem_free(path);
        }
    if (dir) closedir(dir);
    if (opened) return;
    print_message("1 test skipped: no oracle\n");
    skip();
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_views),  TEST(test_misaligned), TEST(test_headers), TEST(test_lengths),
        TEST(test_shards), TEST(test_writer),     TEST(test_plan),    TEST(test_oracle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
