/* tokenizer_added.h - added tokens: texts that become one token wherever they stand, before the
 * rest is tokenised. */
#ifndef TOKENIZER_ADDED_H
#define TOKENIZER_ADDED_H
#include "tokenizer_text.h"

typedef struct AddedToken {
    Buf content;
    Buf shown; /* what it decodes to: content, normalised where it is looked for so */
    int32_t id;
    bool special;        /* left out by a decode that skips special tokens */
    bool single_word;    /* only where no letter or digit touches it */
    bool lstrip, rstrip; /* takes the white space before, behind it along */
    bool normalized;     /* looked for in normalised text, else in the text as given */
} AddedToken;

/* Texts to look for, as a tree of bytes. */
typedef struct TrieNode {
    int32_t child, sibling; /* 0: none (the root is nobody's child) */
    int32_t token;          /* index into AddedTokens.at; -1: none ends here */
    unsigned char byte;
} TrieNode;
typedef struct Trie {
    TrieNode *node;
    size_t n, cap;
    int32_t first[256]; /* children of the root */
} Trie;

typedef struct AddedTokens {
    AddedToken *at;
    size_t n, cap;
    Trie raw, normal;
} AddedTokens;
AddedToken *added_add(AddedTokens *a);
/* Once all are there: builds the tries; contents of normalized tokens go through normalizer. */
int added_finish(AddedTokens *a, const Steps *normalizer, Err *e);
void added_free(AddedTokens *a);
/* Cuts the text pieces of in at these tokens (those of raw or of normal): leftmost first, the
 * longest at one place. */
void added_split(const AddedTokens *a, const Trie *which, const Stage *in, Stage *out);
#endif
