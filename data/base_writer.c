/* base_writer.c - see base_writer.h.
 *
 * HDF5 lays the datasets out and takes room for them, without writing their bytes, and is closed:
 * from then on places never change, and bytes are written straight to them. The space of the index
 * begins with the plan (one line of JSON); behind it a line is added for every tensor that is
 * complete. At the end the finished index takes their place. */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base_writer.h"
#include "files.h"
#include "json.h"

struct BaseWriter {
    char *path, *partial;
    int fd; /* of the partial file; holds the lock */
    BaseBlock block;
    BaseIndex index;
    bool *has; /* per tensor */
    bool anew;
    int64_t journal_at;
};

enum { JOURNAL_LINE = 112, NAME_ROOM = 512 };

/* ---- bytes ---- */

static int put(const BaseWriter *w, int64_t at, const void *bytes, size_t n, Err *e) {
    const char *p = bytes;
    while (n) {
        ssize_t done = pwrite(w->fd, p, n, at);
        if (done < 0 && errno != EINTR) return files_error(e, "write", w->path, errno);
        if (done > 0) p += done, at += done, n -= (size_t)done;
    }
    return 0;
}

static int get(const BaseWriter *w, int64_t at, void *bytes, size_t n) {
    char *p = bytes;
    while (n) {
        ssize_t done = pread(w->fd, p, n, at);
        if (done == 0 || (done < 0 && errno != EINTR)) return -1;
        if (done > 0) p += done, at += done, n -= (size_t)done;
    }
    return 0;
}

static int put_block(BaseWriter *w, Err *e) {
    char page[BASE_PAGE];
    base_block_write(&w->block, page);
    return put(w, 0, page, sizeof page, e);
}

/* ---- the plan as JSON ---- */

static json_t *hash_json(uint64_t hash) {
    char text[32];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    return json_string(text);
}

static json_t *plan_json(const BasePlan *plan) {
    json_t *tensors = json_array(), *files = json_array();
    for (int i = 0; i < plan->n_tensors; i++) {
        const BaseTensor *t = &plan->tensor[i];
        json_t *shape = json_array();
        for (int k = 0; k < t->n_dim; k++) json_array_append_new(shape, json_integer(t->dim[k]));
        int64_t bytes = base_tensor_bytes(t->dtype, t->n_dim, t->dim);
        CHECK(bytes > 0, "tensor %s cannot be stored as %s", t->name, dtype_info[t->dtype].name);
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype",
                                                 dtype_info[t->dtype].name, "shape", shape, "bytes",
                                                 (json_int_t)bytes));
    }
    for (int i = 0; i < plan->n_files; i++) {
        const BaseText *f = &plan->file[i];
        json_array_append_new(files, json_pack("{s:s, s:I, s:o}", "name", f->name, "bytes",
                                               (json_int_t)f->n, "hash",
                                               hash_json(base_hash(f->data, f->n, 0))));
    }
    return json_pack("{s:i, s:O, s:o, s:o}", "format", BASE_FORMAT, "about", plan->about, "files",
                     files, "tensors", tensors);
}

static char *json_line(const json_t *json, size_t *n) {
    char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(17));
    CHECK(text, "an index that is no JSON");
    *n = strlen(text);
    return text;
}

/* ---- the layout, by HDF5 ---- */

/* Two rounds. In the first HDF5 makes all of its structures, so that they lie together; in the
 * second, opened anew, it places the bytes of one dataset after the other, each on its own page. */
typedef struct Layout {
    hid_t file, creation, links;
    bool placing;  /* the second round */
    int64_t empty; /* where a file without bytes is said to be */
} Layout;

static int write_attribute(hid_t set, const char *key, hid_t type, hid_t space, const void *value) {
    hid_t at = H5Acreate2(set, key, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int bad = at < 0 || H5Awrite(at, type, value) < 0;
    if (at >= 0) H5Aclose(at);
    return bad ? -1 : 0;
}

static int write_kind(hid_t set, const BaseTensor *t) {
    const char *name = dtype_info[t->dtype].name;
    hsize_t n = (hsize_t)t->n_dim;
    hid_t text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR),
          space = t->n_dim ? H5Screate_simple(1, &n, NULL) : H5Screate(H5S_NULL);
    H5Tset_size(text, strlen(name) + 1);
    int bad = write_attribute(set, "dtype", text, scalar, name) ||
              write_attribute(set, "shape", H5T_NATIVE_INT64, space, t->dim);
    H5Tclose(text);
    H5Sclose(scalar);
    H5Sclose(space);
    return bad ? -1 : 0;
}

static int make_set(const Layout *l, const char *name, int64_t bytes, const BaseTensor *of) {
    hsize_t n = (hsize_t)bytes;
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t set = H5Dcreate2(l->file, name, H5T_STD_U8LE, space, l->links, l->creation, H5P_DEFAULT);
    int bad = set < 0 || (of && write_kind(set, of));
    if (set >= 0) H5Dclose(set);
    H5Sclose(space);
    return bad ? -1 : 0;
}

/* Writing one byte makes HDF5 take room for all of them, and leave the rest as it is. */
static int place_set(const Layout *l, const char *name, int64_t *offset) {
    const hsize_t start = 0, one = 1;
    const uint8_t zero = 0;
    hid_t set = H5Dopen2(l->file, name, H5P_DEFAULT);
    if (set < 0) return -1;
    hid_t there = H5Dget_space(set), here = H5Screate_simple(1, &one, NULL);
    int bad = H5Sselect_hyperslab(there, H5S_SELECT_SET, &start, NULL, &one, NULL) < 0 ||
              H5Dwrite(set, H5T_STD_U8LE, here, there, H5P_DEFAULT, &zero) < 0;
    haddr_t at = bad ? HADDR_UNDEF : H5Dget_offset(set);
    H5Sclose(there);
    H5Sclose(here);
    H5Dclose(set);
    *offset = at == HADDR_UNDEF ? 0 : (int64_t)at;
    return at == HADDR_UNDEF ? -1 : 0;
}

/* One round for one dataset. entry: its JSON, with bytes and, later, offset; of: its tensor. */
static int lay_entry(const Layout *l, const char *name, json_t *entry, const BaseTensor *of) {
    int64_t bytes = json_integer_value(json_object_get(entry, "bytes")), offset = l->empty;
    if (!l->placing) return make_set(l, name, bytes, of);
    if (bytes) TRY(place_set(l, name, &offset));
    return json_object_set_new(entry, "offset", json_integer(offset));
}

static int lay_all(Layout *l, const BasePlan *plan, json_t *json, BaseBlock *b) {
    json_t *tensors = json_object_get(json, "tensors"), *files = json_object_get(json, "files");
    TRY(l->placing ? place_set(l, "/index", &b->index_at)
                   : make_set(l, "/index", b->index_size, NULL));
    l->empty = b->index_at + b->index_size;
    for (int i = 0; i < plan->n_files; i++) {
        char name[NAME_ROOM];
        snprintf(name, sizeof name, "%s%s", i ? "/files/" : "/config", i ? plan->file[i].name : "");
        TRY(lay_entry(l, name, json_array_get(files, (size_t)i), NULL));
    }
    for (int i = 0; i < plan->n_tensors; i++) {
        const BaseTensor *t = &plan->tensor[i];
        TRY(lay_entry(l, t->name, json_array_get(tensors, (size_t)i), t));
    }
    return 0;
}

static hid_t open_file(const char *path, bool placing) {
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    if (placing) H5Pset_alignment(access, 1, BASE_PAGE);
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(access, 0, 1); /* the lock is ours */
#endif
    H5Pset_userblock(creation, BASE_PAGE);
    hid_t file = placing ? H5Fopen(path, H5F_ACC_RDWR, access)
                         : H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    H5Pclose(access);
    H5Pclose(creation);
    return file;
}

static int lay_round(const BaseWriter *w, bool placing, const BasePlan *plan, json_t *json,
                     BaseBlock *b) {
    Layout l = {open_file(w->partial, placing), H5Pcreate(H5P_DATASET_CREATE),
                H5Pcreate(H5P_LINK_CREATE), placing, 0};
    H5Pset_alloc_time(l.creation, H5D_ALLOC_TIME_LATE);
    H5Pset_fill_time(l.creation, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(l.creation, 0); /* same content, same bytes */
    H5Pset_create_intermediate_group(l.links, 1);
    int bad = l.file < 0 || lay_all(&l, plan, json, b);
    H5Pclose(l.creation);
    H5Pclose(l.links);
    if (l.file >= 0 && H5Fclose(l.file) < 0) bad = -1;
    H5Eclear2(H5E_DEFAULT);
    return bad ? -1 : 0;
}

static int lay_out(BaseWriter *w, const BasePlan *plan, json_t *json, Err *e) {
    struct stat s;
    if (lay_round(w, false, plan, json, &w->block) || lay_round(w, true, plan, json, &w->block) ||
        fstat(w->fd, &s))
        return err_set(e, "%s: HDF5 cannot lay out the file; choose a path on another disk",
                       w->path);
    w->block.bytes = s.st_size;
    return 0;
}

/* ---- a new file ---- */

/* A disk too full, or a limit too low, is told before hours of work, not after. */
static int claim_space(const BaseWriter *w, int64_t bytes, Err *e) {
    if (ftruncate(w->fd, bytes)) return files_error(e, "write", w->path, errno);
    if (fallocate(w->fd, 0, 0, bytes) == 0 || errno == EOPNOTSUPP || errno == EINTR) return 0;
    return files_error(e, "write", w->path, errno);
}

static int64_t about_bytes(const json_t *json) {
    int64_t sum = 1 << 20;
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(json, "tensors"), i, entry) {
        sum += json_integer_value(json_object_get(entry, "bytes")) + 3 * BASE_PAGE;
    }
    return sum;
}

static int write_texts(const BaseWriter *w, const BasePlan *plan, Err *e) {
    for (int i = 0; i < plan->n_files; i++)
        TRY(put(w, w->index.file[i].offset, plan->file[i].data, plan->file[i].n, e));
    return 0;
}

static int unlike(const BaseWriter *w, int64_t gap, const char *where, Err *e) {
    unsigned a = 0, b = 0, c = 0;
    H5get_libversion(&a, &b, &c);
    return err_set(e,
                   "%s: HDF5 %u.%u.%u does not lay files out as a base needs it (%" PRId64
                   " bytes before %s); build with another version of it, 1.10 for one",
                   w->path, a, b, c, gap, where);
}

/* Places rise, and nothing but padding lies between them: so all of HDF5's structures are in the
 * part that the metadata's hash covers. */
static int check_places(const BaseWriter *w, Err *e) {
    int64_t end = w->block.index_at + w->block.index_size;
    for (int i = 0; i < w->index.n_files + w->index.n_tensors; i++) {
        const BaseBlob *f = i < w->index.n_files ? &w->index.file[i] : NULL;
        const BaseTensor *t = f ? NULL : &w->index.tensor[i - w->index.n_files];
        int64_t offset = f ? f->offset : t->offset, bytes = f ? f->bytes : t->bytes;
        if (!bytes) continue;
        if (offset < end || offset - end > BASE_PAGE)
            return unlike(w, offset - end, f ? f->name : t->name, e);
        end = offset + bytes;
    }
    if (w->block.bytes - end > BASE_PAGE) return unlike(w, w->block.bytes - end, "its end", e);
    return 0;
}

static int begin(BaseWriter *w, const BasePlan *plan, json_t *json, Err *e) {
    size_t n;
    mem_free(json_line(json, &n));
    int64_t room = (int64_t)n + (plan->n_tensors + plan->n_files) * (40 + JOURNAL_LINE) + BASE_PAGE;
    w->block.index_size = (room + BASE_PAGE - 1) / BASE_PAGE * BASE_PAGE;
    TRY(claim_space(w, about_bytes(json), e));
    TRY(lay_out(w, plan, json, e));
    TRY(claim_space(w, w->block.bytes, e));
    char *text = json_line(json, &n), *space = mem_alloc((size_t)w->block.index_size);
    memset(space, ' ', (size_t)w->block.index_size);
    CHECK((int64_t)n + 1 < w->block.index_size, "an index of %zu bytes", n);
    memcpy(space, text, n);
    space[n] = '\n';
    mem_free(text);
    w->journal_at = w->block.index_at + (int64_t)n + 1;
    int bad = put(w, w->block.index_at, space, (size_t)w->block.index_size, e);
    mem_free(space);
    if (!bad) bad = base_index_parse(&w->index, json_incref(json), &w->block, w->partial, e);
    if (!bad) bad = check_places(w, e) || write_texts(w, plan, e);
    return bad ? -1 : put_block(w, e);
}

/* ---- taking up a killed run's file ---- */

/* "tensor N hash H lost X whole Y": hexadecimal floats, so that they come back to the bit. */
static bool parse_line(const BaseWriter *w, const char *line, int *i, BaseTensor *t) {
    int used = 0;
    return sscanf(line, "tensor %d hash %16" SCNx64 " lost %la whole %la end%n", i, &t->hash,
                  &t->lost, &t->whole, &used) == 4 &&
           used && line[used] == '\n' && *i >= 0 && *i < w->index.n_tensors;
}

static uint64_t hash_stored(const BaseWriter *w, const BaseTensor *t, bool *bad) {
    enum { PART = 1 << 20 };
    uint64_t sum = 0;
    int failed = 0;
#pragma omp parallel reduction(+ : sum, failed)
    {
        char *part = mem_alloc(PART);
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < t->bytes; at += PART) {
            size_t n = (size_t)(t->bytes - at < PART ? t->bytes - at : PART);
            failed += get(w, t->offset + at, part, n) != 0;
            sum += base_hash(part, n, at);
        }
        mem_free(part);
    }
    *bad = failed != 0;
    return sum;
}

static void take_journal(BaseWriter *w, char *line) {
    for (char *next; *line; line = next) {
        int i;
        BaseTensor t;
        next = line + strcspn(line, "\n");
        if (*next) next++;
        if (!parse_line(w, line, &i, &t)) return; /* blanks, or a torn line */
        w->journal_at += next - line;
        bool bad;
        if (hash_stored(w, &w->index.tensor[i], &bad) != t.hash || bad) continue;
        BaseTensor *mine = &w->index.tensor[i];
        mine->hash = t.hash, mine->lost = t.lost, mine->whole = t.whole;
        w->has[i] = true;
    }
}

/* The plan without the places that HDF5 gave: what two runs have to agree on. */
static uint64_t plan_hash(const json_t *json) {
    static const char *const lists[] = {"tensors", "files"};
    json_t *plan = json_deep_copy(json), *entry;
    size_t n, k;
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        json_array_foreach(json_object_get(plan, lists[i]), k, entry)
            json_object_del(entry, "offset");
    char *text = json_line(plan, &n);
    uint64_t hash = base_hash(text, n, 0);
    mem_free(text);
    json_decref(plan);
    return hash;
}

/* -1: what is there is of no use; then begin anew. */
static int take_up(BaseWriter *w, uint64_t plan, Err *e) {
    char page[BASE_PAGE];
    BaseBlock b;
    struct stat s;
    if (get(w, 0, page, sizeof page) || base_block_read(&b, page, sizeof page)) return -1;
    if (b.whole || b.hash != plan || fstat(w->fd, &s) || s.st_size != b.bytes) return -1;
    char *space = mem_alloc((size_t)b.index_size + 1);
    json_t *json = NULL;
    int bad = get(w, b.index_at, space, (size_t)b.index_size);
    size_t first = bad ? 0 : strcspn(space, "\n");
    if (!bad) bad = json_read_text(&json, space, first, w->partial, e);
    w->block = b;
    if (!bad && plan_hash(json) != plan) {
        json_decref(json);
        bad = -1;
    }
    if (!bad) bad = base_index_parse(&w->index, json, &w->block, w->partial, e);
    if (!bad) bad = check_places(w, e);
    if (!bad) {
        w->has = mem_alloc((size_t)w->index.n_tensors);
        w->journal_at = b.index_at + (int64_t)first + 1;
        take_journal(w, space + first + (space[first] == '\n'));
    }
    mem_free(space);
    return bad ? -1 : 0;
}

/* ---- the interface ---- */

static void free_writer(BaseWriter *w) {
    if (w->fd >= 0) close(w->fd);
    base_index_free(&w->index);
    mem_free(w->has);
    mem_free(w->path);
    mem_free(w->partial);
    mem_free(w);
}

/* Whether the name still leads to what was locked: the last run may just have completed it. */
static bool still_there(const BaseWriter *w) {
    struct stat a, b;
    return fstat(w->fd, &a) == 0 && stat(w->partial, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

static int lock_partial(BaseWriter *w, bool *busy, Err *e) {
    w->fd = open(w->partial, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (w->fd < 0) return files_error(e, "write", w->path, errno);
    *busy = flock(w->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!*busy && !still_there(w)) *busy = true;
    return 0;
}

static int open_partial(BaseWriter *w, const BasePlan *plan, Err *e) {
    json_t *json = plan_json(plan);
    uint64_t hash = plan_hash(json);
    Err ignored;
    struct stat s;
    int bad = 0;
    if (take_up(w, hash, &ignored)) {
        w->anew = fstat(w->fd, &s) == 0 && s.st_size > 0;
        base_index_free(&w->index);
        w->block = (BaseBlock){.hash = hash};
        bad = begin(w, plan, json, e);
        if (!bad) w->has = mem_alloc((size_t)plan->n_tensors);
        if (bad) unlink(w->partial);
    } else {
        bad = write_texts(w, plan, e); /* what a crash may have lost of them */
    }
    json_decref(json);
    return bad;
}

int base_writer_open(BaseWriter **out, const char *path, const BasePlan *plan, bool *busy, Err *e) {
    BaseWriter *w = mem_alloc(sizeof *w);
    *out = NULL;
    *busy = false;
    if (files_check_regular(path, e) || files_make_parent(path, e)) {
        mem_free(w);
        return -1;
    }
    *w = (BaseWriter){.path = mem_copy_text(path), .partial = files_partial(path), .fd = -1};
    int bad = lock_partial(w, busy, e);
    if (!bad && !*busy) bad = open_partial(w, plan, e);
    if (bad || *busy)
        free_writer(w);
    else
        *out = w;
    return bad;
}

bool base_writer_anew(const BaseWriter *w) { return w->anew; }

bool base_writer_has(const BaseWriter *w, int i) { return w->has[i]; }

int base_writer_put(BaseWriter *w, int i, int64_t at, const void *bytes, size_t n, Err *e) {
    const BaseTensor *t = &w->index.tensor[i];
    CHECK(at >= 0 && at + (int64_t)n <= t->bytes, "bytes beyond the end of %s", t->name);
    return put(w, t->offset + at, bytes, n, e);
}

int base_writer_done(BaseWriter *w, int i, uint64_t hash, double lost, double whole, Err *e) {
    char line[JOURNAL_LINE + 1];
    BaseTensor *t = &w->index.tensor[i];
    int n = snprintf(line, sizeof line, "tensor %d hash %016" PRIx64 " lost %a whole %a end\n", i,
                     hash, lost, whole);
    CHECK(n < (int)sizeof line, "a line of %d bytes", n);
    TRY(put(w, w->journal_at, line, (size_t)n, e));
    w->journal_at += n;
    t->hash = hash, t->lost = lost, t->whole = whole;
    w->has[i] = true;
    return 0;
}

/* The index with what is known now, in the place of plan and journal. */
static int finish_index(BaseWriter *w, Err *e) {
    json_t *tensors = json_object_get(w->index.json, "tensors");
    size_t n;
    for (int i = 0; i < w->index.n_tensors; i++) {
        json_t *entry = json_array_get(tensors, (size_t)i);
        const BaseTensor *t = &w->index.tensor[i];
        CHECK(w->has[i], "tensor %s was not written", t->name);
        json_object_set_new(entry, "hash", hash_json(t->hash));
        json_object_set_new(entry, "lost", json_real(t->lost));
        json_object_set_new(entry, "whole", json_real(t->whole));
    }
    char *text = json_line(w->index.json, &n), *space = mem_alloc((size_t)w->block.index_size);
    CHECK((int64_t)n <= w->block.index_size, "an index of %zu bytes", n);
    memset(space, ' ', (size_t)w->block.index_size);
    memcpy(space, text, n);
    mem_free(text);
    int bad = put(w, w->block.index_at, space, (size_t)w->block.index_size, e);
    mem_free(space);
    return bad;
}

static int hash_metadata(BaseWriter *w, Err *e) {
    size_t n = (size_t)(w->block.index_at + w->block.index_size - BASE_PAGE);
    char *metadata = mem_alloc(n);
    int bad = get(w, BASE_PAGE, metadata, n);
    w->block.hash = base_hash(metadata, n, 0);
    mem_free(metadata);
    return bad ? files_error(e, "read", w->path, errno) : 0;
}

int base_writer_commit(BaseWriter *w, Err *e) {
    int bad = finish_index(w, e) || hash_metadata(w, e);
    w->block.whole = true;
    if (!bad) bad = put_block(w, e) || files_complete(w->partial, w->path, e);
    if (bad) unlink(w->partial);
    free_writer(w);
    return bad ? -1 : 0;
}

void base_writer_abort(BaseWriter *w) {
    if (!w) return;
    unlink(w->partial);
    free_writer(w);
}
