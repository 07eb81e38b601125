/* tokenizer_bpe.h - byte-pair encoding: characters of a piece of text, merged pair by pair in the
 * order in which the merges were learned. */
#ifndef TOKENIZER_BPE_H
#define TOKENIZER_BPE_H
#include "tokenizer_vocab.h"

typedef struct Merge {
    int32_t left, right, both; /* left < 0: an empty slot */
    uint32_t rank;             /* lowest first */
} Merge;

typedef struct Bpe {
    Vocab vocab;
    Merge *merge; /* open addressing by (left, right) */
    uint32_t slots;
    uint32_t merges;      /* pairs in the table */
    uint64_t *junction;   /* bits: pairs of characters at which some merge joins (by hash) */
    int32_t byte_id[256]; /* of "<0x00>" ... "<0xFF>"; -1: none. Filled by bpe_finish. */
    int32_t unknown;      /* -1: characters without a piece are dropped */
    bool byte_fallback, fuse_unknown, ignore_merges;
    Buf prefix, suffix; /* of pieces inside a word, and at its end; mostly empty */
} Bpe;
void bpe_free(Bpe *b);
/* A later rank for the same pair replaces the earlier. */
void bpe_add_merge(Bpe *b, int32_t left, int32_t right, int32_t both, uint32_t rank);
void bpe_finish(Bpe *b); /* once all pieces are there */

/* One unit of the text while it is being merged; what is left at the end are the tokens. */
typedef struct Symbol {
    int32_t id;
    uint32_t from, to;   /* bytes of the text */
    uint32_t prev, next; /* BPE_NONE at the ends */
} Symbol;
#define BPE_NONE UINT32_MAX

typedef struct Waiting {
    uint64_t order; /* rank above, place below: the least is next */
    int32_t both;
} Waiting;
/* Room to work in, kept from one piece of text to the next. */
typedef struct BpeRoom {
    Symbol *symbol;
    Waiting *heap;
    size_t n, cap, waiting, heap_cap;
} BpeRoom;
void bpe_room_free(BpeRoom *r);
/* Encodes [text, text + n), valid UTF-8 of less than 4 GiB: r->symbol[0 .. r->n), in order. */
void bpe_encode(const Bpe *b, const char *text, size_t n, BpeRoom *r);
#endif
