/* tokenizer_bpe.c - see tokenizer_bpe.h.
 *
 * Some tokenizers (Gemma's) hand over whole texts uncut, so merging has to be O(n log n): the pairs
 * that could merge wait in a heap, ordered by rank and then by place, and the symbols are a linked
 * list in an array. A pair that has changed since it was put in the heap is recognised by what it
 * would become, and skipped.
 *
 * A merge joins a piece that ends in one character to one that begins with another. Where no merge
 * at all joins two neighbours, the text left of them and right of them never meet, so it is merged
 * in such stretches: small heaps stay in the cache. */
#include <stdio.h>
#include <string.h>
#include "tokenizer_bpe.h"
#include "tokenizer_utf8.h"

enum { JUNCTION_BITS = 1 << 21 };

static uint32_t pair_slot(const Bpe *b, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key = (key ^ (key >> 31)) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(key >> 32) & (b->slots - 1);
}

static Merge *merge_at(const Bpe *b, int32_t left, int32_t right) {
    uint32_t at = pair_slot(b, left, right);
    while (b->merge[at].left >= 0 && (b->merge[at].left != left || b->merge[at].right != right))
        at = (at + 1) & (b->slots - 1);
    return &b->merge[at];
}

static void grow_merges(Bpe *b) {
    Merge *old = b->merge;
    uint32_t slots = b->slots;
    if (!slots) b->junction = mem_alloc(JUNCTION_BITS / 8);
    b->slots = slots ? slots * 2 : 1024;
    b->merge = mem_alloc(b->slots * sizeof *b->merge);
    for (uint32_t i = 0; i < b->slots; i++) b->merge[i].left = -1;
    for (uint32_t i = 0; i < slots; i++)
        if (old[i].left >= 0) *merge_at(b, old[i].left, old[i].right) = old[i];
    mem_free(old);
}

/* The bit for text that ends in the character before and goes on with the one at p. */
static uint32_t junction_of(const char *before, const char *p) {
    uint64_t pair = 0;
    memcpy(&pair, before, (size_t)utf8_length(*before));
    memcpy((char *)&pair + 4, p, (size_t)utf8_length(*p));
    pair = (pair ^ (pair >> 29)) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(pair >> 32) & (JUNCTION_BITS - 1);
}

static bool may_join(const Bpe *b, const char *before, const char *p) {
    uint32_t bit = junction_of(before, p);
    return b->junction[bit / 64] >> (bit % 64) & 1;
}

static void note_junction(Bpe *b, int32_t left, int32_t right) {
    size_t n, right_n;
    const char *text = vocab_piece(&b->vocab, left, &n);
    const char *p = vocab_piece(&b->vocab, right, &right_n);
    if (!n || !right_n) return; /* text has no empty symbols */
    uint32_t bit = junction_of(utf8_before(text + n), p);
    b->junction[bit / 64] |= 1ull << (bit % 64);
}

void bpe_add_merge(Bpe *b, int32_t left, int32_t right, int32_t both, uint32_t rank) {
    if (2 * b->merges >= b->slots) grow_merges(b);
    Merge *m = merge_at(b, left, right);
    b->merges += m->left < 0;
    *m = (Merge){left, right, both, rank};
    note_junction(b, left, right);
}

void bpe_finish(Bpe *b) {
    for (int i = 0; i < 256; i++) {
        char piece[8];
        snprintf(piece, sizeof piece, "<0x%02X>", (unsigned)i);
        b->byte_id[i] = vocab_find(&b->vocab, piece, 6);
    }
    if (!b->slots) grow_merges(b);
}

void bpe_free(Bpe *b) {
    vocab_free(&b->vocab);
    mem_free(b->merge);
    mem_free(b->junction);
    buf_free(&b->prefix);
    buf_free(&b->suffix);
    *b = (Bpe){0};
}

void bpe_room_free(BpeRoom *r) {
    mem_free(r->symbol);
    mem_free(r->heap);
    *r = (BpeRoom){0};
}

static void add_symbol(BpeRoom *r, int32_t id, size_t from, size_t to) {
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 256;
        r->symbol = mem_grow(r->symbol, r->cap * sizeof *r->symbol, cap * sizeof *r->symbol);
        r->cap = cap;
    }
    uint32_t place = (uint32_t)r->n;
    r->symbol[r->n++] =
        (Symbol){id, (uint32_t)from, (uint32_t)to, place ? place - 1 : BPE_NONE, place + 1};
}

/* The heap: the parent of i is (i - 1) / 2. */
static void sink(BpeRoom *r, size_t i) {
    Waiting w = r->heap[i];
    for (size_t child; (child = 2 * i + 1) < r->waiting; i = child) {
        if (child + 1 < r->waiting && r->heap[child + 1].order < r->heap[child].order) child++;
        if (w.order <= r->heap[child].order) break;
        r->heap[i] = r->heap[child];
    }
    r->heap[i] = w;
}

static void wait_unordered(BpeRoom *r, Waiting w) {
    if (r->waiting == r->heap_cap) {
        size_t cap = r->heap_cap ? r->heap_cap * 2 : 256;
        r->heap = mem_grow(r->heap, r->heap_cap * sizeof *r->heap, cap * sizeof *r->heap);
        r->heap_cap = cap;
    }
    r->heap[r->waiting++] = w;
}

static void rise(BpeRoom *r) {
    size_t i = r->waiting - 1;
    Waiting w = r->heap[i];
    for (; i > 0 && w.order < r->heap[(i - 1) / 2].order; i = (i - 1) / 2)
        r->heap[i] = r->heap[(i - 1) / 2];
    r->heap[i] = w;
}

/* Puts the pair that starts at this place in the heap if it can merge. */
static bool wait_for(const Bpe *b, BpeRoom *r, uint32_t place) {
    uint32_t next = r->symbol[place].next;
    if (next == BPE_NONE) return false;
    const Merge *m = merge_at(b, r->symbol[place].id, r->symbol[next].id);
    if (m->left < 0) return false;
    wait_unordered(r, (Waiting){(uint64_t)m->rank << 32 | place, m->both});
    return true;
}

/* Merges the symbols from start on, which are the rest of the room, and closes the gaps. */
static void merge_from(const Bpe *b, BpeRoom *r, size_t start) {
    if (start == r->n) return;
    r->symbol[start].prev = r->symbol[r->n - 1].next = BPE_NONE;
    r->waiting = 0;
    for (size_t i = start; i + 1 < r->n; i++) wait_for(b, r, (uint32_t)i);
    for (size_t i = r->waiting / 2; i-- > 0;) sink(r, i);
    while (r->waiting > 0) {
        Waiting top = r->heap[0];
        r->heap[0] = r->heap[--r->waiting];
        if (r->waiting) sink(r, 0);
        uint32_t place = (uint32_t)top.order;
        Symbol *left = &r->symbol[place];
        if (left->id < 0 || left->next == BPE_NONE) continue;
        Symbol *right = &r->symbol[left->next];
        const Merge *m = merge_at(b, left->id, right->id);
        if (m->left < 0 || m->both != top.both) continue;
        left->id = top.both;
        left->to = right->to;
        left->next = right->next;
        right->id = -1; /* part of left now */
        if (left->next != BPE_NONE) r->symbol[left->next].prev = place;
        if (left->prev != BPE_NONE && wait_for(b, r, left->prev)) rise(r);
        if (wait_for(b, r, place)) rise(r);
    }
    size_t kept = start;
    for (uint32_t i = (uint32_t)start; i != BPE_NONE; i = r->symbol[i].next)
        r->symbol[kept++] = r->symbol[i];
    r->n = kept;
}

/* A character as the vocabulary knows it, with the prefix and suffix that words may carry. */
static int32_t find_char(const Bpe *b, const char *p, size_t n, bool first, bool last) {
    bool prefix = !first && b->prefix.n, suffix = last && b->suffix.n;
    if (!prefix && !suffix) return vocab_find(&b->vocab, p, n);
    Buf whole = {0};
    if (prefix) buf_add(&whole, b->prefix.p, b->prefix.n);
    buf_add(&whole, p, n);
    if (suffix) buf_add(&whole, b->suffix.p, b->suffix.n);
    int32_t id = vocab_find(&b->vocab, whole.p, whole.n);
    buf_free(&whole);
    return id;
}

static bool add_bytes(const Bpe *b, const char *text, size_t from, size_t to, BpeRoom *r) {
    for (size_t i = from; i < to; i++)
        if (b->byte_id[(unsigned char)text[i]] < 0) return false;
    for (size_t i = from; i < to; i++) add_symbol(r, b->byte_id[(unsigned char)text[i]], i, i + 1);
    return true;
}

/* The characters of the text as symbols, merged in stretches. A run of unknown ones waits
 * (unknown_to > 0), because it may be fused; like the reference it does not end at characters that
 * fall back to bytes. */
static void merge_text(const Bpe *b, const char *text, size_t n, BpeRoom *r) {
    size_t unknown_from = 0, unknown_to = 0, start = 0;
    const char *before = NULL; /* the last character, if it is a piece and one symbol */
    bool whole = b->prefix.n || b->suffix.n; /* then symbols are more than their characters */
    for (size_t i = 0, end; i < n; i = end) {
        end = i + (size_t)utf8_length(text[i]);
        int32_t id = find_char(b, text + i, end - i, i == 0, end == n);
        if (id >= 0) {
            if (unknown_to) add_symbol(r, b->unknown, unknown_from, unknown_to);
            unknown_to = 0;
            if (before && !whole && !may_join(b, before, text + i)) {
                merge_from(b, r, start);
                start = r->n;
            }
            add_symbol(r, id, i, end);
        } else if (!(b->byte_fallback && add_bytes(b, text, i, end, r)) && b->unknown >= 0) {
            if (unknown_to && !b->fuse_unknown) add_symbol(r, b->unknown, unknown_from, unknown_to);
            if (!unknown_to || !b->fuse_unknown) unknown_from = i;
            unknown_to = end;
        }
        before = id >= 0 ? text + i : NULL;
    }
    if (unknown_to) add_symbol(r, b->unknown, unknown_from, unknown_to);
    merge_from(b, r, start);
}

void bpe_encode(const Bpe *b, const char *text, size_t n, BpeRoom *r) {
    r->n = 0;
    if (b->ignore_merges) {
        int32_t id = vocab_find(&b->vocab, text, n);
        if (id >= 0) {
            add_symbol(r, id, 0, n);
            return;
        }
    }
    merge_text(b, text, n, r);
}
