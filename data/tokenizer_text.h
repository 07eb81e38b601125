/* tokenizer_text.h - text on its way to the model: bytes that remember where they came from, cut
 * into pieces by one step after the other. Normalizers and pre-tokenizers are both such steps. */
#ifndef TOKENIZER_TEXT_H
#define TOKENIZER_TEXT_H
#include "tokenizer_regex.h"

/* UTF-8. Byte i stands for bytes [from[i], to[i]) of the text given to tokenizer_encode; all bytes
 * of one character share a span, and a character made of several carries the span of all. */
typedef struct Text {
    char *p;
    uint32_t *from, *to;
    size_t n, cap;
} Text;
void text_add(Text *t, const char *bytes, size_t n, uint32_t from, uint32_t to);
void text_add_char(Text *t, int32_t codepoint, uint32_t from, uint32_t to);
void text_add_text(Text *t, const Text *source, size_t from, size_t to); /* with its spans */

/* With id < 0: bytes [from, to) of a Text, still to be tokenised. Else: the added token with that
 * id, standing for bytes [from, to) of the text given to encode. Never empty. */
typedef struct Piece {
    size_t from, to;
    int32_t id;
} Piece;

typedef struct Stage {
    size_t limit; /* bytes of text at most: a hostile normalizer could multiply it */
    Text text;
    Piece *piece;
    size_t n, cap;
} Stage;
void stage_add(Stage *s, size_t from, size_t to, int32_t id); /* empty text pieces are dropped */
void stage_clear(Stage *s);
int stage_check(const Stage *s, Err *e); /* an error once the text is over the limit */
void stage_free(Stage *s);

typedef enum Behaviour { ISOLATED, REMOVED, MERGED_PREVIOUS, MERGED_NEXT, CONTIGUOUS } Behaviour;
typedef enum Prefixing { PREFIX_ALWAYS, PREFIX_MISSING, PREFIX_MISSING_AT_START } Prefixing;
typedef enum Form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD } Form;

/* Turns one text piece of in into text and pieces of out. The other fields are what run reads. */
typedef struct Step Step;
struct Step {
    int (*run)(const Step *s, const Stage *in, const Piece *piece, Stage *out, Matcher *m, Err *e);
    Pattern pattern; /* replace, split */
    Buf content;     /* replace: what with; prefix: what is put in front */
    Behaviour behaviour;
    Prefixing prefixing;
    Form form;
    bool invert;      /* split: what the pattern does not match is the delimiter */
    bool left, right; /* strip: which ends */
};
typedef struct Steps {
    Step *at;
    size_t n;
} Steps;
Step *steps_add(Steps *s);
void steps_free(Steps *s);
/* What n bytes of text may grow to: no normal form and no spelling of bytes reaches this. */
static inline size_t stage_limit(size_t n) { return 128 * n + 65536; }
/* Runs them over every text piece of *stage, in place; spare is room to work in. */
int steps_run(const Steps *s, Stage *stage, Stage *spare, Matcher *m, Err *e);

/* The kinds of step that normalizers and pre-tokenizers are made of. */
int step_replace(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
int step_prefix(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
int step_split(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
int step_strip(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
int step_lowercase(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
int step_bytes(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
int step_unicode(const Step *s, const Stage *in, const Piece *p, Stage *out, Matcher *m, Err *e);
#endif
