/* stream.c - see stream.h. The thread always reads the place that is needed first among those not
 * there, as far as places needed later can make room for it: on the way up and down a stack of
 * layers that is the best any choice can do (Belady 1966), and what is left of the way's end is
 * still there at its turn. */
#include "stream.h"
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "../autograd/weight.h"
#include "../data/files.h"

/* Read-ahead is asked for in pieces, so many before the one that is waited for: a disk is at its
 * best with a few requests under way, and a piece that is not awaited is soon forgotten. */
enum { PIECE = 1 << 20, AHEAD = 8 };

/* Consecutive bytes of a file and where they are mapped. */
typedef struct Range {
    char *data;
    size_t bytes;
    const char *path;
    int64_t offset;
} Range;

typedef struct Place {
    int first, n; /* ranges */
    size_t bytes;
    bool here;
} Place;

struct Stream {
    Range *range;
    Place *place;
    int n_places, n_ranges; /* place[n_places]: the tables */
    size_t page, room, held;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below, and here and held */
    pthread_cond_t changed;
    int at;
    bool back, comes_back, quit;
    bool rows; /* of the tables have been asked for */
    int64_t read;
    double waited;
};

/* ---- what is streamed ---- */

/* -1: not streamed. Learned weights have memory of their own; small tensors were opened. Behind the
 * head come the tables: they are only dropped. */
static int place_of(const Model *m, const Site *s) {
    if (*s->slot != s->base || !(s->row->flags & ROW_MAPPED)) return -1;
    if (s->layer >= 0) return s->layer;
    if (s->base == m->head.w) return m->dims.n_layers;
    return s->base == m->embed.w || s->base == m->ple_table.w ? m->dims.n_layers + 1 : -1;
}

static bool range_of(const Model *m, const Tensor *w, Range *r) {
    WeightView v = {.data = w->data}; /* shapes only: what the file would hold */
    *r = (Range){.data = w->data, .bytes = (size_t)weight_bytes(w->dtype, w->n_dim, w->dim)};
    return !m->weights || weights_range(m->weights, &v, &r->path, &r->offset);
}

/* Ranges in order of their places; the tables come last. */
static void list_ranges(const Model *m, Range *range, Place *place) {
    int n = 0;
    for (int p = 0; p <= m->dims.n_layers + 1; p++) {
        place[p] = (Place){.first = n};
        for (int i = 0; i < m->n_sites; i++) {
            if (place_of(m, &m->site[i]) != p || !range_of(m, m->site[i].base, &range[n])) continue;
            place[p].bytes += range[n++].bytes;
        }
        place[p].n = n - place[p].first;
    }
}

static Place *places_of(const Model *m, Range **range) {
    Place *place = mem_alloc(sizeof *place * (size_t)(m->dims.n_layers + 2));
    *range = mem_alloc(sizeof **range * (size_t)m->n_sites);
    list_ranges(m, *range, place);
    return place;
}

size_t stream_bytes(const Model *m) {
    Range *range;
    size_t all = 0;
    Place *place = places_of(m, &range);
    for (int i = 0; i <= m->dims.n_layers; i++) all += place[i].bytes;
    mem_free(place);
    mem_free(range);
    return all;
}

size_t stream_least(const Model *m) {
    Range *range;
    size_t least = 0;
    Place *place = places_of(m, &range);
    for (int i = 0; i < m->dims.n_layers; i++) {
        size_t two = place[i].bytes + place[i + 1].bytes;
        least = two > least ? two : least;
    }
    mem_free(place);
    mem_free(range);
    return least;
}

/* ---- reading and dropping ---- */

/* madvise wants whole pages; more than the range at its ends does no harm. */
static void advise(const Stream *s, char *from, size_t bytes, int advice) {
    size_t over = (uintptr_t)from % s->page;
    madvise(from - over, bytes + over, advice);
}

static void drop_place(const Stream *s, const Place *p) {
    for (int i = p->first; i < p->first + p->n; i++) {
        const Range *r = &s->range[i];
        advise(s, r->data, r->bytes, MADV_DONTNEED);
        if (r->path) files_drop_cached(r->path, r->offset, r->bytes);
    }
}

/* Returns when every page is mapped: a byte of each is looked at, AHEAD pieces behind the asking.
 * Or when nobody wants them any more. */
static void read_range(const Stream *s, const Range *r) {
    const size_t ahead = (size_t)AHEAD * PIECE;
    for (size_t at = 0; at < r->bytes + ahead; at += PIECE) {
        if (__atomic_load_n(&s->quit, __ATOMIC_RELAXED)) return;
        if (at < r->bytes)
            advise(s, r->data + at, r->bytes - at < PIECE ? r->bytes - at : PIECE, MADV_WILLNEED);
        if (at < ahead) continue;
        size_t from = at - ahead, to = from + PIECE < r->bytes ? from + PIECE : r->bytes;
        for (; from < to; from += s->page) *(volatile const char *)(r->data + from);
    }
}

/* How many places are entered before p is. */
static int steps_until(const Stream *s, int p) {
    int n = s->n_places, last = n - 1;
    if (!s->comes_back) return (p - s->at + n) % n;
    if (s->back) return p <= s->at ? s->at - p : s->at + p;
    return p >= s->at ? p - s->at : last - s->at + last - p;
}

/* The place that is here and needed last, after `than` steps; -1: none. */
static int needed_last(const Stream *s, int than) {
    int found = -1;
    for (int i = 0; i < s->n_places; i++) {
        if (!s->place[i].here || steps_until(s, i) <= than) continue;
        than = steps_until(s, i), found = i;
    }
    return found;
}

/* The place to read now, for which there is room or room can be made; -1: none. */
static int needed_first(const Stream *s) {
    int found = -1;
    for (int i = 0; i < s->n_places; i++) {
        if (s->place[i].here || !s->place[i].n) continue;
        if (found < 0 || steps_until(s, i) < steps_until(s, found)) found = i;
    }
    if (found < 0 || found == s->at) return found;
    size_t held = s->held;
    for (int i = 0; i < s->n_places; i++) {
        bool later = steps_until(s, i) > steps_until(s, found);
        held -= s->place[i].here && later ? s->place[i].bytes : 0;
    }
    return held + s->place[found].bytes <= s->room ? found : -1;
}

static void *read_ahead(void *arg) {
    Stream *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->quit) {
        int p = needed_first(s), last;
        if (p < 0) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        while (s->held + s->place[p].bytes > s->room &&
               (last = needed_last(s, steps_until(s, p))) >= 0) {
            s->place[last].here = false;
            s->held -= s->place[last].bytes;
            drop_place(s, &s->place[last]);
        }
        pthread_mutex_unlock(&s->lock);
        for (int i = 0; i < s->place[p].n; i++) read_range(s, &s->range[s->place[p].first + i]);
        pthread_mutex_lock(&s->lock);
        if (s->quit) break;
        s->place[p].here = true;
        s->held += s->place[p].bytes;
        s->read += (int64_t)s->place[p].bytes;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- open, close ---- */

static void free_stream(Stream *s) {
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    mem_free(s->range);
    mem_free(s->place);
    mem_free(s);
}

int stream_open(Stream **out, const Model *m, size_t room, Err *e) {
    Stream *s = mem_alloc(sizeof *s);
    *out = NULL;
    s->place = places_of(m, &s->range);
    s->n_places = m->dims.n_layers + 1;
    s->n_ranges = s->place[s->n_places].first + s->place[s->n_places].n;
    s->page = (size_t)sysconf(_SC_PAGESIZE);
    s->room = room;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    if (pthread_create(&s->thread, NULL, read_ahead, s)) {
        free_stream(s);
        return err_set(e, "no thread could be started to read the base ahead");
    }
    *out = s;
    return 0;
}

void stream_close(Stream *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    __atomic_store_n(&s->quit, true, __ATOMIC_RELAXED); /* looked at while reading, too */
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    free_stream(s);
}

void stream_told(Stream *s, int64_t *bytes, double *waited) {
    pthread_mutex_lock(&s->lock);
    *bytes = s->read;
    *waited = s->waited;
    pthread_mutex_unlock(&s->lock);
}

/* ---- a pass ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void stream_enter(Stream *s, int i, bool back) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    bool moved = s->at != i || s->back != back;
    s->at = i, s->back = back;
    if (moved) pthread_cond_broadcast(&s->changed);
    double from = s->place[i].here ? 0 : now();
    while (!s->place[i].here && s->place[i].n) pthread_cond_wait(&s->changed, &s->lock);
    if (from > 0) s->waited += now() - from;
    if (s->rows && i > 0) drop_place(s, &s->place[s->n_places]), s->rows = false;
    pthread_mutex_unlock(&s->lock);
}

void stream_begin(Stream *s, bool comes_back) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->comes_back = comes_back;
    pthread_mutex_unlock(&s->lock);
    stream_enter(s, 0, false);
}

void stream_rows(Stream *s, const Tensor *table, const Tensor *ids) {
    if (!s) return;
    int64_t n = tensor_rows(table);
    for (int64_t i = 0; i < tensor_numel(ids); i++) {
        int64_t id = i32(ids)[i];
        if (id < 0 || id >= n) continue;
        ByteRange r[2];
        int ranges = weight_row_ranges(table, id, r);
        for (int k = 0; k < ranges; k++)
            advise(s, (char *)table->data + r[k].from, (size_t)r[k].bytes, MADV_WILLNEED);
    }
    pthread_mutex_lock(&s->lock);
    s->rows = true;
    pthread_mutex_unlock(&s->lock);
}
