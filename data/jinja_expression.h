/* jinja_expression.h - reading expressions; and the reader's common parts, for statements. */
#ifndef JINJA_EXPRESSION_H
#define JINJA_EXPRESSION_H
#include "jinja_lex.h"
#include "jinja_parse.h"

typedef struct Parser {
    Run *r;
    const Token *t; /* the current token */
    int depth;      /* nested brackets and blocks */
    int loops;      /* for loops around, within the macro */
    Params *macro;  /* the one being read, or NULL */
} Parser;

_Noreturn void parser_fail(Parser *p, const char *wanted); /* at the current token */
bool parser_at(const Parser *p, const char *op);           /* an operator */
bool parser_at_name(const Parser *p, const char *name);
void parser_next(Parser *p);
bool parser_skip(Parser *p, const char *op);
bool parser_skip_name(Parser *p, const char *name);
void parser_expect(Parser *p, const char *op);
void parser_expect_kind(Parser *p, TokenKind kind, const char *what);
Str parser_expect_name(Parser *p);
void parser_deeper(Parser *p); /* pair with p->depth-- */

Node *node_new(Parser *p, NodeKind kind);
void node_add(Parser *p, NodeList *l, Node *n);
Str *names_add(Parser *p, Str *names, size_t n, Str name); /* the n + 1 names, maybe moved */

Node *parse_expression(Parser *p);
Node *parse_tuple(Parser *p, bool choice);     /* expressions with commas; choice: a if b else c */
Node *parse_filters_only(Parser *p, Node *of); /* name(args) | name(args) ... */
Node *parse_target(Parser *p, bool namespaces);
Node *parse_call_of(Parser *p, Node *of);
#endif
