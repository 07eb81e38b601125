/* tokenizer_read.h - what the readers of a tokenizer.json's parts share, and its text cut in three:
 * the two big tables, which are read straight from the text, and the rest as a JSON tree. */
#ifndef TOKENIZER_READ_H
#define TOKENIZER_READ_H
#include "json.h"
#include "tokenizer_bpe.h"
#include "tokenizer_text.h"

/* vocab and merges: the bytes of text between and with their brackets; NULL where there is none. */
typedef struct TokenizerFile {
    Buf text;
    const char *vocab, *vocab_end, *merges, *merges_end;
    json_t *rest; /* vocab and merges are empty in it */
} TokenizerFile;
int tokenizer_file_read(TokenizerFile *f, const char *path, Err *e);
int tokenizer_file_parse(TokenizerFile *f, const char *name, Err *e); /* f->text is there already */
void tokenizer_file_free(TokenizerFile *f);
/* Fills the vocabulary and the merges of b, whose prefix is already set. */
int tokenizer_file_tables(const TokenizerFile *f, Bpe *b, const char *path, Err *e);

/* A part's "type"; what ("normalizer", ...) and name (the file) are for the sentence. */
int part_type(const json_t *part, const char **type, const char *what, const char *name, Err *e);
/* "NAME: TYPE pre_tokenizer": what sentences call this part; type may be "". */
typedef struct Where {
    char text[256];
} Where;
Where part_where(const char *type, const char *what, const char *name);
/* "pattern": {"String": ...} or {"Regex": ...}. */
int part_pattern(const json_t *part, Pattern *out, const char *where, Err *e);
/* A text field, which may hold U+0000, into out; an error if it is missing. */
int part_text(const json_t *part, const char *key, Buf *out, const char *where, Err *e);

/* "normalizer" and "pre_tokenizer" of a tokenizer.json (NULL: none) as steps. */
int normalizer_read(Steps *s, const json_t *value, const char *name, Err *e);
int pre_tokenizer_read(Steps *s, const json_t *value, const char *name, Err *e);
#endif
