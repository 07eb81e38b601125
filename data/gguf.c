/* gguf.c - see gguf.h. */
#include "gguf.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "files.h"

enum { NAME_MOST = 255, KEY_MOST = 65535, ALIGN_MOST = 1 << 20 };

/* Bytes of a value; 0: texts and arrays. */
static const int type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_U64] = 8, [GGUF_BOOL] = 1, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

/* Tensor types that only have a name here. */
static const struct {
    int number;
    const char *name;
} other_types[] = {{9, "Q8_1"},    {10, "Q2_K"},    {11, "Q3_K"},  {15, "Q8_K"},   {16, "IQ2_XXS"},
                   {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"},
                   {22, "IQ2_S"},  {23, "IQ4_XS"},  {24, "I8"},    {25, "I16"},    {27, "I64"},
                   {28, "F64"},    {29, "IQ1_M"},   {34, "TQ1_0"}, {35, "TQ2_0"},  {40, "NVFP4"}};

/* ---- bytes ---- */

typedef struct Cursor {
    const char *p, *end, *file;
} Cursor;

static int truncated(const Cursor *c, Err *e) {
    return err_set(e, "%s: the file ends in the middle of its header; fetch it again", c->file);
}
static size_t left(const Cursor *c) { return (size_t)(c->end - c->p); }

static int take(Cursor *c, void *out, size_t n, Err *e) {
    if (left(c) < n) return truncated(c, e);
    memcpy(out, c->p, n);
    c->p += n;
    return 0;
}

static int skip(Cursor *c, uint64_t n, Err *e) {
    if (left(c) < n) return truncated(c, e);
    c->p += n;
    return 0;
}

/* Keys and names are plain words: they stand in one-line messages. */
static int take_name(Cursor *c, size_t most, char **out, const char *what, Err *e) {
    uint64_t n = 0;
    TRY(take(c, &n, sizeof n, e));
    if (left(c) < n) return truncated(c, e);
    bool plain = n > 0 && n <= most;
    for (uint64_t i = 0; i < n && plain; i++) plain = c->p[i] > ' ' && c->p[i] <= '~';
    if (!plain)
        return err_set(e, "%s: the name of a %s is empty, too long or not plain text", c->file,
                       what);
    *out = mem_alloc((size_t)n + 1);
    memcpy(*out, c->p, (size_t)n);
    return skip(c, n, e);
}

/* How many things of at least `least` bytes are said to follow. */
static int take_count(Cursor *c, size_t least, int *out, Err *e) {
    uint64_t n = 0;
    TRY(take(c, &n, sizeof n, e));
    if (n > left(c) / least || n > INT32_MAX) return truncated(c, e);
    *out = (int)n;
    return 0;
}

/* ---- values ---- */

static int skip_elements(Cursor *c, const GgufValue *v, Err *e) {
    uint64_t n = 0, bytes = 0;
    if (v->type != GGUF_TEXT) {
        if (__builtin_mul_overflow((uint64_t)v->n, (uint64_t)type_bytes[v->type], &bytes))
            return truncated(c, e);
        return skip(c, bytes, e);
    }
    for (int64_t i = 0; i < v->n; i++) {
        TRY(take(c, &n, sizeof n, e));
        TRY(skip(c, n, e));
    }
    return 0;
}

static int take_type(Cursor *c, const char *key, GgufType *out, Err *e) {
    uint32_t type = 0;
    TRY(take(c, &type, sizeof type, e));
    if (type >= GGUF_TYPES)
        return err_set(e, "%s: the value of %s is of type %" PRIu32 ", which GGUF does not have",
                       c->file, key, type);
    *out = (GgufType)type;
    return 0;
}

static int take_value(Cursor *c, GgufValue *v, Err *e) {
    uint64_t n = 1;
    char *key;
    TRY(take_name(c, KEY_MOST, &key, "value", e));
    v->key = key;
    TRY(take_type(c, key, &v->type, e));
    if (v->type == GGUF_ARRAY) {
        v->array = true;
        TRY(take_type(c, key, &v->type, e));
        TRY(take(c, &n, sizeof n, e));
        if (v->type == GGUF_ARRAY)
            return err_set(e, "%s: the value of %s is an array of arrays", c->file, key);
    }
    if (n > left(c)) return truncated(c, e);
    v->n = (int64_t)n;
    v->at = c->p;
    TRY(skip_elements(c, v, e));
    v->end = c->p;
    return 0;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const GgufValue *)a)->key, ((const GgufValue *)b)->key);
}

static int take_values(Cursor *c, Gguf *g, int n, Err *e) {
    g->value = mem_alloc(sizeof *g->value * (size_t)(n + 1));
    while (g->n_values < n) TRY(take_value(c, &g->value[g->n_values++], e));
    qsort(g->value, (size_t)n, sizeof *g->value, by_key);
    for (int i = 1; i < n; i++)
        if (!by_key(&g->value[i - 1], &g->value[i]))
            return err_set(e, "%s: the key %s comes twice", c->file, g->value[i].key);
    return 0;
}

const GgufValue *gguf_find(const Gguf *g, const char *key) {
    const GgufValue sought = {.key = key};
    if (!g->n_values) return NULL;
    return bsearch(&sought, g->value, (size_t)g->n_values, sizeof sought, by_key);
}

/* ---- tensors ---- */

static DType dtype_of(uint32_t number) {
    for (int d = 0; d < DT_COUNT; d++)
        if (*dtype_info[d].gguf && dtype_info[d].gguf_number == (int64_t)number) return (DType)d;
    return DT_COUNT;
}

static int unknown_type(const Cursor *c, const char *name, uint32_t number, Err *e) {
    Buf known = {0};
    char text[24];
    const char *is = text;
    snprintf(text, sizeof text, "type %" PRIu32, number);
    for (size_t i = 0; i < COUNT_OF(other_types); i++)
        if (other_types[i].number == (int64_t)number) is = other_types[i].name;
    for (int d = 0; d < DT_COUNT; d++)
        if (dtype_is_weight((DType)d) && *dtype_info[d].gguf)
            buf_printf(&known, "%s%s", known.n ? ", " : "", dtype_info[d].gguf);
    err_set(e, "%s: tensor %s is stored as %s; %s can be read: give another quantisation of it",
            c->file, name, is, known.p);
    buf_free(&known);
    return -1;
}

/* ne[0] is the fastest dimension. */
static int take_dims(Cursor *c, GgufEntry *t, int64_t *numel, Err *e) {
    uint32_t n = 0;
    TRY(take(c, &n, sizeof n, e));
    if (n < 1 || n > WEIGHT_DIMS)
        return err_set(e, "%s: tensor %s has %" PRIu32 " dimensions, expected 1 to %d", c->file,
                       t->name, n, WEIGHT_DIMS);
    t->n_dim = (int)n;
    *numel = 1;
    for (int i = t->n_dim - 1; i >= 0; i--) {
        TRY(take(c, &t->dim[i], sizeof t->dim[i], e));
        if (t->dim[i] < 1 || __builtin_mul_overflow(*numel, t->dim[i], numel) ||
            *numel > (int64_t)1 << 56)
            return err_set(e, "%s: tensor %s has a dimension of %" PRId64 ", which cannot be",
                           c->file, t->name, t->dim[i]);
    }
    return 0;
}

static int take_tensor(Cursor *c, GgufEntry *t, Err *e) {
    uint32_t number = 0;
    int64_t numel = 0;
    char *name;
    TRY(take_name(c, NAME_MOST, &name, "tensor", e));
    t->name = name;
    TRY(take_dims(c, t, &numel, e));
    TRY(take(c, &number, sizeof number, e));
    TRY(take(c, &t->from, sizeof t->from, e));
    t->dtype = dtype_of(number);
    if (t->dtype == DT_COUNT) return unknown_type(c, name, number, e);
    int64_t cols = t->dim[t->n_dim - 1];
    if (!dtype_takes_rows(t->dtype, cols))
        return err_set(
            e, "%s: tensor %s has rows of %" PRId64 " values, which are no whole blocks of %s",
            c->file, name, cols, dtype_info[t->dtype].gguf);
    t->bytes = dtype_bytes(t->dtype, numel);
    return 0;
}

/* Places count from the first aligned byte behind the header; every tensor is filled up to the
 * alignment, the last one perhaps not. */
static int place_tensors(const Cursor *c, Gguf *g, Err *e) {
    int64_t align = 32, at = 0;
    TRY(gguf_get_int(g, "general.alignment", 1, ALIGN_MOST, &align, e));
    if (align & (align - 1))
        return err_set(e, "%s: general.alignment is %" PRId64 ", which is no power of two", c->file,
                       align);
    int64_t start = (c->p - g->data + align - 1) / align * align, room = (int64_t)g->n - start;
    for (int i = 0; i < g->n_entries; i++) {
        GgufEntry *t = &g->entry[i];
        if (t->from != at)
            return err_set(e,
                           "%s: tensor %s lies at %" PRId64 ", expected right behind the one "
                           "before it, at %" PRId64,
                           c->file, t->name, t->from, at);
        if (at > room || t->bytes > room - at)
            return err_set(e, "%s: tensor %s ends behind the end of the file; fetch it again",
                           c->file, t->name);
        t->from += start;
        at += (t->bytes + align - 1) / align * align;
    }
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const GgufEntry *const *)a)->name, (*(const GgufEntry *const *)b)->name);
}

static int check_names(const Gguf *g, Err *e) {
    const GgufEntry **t = mem_alloc(sizeof *t * (size_t)(g->n_entries + 1));
    const char *twice = NULL;
    for (int i = 0; i < g->n_entries; i++) t[i] = &g->entry[i];
    qsort(t, (size_t)g->n_entries, sizeof *t, by_name);
    for (int i = 1; i < g->n_entries; i++)
        if (!by_name(&t[i - 1], &t[i])) twice = t[i]->name;
    mem_free(t);
    return twice ? err_set(e, "%s: tensor %s comes twice", g->file, twice) : 0;
}

const GgufEntry *gguf_find_entry(const Gguf *g, const char *name) {
    for (int i = 0; i < g->n_entries; i++)
        if (!strcmp(g->entry[i].name, name)) return &g->entry[i];
    return NULL;
}

/* ---- the file ---- */

static int take_head(Cursor *c, int *n_entries, int *n_values, Err *e) {
    char magic[4];
    uint32_t version = 0;
    if (left(c) < sizeof magic || memcmp(c->p, "GGUF", sizeof magic))
        return err_set(e, "%s is no GGUF file: it does not begin with GGUF", c->file);
    TRY(take(c, magic, sizeof magic, e));
    TRY(take(c, &version, sizeof version, e));
    if (version != 2 && version != 3)
        return err_set(e, "%s is a GGUF file of version %" PRIu32 "%s; 2 and 3 can be read",
                       c->file, version, version & 0xffff ? "" : " (big-endian)");
    enum { LEAST_VALUE = 8 + 1 + 4 + 1, LEAST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8 };
    TRY(take_count(c, LEAST_TENSOR, n_entries, e));
    return take_count(c, LEAST_VALUE, n_values, e);
}

static int check_split(const Gguf *g, Err *e) {
    int64_t parts = 1;
    TRY(gguf_get_int(g, "split.count", 0, UINT16_MAX, &parts, e));
    if (parts <= 1) return 0;
    return err_set(e,
                   "%s is one of %" PRId64 " parts of a split model; join them first "
                   "(llama-gguf-split --merge) and give the whole",
                   g->file, parts);
}

static int read_file(Gguf *g, Err *e) {
    Cursor c = {g->data, g->data + g->n, g->file};
    int n_entries = 0, n_values = 0;
    TRY(take_head(&c, &n_entries, &n_values, e));
    TRY(take_values(&c, g, n_values, e));
    TRY(check_split(g, e));
    g->entry = mem_alloc(sizeof *g->entry * (size_t)(n_entries + 1));
    while (g->n_entries < n_entries) TRY(take_tensor(&c, &g->entry[g->n_entries++], e));
    TRY(check_names(g, e));
    return place_tensors(&c, g, e);
}

int gguf_parse(Gguf **out, const void *data, size_t n, const char *file, Err *e) {
    Gguf *g = mem_alloc(sizeof *g);
    *g = (Gguf){.file = mem_copy_text(file), .data = n ? data : "", .n = n};
    int bad = read_file(g, e);
    if (bad) gguf_close(g);
    *out = bad ? NULL : g;
    return bad;
}

int gguf_open(Gguf **out, const char *path, Err *e) {
    const void *data;
    size_t n;
    TRY(files_map(path, &data, &n, e));
    int bad = gguf_parse(out, data, n, path, e);
    if (bad)
        files_unmap(data, n);
    else
        (*out)->mapped = true;
    return bad;
}

void gguf_close(Gguf *g) {
    if (!g) return;
    for (int i = 0; i < g->n_values; i++) mem_free((char *)(uintptr_t)g->value[i].key);
    for (int i = 0; i < g->n_entries; i++) mem_free((char *)(uintptr_t)g->entry[i].name);
    if (g->mapped) files_unmap(g->data, g->n);
    mem_free(g->value);
    mem_free(g->entry);
    mem_free((char *)(uintptr_t)g->file);
    mem_free(g);
}

static bool begins_as_gguf(const char *path) {
    char magic[4];
    Err ignored;
    FILE *f = files_check_regular(path, &ignored) ? NULL : fopen(path, "rb");
    if (!f) return false;
    bool begins =
        fread(magic, 1, sizeof magic, f) == sizeof magic && !memcmp(magic, "GGUF", sizeof magic);
    fclose(f);
    return begins;
}

bool gguf_claims(const char *path) {
    if (files_is_dir(path)) return false;
    return text_ends_with(path, ".gguf") || begins_as_gguf(path);
}

/* ---- values by type ---- */

static bool is_int(GgufType t) {
    return t != GGUF_F32 && t != GGUF_F64 && t != GGUF_TEXT && t != GGUF_BOOL;
}
static bool is_number(GgufType t) { return t != GGUF_TEXT && t != GGUF_BOOL; }

static int wrong(const Gguf *g, const char *key, const char *what, Err *e) {
    return err_set(e, "%s: the value of %s is not %s", g->file, key, what);
}

#define ELEMENT(v, i, Type)                                                                        \
    Type x;                                                                                        \
    memcpy(&x, (v)->at + (i) * (int64_t)sizeof x, sizeof x)
#define INT_OF(name, Type)                                                                         \
    static int64_t int_of_##name(const GgufValue *v, int64_t i) {                                  \
        ELEMENT(v, i, Type);                                                                       \
        return (int64_t)x;                                                                         \
    }
INT_OF(u8, uint8_t)
INT_OF(i8, int8_t)
INT_OF(u16, uint16_t)
INT_OF(i16, int16_t)
INT_OF(u32, uint32_t)
INT_OF(i32, int32_t)
INT_OF(i64, int64_t)
static int64_t int_of_u64(const GgufValue *v, int64_t i) {
    ELEMENT(v, i, uint64_t);
    return x > INT64_MAX ? INT64_MAX : (int64_t)x;
}
static double real_of_f32(const GgufValue *v, int64_t i) {
    ELEMENT(v, i, float);
    return (double)x;
}
static double real_of_f64(const GgufValue *v, int64_t i) {
    ELEMENT(v, i, double);
    return x;
}

int64_t gguf_int_at(const GgufValue *v, int64_t i) {
    static int64_t (*const of[GGUF_TYPES])(const GgufValue *, int64_t) = {
        [GGUF_U8] = int_of_u8,   [GGUF_I8] = int_of_i8,   [GGUF_U16] = int_of_u16,
        [GGUF_I16] = int_of_i16, [GGUF_U32] = int_of_u32, [GGUF_I32] = int_of_i32,
        [GGUF_U64] = int_of_u64, [GGUF_I64] = int_of_i64, [GGUF_BOOL] = int_of_u8,
    };
    CHECK(of[v->type] && i >= 0 && i < v->n, "%s: element %ld", v->key, (long)i);
    return of[v->type](v, i);
}

double gguf_real_at(const GgufValue *v, int64_t i) {
    CHECK(is_number(v->type) && i >= 0 && i < v->n, "%s: element %ld", v->key, (long)i);
    if (v->type == GGUF_F32) return real_of_f32(v, i);
    return v->type == GGUF_F64 ? real_of_f64(v, i) : (double)gguf_int_at(v, i);
}

bool gguf_take_text(const GgufValue *v, const char **at, const char **text, size_t *n) {
    uint64_t bytes;
    if (*at >= v->end) return false;
    memcpy(&bytes, *at, sizeof bytes);
    *text = *at + sizeof bytes;
    *n = (size_t)bytes;
    *at = *text + bytes;
    return true;
}

int gguf_get_int(const Gguf *g, const char *key, int64_t low, int64_t high, int64_t *out, Err *e) {
    const GgufValue *v = gguf_find(g, key);
    if (!v) return 0;
    if (v->array || !is_int(v->type)) return wrong(g, key, "a whole number", e);
    int64_t x = gguf_int_at(v, 0);
    if (x < low || x > high)
        return err_set(e, "%s: %s is %" PRId64 ", expected %" PRId64 " to %" PRId64, g->file, key,
                       x, low, high);
    *out = x;
    return 0;
}

int gguf_get_real(const Gguf *g, const char *key, double *out, Err *e) {
    const GgufValue *v = gguf_find(g, key);
    if (!v) return 0;
    if (v->array || !is_number(v->type)) return wrong(g, key, "a number", e);
    *out = gguf_real_at(v, 0);
    return 0;
}

int gguf_get_bool(const Gguf *g, const char *key, bool *out, Err *e) {
    const GgufValue *v = gguf_find(g, key);
    if (!v) return 0;
    if (v->array || v->type != GGUF_BOOL) return wrong(g, key, "true or false", e);
    *out = gguf_int_at(v, 0) != 0;
    return 0;
}

int gguf_get_text(const Gguf *g, const char *key, const char **out, size_t *n, Err *e) {
    const GgufValue *v = gguf_find(g, key);
    if (!v) return 0;
    if (v->array || v->type != GGUF_TEXT) return wrong(g, key, "a text", e);
    const char *at = v->at;
    gguf_take_text(v, &at, out, n);
    return 0;
}

GgufWord gguf_word(const char *text, size_t n) {
    GgufWord word;
    size_t room = sizeof word.text - 1, k = n < room ? n : room;
    for (size_t i = 0; i < k; i++) word.text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    word.text[k] = 0;
    return word;
}

int gguf_get_array(const Gguf *g, const char *key, GgufKind kind, const GgufValue **out, Err *e) {
    static const char *const what[] = {"a list of whole numbers", "a list of numbers",
                                       "a list of texts"};
    const GgufValue *v = gguf_find(g, key);
    if (!v) return 0;
    bool fits = kind == GGUF_TEXTS   ? v->type == GGUF_TEXT
                : kind == GGUF_REALS ? is_number(v->type)
                                     : is_int(v->type) || v->type == GGUF_BOOL;
    if (!v->array || !fits) return wrong(g, key, what[kind], e);
    *out = v;
    return 0;
}
