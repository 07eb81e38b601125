/* tokenizer_vocab.h - pieces and their ids, both ways. A piece may hold U+0000. */
#ifndef TOKENIZER_VOCAB_H
#define TOKENIZER_VOCAB_H
#include "../autograd/base.h"

enum { VOCAB_ID_LIMIT = 1 << 22 }; /* sixteen times the largest vocabulary in use */

typedef struct Vocab {
    char *pool;               /* all pieces, each ended by a NUL */
    size_t pool_n, pool_cap;  /* bytes */
    uint32_t *start, *length; /* by id: into pool; start is 0 where there is no such id */
    int32_t n, cap;           /* ids: highest + 1 */
    int32_t pieces;
    int32_t *slot; /* open addressing by hash: id + 1 */
    uint32_t slots;
} Vocab;
void vocab_free(Vocab *v);
/* Fails when the id or the piece is taken, or the id is out of range; name: the file. */
int vocab_add(Vocab *v, const char *piece, size_t n, int64_t id, const char *name, Err *e);
int32_t vocab_find(const Vocab *v, const char *piece, size_t n); /* -1: none */
const char *vocab_piece(const Vocab *v, int32_t id, size_t *n);  /* NULL: none */
#endif
