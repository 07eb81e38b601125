/* tokenizer_vocab.c - see tokenizer_vocab.h. Half a million look-ups happen while the merges are
 * read, so it is one flat hash table with linear probing, never more than half full. */
#include <string.h>
#include "tokenizer_vocab.h"

static uint32_t hash_of(const char *p, size_t n) {
    uint64_t h = n * 0x9e3779b97f4a7c15ull, word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
    }
    word = 0;
    memcpy(&word, p, n);
    h = (h ^ word) * 0xff51afd7ed558ccdull;
    h ^= h >> 32;
    return (uint32_t)((h * 0xc4ceb9fe1a85ec53ull) >> 32);
}

/* The slot where this piece is, or would go. */
static uint32_t slot_of(const Vocab *v, const char *piece, size_t n) {
    uint32_t at = hash_of(piece, n) & (v->slots - 1);
    while (v->slot[at]) {
        int32_t id = v->slot[at] - 1;
        if (v->length[id] == n && memcmp(v->pool + v->start[id], piece, n) == 0) break;
        at = (at + 1) & (v->slots - 1);
    }
    return at;
}

static void grow_slots(Vocab *v) {
    int32_t *old = v->slot;
    uint32_t slots = v->slots;
    v->slots = slots ? slots * 2 : 1024;
    v->slot = mem_alloc(v->slots * sizeof *v->slot);
    for (uint32_t i = 0; i < slots; i++) {
        if (!old[i]) continue;
        int32_t id = old[i] - 1;
        v->slot[slot_of(v, v->pool + v->start[id], v->length[id])] = id + 1;
    }
    mem_free(old);
}

static void reserve_id(Vocab *v, int32_t id) {
    if (id >= v->cap) {
        int32_t cap = v->cap ? v->cap : 1024;
        while (cap <= id) cap *= 2;
        size_t was = (size_t)v->cap, now = (size_t)cap;
        v->start = mem_grow(v->start, was * sizeof *v->start, now * sizeof *v->start);
        v->length = mem_grow(v->length, was * sizeof *v->length, now * sizeof *v->length);
        v->cap = cap;
    }
    if (id >= v->n) v->n = id + 1;
}

static void pool_add(Vocab *v, const char *piece, size_t n) {
    if (v->pool_n == 0) v->pool_n = 1; /* start 0 means "no such id" */
    if (v->pool_n + n + 1 > v->pool_cap) {
        size_t cap = v->pool_cap ? v->pool_cap : 4096;
        while (cap < v->pool_n + n + 1) cap *= 2;
        v->pool = mem_grow(v->pool, v->pool_cap, cap);
        v->pool_cap = cap;
    }
    memcpy(v->pool + v->pool_n, piece, n);
    v->pool[v->pool_n + n] = 0;
    v->pool_n += n + 1;
}

int vocab_add(Vocab *v, const char *piece, size_t n, int64_t id, const char *name, Err *e) {
    int shown = n < 100 ? (int)n : 100; /* of a piece that nothing may end */
    if (id < 0 || id >= VOCAB_ID_LIMIT)
        return err_set(e, "%s: piece \"%.*s\" has id %lld, expected 0 to %d", name, shown, piece,
                       (long long)id, VOCAB_ID_LIMIT - 1);
    if (id < v->n && v->start[id])
        return err_set(e, "%s: pieces \"%.100s\" and \"%.*s\" have the same id %d", name,
                       v->pool + v->start[id], shown, piece, (int)id);
    if (v->pool_n + n + 2 > UINT32_MAX)
        return err_set(e, "%s: the pieces take more than 4 GiB together", name);
    if (2 * (uint32_t)v->pieces >= v->slots) grow_slots(v);
    uint32_t at = slot_of(v, piece, n);
    if (v->slot[at])
        return err_set(e, "%s: piece \"%.*s\" has two ids, %d and %d", name, shown, piece,
                       v->slot[at] - 1, (int)id);
    reserve_id(v, (int32_t)id);
    pool_add(v, piece, n);
    v->start[id] = (uint32_t)(v->pool_n - n - 1);
    v->length[id] = (uint32_t)n;
    v->slot[at] = (int32_t)id + 1;
    v->pieces++;
    return 0;
}

int32_t vocab_find(const Vocab *v, const char *piece, size_t n) {
    return v->slots ? v->slot[slot_of(v, piece, n)] - 1 : -1;
}

const char *vocab_piece(const Vocab *v, int32_t id, size_t *n) {
    if (id < 0 || id >= v->n || !v->start[id]) return NULL;
    *n = v->length[id];
    return v->pool + v->start[id];
}

void vocab_free(Vocab *v) {
    mem_free(v->pool);
    mem_free(v->start);
    mem_free(v->length);
    mem_free(v->slot);
    *v = (Vocab){0};
}
