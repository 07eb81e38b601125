/* gguf_side.h - what a GGUF file's tokenizer.* keys say, as the files that a Hugging Face directory
 * has beside its weights: tokenizer.json, tokenizer_config.json, generation_config.json and chat
 * templates. (config.json is the model's affair: model/gguf_base.h.) */
#ifndef GGUF_SIDE_H
#define GGUF_SIDE_H
#include "gguf.h"

/* The names of all of them, i from 0 on; NULL behind the last. */
const char *gguf_side_name(size_t i);

bool gguf_side_has(const Gguf *g, const char *name);
/* Appends the file; one that is not there is an error. */
int gguf_side_write(const Gguf *g, const char *name, Buf *out, Err *e);

/* ---- its rooms ---- */

/* tokenizer.json (gguf_tokenizer_json.c) of the tokenizer models
 *     gemma4  merges of characters, spaces as U+2581, bytes where there is no piece
 *     llama   the same, merges made from SentencePiece's scores
 *     gpt2    merges of bytes, words cut as tokenizer.ggml.pre says */
int gguf_tokenizer_json(const Gguf *g, Buf *out, Err *e);

/* Kinds of tokens, tokenizer.ggml.token_type. */
enum {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN,
    GGUF_TOKEN_CONTROL,
    GGUF_TOKEN_USER_DEFINED,
    GGUF_TOKEN_UNUSED,
    GGUF_TOKEN_BYTE
};
/* The vocabulary: texts that are UTF-8, their types and (where there are any) scores. */
typedef struct GgufVocab {
    const char **text;
    size_t *length;
    int64_t n;
    const GgufValue *types, *scores; /* NULL: none */
    bool add_bos, add_eos, add_space_prefix;
    int64_t bos, eos, unknown; /* -1: none */
} GgufVocab;
int gguf_vocab_read(GgufVocab *v, const Gguf *g, Err *e); /* freed either way */
void gguf_vocab_free(GgufVocab *v);
int gguf_vocab_type(const GgufVocab *v, int64_t id);
/* A text as JSON, with its quotes. */
void gguf_add_json(Buf *out, const char *text, size_t n);
#endif
