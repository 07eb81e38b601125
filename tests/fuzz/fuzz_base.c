/* fuzz_base.c - any bytes as a base.h5, and any JSON as the index of one: refused with a sentence,
 * or every tensor and file lies inside the file. (No bytes that a fuzzer finds have the hash that
 * the first asks for: the second is what lies behind it.) */
#include <string.h>
#include "data/base_file.h"
#include "data/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_index(const BaseIndex *x, int64_t from, int64_t to) {
    for (int i = 0; i < x->n_tensors; i++) {
        const BaseTensor *t = &x->tensor[i];
        CHECK(t->offset >= from && t->bytes > 0 && t->bytes <= to - t->offset, "tensor %s",
              t->name);
        CHECK(base_tensor_bytes(t->dtype, t->n_dim, t->dim) == t->bytes, "tensor %s", t->name);
    }
    for (int i = 0; i < x->n_files; i++) {
        const BaseBlob *f = &x->file[i];
        CHECK(f->offset >= from && f->bytes >= 0 && f->bytes <= to - f->offset, "file %s", f->name);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    BaseIndex x;
    Err e;
    json_t *json;
    const BaseBlock block = {
        .whole = true, .bytes = 1 << 30, .index_at = BASE_PAGE, .index_size = BASE_PAGE};
    if (base_index_read(&x, data, size, "input", &e) == 0) base_index_free(&x);
    if (json_read_text(&json, (const char *)data, size, "input", &e)) return 0;
    if (base_index_parse(&x, json, &block, "input", &e)) return 0;
    check_index(&x, block.index_at + block.index_size, block.bytes);
    base_index_free(&x);
    return 0;
}
