/* safetensors.c - see safetensors.h. Reading trusts nothing: a header that parses describes tensors
 * that lie inside the file, one behind the other, each as long as its shape says. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include "files.h"
#include "safetensors.h"

enum { PREFIX = 8, HEADER_MAX = 100000000, CHUNK = 1 << 22, NAME_MAX_BYTES = 512 };

static const struct {
    const char *stored;
    int bits;
} stored_types[] = {
    {"F64", 64},    {"F32", 32}, {"F16", 16},    {"BF16", 16},   {"I64", 64},
    {"I32", 32},    {"I16", 16}, {"I8", 8},      {"U64", 64},    {"U32", 32},
    {"U16", 16},    {"U8", 8},   {"BOOL", 8},    {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"C64", 64}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

int safetensors_bits(const char *stored) {
    for (size_t i = 0; i < COUNT_OF(stored_types); i++)
        if (!strcmp(stored, stored_types[i].stored)) return stored_types[i].bits;
    return 0;
}

static DType dtype_of(const char *stored) {
    for (int d = 0; d < DT_COUNT; d++)
        if (*dtype_info[d].safetensors && !strcmp(stored, dtype_info[d].safetensors))
            return (DType)d;
    return DT_COUNT;
}

/* ---- reading ---- */

bool safetensors_name_is_plain(const char *text) {
    size_t n = 0;
    for (; text[n]; n++)
        if ((unsigned char)text[n] < ' ' || text[n] == 0x7f) return false;
    return n > 0 && n <= NAME_MAX_BYTES;
}

static int read_shape(SafetensorsTensor *t, const json_t *shape, const char *file, Err *e) {
    if (!json_is_array(shape)) return err_set(e, "%s: tensor %s has no shape", file, t->name);
    if (json_array_size(shape) > WEIGHT_DIMS)
        return err_set(e, "%s: tensor %s has %zu dimensions, expected at most %d", file, t->name,
                       json_array_size(shape), WEIGHT_DIMS);
    t->n_dim = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dim; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        t->dim[i] = json_integer_value(dim);
        if (!json_is_integer(dim) || t->dim[i] < 0)
            return err_set(e, "%s: dimension %d of tensor %s is no whole number from 0 on", file, i,
                           t->name);
    }
    return 0;
}

static int read_offsets(SafetensorsTensor *t, const json_t *offsets, int64_t data_at,
                        int64_t data_bytes, const char *file, Err *e) {
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return err_set(e, "%s: tensor %s has no data_offsets of two whole numbers", file, t->name);
    int64_t a = json_integer_value(from), b = json_integer_value(to);
    if (a < 0 || b < a || b > data_bytes)
        return err_set(
            e,
            "%s: tensor %s has data_offsets %lld to %lld, but the file has %lld bytes of "
            "data; it is cut short or damaged, fetch it again",
            file, t->name, (long long)a, (long long)b, (long long)data_bytes);
    t->from = data_at + a;
    t->to = data_at + b;
    return 0;
}

/* Bytes of a shape; false where no file can be that large. */
static bool shape_bytes(const char *stored, int n_dim, const int64_t *dim, int64_t *bytes) {
    int64_t bits = safetensors_bits(stored);
    bool empty = false;
    for (int i = 0; i < n_dim; i++) empty |= dim[i] == 0;
    for (int i = 0; i < n_dim && !empty; i++)
        if (__builtin_mul_overflow(bits, dim[i], &bits)) return false;
    *bytes = empty ? 0 : bits / 8;
    return empty || bits % 8 == 0;
}

static int read_tensor(SafetensorsTensor *t, const char *name, const json_t *value, int64_t data_at,
                       int64_t data_bytes, const char *file, Err *e) {
    if (!safetensors_name_is_plain(name))
        return err_set(e, "%s: a tensor's name is empty, longer than %d bytes or not plain text",
                       file, NAME_MAX_BYTES);
    t->name = name;
    t->stored = json_string_value(json_object_get(value, "dtype"));
    if (!t->stored || !safetensors_name_is_plain(t->stored))
        return err_set(e, "%s: tensor %s has no dtype", file, name);
    t->dtype = dtype_of(t->stored);
    TRY(read_shape(t, json_object_get(value, "shape"), file, e));
    TRY(read_offsets(t, json_object_get(value, "data_offsets"), data_at, data_bytes, file, e));
    int64_t bytes;
    if (!safetensors_bits(t->stored)) return 0;
    if (!shape_bytes(t->stored, t->n_dim, t->dim, &bytes))
        return err_set(e, "%s: the shape of tensor %s (%s) is no whole number of bytes below 2^60",
                       file, name, t->stored);
    if (bytes != t->to - t->from)
        return err_set(e, "%s: tensor %s has %lld bytes, but its shape in %s asks for %lld", file,
                       name, (long long)(t->to - t->from), t->stored, (long long)bytes);
    return 0;
}

static int by_bytes(const void *a, const void *b) {
    const SafetensorsTensor *x = a, *y = b;
    if (x->from != y->from) return x->from < y->from ? -1 : 1;
    return x->to < y->to ? -1 : x->to > y->to;
}

/* The data is covered exactly: neither holes nor overlaps, in which a file could hide something. */
static int check_cover(const SafetensorsHeader *h, int64_t data_at, int64_t end, const char *file,
                       Err *e) {
    int64_t at = data_at;
    for (int i = 0; i < h->n; i++) {
        const SafetensorsTensor *t = &h->tensor[i];
        if (t->from != at)
            return err_set(e, "%s: tensor %s %s; the file is damaged, fetch it again", file,
                           t->name,
                           t->from < at ? "overlaps another" : "begins behind a hole in the data");
        at = t->to;
    }
    if (at == end) return 0;
    return err_set(e,
                   "%s: %lld bytes behind the last tensor belong to none; the file is damaged, "
                   "fetch it again",
                   file, (long long)(end - at));
}

static int read_header(SafetensorsHeader *h, int64_t data_at, int64_t end, const char *file,
                       Err *e) {
    if (!json_is_object((json_t *)h->json))
        return err_set(e, "%s: its header is no JSON object; not a safetensors file", file);
    h->tensor = mem_alloc(sizeof *h->tensor * json_object_size(h->json));
    const char *name;
    json_t *value;
    json_object_foreach(h->json, name, value) {
        if (!strcmp(name, "__metadata__")) {
            if (json_is_object(value) || json_is_null(value)) continue; /* MLX writes null */
            return err_set(e, "%s: its __metadata__ is no JSON object", file);
        }
        TRY(read_tensor(&h->tensor[h->n], name, value, data_at, end - data_at, file, e));
        h->n++;
    }
    if (h->n) qsort(h->tensor, (size_t)h->n, sizeof *h->tensor, by_bytes);
    return check_cover(h, data_at, end, file, e);
}

/* jansson's message quotes the file, so it is made one line first. */
static int not_json(json_error_t *fault, const char *file, Err *e) {
    for (char *c = fault->text; *c; c++)
        if ((unsigned char)*c < ' ') *c = ' ';
    return err_set(e, "%s: its header is not valid JSON (%s); not a safetensors file, or damaged",
                   file, fault->text);
}

int safetensors_parse(SafetensorsHeader *h, const void *bytes, size_t n, const char *file, Err *e) {
    *h = (SafetensorsHeader){0};
    const unsigned char *p = bytes;
    uint64_t header = 0;
    if (n < PREFIX)
        return err_set(e, "%s: has %zu bytes; not a safetensors file, or cut short", file, n);
    for (int i = PREFIX - 1; i >= 0; i--) header = header << 8 | p[i];
    if (header > HEADER_MAX)
        return err_set(e, "%s: names a header of %llu bytes, more than %d; not a safetensors file",
                       file, (unsigned long long)header, HEADER_MAX);
    if (header > n - PREFIX)
        return err_set(e,
                       "%s: names a header of %llu bytes, but only %zu follow; it is cut short, "
                       "fetch it again",
                       file, (unsigned long long)header, n - PREFIX);
    json_error_t fault;
    h->json = json_loadb((const char *)p + PREFIX, (size_t)header, JSON_REJECT_DUPLICATES, &fault);
    if (!h->json) return not_json(&fault, file, e);
    int bad = read_header(h, PREFIX + (int64_t)header, (int64_t)n, file, e);
    if (bad) safetensors_free(h);
    return bad;
}

void safetensors_free(SafetensorsHeader *h) {
    json_decref(h->json);
    mem_free(h->tensor);
    *h = (SafetensorsHeader){0};
}

/* ---- writing ---- */

static const char *entry_stored(const SafetensorsEntry *x) {
    return x->dtype == DT_COUNT ? x->stored : dtype_info[x->dtype].safetensors;
}

int64_t safetensors_entry_bytes(const SafetensorsEntry *x) {
    int64_t bytes = 0;
    CHECK(shape_bytes(entry_stored(x), x->n_dim, x->dim, &bytes), "tensor %s has no size", x->name);
    return bytes;
}

static json_t *entry_json(const SafetensorsEntry *x, int64_t from, int64_t to) {
    json_t *shape = json_array();
    for (int i = 0; i < x->n_dim; i++) json_array_append_new(shape, json_integer(x->dim[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", entry_stored(x), "shape", shape,
                     "data_offsets", (json_int_t)from, (json_int_t)to);
}

static int add_text(const char *text, size_t n, void *buf) {
    buf_add(buf, text, n);
    return 0;
}

/* The length and the header, filled up with spaces so that the data begins at a multiple of 8. */
static int make_header(Buf *out, const SafetensorsEntry *entries, int n,
                       const char *const (*metadata)[2], int n_metadata, Err *e) {
    json_t *root = json_object(), *about = json_object();
    json_object_set_new(about, "format", json_string("pt"));
    for (int i = 0; i < n_metadata; i++)
        json_object_set_new(about, metadata[i][0], json_string(metadata[i][1]));
    json_object_set_new(root, "__metadata__", about);
    int64_t at = 0;
    int bad = 0;
    for (int i = 0; i < n && !bad; i++) {
        int64_t to = at + safetensors_entry_bytes(&entries[i]);
        CHECK(!json_object_get(root, entries[i].name), "tensor %s twice", entries[i].name);
        if (json_object_set_new(root, entries[i].name, entry_json(&entries[i], at, to)))
            bad = err_set(e, "tensor name %s is not UTF-8 and cannot be written", entries[i].name);
        at = to;
    }
    uint64_t length = 0;
    buf_add(out, &length, PREFIX);
    json_dump_callback(root, add_text, out, JSON_COMPACT);
    json_decref(root);
    while (out->n % PREFIX) buf_add(out, " ", 1);
    length = out->n - PREFIX;
    for (int i = 0; i < PREFIX; i++) out->p[i] = (char)(length >> (8 * i));
    return bad;
}

/* fill's values a chunk at a time; f is gone after a failure. */
static int write_filled(FileOut *f, const SafetensorsEntry *x, void *chunk, Err *e) {
    int64_t bits = safetensors_bits(entry_stored(x)), step = CHUNK / bits * 8;
    int64_t n = safetensors_entry_bytes(x) * 8 / bits;
    for (int64_t i = 0; i < n; i += step) {
        int64_t k = n - i < step ? n - i : step;
        if (x->fill(x->ctx, i, k, chunk, e)) {
            files_abort(f);
            return -1;
        }
        TRY(files_write(f, chunk, (size_t)(k * bits / 8), e));
    }
    return 0;
}

int safetensors_write(const char *path, const SafetensorsEntry *entries, int n,
                      const char *const (*metadata)[2], int n_metadata, Err *e) {
    Buf header = {0};
    FileOut f = {.fd = -1};
    char *chunk = mem_alloc(CHUNK);
    int bad = make_header(&header, entries, n, metadata, n_metadata, e);
    if (!bad) bad = files_begin(&f, path, e);
    if (!bad) bad = files_write(&f, header.p, header.n, e);
    for (int i = 0; i < n && !bad; i++) {
        const SafetensorsEntry *x = &entries[i];
        size_t bytes = (size_t)safetensors_entry_bytes(x);
        CHECK(x->data || x->fill || !bytes, "tensor %s has neither data nor fill", x->name);
        bad = x->data ? files_write(&f, x->data, bytes, e) : write_filled(&f, x, chunk, e);
    }
    if (!bad) bad = files_commit(&f, e);
    mem_free(chunk);
    buf_free(&header);
    return bad;
}

int safetensors_plan(const SafetensorsEntry *entries, int n, int64_t max_bytes, int *shard) {
    int64_t held = 0;
    int last = 0;
    for (int i = 0; i < n; i++) {
        int64_t bytes = safetensors_entry_bytes(&entries[i]);
        if (held > 0 && bytes > max_bytes - held) {
            held = 0;
            last++;
        }
        held += bytes;
        shard[i] = last;
    }
    return last + 1;
}

static int write_index(const char *dir, json_t *map, int64_t total, Err *e) {
    json_t *root =
        json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *path = files_join(dir, "model.safetensors.index.json");
    Buf text = {0};
    json_dump_callback(root, add_text, &text, JSON_INDENT(2));
    buf_add(&text, "\n", 1);
    int bad = files_write_whole(path, text.p, text.n, e);
    buf_free(&text);
    mem_free(path);
    json_decref(root);
    return bad;
}

/* The entries that belong into one file, in their order. */
static int write_one(const char *dir, const SafetensorsEntry *entries, const char *const *file,
                     int n, const char *name, Err *e) {
    SafetensorsEntry *mine = mem_alloc(sizeof *mine * (size_t)n);
    int k = 0;
    for (int i = 0; i < n; i++)
        if (!strcmp(file[i], name)) mine[k++] = entries[i];
    char *path = files_join(dir, name);
    int bad = safetensors_write(path, mine, k, NULL, 0, e);
    mem_free(path);
    mem_free(mine);
    return bad;
}

int safetensors_write_files(const char *dir, const SafetensorsEntry *entries,
                            const char *const *file, int n, Err *e) {
    json_t *map = json_object(), *written = json_object();
    int64_t total = 0;
    int bad = 0;
    for (int i = 0; i < n && !bad; i++) {
        json_object_set_new(map, entries[i].name, json_string(file[i]));
        total += safetensors_entry_bytes(&entries[i]);
        if (json_object_get(written, file[i])) continue;
        json_object_set_new(written, file[i], json_true());
        bad = write_one(dir, entries, file, n, file[i], e);
    }
    bool single = json_object_size(written) == 1 && !strcmp(file[0], "model.safetensors");
    if (!bad && !single) bad = write_index(dir, map, total, e);
    json_decref(map);
    json_decref(written);
    return bad;
}

int safetensors_write_model(const char *dir, const SafetensorsEntry *entries, int n,
                            int64_t max_bytes, Err *e) {
    int *shard = mem_alloc(sizeof *shard * (size_t)n);
    const char **file = mem_alloc(sizeof *file * (size_t)n);
    int n_shards = safetensors_plan(entries, n, max_bytes, shard);
    Buf *name = mem_alloc(sizeof *name * (size_t)n_shards);
    for (int k = 0; k < n_shards; k++)
        n_shards == 1 ? buf_add_text(&name[k], "model.safetensors")
                      : buf_printf(&name[k], "model-%05d-of-%05d.safetensors", k + 1, n_shards);
    for (int i = 0; i < n; i++) file[i] = name[shard[i]].p;
    int bad = safetensors_write_files(dir, entries, file, n, e);
    for (int k = 0; k < n_shards; k++) buf_free(&name[k]);
    mem_free(name);
    mem_free(file);
    mem_free(shard);
    return bad;
}
