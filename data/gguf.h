/* gguf.h - GGUF, llama.cpp's files: "GGUF", version, how many tensors and how many values; the
 * values (key, type, value); the tensors' names, dimensions, types and places; then, aligned, their
 * bytes. Little-endian; versions 2 and 3, whose layout is one. Source: docs/gguf.md of ggml.
 *
 * Reading trusts nothing and is as strict as llama.cpp: no key and no name comes twice, tensors lie
 * one behind the other without gaps, all of it inside the file. */
#ifndef GGUF_H
#define GGUF_H
#include "weights.h"

typedef enum GgufType {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
} GgufType;

typedef struct GgufValue {
    const char *key;
    GgufType type; /* of the value, or of an array's elements: never GGUF_ARRAY */
    bool array;
    int64_t n; /* elements; 1 */
    const char *at, *end;
} GgufValue;

typedef struct GgufEntry {
    const char *name;
    DType dtype;
    int n_dim;
    int64_t dim[WEIGHT_DIMS]; /* row-major: the last one is GGUF's first */
    int64_t from, bytes;      /* in the file */
} GgufEntry;

typedef struct Gguf {
    GgufValue *value; /* in order of keys (strcmp) */
    GgufEntry *entry;
    int n_values, n_entries;
    const char *file; /* for messages */
    const char *data;
    size_t n;
    bool mapped;
} Gguf;

bool gguf_claims(
    const char *path); /* whether a path is named as such files are, or begins as one */
/* Maps a file and reads all but the tensors' bytes; freed by gguf_close (NULL is fine). */
int gguf_open(Gguf **out, const char *path, Err *e);
/* The same of a whole file in memory, which must outlive it; file names it in messages. */
int gguf_parse(Gguf **out, const void *data, size_t n, const char *file, Err *e);
void gguf_close(Gguf *g);

const GgufValue *gguf_find(const Gguf *g, const char *key); /* NULL: no such key */
const GgufEntry *gguf_find_entry(const Gguf *g, const char *name);
static inline const void *gguf_entry_data(const Gguf *g, const GgufEntry *t) {
    return g->data + t->from;
}

/* Values by type, as in json.h: a missing one leaves *out as it was, one of another type or out of
 * range is an error. Texts are not terminated. */
int gguf_get_int(const Gguf *g, const char *key, int64_t low, int64_t high, int64_t *out, Err *e);
int gguf_get_real(const Gguf *g, const char *key, double *out, Err *e);
int gguf_get_bool(const Gguf *g, const char *key, bool *out, Err *e);
int gguf_get_text(const Gguf *g, const char *key, const char **out, size_t *n, Err *e);
/* The beginning of a text as a sentence may quote it: what is not plain ASCII is "?". */
typedef struct GgufWord {
    char text[72];
} GgufWord;
GgufWord gguf_word(const char *text, size_t n);
/* An array whose elements are whole numbers or bools (int), numbers (real), or texts. */
typedef enum GgufKind { GGUF_INTS, GGUF_REALS, GGUF_TEXTS } GgufKind;
int gguf_get_array(const Gguf *g, const char *key, GgufKind kind, const GgufValue **out, Err *e);

/* Element i of such an array (or the value itself, i 0): whole numbers and bools; any numbers. */
int64_t gguf_int_at(const GgufValue *v, int64_t i);
double gguf_real_at(const GgufValue *v, int64_t i);
/* Texts one after the other: *at starts as v->at; false at the end. */
bool gguf_take_text(const GgufValue *v, const char **at, const char **text, size_t *n);
#endif
