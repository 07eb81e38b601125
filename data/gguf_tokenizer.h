/* gguf_tokenizer.h - a checkpoint's tokenizer and chat template as GGUF keys (tokenizer.*), so that
 * llama.cpp makes the same tokens as tokenizer.json. Gemma's kind is known: BPE over text whose
 * spaces became U+2581, characters without a piece as bytes. */
#ifndef GGUF_TOKENIZER_H
#define GGUF_TOKENIZER_H
#include "gguf_writer.h"

/* How llama.cpp is to merge pieces. */
typedef enum GgufMerging {
    GGUF_BY_MERGES, /* tokenizer.ggml.model "gemma4": the listed pairs, in their order */
    GGUF_BY_SCORES  /* "llama": any pair whose union is a piece, the best score first */
} GgufMerging;

/* What llama.cpp will do otherwise than tokenizer.json. */
typedef struct GgufTokenizerNotes {
    bool none;          /* the model has none: the file takes and gives ids only */
    int across_newline; /* pieces that llama.cpp never makes: it splits texts at newlines */
} GgufTokenizerNotes;

/* model: a checkpoint (side_files.h). vocab: rows of its embedding; those without a piece are
 * written as unused. */
int gguf_add_tokenizer(GgufOut *g, const char *model, GgufMerging merging, int64_t vocab,
                       GgufTokenizerNotes *notes, Err *e);
#endif
