/* tokenizer_regex.h - patterns of a tokenizer.json: plain strings, and regular expressions in the
 * dialect of the reference (Oniguruma's, Ruby syntax) run by PCRE2. */
#ifndef TOKENIZER_REGEX_H
#define TOKENIZER_REGEX_H
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include "../autograd/base.h"

/* Either literal text (code is NULL) or a compiled expression. */
typedef struct Pattern {
    Buf text;
    pcre2_code *code;
} Pattern;
/* where: what the sentence calls the owner of the pattern. */
int pattern_set_text(Pattern *p, const char *text, size_t n, const char *where, Err *e);
int pattern_set_regex(Pattern *p, const char *regex, size_t n, const char *where, Err *e);
void pattern_free(Pattern *p);

/* What matching needs besides the pattern: one per encode, so that patterns stay shared. */
typedef struct Matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} Matcher;
void matcher_free(Matcher *m); /* zeroed to begin with; made on first use */

/* A walk over the matches in [text, text + n), valid UTF-8, from left to right, none overlapping.
 */
typedef struct Matches {
    const Pattern *pattern;
    Matcher *matcher;
    const char *text;
    size_t n, at, last_end;
    bool any;
} Matches;
/* 1 and [*from, *to), 0 behind the last, -1 when the expression needs too many steps. */
int matches_next(Matches *w, size_t *from, size_t *to, Err *e);
#endif
