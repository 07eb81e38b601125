/* tokenizer_decode.h - pieces back to text: a chain of decoders, each turning a list of texts into
 * another, joined at the end. */
#ifndef TOKENIZER_DECODE_H
#define TOKENIZER_DECODE_H
#include <jansson.h>
#include "tokenizer_regex.h"

/* Texts one behind the other; text i ends at end[i]. */
typedef struct Strings {
    Buf bytes;
    size_t *end;
    size_t n, cap;
} Strings;
void strings_end(Strings *s); /* what was added to bytes since the last call is one text */
void strings_free(Strings *s);

typedef struct Decoder Decoder;
struct Decoder {
    void (*run)(const Decoder *d, const Strings *in, Strings *out);
    Pattern pattern;     /* Replace */
    Buf content;         /* Replace: what with; Strip, Metaspace: the character */
    int64_t start, stop; /* Strip: how many at most */
    bool drop_first;     /* Metaspace: the first piece's characters stand for nothing */
};
typedef struct Decoders {
    Decoder *at;
    size_t n;
    bool none; /* no decoder at all: pieces are joined by spaces */
} Decoders;
/* value: "decoder" of a tokenizer.json, or NULL. */
int decoders_read(Decoders *d, const json_t *value, const char *name, Err *e);
void decoders_free(Decoders *d);
/* Runs the chain over *pieces (which it uses up) and appends the text. */
void decoders_run(const Decoders *d, Strings *pieces, Buf *out);
#endif
