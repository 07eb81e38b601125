/* base_file.c - see base_file.h: the index read and checked, and hashes compared. */
#include "base_file.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "files.h"
#include "json.h"
#include "safetensors.h"

/* ---- hashes ---- */

/* Odd numbers with bits in no order (those of SplitMix64 and its finaliser). */
static const uint64_t STEP_A = 0x9e3779b97f4a7c15ull, STEP_B = 0xbf58476d1ce4e5b9ull,
                      START = 0x94d049bb133111ebull;

static uint64_t mixed(const uint64_t word[2], uint64_t place) {
    unsigned __int128 p = (unsigned __int128)(word[0] ^ (START + place * STEP_A)) *
                          (word[1] ^ (STEP_A + place * STEP_B));
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

uint64_t base_hash(const void *bytes, size_t n, int64_t at) {
    const char *p = bytes;
    uint64_t sum = 0, place = (uint64_t)at / 16, word[2];
    size_t pairs = n / 16;
    CHECK(at % 16 == 0, "hashing from byte %" PRId64, at);
    for (size_t i = 0; i < pairs; i++) {
        memcpy(word, p + 16 * i, 16);
        sum += mixed(word, place + i);
    }
    if (n % 16) {
        memset(word, 0, 16);
        memcpy(word, p + 16 * pairs, n % 16);
        sum += mixed(word, place + pairs);
    }
    return sum;
}

/* ---- the user block ---- */

#define BLOCK_NAME "moesmith base file\n"
static const char BLOCK_TEXT[] = BLOCK_NAME "format %d\n"
                                            "state %s\n"
                                            "bytes %" PRId64 "\n"
                                            "index %" PRId64 " %" PRId64 "\n"
                                            "hash %016" PRIx64 "\n";

void base_block_write(const BaseBlock *b, char page[BASE_PAGE]) {
    memset(page, 0, BASE_PAGE);
    snprintf(page, BASE_PAGE, BLOCK_TEXT, BASE_FORMAT, b->whole ? "whole" : "partial", b->bytes,
             b->index_at, b->index_size, b->hash);
}

/* The text is parsed, written again and compared: so no byte of the page can be another. */
int base_block_read(BaseBlock *b, const void *data, size_t n) {
    char text[256], again[BASE_PAGE], state[16];
    int format;
    if (n < BASE_PAGE) return -1;
    memcpy(text, data, sizeof text);
    text[sizeof text - 1] = 0;
    if (sscanf(text,
               "moesmith base file format %d state %15s bytes %" SCNd64 " index %" SCNd64
               " %" SCNd64 " hash %" SCNx64,
               &format, state, &b->bytes, &b->index_at, &b->index_size, &b->hash) != 6)
        return -1;
    b->whole = !strcmp(state, "whole");
    base_block_write(b, again);
    bool places = b->index_at >= BASE_PAGE && b->index_size > 0 && b->index_at <= b->bytes &&
                  b->index_size <= b->bytes - b->index_at;
    return memcmp(data, again, BASE_PAGE) || !places ? -1 : 0;
}

/* ---- the index ---- */

int64_t base_tensor_bytes(DType d, int n_dim, const int64_t *dim) {
    const int64_t most = (int64_t)1 << 46;
    int64_t outer = 1, n;
    int packed_dims = d < DT_COUNT && dtype_is_packed(d) ? 2 : 0;
    if (d >= DT_COUNT || n_dim < packed_dims || n_dim > WEIGHT_DIMS) return -1;
    for (int i = 0; i < n_dim; i++) {
        if (dim[i] < 1 || dim[i] > most) return -1;
        if (i < n_dim - packed_dims &&
            (__builtin_mul_overflow(outer, dim[i], &outer) || outer > most))
            return -1;
    }
    if (d == DT_nf4_flat) return nf4_flat_bytes(outer);
    if (!packed_dims && !dtype_takes_rows(d, n_dim ? dim[n_dim - 1] : 1)) return -1;
    if (!packed_dims) return dtype_bytes(d, outer);
    if (__builtin_mul_overflow(panel_count(dim[n_dim - 2]), panel_bytes(d, dim[n_dim - 1]), &n) ||
        __builtin_mul_overflow(n, outer, &n) || n > most)
        return -1;
    return n;
}

static bool hash_of(const json_t *entry, uint64_t *hash) {
    const char *text = json_string_value(json_object_get(entry, "hash"));
    int used = 0;
    return text && strlen(text) == 16 && sscanf(text, "%16" SCNx64 "%n", hash, &used) == 1 &&
           used == 16;
}

/* A range behind the index and within the file. */
static int read_place(const json_t *entry, const BaseBlock *b, int64_t *offset, int64_t *bytes,
                      const char *path, Err *e) {
    int64_t from = b->index_at + b->index_size;
    TRY(json_require(entry, "offset", path, e));
    TRY(json_require(entry, "bytes", path, e));
    TRY(json_get_int(entry, "offset", from, b->bytes, offset, path, e));
    return json_get_int(entry, "bytes", 0, b->bytes - *offset, bytes, path, e);
}

static int read_name(const json_t *entry, const char **name, const char *path, Err *e) {
    TRY(json_require(entry, "name", path, e));
    TRY(json_get_text(entry, "name", name, path, e));
    if (safetensors_name_is_plain(*name)) return 0;
    return err_set(e, "%s: its index has a name that is empty, too long or not plain text", path);
}

static int read_tensor(BaseTensor *t, const json_t *entry, const BaseBlock *b, const char *path,
                       Err *e) {
    const char *dtype = NULL;
    const json_t *shape = NULL;
    TRY(read_name(entry, &t->name, path, e));
    TRY(read_place(entry, b, &t->offset, &t->bytes, path, e));
    TRY(json_get_text(entry, "dtype", &dtype, path, e));
    TRY(json_get_array(entry, "shape", &shape, path, e));
    t->dtype = dtype_find(dtype);
    t->n_dim = (int)json_array_size(shape);
    if (t->dtype == DT_COUNT)
        return err_set(e, "%s: tensor %s is of type \"%s\", which this version does not know", path,
                       t->name, dtype ? dtype : "");
    for (int i = 0; i < t->n_dim && i < WEIGHT_DIMS; i++)
        t->dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
    if (base_tensor_bytes(t->dtype, t->n_dim, t->dim) != t->bytes || t->offset % BASE_PAGE)
        return err_set(e, "%s: tensor %s does not have the place and bytes its shape asks for",
                       path, t->name);
    if (b->whole && !hash_of(entry, &t->hash))
        return err_set(e, "%s: tensor %s has no hash", path, t->name);
    t->lost = json_number_value(json_object_get(entry, "lost"));
    t->whole = json_number_value(json_object_get(entry, "whole"));
    return 0;
}

static int read_blob(BaseBlob *f, const json_t *entry, const BaseBlock *b, const char *path,
                     Err *e) {
    TRY(read_name(entry, &f->name, path, e));
    TRY(read_place(entry, b, &f->offset, &f->bytes, path, e));
    return hash_of(entry, &f->hash) ? 0 : err_set(e, "%s: %s has no hash", path, f->name);
}

static int read_entries(BaseIndex *x, const BaseBlock *b, const char *path, Err *e) {
    const json_t *tensors = json_object_get(x->json, "tensors"),
                 *files = json_object_get(x->json, "files");
    x->n_tensors = (int)json_array_size(tensors);
    x->n_files = (int)json_array_size(files);
    if (!x->n_tensors || !x->n_files)
        return err_set(e, "%s: its index lists no tensors or no files", path);
    x->tensor = mem_alloc(sizeof *x->tensor * (size_t)x->n_tensors);
    x->file = mem_alloc(sizeof *x->file * (size_t)x->n_files);
    for (int i = 0; i < x->n_tensors; i++)
        TRY(read_tensor(&x->tensor[i], json_array_get(tensors, (size_t)i), b, path, e));
    for (int i = 0; i < x->n_files; i++)
        TRY(read_blob(&x->file[i], json_array_get(files, (size_t)i), b, path, e));
    if (strcmp(x->file[0].name, "config.json"))
        return err_set(e, "%s: its index does not begin with config.json", path);
    return 0;
}

int base_index_parse(BaseIndex *out, json_t *json, const BaseBlock *b, const char *path, Err *e) {
    *out = (BaseIndex){.json = json, .hash = b->hash};
    if (read_entries(out, b, path, e) == 0) return 0;
    base_index_free(out);
    return -1;
}

void base_index_free(BaseIndex *index) {
    mem_free(index->tensor);
    mem_free(index->file);
    json_decref(index->json);
    *index = (BaseIndex){0};
}

/* A file that is no base: told from one that is cut short or unfinished. */
static int not_a_base(const void *data, size_t n, const char *path, Err *e) {
    static const char hdf5[] = "\211HDF\r\n\032\n", ours[] = "moesmith base file\n";
    if (n >= 8 && !memcmp(data, hdf5, 8))
        return err_set(e, "%s is an HDF5 file, but no base made by quantize or init", path);
    if (n >= sizeof ours && !memcmp(data, ours, sizeof ours - 1))
        return err_set(e, "%s: its header is damaged, or of another version; make it again", path);
    return err_set(e, "%s is no base made by quantize or init: its header is missing", path);
}

static int check_block(const BaseBlock *b, const char *data, size_t n, const char *path, Err *e) {
    if (!b->whole)
        return err_set(e, "%s is not finished; run the same quantize again to complete it", path);
    if (b->bytes != (int64_t)n)
        return err_set(e, "%s has %zu bytes, its header says %" PRId64 "; fetch or make it again",
                       path, n, b->bytes);
    uint64_t is = base_hash(data + BASE_PAGE, (size_t)(b->index_at + b->index_size - BASE_PAGE), 0);
    if (is == b->hash) return 0;
    return err_set(e,
                   "%s was altered or damaged: the hash of its metadata is %016" PRIx64
                   ", its header says %016" PRIx64 "; fetch or make it again",
                   path, is, b->hash);
}

int base_index_read(BaseIndex *out, const void *data, size_t n, const char *path, Err *e) {
    BaseBlock b;
    json_t *json;
    *out = (BaseIndex){0};
    if (base_block_read(&b, data, n)) return not_a_base(data, n, path, e);
    TRY(check_block(&b, data, n, path, e));
    TRY(json_read_text(&json, (const char *)data + b.index_at, (size_t)b.index_size, path, e));
    return base_index_parse(out, json, &b, path, e);
}

int base_index_open(BaseIndex *out, const char *path, const void **data, size_t *n, Err *e) {
    *out = (BaseIndex){0};
    TRY(files_map(path, data, n, e));
    if (base_index_read(out, *data, *n, path, e) == 0) return 0;
    files_unmap(*data, *n);
    return -1;
}

bool base_file_claims(const char *path) {
    return text_ends_with(path, ".h5") && !files_is_dir(path);
}

bool base_file_begun(const char *path) {
    char first[sizeof BLOCK_NAME - 1];
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool begun = fread(first, sizeof first, 1, f) == 1 && !memcmp(first, BLOCK_NAME, sizeof first);
    fclose(f);
    return begun;
}

/* ---- the whole content ---- */

enum { PART = 1 << 22 };

static uint64_t hash_range(const char *p, int64_t bytes) {
    uint64_t sum = 0;
#pragma omp parallel for schedule(dynamic) reduction(+ : sum)
    for (int64_t at = 0; at < bytes; at += PART)
        sum += base_hash(p + at, (size_t)(bytes - at < PART ? bytes - at : PART), at);
    return sum;
}

static int altered(const char *path, const char *name, Err *e) {
    return err_set(e,
                   "%s was altered or damaged: the hash of %s is not what its index says; fetch "
                   "or make it again",
                   path, name);
}

static int verify_all(const BaseIndex *x, const char *data, const char *path, BaseStep step,
                      void *ctx, Err *e) {
    int64_t done = 0, total = 0;
    for (int i = 0; i < x->n_tensors; i++) total += x->tensor[i].bytes;
    for (int i = 0; i < x->n_files; i++) {
        const BaseBlob *f = &x->file[i];
        if (base_hash(data + f->offset, (size_t)f->bytes, 0) != f->hash)
            return altered(path, f->name, e);
    }
    for (int i = 0; i < x->n_tensors; i++) {
        const BaseTensor *t = &x->tensor[i];
        if (hash_range(data + t->offset, t->bytes) != t->hash) return altered(path, t->name, e);
        files_forget(data + t->offset, (size_t)t->bytes);
        done += t->bytes;
        if (step) step(ctx, done, total);
    }
    return 0;
}

int base_file_verify(const char *path, BaseStep step, void *ctx, Err *e) {
    BaseIndex x;
    const void *data;
    size_t n;
    TRY(base_index_open(&x, path, &data, &n, e));
    int bad = verify_all(&x, data, path, step, ctx, e);
    base_index_free(&x);
    files_unmap(data, n);
    return bad;
}
