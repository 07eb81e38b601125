/* test_base_file.c - base.h5: what is written is read back, from page-aligned places; whatever is
 * cut, changed or foreign is refused; a killed writer's file is gone on with; the numbers of random
 * bases are normal. */
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>
#include "autograd/weight.h"
#include "data/base_writer.h"
#include "data/h5.h"
#include "data/side_files.h"
#include "scratch.h"
#include "train/normals.h"

/* ---- a small base ---- */

static const char CONFIG[] = "{\"model_type\": \"none\"}", TOKENIZER[] = "{\"model\": {}}";
static const BaseTensor tensors[] = {
    {.name = "layers.0.norm", .dtype = DT_f32, .n_dim = 1, .dim = {5}},
    {.name = "layers.0.q", .dtype = DT_tq4, .n_dim = 2, .dim = {40, 96}},
    {.name = "layers.0.experts", .dtype = DT_nf4, .n_dim = 3, .dim = {3, 33, 64}},
    {.name = "scalar", .dtype = DT_bf16, .n_dim = 0},
};
enum { N_TENSORS = COUNT_OF(tensors) };
static const BaseText texts[] = {
    {"config.json", CONFIG, sizeof CONFIG - 1},
    {"special_tokens_map.json", "", 0},
    {"tokenizer.json", TOKENIZER, sizeof TOKENIZER - 1},
};

static int64_t bytes_of(int i) {
    return base_tensor_bytes(tensors[i].dtype, tensors[i].n_dim, tensors[i].dim);
}

/* Any bytes will do: nothing here looks into a format. */
static void fill(int i, uint8_t *out) {
    for (int64_t k = 0; k < bytes_of(i); k++)
        out[k] = (uint8_t)(rng_at(7, (uint64_t)i, (uint64_t)k));
}

static BaseWriter *open_writer(const char *path, bool *busy) {
    BaseWriter *w;
    json_t *about = json_pack("{s:s}", "source", "a test");
    BasePlan plan = {tensors, texts, N_TENSORS, COUNT_OF(texts), about};
    ok(base_writer_open(&w, path, &plan, busy, &err));
    json_decref(about);
    return w;
}

/* In two parts, the second first. */
static void write_tensor(BaseWriter *w, int i) {
    uint8_t bytes[1 << 15];
    int64_t n = bytes_of(i), half = n / 32 * 16;
    assert_true(n <= (int64_t)sizeof bytes);
    fill(i, bytes);
    ok(base_writer_put(w, i, half, bytes + half, (size_t)(n - half), &err));
    ok(base_writer_put(w, i, 0, bytes, (size_t)half, &err));
    uint64_t hash =
        base_hash(bytes + half, (size_t)(n - half), half) + base_hash(bytes, (size_t)half, 0);
    assert_true(hash == base_hash(bytes, (size_t)n, 0));
    ok(base_writer_done(w, i, hash, 0.25 * i, 1, &err));
}

static const char *make_base(const char *name) {
    bool busy;
    const char *path = in(name);
    BaseWriter *w = open_writer(path, &busy);
    assert_false(busy);
    for (int i = 0; i < N_TENSORS; i++) write_tensor(w, i);
    ok(base_writer_commit(w, &err));
    return path;
}

static void check_tensors(const char *path) {
    Weights *w;
    uint8_t bytes[1 << 15];
    ok(weights_open(&w, path, &err));
    assert_int_equal(weights_count(w), N_TENSORS);
    for (int i = 0; i < N_TENSORS; i++) {
        const WeightView *v = weights_find(w, tensors[i].name);
        const char *file;
        int64_t offset;
        assert_non_null(v);
        fill(i, bytes);
        assert_int_equal(v->dtype, tensors[i].dtype);
        assert_int_equal(v->n_dim, tensors[i].n_dim);
        assert_memory_equal(v->dim, tensors[i].dim, sizeof v->dim);
        assert_int_equal(v->bytes, bytes_of(i));
        assert_memory_equal(v->data, bytes, (size_t)v->bytes);
        assert_true(weights_range(w, v, &file, &offset));
        assert_string_equal(file, path);
        assert_int_equal(offset % BASE_PAGE, 0);
    }
    assert_true(weights_hash(w) != 0);
    weights_close(w);
}

static void test_round_trip(void **state) {
    (void)state;
    const char *path = make_base("base.h5");
    check_tensors(path);
    ok(base_file_verify(path, NULL, NULL, &err));
    assert_false(files_exists(in("base.h5.moesmith.partial")));
    Buf text = {0};
    assert_true(side_files_has(path, "tokenizer.json"));
    assert_false(side_files_has(path, "merges.txt"));
    ok(side_files_read(path, "tokenizer.json", &text, &err));
    assert_int_equal(text.n, sizeof TOKENIZER - 1);
    assert_memory_equal(text.p, TOKENIZER, text.n);
    buf_free(&text);
    refused(side_files_read(path, "merges.txt", &text, &err), "merges.txt");
    SideFiles files;
    ok(side_files_gather(&files, path, &err));
    assert_int_equal(files.n, COUNT_OF(texts));
    ok(side_files_write(&files, root, &err));
    side_files_free(&files);
    ok(files_read(in("config.json"), &text, &err));
    assert_string_equal(text.p, CONFIG);
    buf_free(&text);
}

/* What HDF5 sees: the same bytes under the same names. */
static void test_is_hdf5(void **state) {
    (void)state;
    const char *path = make_base("plain.h5");
    HdfFile *f;
    uint8_t bytes[1 << 15], want[1 << 15];
    ok(h5_open(&f, path, &err));
    for (int i = 0; i < N_TENSORS; i++) {
        Buf dtype = {0};
        int64_t n = bytes_of(i);
        ok(h5_read(f, tensors[i].name, HDF_U8, 1, &n, bytes, &err));
        fill(i, want);
        assert_memory_equal(bytes, want, (size_t)n);
        ok(h5_read_text(f, tensors[i].name, "dtype", &dtype, &err));
        assert_string_equal(dtype.p, dtype_info[tensors[i].dtype].name);
        buf_free(&dtype);
    }
    h5_close(f);
}

/* ---- what is refused ---- */

static int try_open(const char *path) {
    Weights *w = NULL;
    int rc = weights_open(&w, path, &err);
    weights_close(w);
    return rc;
}

static void put_file(const char *name, const char *bytes, size_t n) {
    ok(files_write_whole(in(name), bytes, n, &err));
}

static void test_damage(void **state) {
    (void)state;
    Buf whole = {0};
    BaseIndex x;
    ok(files_read(make_base("good.h5"), &whole, &err));
    ok(base_index_read(&x, whole.p, whole.n, "good.h5", &err));
    size_t tensors_from = (size_t)x.tensor[0].offset, files_to = (size_t)x.file[0].offset,
           in_q = (size_t)x.tensor[1].offset + 100, in_config = files_to + 3;
    base_index_free(&x);
    for (size_t n = 0; n < whole.n; n += whole.n / 97 + 1) {
        put_file("cut.h5", whole.p, n);
        refused(try_open(in("cut.h5")), "cut.h5");
    }
    buf_add(&whole, "", 1);
    put_file("longer.h5", whole.p, whole.n);
    refused(try_open(in("longer.h5")), "bytes");
    whole.n--;
    assert_true(tensors_from > files_to && files_to > BASE_PAGE);
    for (size_t at = 0; at < files_to; at += at < 256 ? 1 : 61) { /* the block and the metadata */
        whole.p[at] ^= 4;
        put_file("changed.h5", whole.p, whole.n);
        refused(try_open(in("changed.h5")), "changed.h5");
        whole.p[at] ^= 4;
    }
    whole.p[in_config] ^= 1; /* seen when it is read */
    put_file("config.h5", whole.p, whole.n);
    Buf text = {0};
    refused(side_files_read(in("config.h5"), "config.json", &text, &err), "config.json");
    buf_free(&text);
    refused(base_file_verify(in("config.h5"), NULL, NULL, &err), "config.json");
    whole.p[in_config] ^= 1;
    whole.p[in_q] ^= 1; /* seen by verify */
    put_file("weights.h5", whole.p, whole.n);
    ok(try_open(in("weights.h5")));
    refused(base_file_verify(in("weights.h5"), NULL, NULL, &err), "layers.0.q");
    whole.p[in_q] ^= 1;
    buf_free(&whole);
}

static void test_foreign(void **state) {
    (void)state;
    HdfFile *f;
    const int64_t n = 3;
    const float x[3] = {1, 2, 3};
    ok(h5_create(&f, in("logits.h5"), &err));
    ok(h5_write(f, "/logits", HDF_F32, 1, &n, x, &err));
    ok(h5_commit(f, &err));
    refused(try_open(in("logits.h5")), "no base made by quantize");
    put_file("text.h5", "not a base", 10);
    refused(try_open(in("text.h5")), "no base made by quantize");
    put_file("empty.h5", "", 0);
    refused(try_open(in("empty.h5")), "no base made by quantize");
    refused(try_open(in("nowhere.h5")), "nowhere.h5");
    bool busy;
    BaseWriter *w = open_writer(in("half.h5"), &busy);
    char *partial = files_partial(in("half.h5"));
    ok(files_copy(partial, in("copy.h5"), &err));
    refused(try_open(in("copy.h5")), "not finished");
    base_writer_abort(w);
    assert_false(files_exists(partial));
    mem_free(partial);
}

/* ---- killed, and at once ---- */

static void test_resume(void **state) {
    (void)state;
    const char *path = in("resumed.h5");
    char *partial = files_partial(path);
    bool busy;
    pid_t child = fork();
    if (!child) { /* killed after two tensors, with a third half there */
        BaseWriter *w = open_writer(path, &busy);
        write_tensor(w, 0);
        write_tensor(w, 2);
        base_writer_put(w, 1, 0, "half", 4, &err);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(files_exists(path));
    assert_true(files_exists(partial));
    BaseWriter *w = open_writer(path, &busy);
    assert_false(busy);
    assert_true(base_writer_has(w, 0) && base_writer_has(w, 2));
    assert_false(base_writer_has(w, 1) || base_writer_has(w, 3));
    write_tensor(w, 3);
    write_tensor(w, 1);
    ok(base_writer_commit(w, &err));
    check_tensors(path);
    Buf a = {0}, b = {0};
    ok(files_read(path, &a, &err));
    ok(files_read(make_base("at_once.h5"), &b, &err));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
    buf_free(&a);
    buf_free(&b);
    mem_free(partial);
}

/* What a killed run wrote and lost on the disk is not believed. */
static void test_resume_damaged(void **state) {
    (void)state;
    const char *path = in("lost.h5");
    char *partial = files_partial(path);
    bool busy;
    pid_t child = fork();
    if (!child) {
        BaseWriter *w = open_writer(path, &busy);
        for (int i = 0; i < N_TENSORS; i++) write_tensor(w, i);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    Buf bytes = {0};
    uint8_t want[1 << 15];
    fill(1, want);
    ok(files_read(partial, &bytes, &err));
    char *at = memmem(bytes.p, bytes.n, want, 64);
    assert_non_null(at);
    at[10] ^= 1;
    at = memmem(bytes.p, bytes.n, TOKENIZER, sizeof TOKENIZER - 1);
    assert_non_null(at);
    at[1] ^= 1;
    ok(files_write_whole(partial, bytes.p, bytes.n, &err));
    buf_free(&bytes);
    BaseWriter *w = open_writer(path, &busy);
    assert_true(base_writer_has(w, 0) && base_writer_has(w, 2) && base_writer_has(w, 3));
    assert_false(base_writer_has(w, 1));
    write_tensor(w, 1);
    ok(base_writer_commit(w, &err));
    check_tensors(path);
    ok(base_file_verify(path, NULL, NULL, &err));
    mem_free(partial);
}

/* A partial file of two tensors; its plan is altered by `alter` (in place). What then begins has
 * nothing, and ends as if nothing had been there. */
static void check_altered(const char *name, void (*alter)(char *plan)) {
    const char *path = in(name);
    char *partial = files_partial(path);
    bool busy;
    Buf a = {0}, b = {0};
    pid_t child = fork();
    if (!child) {
        BaseWriter *w = open_writer(path, &busy);
        write_tensor(w, 0);
        write_tensor(w, 2);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    ok(files_read(partial, &a, &err));
    char *plan = memmem(a.p, a.n, "{\"format\":", 10);
    assert_non_null(plan);
    alter(plan);
    ok(files_write_whole(partial, a.p, a.n, &err));
    buf_free(&a);
    BaseWriter *w = open_writer(path, &busy);
    for (int i = 0; i < N_TENSORS; i++) {
        if (base_writer_has(w, i)) fail_msg("%s: tensor %d is believed", name, i);
        write_tensor(w, i);
    }
    ok(base_writer_commit(w, &err));
    ok(files_read(path, &a, &err));
    ok(files_read(make_base("unaltered.h5"), &b, &err));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
    buf_free(&a);
    buf_free(&b);
    mem_free(partial);
}

static void other_name(char *plan) { strstr(plan, "layers.0.q")[9] = 'Q'; }
static void other_type(char *plan) { memcpy(strstr(plan, "\"f32\""), "\"i32\"", 5); }
static void other_file(char *plan) { memcpy(strstr(plan, "config.json"), "cunfig", 6); }
/* The last tensor's place is the page before. */
static void other_place(char *plan) {
    char *at = strstr(strstr(plan, "\"scalar\""), "\"offset\":") + 9, text[24];
    int n = snprintf(text, sizeof text, "%ld", atol(at) - BASE_PAGE);
    assert_true(strspn(at, "0123456789") == (size_t)n);
    memcpy(at, text, (size_t)n);
}

static void test_resume_altered(void **state) {
    (void)state;
    check_altered("name.h5", other_name);
    check_altered("type.h5", other_type);
    check_altered("file.h5", other_file);
    check_altered("place.h5", other_place);
}

static void test_busy(void **state) {
    (void)state;
    bool busy;
    BaseWriter *w = open_writer(in("busy.h5"), &busy);
    assert_false(busy);
    assert_null(open_writer(in("busy.h5"), &busy));
    assert_true(busy);
    base_writer_abort(w);
    w = open_writer(in("busy.h5"), &busy);
    assert_false(busy);
    base_writer_abort(w);
}

/* ---- sizes ---- */

static void test_sizes(void **state) {
    (void)state;
    const int64_t huge = (int64_t)1 << 45;
    assert_int_equal(base_tensor_bytes(DT_bf16, 2, (int64_t[]){3, 5}), 30);
    assert_int_equal(base_tensor_bytes(DT_bf16, 2, (int64_t[]){3, 0}), -1);
    assert_int_equal(base_tensor_bytes(DT_bf16, 2, (int64_t[]){3, -1}), -1);
    assert_int_equal(base_tensor_bytes(DT_f32, 4, (int64_t[]){huge, huge, huge, huge}), -1);
    assert_int_equal(base_tensor_bytes(DT_tq4, 3, (int64_t[]){huge, huge, huge}), -1);
    assert_int_equal(base_tensor_bytes(DT_tq4, 1, (int64_t[]){64}), -1);
    assert_int_equal(base_tensor_bytes(DT_COUNT, 1, (int64_t[]){64}), -1);
    assert_int_equal(base_tensor_bytes(DT_q4_0, 2, (int64_t[]){3, 64}), 108);
    assert_int_equal(base_tensor_bytes(DT_q4_0, 2, (int64_t[]){32, 33}), -1);
    for (int d = 0; d < DT_COUNT; d++) {
        const int64_t dim[3] = {3, 70, dtype_in_blocks((DType)d) ? 256 : 130};
        assert_int_equal(base_tensor_bytes((DType)d, 3, dim), weight_bytes((DType)d, 3, dim));
    }
}

/* ---- random numbers ---- */

static void test_normals(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    float *x = mem_alloc(N * sizeof *x), part[1000];
    double sum[5] = {0};
    normals_fill(42, 3, 0, N, 0, 1, x);
    for (int i = 0; i < N; i++)
        for (int p = 1; p <= 4; p++) sum[p] += pow((double)x[i], p) / N;
    const double sigma = 1 / sqrt(N); /* of the mean; of the others below, times theirs: 5 sigma */
    assert_true(fabs(sum[1]) < 5 * sigma);
    assert_true(fabs(sum[2] - 1) < 5 * sigma * sqrt(2));
    assert_true(fabs(sum[3]) < 5 * sigma * sqrt(15));
    assert_true(fabs(sum[4] - 3) < 5 * sigma * sqrt(96));
    normals_fill(42, 3, 777, 1000, 0, 1, part);
    assert_memory_equal(part, x + 777, sizeof part);
    normals_fill(42, 3, 0, 1000, 2, 0, part);
    for (int i = 0; i < 1000; i++) assert_true(part[i] == 2);
    mem_free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_is_hdf5),
        cmocka_unit_test(test_damage),         cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_resume),         cmocka_unit_test(test_resume_damaged),
        cmocka_unit_test(test_resume_altered), cmocka_unit_test(test_busy),
        cmocka_unit_test(test_sizes),          cmocka_unit_test(test_normals),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
