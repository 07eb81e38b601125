/* jinja_builtins.h - what a template finds ready made: filters, tests, methods, global functions.
 *
 * Each kind is one or more tables of name, parameters and function; to add one, write the function
 * and its line. The parameters are bound before the function is called: "old new count?" gives
 * a[0], a[1] and, when given, a[2] (else its kind is IS_ABSENT); "*" leaves binding to the
 * function. */
#ifndef JINJA_BUILTINS_H
#define JINJA_BUILTINS_H
#include "jinja_value.h"

enum { MAX_PARAMS = 6 };

typedef struct Args { /* as written in the call */
    const Value *at;
    size_t n;
    const Str *key;
    const Value *value;
    size_t n_keys;
} Args;

typedef struct Call {
    const char *name;
    Value self; /* what is filtered, tested, or whose method is called */
    Value a[MAX_PARAMS];
    const Args *args;
} Call;

typedef struct Builtin {
    const char *name, *params;
    Value (*run)(Run *r, const Call *c);
} Builtin;

typedef struct Function {
    const Builtin *builtin;
    Value self;
} Function;

/* Tables end with a line without a name. */
extern const Builtin FILTERS_TEXT[], FILTERS_SEQUENCE[], TESTS[], GLOBALS[];
extern const Builtin METHODS_STRING[], METHODS_DICT[], METHODS_LIST[];

const Builtin *builtin_find(const Builtin *table, Str name); /* NULL: none */
const Builtin *filter_find(Str name);
Value builtin_call(Run *r, const Builtin *b, Value self, const Args *args);

/* Arguments, with Python's complaints. `fallback` where it was not given (or given as None for
 * arg_str, which then returns the fallback too). */
int64_t arg_int(Run *r, const Call *c, int i, int64_t fallback);
bool arg_truth(const Call *c, int i, bool fallback);
Str arg_str(Run *r, const Call *c, int i, Str fallback);

/* An attribute that comes with the value's type: a method, a member of loop or namespace.
 * IS_ABSENT: none of this name. Methods that change a list or dict are undefined, as the sandbox
 * has it. */
Value attribute_find(Run *r, Value of, Str name);

/* Stable. compare returns <0, 0, >0. */
typedef int ListCompare(Run *r, Value a, Value b, const void *how);
void list_sort(Run *r, List *l, ListCompare *compare, const void *how);
int compare_first(Run *r, Value a, Value b, const void *how); /* tuples by their first item */

/* printf-style % and str.format, in jinja_format.c. */
Str format_percent(Run *r, Str format, Value values);
Str format_braces(Run *r, Str format, const Args *args);
#endif
