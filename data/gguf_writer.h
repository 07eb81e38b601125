/* gguf_writer.h - writes GGUF v3, the file format of llama.cpp: magic, counts, (key, value) pairs,
 * a table of tensors, then their data, each padded to 32 bytes; little-endian. Source: docs/gguf.md
 * of ggml. Keys and tensors are collected first; values are made and encoded while they are
 * written, some rows at a time. */
#ifndef GGUF_WRITER_H
#define GGUF_WRITER_H
#include "gguf.h"

enum { GGUF_NAME_MAX = 63 };

/* n values from first on of the whole row-major tensor; -1 with Err stops the writing. */
typedef int (*GgufFill)(void *ctx, int64_t first, int64_t n, float *dst, Err *e);

typedef struct GgufOutEntry {
    char name[GGUF_NAME_MAX + 1];
    DType dtype;
    int n_dim;
    int64_t dim[WEIGHT_DIMS]; /* row-major as everywhere here; the file has them reversed */
    const void *data;         /* as stored; NULL: fill makes the values */
    GgufFill fill;
    void *ctx;
} GgufOutEntry;

/* What a file is to hold. All zero: nothing yet. Keys and tensors stand in the file in the order
 * in which they were added, and no two may have the same name. */
typedef struct GgufOut {
    Buf keys; /* as in the file */
    int64_t n_keys;
    GgufOutEntry *entry;
    int n_entries;
} GgufOut;

void gguf_add_u32(GgufOut *g, const char *key, uint32_t value);
void gguf_add_f32(GgufOut *g, const char *key, float value);
void gguf_add_bool(GgufOut *g, const char *key, bool value);
void gguf_add_text(GgufOut *g, const char *key, const char *text, size_t n);
void gguf_add_u32s(GgufOut *g, const char *key, const uint32_t *value, size_t n);
void gguf_add_i32s(GgufOut *g, const char *key, const int32_t *value, size_t n);
void gguf_add_f32s(GgufOut *g, const char *key, const float *value, size_t n);
void gguf_add_bools(GgufOut *g, const char *key, const bool *value, size_t n);
/* An array of n texts: follow it with n calls of gguf_add_next. */
void gguf_add_texts(GgufOut *g, const char *key, size_t n);
void gguf_add_next(GgufOut *g, const char *text, size_t n);
/* A key of another file, whatever its value is. */
void gguf_add_copy(GgufOut *g, const GgufValue *v);

/* By the word that llama.cpp has for it, in small letters ("q8_0"); DT_COUNT where word is NULL or
 * none that can be written. */
DType gguf_find_dtype(const char *word);
/* Whether rows of so many values can be written in a format. */
bool gguf_can_hold(DType dtype, int64_t cols);
/* t is copied; what its data or ctx point to must live until the file is written. */
void gguf_add_entry(GgufOut *g, const GgufOutEntry *t);

/* Writes beside and renames; g stays as it is. */
int gguf_write(const char *path, const GgufOut *g, Err *e);
void gguf_file_free(GgufOut *g);
#endif
