/* test_nf4.c - NF4 against bitsandbytes' own codes, absmax and opened values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include "../autograd/quant/codebook.h"
#include "../autograd/quant/nf4_flat.h"
#include "../data/weights_bnb.h"
#include "stored.h"
#include "oracle.h"

static int nf4_cases;

static const WeightView *view(Weights *file, const char *name, const char *part) {
    char whole[64];
    snprintf(whole, sizeof whole, "%s.%s", name, part);
    return weights_find(file, whole);
}
static int64_t numel(const WeightView *v) {
    int64_t n = 1;
    for (int i = 0; i < v->n_dim; i++) n *= v->dim[i];
    return n;
}

/* Opened values as bitsandbytes gives them: rounded to the source's type. */
static void check_opened(const char *name, const WeightView *want, const float *opened) {
    int64_t n = numel(want);
    char *rounded = mem_alloc((size_t)want->bytes);
    dtype_info[want->dtype].from_f32(opened, rounded, n);
    if (memcmp(rounded, want->data, (size_t)want->bytes)) fail_msg("%s opens otherwise", name);
    mem_free(rounded);
}

static void check_nf4_flat(Weights *file, const char *name, const float *x, int64_t n) {
    const WeightView *codes = view(file, name, "b64.codes"),
                     *absmax = view(file, name, "b64.absmax");
    Tensor w = stored(DT_nf4_flat, x, 1, &n, 0xff);
    const char *stored_absmax = (const char *)w.data + nf4_flat_code_bytes(n);
    assert_int_equal(codes->bytes, (n + 1) / 2);
    for (int64_t i = 0; i < n; i++) { /* a last odd nibble means nothing */
        int a = ((const uint8_t *)w.data)[i / 2] >> (i % 2 ? 0 : 4) & 15;
        int b = ((const uint8_t *)codes->data)[i / 2] >> (i % 2 ? 0 : 4) & 15;
        if (a != b) fail_msg("%s: code %ld is %d, not %d", name, (long)i, a, b);
    }
    assert_memory_equal(stored_absmax, absmax->data, (size_t)absmax->bytes);
    float *opened = floats(n);
    weight_values(&w, 0, n, opened);
    check_opened(name, view(file, name, "b64.dequantised"), opened);
    mem_free(opened);
    mem_free(w.data);
}

static void check_nf4_panels(Weights *file, const char *name, DType d, const float *x, int64_t rows,
                             int64_t cols) {
    const WeightView *codes = view(file, name, "b64.codes"),
                     *absmax = view(file, name, "b64.absmax");
    Tensor w = stored_2d(d, x, rows, cols);
    float *opened = floats(rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        int64_t r = i / cols, c = i % cols;
        const char *block =
            (const char *)weight_panel(&w, 0, r / 32) + c / 64 * dtype_info[d].packed->block_bytes;
        int a = code_at(block, (int)(r % 32), (int)(c % 64));
        int b = ((const uint8_t *)codes->data)[i / 2] >> (i % 2 ? 0 : 4) & 15;
        if (a != b) fail_msg("%s: code %ld is %d, not %d", name, (long)i, a, b);
        float scale = d == DT_nf4 ? f32_at(block + 1024, (int)(r % 32))
                                  : bf16_at(block + 1024, (int)(r % 32));
        assert_true(scale == f32_at(absmax->data, (int)(i / 64)));
    }
    weight_values(&w, 0, rows * cols, opened);
    check_opened(name, view(file, name, "b64.dequantised"), opened);
    mem_free(opened);
    mem_free(w.data);
}

/* absmax quantised in turn, of blocks of 64 or 128, is opened too. Not where 16-bit rows of even
 * length are no multiple of a block: there bitsandbytes 0.50.2 on a CPU opens with the absmax of
 * another block (it counts cols / block of them a row). */
static void check_nested(Weights *file, const char *name, int block) {
    char at[32];
    snprintf(at, sizeof at, "%s.b%d.nested", name, block);
    const WeightView *codes = view(file, at, "codes"), *absmax = view(file, at, "absmax");
    if (!codes) return;
    const WeightView *result = view(file, at, "dequantised");
    int64_t cols = result->dim[1];
    if (result->dtype != DT_f32 && cols % 2 == 0 && cols % block) return;
    const Bnb b = {.block = block,
                   .nested = absmax->data,
                   .nested_map = view(file, at, "state2.code")->data,
                   .nested_absmax = view(file, at, "state2.absmax")->data,
                   .nested_block = 256,
                   .offset = f32_at(view(file, at, "offset")->data, 0)};
    int64_t n = numel(result);
    float *x = floats(n);
    for (int64_t i = 0; i < n; i++) {
        int code = ((const uint8_t *)codes->data)[i / 2] >> (i % 2 ? 0 : 4) & 15;
        x[i] = NF4_VALUE[code] * bnb_absmax(&b, i / block);
    }
    check_opened(at, result, x);
    mem_free(x);
    nf4_cases++;
}

static void check_nf4_file(const char *path) {
    static const char *const names[] = {"f32", "bf16", "f16", "ragged", "zeros", "outlier"};
    Weights *file;
    Err e;
    if (weights_open(&file, path, &e)) fail_msg("%s", e.text);
    const WeightView *book = weights_find(file, "codebook");
    if (book) assert_memory_equal(book->data, NF4_VALUE, sizeof NF4_VALUE);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const WeightView *source = view(file, names[i], "source");
        if (!source) continue;
        int64_t rows = source->dim[0], cols = source->dim[1];
        float *x = floats(rows * cols);
        dtype_info[source->dtype].to_f32(source->data, x, rows * cols);
        check_nf4_flat(file, names[i], x, rows * cols);
        DType d = weight_format_of("nf4", source->dtype, cols);
        if (d != DT_nf4_flat) {
            check_nf4_panels(file, names[i], DT_nf4, x, rows, cols);
            check_nf4_panels(file, names[i], d, x, rows, cols);
        }
        check_nested(file, names[i], 64);
        check_nested(file, names[i], 128);
        mem_free(x);
        nf4_cases++;
    }
    weights_close(file);
}

static void test_nf4_golden(void **state) {
    (void)state;
    nf4_cases = 0;
    check_nf4_file("tests/golden/quant/nf4.safetensors");
    assert_int_equal(nf4_cases, 5); /* three sources, two nested */
}
static void test_nf4_oracle(void **state) {
    (void)state;
    nf4_cases = 0;
    check_nf4_file(oracle_file("quant/nf4.safetensors"));
    assert_true(nf4_cases > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nf4_golden),
                                       cmocka_unit_test(test_nf4_oracle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
