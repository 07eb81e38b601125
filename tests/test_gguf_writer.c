/* test_gguf_writer.c - a written GGUF file is, byte for byte, what ggml's own writer makes of the
 * same keys and tensors: tests/golden/gguf/sample.gguf, by make_sample.py beside it. */
#include "data/gguf_writer.h"
#include "scratch.h"

/* The sample's values, in the same float32 steps. */
static int fill(void *ctx, int64_t first, int64_t n, float *dst, Err *e) {
    (void)ctx, (void)e;
    for (int64_t i = 0; i < n; i++) dst[i] = (float)((first + i) * 7919 % 10007) / 997.0f - 5.0f;
    return 0;
}

static const GgufOutEntry tensors[] = {
    {"token_embd.weight", DT_f32, 2, {5, 64}, NULL, fill, NULL},
    {"blk.0.attn_norm.weight", DT_f32, 1, {7}, NULL, fill, NULL},
    {"blk.0.ffn_gate_up_exps.weight", DT_f16, 3, {3, 2, 32}, NULL, fill, NULL},
    {"blk.0.attn_q.weight", DT_bf16, 2, {3, 11}, NULL, fill, NULL},
    {"blk.0.attn_k.weight", DT_q8_0, 2, {5, 96}, NULL, fill, NULL},
    {"blk.0.attn_v.weight", DT_q4_0, 2, {5, 32}, NULL, fill, NULL},
    {"blk.0.ffn_down_exps.weight", DT_mxfp4_gguf, 3, {3, 2, 64}, NULL, fill, NULL},
};

static void add_sample(GgufOut *g) {
    static const char text[] = "größer\nals \"0\"";
    static const char *const pieces[] = {"<pad>", "\xe2\x96\x81",
                                         "a\xe2\x96\x81"
                                         "b"};
    gguf_add_text(g, "general.architecture", "gemma4", 6);
    gguf_add_u32(g, "a.count", 7);
    gguf_add_f32(g, "a.epsilon", 1e-6f);
    gguf_add_bool(g, "a.yes", true);
    gguf_add_bool(g, "a.no", false);
    gguf_add_text(g, "a.text", text, strlen(text));
    gguf_add_u32s(g, "a.counts", (uint32_t[]){2, 2, 4000000000}, 3);
    gguf_add_i32s(g, "a.signed", (int32_t[]){3, -1}, 2);
    gguf_add_f32s(g, "a.scores", (float[]){0.5f, -1000}, 2);
    gguf_add_bools(g, "a.pattern", (bool[]){true, false, true}, 3);
    gguf_add_texts(g, "a.pieces", COUNT_OF(pieces));
    for (size_t i = 0; i < COUNT_OF(pieces); i++) gguf_add_next(g, pieces[i], strlen(pieces[i]));
    for (size_t i = 0; i < COUNT_OF(tensors); i++) gguf_add_entry(g, &tensors[i]);
}

static void test_bytes_are_ggmls(void **state) {
    (void)state;
    GgufOut g = {0};
    Buf ours = {0}, theirs = {0};
    char *path = files_join(root, "sample.gguf");
    add_sample(&g);
    ok(gguf_write(path, &g, &err));
    ok(files_read(path, &ours, &err));
    ok(files_read("tests/golden/gguf/sample.gguf", &theirs, &err));
    assert_int_equal(ours.n, theirs.n);
    for (size_t i = 0; i < ours.n; i++) {
        if (ours.p[i] != theirs.p[i]) fail_msg("the files differ from byte %zu on", i);
    }
    buf_free(&ours);
    buf_free(&theirs);
    gguf_file_free(&g);
    mem_free(path);
}

static int fail_late(void *ctx, int64_t first, int64_t n, float *dst, Err *e) {
    (void)ctx, (void)first, (void)n, (void)dst;
    return err_set(e, "no more values");
}

/* A file that cannot be finished leaves nothing, or what was there before. */
static void test_failure_leaves_the_old_file(void **state) {
    (void)state;
    GgufOut g = {0};
    Buf left = {0};
    char *path = files_join(root, "old.gguf");
    ok(files_write_whole(path, "old", 3, &err));
    add_sample(&g);
    gguf_add_entry(&g, &(GgufOutEntry){"late", DT_f32, 1, {9}, NULL, fail_late, NULL});
    assert_int_equal(gguf_write(path, &g, &err), -1);
    assert_string_equal(err.text, "no more values");
    ok(files_read(path, &left, &err));
    assert_string_equal(left.p, "old");
    ok(files_remove(path, &err));
    assert_int_equal(gguf_write(path, &g, &err), -1);
    assert_false(files_exists(path));
    buf_free(&left);
    gguf_file_free(&g);
    mem_free(path);
}

static void test_what_a_file_can_hold(void **state) {
    (void)state;
    assert_true(gguf_can_hold(DT_bf16, 3));
    assert_true(gguf_can_hold(DT_q4_0, 96));
    assert_false(gguf_can_hold(DT_q4_0, 100));
    assert_false(gguf_can_hold(DT_q4_k, 256)); /* read only */
    assert_false(gguf_can_hold(DT_nf4, 64));
    assert_false(gguf_can_hold(DT_tq4, 64));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bytes_are_ggmls),
                                       cmocka_unit_test(test_failure_leaves_the_old_file),
                                       cmocka_unit_test(test_what_a_file_can_hold)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
