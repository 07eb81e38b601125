/* weights.c - see weights.h: the views, the mappings behind them, and the question which format
 * a path is. */
#include <stdlib.h>
#include <string.h>
#include "files.h"
#include "weights.h"
#include "weights_bnb.h"

typedef struct Mapping {
    const char *path;
    const void *data;
    size_t bytes;
} Mapping;

/* A list that doubles. */
#define GROW(array, n, cap)                                                                        \
    do {                                                                                           \
        if ((n) == (cap)) {                                                                        \
            size_t was_ = (size_t)(cap);                                                           \
            (cap) = (cap) ? 2 * (cap) : 16;                                                        \
            (array) = mem_grow((array), was_ * sizeof *(array), (size_t)(cap) * sizeof *(array));  \
        }                                                                                          \
    } while (0)

struct Weights {
    WeightView *view;
    Mapping *mapping;
    void **kept; /* texts and copied tensors */
    int n, cap, n_mapping, cap_mapping, n_kept, cap_kept;
    uint64_t hash;
};

#define X(name) extern const WeightFormat weight_format_##name;
#include "formats.def"
#undef X
#define X(name) &weight_format_##name,
static const WeightFormat *const formats[] = {
#include "formats.def"
};
#undef X

void *weights_keep(Weights *w, void *p) {
    GROW(w->kept, w->n_kept, w->cap_kept);
    return w->kept[w->n_kept++] = p;
}

const char *weights_keep_text(Weights *w, const char *text) {
    return weights_keep(w, mem_copy_text(text));
}

int weights_map_file(Weights *w, const char *path, const void **data, size_t *bytes, Err *e) {
    TRY(files_map(path, data, bytes, e));
    GROW(w->mapping, w->n_mapping, w->cap_mapping);
    w->mapping[w->n_mapping++] = (Mapping){weights_keep_text(w, path), *data, *bytes};
    return 0;
}

void weights_add(Weights *w, const WeightView *view, size_t align) {
    GROW(w->view, w->n, w->cap);
    WeightView *v = &w->view[w->n++];
    *v = *view;
    if ((uintptr_t)v->data % align == 0) return;
    v->data = weights_keep(w, mem_alloc((size_t)v->bytes));
    memcpy((void *)(uintptr_t)v->data, view->data, (size_t)v->bytes);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const WeightView *)a)->name, ((const WeightView *)b)->name);
}

int weights_sort(Weights *w, Err *e) {
    if (w->n) qsort(w->view, (size_t)w->n, sizeof *w->view, by_name);
    for (int i = 1; i < w->n; i++)
        if (!by_name(&w->view[i - 1], &w->view[i]))
            return err_set(e, "tensor %s is in both %s and %s, expected it once", w->view[i].name,
                           w->view[i - 1].file, w->view[i].file);
    return 0;
}

static int no_format(const char *path, Err *e) {
    if (!files_exists(path))
        return err_set(e, "%s does not exist; expected a checkpoint: %s", path,
                       formats[0]->looked_for);
    Buf known = {0};
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        buf_printf(&known, "%s%s", i ? ", or " : "", formats[i]->looked_for);
    err_set(e, "%s holds no weights that can be read: looked for %s", path, known.p);
    buf_free(&known);
    return -1;
}

static const WeightFormat *format_of(const char *path) {
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (formats[i]->claims(path)) return formats[i];
    return NULL;
}

bool weights_known(const char *path) { return format_of(path) != NULL; }

static int open_by_format(Weights *w, const char *path, Err *e) {
    const WeightFormat *format = format_of(path);
    return format ? format->open(w, path, e) : no_format(path, e);
}

int weights_open(Weights **out, const char *path, Err *e) {
    Weights *w = mem_alloc(sizeof *w);
    *out = NULL;
    if (open_by_format(w, path, e) || weights_sort(w, e) || bnb_recognise(w, e)) {
        weights_close(w);
        return -1;
    }
    *out = w;
    return 0;
}

void weights_close(Weights *w) {
    if (!w) return;
    for (int i = 0; i < w->n_mapping; i++) files_unmap(w->mapping[i].data, w->mapping[i].bytes);
    for (int i = 0; i < w->n_kept; i++) mem_free(w->kept[i]);
    mem_free(w->mapping);
    mem_free(w->kept);
    mem_free(w->view);
    mem_free(w);
}

int weights_count(const Weights *w) { return w->n; }

WeightView *weights_at(Weights *w, int i) {
    CHECK(i >= 0 && i < w->n, "weight %d of %d", i, w->n);
    return &w->view[i];
}

WeightView *weights_find(Weights *w, const char *name) {
    const WeightView key = {.name = name};
    return w->n ? bsearch(&key, w->view, (size_t)w->n, sizeof key, by_name) : NULL;
}

bool weights_range(const Weights *w, const WeightView *v, const char **path, int64_t *offset) {
    for (int i = 0; i < w->n_mapping; i++) {
        const Mapping *m = &w->mapping[i];
        uintptr_t at = (uintptr_t)v->data - (uintptr_t)m->data;
        if ((uintptr_t)v->data < (uintptr_t)m->data || at >= m->bytes) continue;
        *path = m->path;
        *offset = (int64_t)at;
        return true;
    }
    return false;
}

uint64_t weights_hash(const Weights *w) { return w->hash; }
void weights_set_hash(Weights *w, uint64_t hash) { w->hash = hash; }
