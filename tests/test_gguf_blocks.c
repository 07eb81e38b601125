/* test_gguf_blocks.c - the formats in blocks against llama.cpp's package gguf: every value that its
 * blocks stand for, bit for bit, and the blocks that it makes of values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../data/weights.h"
#include "stored.h"
#include "oracle.h"

static int compared;

static const WeightView *view(Weights *file, const char *name, const char *what) {
    char whole[128];
    snprintf(whole, sizeof whole, "%s.%s", name, what);
    return weights_find(file, whole);
}

/* name: "Q4_0" and "Q4_0.any" are both of DT_q4_0; values: how this file calls them. */
static void check_blocks(Weights *file, DType d, const char *name, const char *values) {
    const WeightView *blocks = view(file, name, "blocks"), *want = view(file, name, values);
    if (!blocks || !want) return;
    int64_t rows = want->dim[0], cols = want->dim[1];
    Tensor w = {
        .dtype = d, .n_dim = 2, .dim = {rows, cols}, .data = (void *)(uintptr_t)blocks->data};
    assert_int_equal(blocks->bytes, tensor_bytes(&w));
    float *got = floats(rows * cols);
    weight_values(&w, 0, rows * cols, got);
    for (int64_t i = 0; i < rows * cols; i++) {
        float v = ((const float *)want->data)[i];
        if (f32_to_bits(got[i]) != f32_to_bits(v))
            fail_msg("%s: value %ld opens as %.9g, not %.9g", name, (long)i, (double)got[i],
                     (double)v);
    }
    mem_free(got);
    compared++;
}

static void check_encoder(Weights *file, DType d, const char *name) {
    const WeightView *blocks = view(file, name, "blocks"), *source = weights_find(file, "source");
    int64_t n = source->dim[0] * source->dim[1];
    char *got = mem_alloc((size_t)dtype_bytes(d, n));
    assert_int_equal(blocks->bytes, dtype_bytes(d, n));
    dtype_info[d].from_f32(source->data, got, n);
    for (int64_t i = 0; i < blocks->bytes; i++) {
        if (got[i] != ((const char *)blocks->data)[i])
            fail_msg("%s: byte %ld of block %ld is written otherwise", name,
                     (long)(i % dtype_info[d].block_bytes), (long)(i / dtype_info[d].block_bytes));
    }
    mem_free(got);
    compared++;
}

static void check_file(const char *path, const char *values) {
    Weights *file;
    Err e;
    if (weights_open(&file, path, &e)) fail_msg("%s", e.text);
    compared = 0;
    for (DType d = 0; d < DT_COUNT; d++) {
        char any[32];
        if (!dtype_in_blocks(d)) continue;
        snprintf(any, sizeof any, "%s.any", dtype_info[d].gguf);
        check_blocks(file, d, dtype_info[d].gguf, values);
        check_blocks(file, d, any, values);
        if (dtype_info[d].from_f32) check_encoder(file, d, dtype_info[d].gguf);
    }
    weights_close(file);
}

static void test_golden(void **state) {
    (void)state;
    check_file("tests/golden/quant/gguf.safetensors", "values");
    assert_int_equal(compared, 6 + 6 + 3); /* as encoded, any, encoders */
}

static void test_oracle(void **state) {
    (void)state;
    check_file(oracle_file("quant/gguf.safetensors"), "dequantised");
    assert_int_equal(compared, 9 + 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
                                       cmocka_unit_test(test_oracle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
