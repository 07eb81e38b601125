/* gguf_writer.c - see gguf_writer.h. */
#include "gguf_writer.h"
#include <string.h>
#include <strings.h>
#include "files.h"

enum { VERSION = 3, ALIGN = 32, CHUNK = 1 << 18 };

/* ---- keys ---- */

static void put_u32(Buf *b, uint32_t x) {
    char byte[4];
    for (int i = 0; i < 4; i++) byte[i] = (char)(x >> (8 * i));
    buf_add(b, byte, sizeof byte);
}

static void put_u64(Buf *b, uint64_t x) {
    put_u32(b, (uint32_t)x);
    put_u32(b, (uint32_t)(x >> 32));
}

static void put_f32(Buf *b, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    put_u32(b, bits);
}

static void put_text(Buf *b, const char *text, size_t n) {
    put_u64(b, n);
    buf_add(b, text, n);
}

static void put_key(GgufOut *g, const char *key, uint32_t type) {
    put_text(&g->keys, key, strlen(key));
    put_u32(&g->keys, type);
    g->n_keys++;
}

static void put_array(GgufOut *g, const char *key, uint32_t type, size_t n) {
    put_key(g, key, GGUF_ARRAY);
    put_u32(&g->keys, type);
    put_u64(&g->keys, n);
}

void gguf_add_u32(GgufOut *g, const char *key, uint32_t value) {
    put_key(g, key, GGUF_U32);
    put_u32(&g->keys, value);
}

void gguf_add_f32(GgufOut *g, const char *key, float value) {
    put_key(g, key, GGUF_F32);
    put_f32(&g->keys, value);
}

void gguf_add_bool(GgufOut *g, const char *key, bool value) {
    put_key(g, key, GGUF_BOOL);
    buf_add(&g->keys, value ? "\1" : "", 1);
}

void gguf_add_text(GgufOut *g, const char *key, const char *text, size_t n) {
    put_key(g, key, GGUF_TEXT);
    put_text(&g->keys, text, n);
}

void gguf_add_u32s(GgufOut *g, const char *key, const uint32_t *value, size_t n) {
    put_array(g, key, GGUF_U32, n);
    for (size_t i = 0; i < n; i++) put_u32(&g->keys, value[i]);
}

void gguf_add_i32s(GgufOut *g, const char *key, const int32_t *value, size_t n) {
    put_array(g, key, GGUF_I32, n);
    for (size_t i = 0; i < n; i++) put_u32(&g->keys, (uint32_t)value[i]);
}

void gguf_add_f32s(GgufOut *g, const char *key, const float *value, size_t n) {
    put_array(g, key, GGUF_F32, n);
    for (size_t i = 0; i < n; i++) put_f32(&g->keys, value[i]);
}

void gguf_add_bools(GgufOut *g, const char *key, const bool *value, size_t n) {
    put_array(g, key, GGUF_BOOL, n);
    for (size_t i = 0; i < n; i++) buf_add(&g->keys, value[i] ? "\1" : "", 1);
}

void gguf_add_texts(GgufOut *g, const char *key, size_t n) { put_array(g, key, GGUF_TEXT, n); }

void gguf_add_next(GgufOut *g, const char *text, size_t n) { put_text(&g->keys, text, n); }

void gguf_add_copy(GgufOut *g, const GgufValue *v) {
    if (v->array)
        put_array(g, v->key, v->type, (size_t)v->n);
    else
        put_key(g, v->key, v->type);
    buf_add(&g->keys, v->at, (size_t)(v->end - v->at));
}

/* ---- tensors ---- */

static bool can_write(DType d) { return *dtype_info[d].gguf && dtype_info[d].from_f32; }

DType gguf_find_dtype(const char *word) {
    for (int d = 0; d < DT_COUNT && word; d++)
        if (can_write((DType)d) && !strcasecmp(dtype_info[d].gguf, word)) return (DType)d;
    return DT_COUNT;
}

bool gguf_can_hold(DType dtype, int64_t cols) {
    return can_write(dtype) && dtype_takes_rows(dtype, cols);
}

static int64_t numel(const GgufOutEntry *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++) n *= t->dim[i];
    return n;
}

static uint64_t padded(int64_t bytes) { return ((uint64_t)bytes + ALIGN - 1) / ALIGN * ALIGN; }

void gguf_add_entry(GgufOut *g, const GgufOutEntry *t) {
    size_t bytes = sizeof *t, n = (size_t)g->n_entries;
    CHECK(t->n_dim > 0 && t->n_dim <= WEIGHT_DIMS, "tensor %s has %d dimensions", t->name,
          t->n_dim);
    CHECK(t->data ? *dtype_info[t->dtype].gguf != 0 : gguf_can_hold(t->dtype, t->dim[t->n_dim - 1]),
          "tensor %s cannot be stored as %s", t->name, dtype_info[t->dtype].name);
    for (int i = 0; i < g->n_entries; i++)
        CHECK(strcmp(g->entry[i].name, t->name), "tensor %s twice", t->name);
    g->entry = mem_grow(g->entry, n * bytes, (n + 1) * bytes);
    g->entry[g->n_entries++] = *t;
}

static void put_header(Buf *out, const GgufOut *g) {
    uint64_t offset = 0;
    buf_add_text(out, "GGUF");
    put_u32(out, VERSION);
    put_u64(out, (uint64_t)g->n_entries);
    put_u64(out, (uint64_t)g->n_keys);
    buf_add(out, g->keys.p, g->keys.n);
    for (int i = 0; i < g->n_entries; i++) {
        const GgufOutEntry *t = &g->entry[i];
        put_text(out, t->name, strlen(t->name));
        put_u32(out, (uint32_t)t->n_dim);
        for (int k = t->n_dim - 1; k >= 0; k--) put_u64(out, (uint64_t)t->dim[k]);
        put_u32(out, (uint32_t)dtype_info[t->dtype].gguf_number);
        put_u64(out, offset);
        offset += padded(dtype_bytes(t->dtype, numel(t)));
    }
    while (out->n % ALIGN) buf_add(out, "", 1);
}

/* Some rows at a time: values, and what they become. f is gone after a failure. */
static int write_values(FileOut *f, const GgufOutEntry *t, Err *e) {
    int64_t cols = t->dim[t->n_dim - 1], n = numel(t), step = max64(CHUNK / cols, 1) * cols;
    float *values = mem_alloc(sizeof *values * (size_t)min64(step, n));
    char *stored = mem_alloc((size_t)dtype_bytes(t->dtype, min64(step, n)));
    int bad = 0;
    for (int64_t at = 0; at < n && !bad; at += step) {
        int64_t k = min64(step, n - at);
        bad = t->fill(t->ctx, at, k, values, e);
        if (bad)
            files_abort(f);
        else
            dtype_info[t->dtype].from_f32(values, stored, k);
        if (!bad) bad = files_write(f, stored, (size_t)dtype_bytes(t->dtype, k), e);
    }
    mem_free(values);
    mem_free(stored);
    return bad;
}

static int write_entry(FileOut *f, const GgufOutEntry *t, Err *e) {
    static const char zero[ALIGN];
    int64_t bytes = dtype_bytes(t->dtype, numel(t));
    TRY(t->data ? files_write(f, t->data, (size_t)bytes, e) : write_values(f, t, e));
    return files_write(f, zero, padded(bytes) - (size_t)bytes, e);
}

int gguf_write(const char *path, const GgufOut *g, Err *e) {
    Buf header = {0};
    FileOut f;
    put_header(&header, g);
    int bad = files_begin(&f, path, e);
    if (!bad) bad = files_write(&f, header.p, header.n, e);
    for (int i = 0; i < g->n_entries && !bad; i++) bad = write_entry(&f, &g->entry[i], e);
    buf_free(&header);
    return bad ? -1 : files_commit(&f, e);
}

void gguf_file_free(GgufOut *g) {
    buf_free(&g->keys);
    mem_free(g->entry);
    *g = (GgufOut){0};
}
