/* h5.c - see h5.h. HDF5 keeps its errors on a stack of its own; the innermost entry says what
 * really happened and becomes the reason in our sentence. */
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "files.h"
#include "h5.h"

/* Rows are kept in chunks of about CHUNK_BYTES (a few fit HDF5's cache). Groups deeper than DEPTH
 * are not walked: the walk recurses. */
enum { CHUNK_BYTES = 1 << 18, DEPTH = 32, TEXT_BYTES_MAX = 1 << 30 };

struct HdfFile {
    hid_t id;
    char *path;
    bool writing, drowned; /* drowned: a write failed, see drown() */
    FileOut out;
};

struct HdfRows {
    HdfFile *file;
    char *name;
    hid_t set;
    HdfType type;
    int64_t rows, cols;
};

static const char *const type_names[HDF_TYPES] = {"float32", "int32", "int64", "uint8"};

static hid_t type_id(HdfType type) {
    const hid_t ids[HDF_TYPES] = {H5T_NATIVE_FLOAT, H5T_NATIVE_INT32, H5T_NATIVE_INT64,
                                  H5T_NATIVE_UINT8};
    return ids[type];
}

/* ---- reasons ---- */

static herr_t take_first(unsigned n, const H5E_error2_t *error, void *reason) {
    (void)n;
    buf_add_text(reason, error->desc ? error->desc : "");
    return 1;
}

/* Why the last HDF5 call failed, in one line; any further HDF5 call would forget it. A failed write
 * or read is described at length by HDF5, with what the system said inside. */
static Buf take_reason(void) {
    Buf reason = {0};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_first, &reason);
    H5Eclear2(H5E_DEFAULT);
    if (!reason.n) buf_add_text(&reason, "HDF5 gives no reason");
    static const char mark[] = "error message = '";
    char *said = strstr(reason.p, mark);
    if (said) {
        said += sizeof mark - 1;
        said[strcspn(said, "'")] = 0;
        memmove(reason.p, said, strlen(said) + 1);
    }
    for (char *c = reason.p; *c; c++)
        if ((unsigned char)*c < ' ') *c = ' ';
    return reason;
}

static int failed(const HdfFile *f, const char *doing, const char *what, Err *e) {
    Buf reason = take_reason();
    const char *advice = files_advice(reason.p);
    err_set(e, "%s: cannot %s %s: %s%s%s", f->path, doing, what, reason.p, advice ? "; " : "",
            advice ? advice : "");
    buf_free(&reason);
    return -1;
}

/* ---- files ---- */

static hid_t access_plist(void) {
    H5dont_atexit(); /* at exit HDF5 would write again what a full disk refused, and crash */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t plist = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(plist, H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(plist, 0, 1); /* renaming is our lock; some network disks have no other */
#endif
    return plist;
}

static void free_file(HdfFile *f) {
    mem_free(f->path);
    mem_free(f);
}

int h5_create(HdfFile **out, const char *path, Err *e) {
    *out = NULL;
    FileOut place;
    TRY(files_begin(&place, path, e));
    HdfFile *f = mem_alloc(sizeof *f);
    *f = (HdfFile){.path = mem_copy_text(path), .writing = true, .out = place};
    hid_t plist = access_plist();
    f->id = H5Fcreate(place.temp, H5F_ACC_TRUNC, H5P_DEFAULT, plist);
    int bad = f->id < 0 ? failed(f, "write", "the file", e) : 0;
    H5Pclose(plist);
    if (bad) {
        files_abort(&f->out);
        free_file(f);
        return -1;
    }
    *out = f;
    return 0;
}

int h5_open(HdfFile **out, const char *path, Err *e) {
    *out = NULL;
    const void *data; /* the sentences of files_map tell a missing file from a foreign one */
    size_t bytes;
    TRY(files_map(path, &data, &bytes, e));
    files_unmap(data, bytes);
    HdfFile *f = mem_alloc(sizeof *f);
    *f = (HdfFile){.path = mem_copy_text(path), .out = {.fd = -1}};
    hid_t plist = access_plist();
    f->id = H5Fopen(path, H5F_ACC_RDONLY, plist);
    Buf reason = {0};
    if (f->id < 0) reason = take_reason();
    H5Pclose(plist);
    if (f->id < 0) {
        err_set(e, "%s: not an HDF5 file, or cut short (%s); make or fetch it again", path,
                reason.p);
        buf_free(&reason);
        free_file(f);
        return -1;
    }
    *out = f;
    return 0;
}

/* HDF5 cannot close what it cannot write (it would even crash at exit). A file that is given up, or
 * whose disk is full, therefore goes on being written, into memory, and is then thrown away. */
static void drown(HdfFile *f) {
    int *handle = NULL, memory = memfd_create("h5", MFD_CLOEXEC);
    if (memory >= 0 && H5Fget_vfd_handle(f->id, H5P_DEFAULT, (void **)&handle) >= 0 && handle)
        dup2(memory, *handle);
    if (memory >= 0) close(memory);
    f->drowned = true;
}

/* A write that failed: the first reason stands, the file can no longer be committed. */
static int write_failed(HdfFile *f, const char *what, Err *e) {
    failed(f, "write", what, e);
    drown(f);
    return -1;
}

int h5_commit(HdfFile *f, Err *e) {
    CHECK(f->writing, "%s is open for reading", f->path);
    int bad = 0;
    if (f->drowned)
        bad = err_set(e, "%s: cannot be completed: a write failed before", f->path);
    else if (H5Fflush(f->id, H5F_SCOPE_LOCAL) < 0)
        bad = write_failed(f, "the file", e);
    if (H5Fclose(f->id) < 0 && !bad) bad = failed(f, "close", "the file", e);
    if (!bad) bad = files_commit(&f->out, e);
    files_abort(&f->out);
    free_file(f);
    return bad;
}

void h5_close(HdfFile *f) {
    if (!f) return;
    if (f->writing) drown(f);
    H5Fclose(f->id);
    files_abort(&f->out);
    free_file(f);
}

/* ---- arrays ---- */

static void to_hsize(int n_dim, const int64_t *dim, hsize_t *out) {
    CHECK(n_dim >= 1 && n_dim <= HDF_DIMS, "%d dimensions", n_dim);
    for (int i = 0; i < n_dim; i++) {
        CHECK(dim[i] >= 0, "dimension %d is %lld", i, (long long)dim[i]);
        out[i] = (hsize_t)dim[i];
    }
}

/* A new array; chunk: its chunk's shape, or NULL for one contiguous block. */
static int make_set(HdfFile *f, const char *name, HdfType type, hid_t space, const hsize_t *chunk,
                    hid_t *set, Err *e) {
    hid_t link = H5Pcreate(H5P_LINK_CREATE), plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_create_intermediate_group(link, 1);
    H5Pset_obj_track_times(plist, 0); /* same content, same bytes */
    if (chunk) H5Pset_chunk(plist, 2, chunk);
    *set = H5Dcreate2(f->id, name, type_id(type), space, link, plist, H5P_DEFAULT);
    int bad = *set < 0 ? write_failed(f, name, e) : 0;
    H5Pclose(link);
    H5Pclose(plist);
    return bad;
}

int h5_write(HdfFile *f, const char *name, HdfType type, int n_dim, const int64_t *dim,
             const void *data, Err *e) {
    hsize_t size[HDF_DIMS];
    to_hsize(n_dim, dim, size);
    hid_t set, space = H5Screate_simple(n_dim, size, NULL);
    int bad = make_set(f, name, type, space, NULL, &set, e);
    if (!bad) {
        if (H5Sget_simple_extent_npoints(space) > 0 &&
            H5Dwrite(set, type_id(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
            bad = write_failed(f, name, e);
        H5Dclose(set);
    }
    H5Sclose(space);
    return bad;
}

/* Type and shape of an open array. */
static int set_shape(HdfFile *f, hid_t set, const char *name, HdfType *type, int *n_dim,
                     int64_t *dim, Err *e) {
    hsize_t size[H5S_MAX_RANK] = {0};
    hid_t space = H5Dget_space(set), stored = H5Dget_type(set);
    hid_t native = H5Tget_native_type(stored, H5T_DIR_ASCEND);
    *n_dim = H5Sget_simple_extent_dims(space, size, NULL);
    int found = 0; /* the native type of a float16 is float32: sizes are compared too */
    while (found < HDF_TYPES && !(native >= 0 && H5Tequal(native, type_id((HdfType)found)) > 0 &&
                                  H5Tget_size(stored) == H5Tget_size(native)))
        found++;
    *type = (HdfType)found;
    if (native >= 0) H5Tclose(native);
    if (stored >= 0) H5Tclose(stored);
    if (space >= 0) H5Sclose(space);
    H5Eclear2(H5E_DEFAULT);
    if (found == HDF_TYPES)
        return err_set(e, "%s: %s is not of type float32, int32, int64 or uint8", f->path, name);
    if (*n_dim < 1 || *n_dim > HDF_DIMS)
        return err_set(e, "%s: %s has %d dimensions, expected 1 to %d", f->path, name, *n_dim,
                       HDF_DIMS);
    for (int i = 0; i < *n_dim; i++) {
        if (size[i] > INT64_MAX)
            return err_set(e, "%s: %s has a dimension above 2^63", f->path, name);
        dim[i] = (int64_t)size[i];
    }
    return 0;
}

static int open_set(HdfFile *f, const char *name, hid_t *set, Err *e) {
    *set = H5Dopen2(f->id, name, H5P_DEFAULT);
    return *set < 0 ? failed(f, "read", name, e) : 0;
}

int h5_shape(HdfFile *f, const char *name, HdfType *type, int *n_dim, int64_t *dim, Err *e) {
    hid_t set;
    TRY(open_set(f, name, &set, e));
    int bad = set_shape(f, set, name, type, n_dim, dim, e);
    H5Dclose(set);
    return bad;
}

static void add_shape(Buf *out, HdfType type, int n_dim, const int64_t *dim) {
    buf_printf(out, "%s [", type_names[type]);
    for (int i = 0; i < n_dim; i++) buf_printf(out, "%s%lld", i ? ", " : "", (long long)dim[i]);
    buf_add_text(out, "]");
}

/* An open array is what is expected; free_rows: any number of rows will do. */
static int check_set(HdfFile *f, hid_t set, const char *name, HdfType type, int n_dim,
                     const int64_t *dim, bool free_rows, int64_t *rows, Err *e) {
    HdfType is;
    int is_n_dim;
    int64_t is_dim[HDF_DIMS];
    TRY(set_shape(f, set, name, &is, &is_n_dim, is_dim, e));
    bool same = is == type && is_n_dim == n_dim;
    for (int i = free_rows; same && i < n_dim; i++) same = is_dim[i] == dim[i];
    *rows = is_dim[0];
    if (same) return 0;
    Buf found = {0}, expected = {0};
    add_shape(&found, is, is_n_dim, is_dim);
    add_shape(&expected, type, n_dim, dim);
    err_set(e, "%s: %s is %s, expected %s", f->path, name, found.p, expected.p);
    buf_free(&found);
    buf_free(&expected);
    return -1;
}

int h5_read(HdfFile *f, const char *name, HdfType type, int n_dim, const int64_t *dim, void *data,
            Err *e) {
    hid_t set;
    int64_t rows;
    TRY(open_set(f, name, &set, e));
    int bad = check_set(f, set, name, type, n_dim, dim, false, &rows, e);
    if (!bad && H5Dread(set, type_id(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        bad = failed(f, "read", name, e);
    H5Dclose(set);
    return bad;
}

bool h5_has(HdfFile *f, const char *name) {
    hid_t object = H5Oopen(f->id, name, H5P_DEFAULT);
    H5Eclear2(H5E_DEFAULT);
    if (object >= 0) H5Oclose(object);
    return object >= 0;
}

/* ---- rows ---- */

int h5_rows_begin(HdfRows **out, HdfFile *f, const char *name, HdfType type, int64_t cols, Err *e) {
    CHECK(cols > 0, "%s: %lld columns", name, (long long)cols);
    *out = NULL;
    int64_t fit = CHUNK_BYTES / (int64_t)H5Tget_size(type_id(type)) / cols;
    const hsize_t none[2] = {0, (hsize_t)cols}, most[2] = {H5S_UNLIMITED, (hsize_t)cols};
    const hsize_t chunk[2] = {fit > 0 ? (hsize_t)fit : 1, (hsize_t)cols};
    hid_t space = H5Screate_simple(2, none, most);
    hid_t set;
    int bad = make_set(f, name, type, space, chunk, &set, e);
    H5Sclose(space);
    if (bad) return -1;
    *out = mem_alloc(sizeof **out);
    **out = (HdfRows){f, mem_copy_text(name), set, type, 0, cols};
    return 0;
}

/* Moves rows [first, first + n_rows) of an array; one of from and to is NULL. */
static int move_rows(HdfFile *f, hid_t set, const char *name, HdfType type, int64_t first,
                     int64_t n_rows, int64_t cols, const void *from, void *to, Err *e) {
    const hsize_t start[2] = {(hsize_t)first, 0}, count[2] = {(hsize_t)n_rows, (hsize_t)cols};
    hid_t there = H5Dget_space(set), here = H5Screate_simple(2, count, NULL);
    herr_t rc = H5Sselect_hyperslab(there, H5S_SELECT_SET, start, NULL, count, NULL);
    if (rc >= 0)
        rc = from ? H5Dwrite(set, type_id(type), here, there, H5P_DEFAULT, from)
                  : H5Dread(set, type_id(type), here, there, H5P_DEFAULT, to);
    int bad = 0;
    if (rc < 0) bad = from ? write_failed(f, name, e) : failed(f, "read", name, e);
    if (there >= 0) H5Sclose(there);
    if (here >= 0) H5Sclose(here);
    return bad;
}

int h5_rows_add(HdfRows *r, int64_t n_rows, const void *data, Err *e) {
    if (n_rows == 0) return 0;
    const hsize_t size[2] = {(hsize_t)(r->rows + n_rows), (hsize_t)r->cols};
    if (H5Dset_extent(r->set, size) < 0) return write_failed(r->file, r->name, e);
    TRY(move_rows(r->file, r->set, r->name, r->type, r->rows, n_rows, r->cols, data, NULL, e));
    r->rows += n_rows;
    return 0;
}

int h5_rows_end(HdfRows *r, Err *e) {
    int bad = H5Dflush(r->set) < 0 ? write_failed(r->file, r->name, e) : 0;
    H5Dclose(r->set);
    mem_free(r->name);
    mem_free(r);
    return bad;
}

int h5_read_rows(HdfFile *f, const char *name, HdfType type, int64_t first, int64_t n_rows,
                 int64_t cols, void *data, Err *e) {
    const int64_t dim[2] = {n_rows, cols};
    int64_t rows;
    hid_t set;
    TRY(open_set(f, name, &set, e));
    int bad = check_set(f, set, name, type, 2, dim, true, &rows, e);
    if (!bad && (first < 0 || n_rows < 0 || first > rows || n_rows > rows - first))
        bad = err_set(e, "%s: %s has %lld rows, expected rows %lld to %lld", f->path, name,
                      (long long)rows, (long long)first, (long long)(first + n_rows));
    if (!bad && n_rows) bad = move_rows(f, set, name, type, first, n_rows, cols, NULL, data, e);
    H5Dclose(set);
    return bad;
}

/* ---- names ---- */

static herr_t visit(hid_t root, const char *name, const H5O_info_t *info, void *out) {
    (void)root;
    int depth = 0;
    for (const char *c = name; *c; c++) depth += *c == '/';
    if (depth > DEPTH) return 1;
    if (info->type != H5O_TYPE_DATASET) return 0;
    HdfNames *names = out;
    size_t n = (size_t)names->n, cap = n && !(n & (n - 1)) ? 2 * n : n;
    if (n == 0 || cap > n)
        names->name =
            mem_grow(names->name, n * sizeof *names->name, (n ? cap : 1) * sizeof *names->name);
    Buf full = {0};
    buf_printf(&full, "/%s", name);
    names->name[names->n++] = full.p;
    return 0;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int h5_list(HdfFile *f, HdfNames *out, Err *e) {
    *out = (HdfNames){0};
    herr_t rc = H5Ovisit2(f->id, H5_INDEX_NAME, H5_ITER_NATIVE, visit, out, H5O_INFO_BASIC);
    if (rc != 0) {
        h5_names_free(out);
        return rc < 0 ? failed(f, "list", "the arrays", e)
                      : err_set(e, "%s: groups nested deeper than %d levels", f->path, DEPTH);
    }
    if (out->n) qsort(out->name, (size_t)out->n, sizeof *out->name, by_text);
    return 0;
}

void h5_names_free(HdfNames *names) {
    for (int i = 0; i < names->n; i++) mem_free(names->name[i]);
    mem_free(names->name);
    *names = (HdfNames){0};
}

/* ---- attributes ---- */

static hid_t text_type(void) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static int write_attribute(HdfFile *f, const char *object, const char *key, hid_t type,
                           const void *value, Err *e) {
    hid_t space = H5Screate(H5S_SCALAR);
    if (H5Aexists_by_name(f->id, object, key, H5P_DEFAULT) > 0)
        H5Adelete_by_name(f->id, object, key, H5P_DEFAULT);
    hid_t at =
        H5Acreate_by_name(f->id, object, key, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    int bad = at < 0 || H5Awrite(at, type, value) < 0 ? write_failed(f, key, e) : 0;
    if (at >= 0) H5Aclose(at);
    H5Sclose(space);
    return bad;
}

int h5_write_text(HdfFile *f, const char *object, const char *key, const char *text, Err *e) {
    hid_t type = text_type();
    int bad = write_attribute(f, object, key, type, &text, e);
    H5Tclose(type);
    return bad;
}

int h5_write_i64(HdfFile *f, const char *object, const char *key, int64_t value, Err *e) {
    return write_attribute(f, object, key, H5T_NATIVE_INT64, &value, e);
}

int h5_write_f64(HdfFile *f, const char *object, const char *key, double value, Err *e) {
    return write_attribute(f, object, key, H5T_NATIVE_DOUBLE, &value, e);
}

/* Opens an attribute that must be one value of a class. */
static int open_attribute(HdfFile *f, const char *object, const char *key, H5T_class_t class,
                          const char *expected, hid_t *at, Err *e) {
    *at = H5Aopen_by_name(f->id, object, key, H5P_DEFAULT, H5P_DEFAULT);
    if (*at < 0) return failed(f, "read attribute", key, e);
    hid_t type = H5Aget_type(*at), space = H5Aget_space(*at);
    bool fits = H5Tget_class(type) == class && H5Sget_simple_extent_npoints(space) == 1;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    if (fits) return 0;
    H5Aclose(*at);
    H5Eclear2(H5E_DEFAULT);
    return err_set(e, "%s: attribute %s of %s is not %s", f->path, key, object, expected);
}

static int read_number(HdfFile *f, const char *object, const char *key, H5T_class_t class,
                       const char *expected, hid_t type, void *value, Err *e) {
    hid_t at;
    TRY(open_attribute(f, object, key, class, expected, &at, e));
    int bad = H5Aread(at, type, value) < 0 ? failed(f, "read attribute", key, e) : 0;
    H5Aclose(at);
    return bad;
}

int h5_read_i64(HdfFile *f, const char *object, const char *key, int64_t *value, Err *e) {
    return read_number(f, object, key, H5T_INTEGER, "one whole number", H5T_NATIVE_INT64, value, e);
}

int h5_read_f64(HdfFile *f, const char *object, const char *key, double *value, Err *e) {
    return read_number(f, object, key, H5T_FLOAT, "one floating-point number", H5T_NATIVE_DOUBLE,
                       value, e);
}

/* A text of variable length, as this program and h5py write it. */
static herr_t read_variable(hid_t at, hid_t type, Buf *out) {
    char *text = NULL;
    herr_t rc = H5Aread(at, type, &text);
    if (rc < 0 || !text) return rc;
    buf_add_text(out, text);
    return H5free_memory(text);
}

/* A text of fixed length, padded with NUL or ended by one. */
static herr_t read_fixed(hid_t at, hid_t type, Buf *out) {
    char *text = mem_alloc(H5Tget_size(type) + 1);
    herr_t rc = H5Aread(at, type, text);
    if (rc >= 0) buf_add_text(out, text);
    mem_free(text);
    return rc;
}

int h5_read_text(HdfFile *f, const char *object, const char *key, Buf *out, Err *e) {
    hid_t at;
    TRY(open_attribute(f, object, key, H5T_STRING, "one text", &at, e));
    hid_t type = H5Aget_type(at);
    bool variable = H5Tis_variable_str(type) > 0;
    int bad = 0;
    if (H5Tget_size(type) > TEXT_BYTES_MAX)
        bad = err_set(e, "%s: attribute %s of %s has more than %d bytes", f->path, key, object,
                      TEXT_BYTES_MAX);
    else if ((variable ? read_variable(at, type, out) : read_fixed(at, type, out)) < 0)
        bad = failed(f, "read attribute", key, e);
    H5Tclose(type);
    H5Aclose(at);
    return bad;
}
