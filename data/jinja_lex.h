/* jinja_lex.h - template source to tokens; whitespace control is settled here. */
#ifndef JINJA_LEX_H
#define JINJA_LEX_H
#include "jinja_value.h"

typedef enum TokenKind {
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_NUMBER,
    TOKEN_OPERATOR,
    TOKEN_END
} TokenKind;

typedef struct Token {
    TokenKind kind;
    int line;
    Str text;    /* unescaped, for data and strings */
    Value value; /* of a number */
} Token;

typedef struct TokenList {
    Token *at; /* the last one is TOKEN_END */
    size_t n, cap;
} TokenList;

TokenList jinja_lex(Run *r, Str source);
#endif
