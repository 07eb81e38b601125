/* jinja_eval.h - running the tree: names and scopes, expressions, statements, macros, loops. */
#ifndef JINJA_EVAL_H
#define JINJA_EVAL_H
#include "jinja_builtins.h"
#include "jinja_parse.h"

/* Names are looked up outwards; an assignment lands in the innermost scope. */
typedef struct Scope {
    Str *name;
    Value *value;
    size_t n, cap;
    struct Scope *parent;
    bool kept; /* a macro was defined in it: it must outlive its turn of the loop */
} Scope;
Scope *scope_new(Run *r, Scope *parent);
void scope_set(Run *r, Scope *s, Str name, Value v);

typedef struct Macro {
    const Node *node;
    Scope *scope; /* where it was defined: what its body sees */
} Macro;

typedef struct Loop {
    const List *items;
    size_t index; /* from 0 */
    int depth;    /* from 0: of a recursive loop */
    Value seen;   /* what loop.changed was called with last */
    const Node *node;
    Scope *scope; /* around the loop */
} Loop;

enum Flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

Value eval(Run *r, const Node *n);
void exec(Run *r, const Node *n);
/* Runs into a text of its own, in a scope inside `parent`. */
Str exec_capture(Run *r, const Node *n, Scope *parent);
void exec_assign(Run *r, const Node *target, Value v);
Value exec_macro(Run *r, const Macro *m, const Args *args);
Value exec_recursive_loop(Run *r, const Loop *loop, Value items);
Args eval_args(Run *r, const CallArgs *args, const Value *caller);
#endif
