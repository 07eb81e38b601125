/* jinja_parse.h - tokens to a tree. Names of filters and tests are looked up when they run. */
#ifndef JINJA_PARSE_H
#define JINJA_PARSE_H
#include "jinja_value.h"

typedef enum NodeKind {
    /* expressions */
    NODE_CONST,    /* value */
    NODE_NAME,     /* name */
    NODE_CAPTURED, /* the text of the filter block around */
    NODE_LIST,
    NODE_TUPLE,     /* list */
    NODE_DICT,      /* list: key, value, key, value, ... */
    NODE_ATTRIBUTE, /* a.name */
    NODE_ELEMENT,   /* a[b] */
    NODE_SLICE,     /* a[list[0]:list[1]:list[2]], any NULL */
    NODE_CALL,      /* a(args) */
    NODE_FILTER,    /* a | name(args) */
    NODE_TEST,      /* a is name(args) */
    NODE_CHOICE,    /* a if b else c (c may be NULL) */
    NODE_AND,
    NODE_OR,
    NODE_NOT,
    NODE_NEGATE,
    NODE_PLUS,
    NODE_BINARY,  /* a name b: arithmetic */
    NODE_COMPARE, /* a, then list of b with their operators in names */
    /* statements */
    NODE_BLOCK,        /* list, one after the other */
    NODE_PRINT,        /* a */
    NODE_IF,           /* a: condition, b: block, c: otherwise (may be NULL) */
    NODE_FOR,          /* target a, over b, if c; list: body, else (may be NULL) */
    NODE_SET,          /* target a = b */
    NODE_SET_BLOCK,    /* target a = the text of b, through the filters c (may be NULL) */
    NODE_MACRO,        /* name, params, body a */
    NODE_CALL_BLOCK,   /* a: the call; b: a macro without name */
    NODE_FILTER_BLOCK, /* a: the filters, b: body */
    NODE_WITH,         /* list: target, value, ...; a: body */
    NODE_SCOPE,        /* a, in a scope of its own */
    NODE_BREAK,
    NODE_CONTINUE,
    N_NODES
} NodeKind;

typedef struct CallArgs {
    struct NodeList {
        struct Node **at;
        size_t n, cap;
    } at, value;
    Str *key; /* value.n of them */
    struct Node *star, *star_star;
} CallArgs;
typedef struct NodeList NodeList;

typedef struct Params { /* of a macro */
    Str *name;
    struct Node **fallback; /* NULL where it has none */
    size_t n;
    bool takes_rest, takes_named, takes_caller; /* varargs, kwargs, caller are read */
} Params;

typedef struct Node {
    NodeKind kind;
    int line;
    Str name;
    Value value;
    struct Node *a, *b, *c;
    NodeList list;
    Str *names;
    CallArgs *args;
    Params *params;
    bool attribute; /* NODE_ATTRIBUTE as a target: a namespace's member */
    bool recursive; /* NODE_FOR */
} Node;

Node *jinja_parse(Run *r, Str source); /* a NODE_BLOCK */
#endif
