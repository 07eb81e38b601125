/* jinja_value.h - what a template computes with: Python's values, in memory that one render owns.
 *
 * Everything lives in the Run's pool and goes when it goes, so a failure may leave from any depth:
 * run_fail() writes the sentence and jumps back to jinja_compile or jinja_render, which return -1.
 * Nothing between may therefore own memory outside the pool. */
#ifndef JINJA_VALUE_H
#define JINJA_VALUE_H
#include <jansson.h>
#include <setjmp.h>
#include "../autograd/base.h"

enum {
    MAX_STEPS = 20 * 1000 * 1000,   /* nodes evaluated, and items touched by builtins */
    MAX_DEPTH = 1000,               /* nested evaluations, values, macros */
    MAX_MEMORY = 512 * 1024 * 1024, /* bytes of one render's pool */
    MAX_OUTPUT = 64 * 1024 * 1024,  /* bytes of rendered text */
    MAX_RANGE = 100000,             /* as the reference's sandbox */
};

typedef struct Str {
    const char *p; /* UTF-8, not terminated */
    size_t n;
} Str;
#define STR(literal) ((Str){literal, sizeof(literal) - 1})
Str str_of(const char *text);
bool str_equal(Str a, Str b);
bool str_is(Str a, const char *b);

/* ABSENT is no value: an optional argument that was not given. A VIEW is what dict.items(),
 * keys() and values() give; a STREAM is a Python generator: it is read once, and is always true. */
typedef enum Kind {
    IS_ABSENT,
    IS_UNDEFINED,
    IS_NONE,
    IS_BOOL,
    IS_INT,
    IS_FLOAT,
    IS_STRING,
    IS_LIST,
    IS_TUPLE,
    IS_DICT,
    IS_RANGE,
    IS_VIEW,
    IS_STREAM,
    IS_NAMESPACE,
    IS_FUNCTION,
    IS_MACRO,
    IS_LOOP,
    N_KINDS
} Kind;

typedef struct Value {
    Kind kind;
    bool safe; /* STRING: came from safe or escape, so + escapes what joins it */
    union {
        bool b;
        int64_t i;
        double f;
        Str s;
        struct List *list; /* LIST, TUPLE, VIEW, STREAM */
        struct Dict *dict; /* DICT, NAMESPACE */
        struct Range *range;
        struct Undefined *undefined;
        struct Function *function;
        struct Macro *macro;
        struct Loop *loop;
    };
} Value;

typedef struct List {
    Value *at;
    size_t n, cap;
    size_t next;      /* STREAM: the first item not yet read */
    const char *name; /* VIEW: dict_items, dict_keys, dict_values */
} List;
typedef struct Dict { /* in order of insertion; searched from the front: they are small */
    Value *key, *value;
    size_t n, cap;
} Dict;
typedef struct Range {
    int64_t start, stop, step, n;
} Range;
typedef struct Undefined { /* kept apart so that the sentence is only written when needed */
    const char *hint;      /* the whole sentence, or NULL */
    const char *of;        /* "'dict object'": whose attribute was missing; NULL: a variable */
    Value name;
} Undefined;

typedef struct Text {
    char *p;
    size_t n, cap;
} Text;

typedef struct Run { /* one compilation or one rendering */
    jmp_buf escape;
    Err *e;
    const char *name; /* of the template */
    int line;         /* being worked on */
    int depth;
    uint64_t steps;
    struct Chunk *chunks; /* the pool */
    size_t memory;
    struct Scope *scope;
    Text *out;
    int flow;       /* enum Flow: a break or continue on its way to its loop */
    Value captured; /* the text a filter block or a filtered set works on */
} Run;

_Noreturn void run_fail(Run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
void run_step(Run *r, size_t cost);
void run_deeper(Run *r);              /* pair with r->depth-- */
void *run_take(Run *r, size_t bytes); /* zeroed, 16-byte aligned */
void run_free(Run *r);

void append_bytes(Run *r, Text *t, const char *p, size_t n);
void append_str(Run *r, Text *t, Str s);
void append_format(Run *r, Text *t, const char *fmt, ...) PRINTF_LIKE(3, 4);
static inline Str text_str(const Text *t) { return (Str){t->p ? t->p : "", t->n}; }

static inline Value value_none(void) { return (Value){.kind = IS_NONE}; }
static inline Value value_bool(bool b) { return (Value){.kind = IS_BOOL, .b = b}; }
static inline Value value_int(int64_t i) { return (Value){.kind = IS_INT, .i = i}; }
static inline Value value_float(double f) { return (Value){.kind = IS_FLOAT, .f = f}; }
static inline Value value_str(Str s) { return (Value){.kind = IS_STRING, .s = s}; }
static inline Value value_text(const Text *t) { return value_str(text_str(t)); }
static inline Value value_list(Kind kind, List *l) { return (Value){.kind = kind, .list = l}; }
Value value_undefined(Run *r, const char *hint);
Value value_missing(Run *r, Value of, Value name); /* of lacks this attribute or element */
Value value_pair(Run *r, Value a, Value b);        /* a tuple */
Value value_from_json(Run *r, const json_t *j);

List *list_new(Run *r, size_t room);
void list_add(Run *r, List *l, Value v);
Dict *dict_new(Run *r);
Value *dict_find(Run *r, const Dict *d, Value key); /* NULL: not there */
Value *dict_find_name(const Dict *d, Str key);
void dict_set(Run *r, Dict *d, Value key, Value v);

bool value_truth(Value v);
bool value_equal(Run *r, Value a, Value b);
int value_compare(Run *r, Value a, Value b, const char *op); /* <0, 0, >0, 2: unordered (NaN) */
bool value_contains(Run *r, Value in, Value what);
bool value_length(Value v, size_t *n); /* false: has none */
List *value_items(Run *r, Value v);    /* what a for loop goes through; a STREAM is used up */
/* The sandbox's two ways in: attributes first (a.b), and elements first (a[b]). */
Value value_attribute(Run *r, Value of, Str name);
Value value_element(Run *r, Value of, Value index);
const char *value_type(Value v); /* Python's name of the type */

Str value_print(Run *r, Value v);                /* str() */
void value_write(Run *r, Text *t, Value v);      /* appends str() */
void value_write_repr(Run *r, Text *t, Value v); /* appends repr() */
void value_write_float(Run *r, Text *t, double f);
_Noreturn void value_fail_undefined(Run *r, Value v); /* using an undefined value */
#endif
