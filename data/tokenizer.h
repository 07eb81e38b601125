/* tokenizer.h - text to token ids and back, from a Hugging Face tokenizer.json (BPE, both kinds:
 * byte-fallback as Gemma's and byte-level with a regex pre-tokenizer as Qwen's and Llama's). */
#ifndef TOKENIZER_H
#define TOKENIZER_H
#include "../autograd/base.h"

typedef struct Tokenizer Tokenizer;

/* Ids with the bytes of the text each came from: [from, to) of the text given to encode. A token
 * that stands for no text (added by the post-processor) has from == to. */
typedef struct Tokens {
    int32_t *id;
    size_t  *from, *to;
    size_t   n, cap;
} Tokens;
void tokens_free(Tokens *t);

int  tokenizer_open(Tokenizer **out, const char *path, Err *e); /* path of the tokenizer.json */
int  tokenizer_open_model(Tokenizer **out, const char *model, Err *e); /* its own (side_files.h) */
void tokenizer_close(Tokenizer *t);
int32_t     tokenizer_size(const Tokenizer *t);                 /* highest id + 1 */
int32_t     tokenizer_find(const Tokenizer *t, const char *piece); /* -1: no such piece */
const char *tokenizer_piece(const Tokenizer *t, int32_t id);    /* as in the vocabulary; NULL: no such id */
bool        tokenizer_is_special(const Tokenizer *t, int32_t id);

/* Appends to out. special: what the post-processor adds (as Transformers' add_special_tokens). The
 * text is UTF-8 and may hold U+0000. Fails on text that is not UTF-8. */
int tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, Tokens *out, Err *e);
/* Appends UTF-8 text; invalid byte runs become U+FFFD as the reference's decoder does. */
void tokenizer_decode(const Tokenizer *t, const int32_t *ids, size_t n, bool skip_special, Buf *out);
#endif
