/* jinja_eval.c - expressions: one function per kind of node. */
#include "jinja_eval.h"
#include <string.h>
#include "jinja_arith.h"

Scope *scope_new(Run *r, Scope *parent) {
    Scope *s = run_take(r, sizeof *s);
    s->parent = parent;
    return s;
}

void scope_set(Run *r, Scope *s, Str name, Value v) {
    for (size_t i = 0; i < s->n; i++)
        if (str_equal(s->name[i], name)) {
            s->value[i] = v;
            return;
        }
    if (s->n == s->cap) {
        size_t cap = s->cap * 2 + 4;
        Str *names = run_take(r, cap * sizeof *names);
        Value *more = run_take(r, cap * sizeof *more);
        if (s->n) {
            memcpy(names, s->name, s->n * sizeof *names);
            memcpy(more, s->value, s->n * sizeof *more);
        }
        *s = (Scope){names, more, s->n, cap, s->parent, s->kept};
    }
    s->name[s->n] = name;
    s->value[s->n++] = v;
}

static Value eval_const(Run *r, const Node *n) {
    (void)r;
    return n->value;
}

static Value eval_name(Run *r, const Node *n) {
    for (const Scope *s = r->scope; s; s = s->parent)
        for (size_t i = s->n; i-- > 0;)
            if (str_equal(s->name[i], n->name)) return s->value[i];
    const Builtin *global = builtin_find(GLOBALS, n->name);
    if (global) {
        Function *f = run_take(r, sizeof *f);
        *f = (Function){.builtin = global};
        return (Value){.kind = IS_FUNCTION, .function = f};
    }
    Undefined *u = run_take(r, sizeof *u);
    u->name = value_str(n->name);
    return (Value){.kind = IS_UNDEFINED, .undefined = u};
}

static Value eval_captured(Run *r, const Node *n) {
    (void)n;
    return r->captured;
}

static List *eval_all(Run *r, const NodeList *nodes) {
    List *l = list_new(r, nodes->n);
    for (size_t i = 0; i < nodes->n; i++) list_add(r, l, eval(r, nodes->at[i]));
    return l;
}

static Value eval_list(Run *r, const Node *n) { return value_list(IS_LIST, eval_all(r, &n->list)); }
static Value eval_tuple(Run *r, const Node *n) {
    return value_list(IS_TUPLE, eval_all(r, &n->list));
}

static Value eval_dict(Run *r, const Node *n) {
    Dict *d = dict_new(r);
    for (size_t i = 0; i < n->list.n; i += 2) {
        Value key = eval(r, n->list.at[i]);
        dict_set(r, d, key, eval(r, n->list.at[i + 1]));
    }
    return (Value){.kind = IS_DICT, .dict = d};
}

static Value eval_attribute(Run *r, const Node *n) {
    return value_attribute(r, eval(r, n->a), n->name);
}

static Value eval_element(Run *r, const Node *n) {
    Value of = eval(r, n->a);
    return value_element(r, of, eval(r, n->b));
}

static Value eval_slice(Run *r, const Node *n) {
    Value of = eval(r, n->a), part[3];
    for (size_t i = 0; i < 3; i++)
        part[i] = n->list.at[i] ? eval(r, n->list.at[i]) : (Value){.kind = IS_ABSENT};
    return arith_slice(r, of, part);
}

static void add_starred(Run *r, List *at, const Node *star) {
    if (!star) return;
    const List *more = value_items(r, eval(r, star));
    for (size_t i = 0; i < more->n; i++) list_add(r, at, more->at[i]);
}

static void add_named(Run *r, Dict *named, const Node *star_star) {
    if (!star_star) return;
    Value more = eval(r, star_star);
    if (more.kind != IS_DICT) run_fail(r, "argument after ** must be a mapping");
    for (size_t i = 0; i < more.dict->n; i++) {
        Value key = more.dict->key[i];
        if (key.kind != IS_STRING) run_fail(r, "names of arguments must be strings");
        if (dict_find_name(named, key.s))
            run_fail(r, "got multiple values for the argument '%.*s'", (int)key.s.n, key.s.p);
        dict_set(r, named, key, more.dict->value[i]);
    }
}

Args eval_args(Run *r, const CallArgs *args, const Value *caller) {
    List *at = list_new(r, 0);
    Dict *named = dict_new(r);
    if (args) {
        for (size_t i = 0; i < args->at.n; i++) list_add(r, at, eval(r, args->at.at[i]));
        add_starred(r, at, args->star);
        for (size_t i = 0; i < args->value.n; i++)
            dict_set(r, named, value_str(args->key[i]), eval(r, args->value.at[i]));
        add_named(r, named, args->star_star);
    }
    if (caller) dict_set(r, named, value_str(STR("caller")), *caller);
    Str *keys = run_take(r, named->n * sizeof *keys);
    for (size_t i = 0; i < named->n; i++) keys[i] = named->key[i].s;
    return (Args){at->at, at->n, keys, named->value, named->n};
}

static Value call_value(Run *r, const Node *n, Value f, const Args *args) {
    r->line = n->line;
    if (f.kind == IS_FUNCTION) return builtin_call(r, f.function->builtin, f.function->self, args);
    if (f.kind == IS_MACRO) return exec_macro(r, f.macro, args);
    if (f.kind == IS_LOOP && args->n == 1) return exec_recursive_loop(r, f.loop, args->at[0]);
    if (f.kind == IS_UNDEFINED) value_fail_undefined(r, f);
    run_fail(r, "'%s' object is not callable", value_type(f));
}

static Value eval_call(Run *r, const Node *n) {
    Value f = eval(r, n->a);
    Args args = eval_args(r, n->args, NULL);
    return call_value(r, n, f, &args);
}

static Value eval_filter(Run *r, const Node *n) {
    const Builtin *b = filter_find(n->name);
    if (!b) run_fail(r, "there is no filter '%.*s'", (int)n->name.n, n->name.p);
    Value self = eval(r, n->a);
    Args args = eval_args(r, n->args, NULL);
    r->line = n->line;
    return builtin_call(r, b, self, &args);
}

static Value eval_test(Run *r, const Node *n) {
    const Builtin *b = builtin_find(TESTS, n->name);
    if (!b) run_fail(r, "there is no test '%.*s'", (int)n->name.n, n->name.p);
    Value self = eval(r, n->a);
    Args args = eval_args(r, n->args, NULL);
    r->line = n->line;
    return value_bool(value_truth(builtin_call(r, b, self, &args)));
}

static Value eval_choice(Run *r, const Node *n) {
    if (value_truth(eval(r, n->b))) return eval(r, n->a);
    if (n->c) return eval(r, n->c);
    return value_undefined(r, "the inline if-expression evaluated to false and no else section was "
                              "defined");
}

static Value eval_and(Run *r, const Node *n) {
    Value v = eval(r, n->a);
    return value_truth(v) ? eval(r, n->b) : v;
}

static Value eval_or(Run *r, const Node *n) {
    Value v = eval(r, n->a);
    return value_truth(v) ? v : eval(r, n->b);
}

static Value eval_not(Run *r, const Node *n) { return value_bool(!value_truth(eval(r, n->a))); }
static Value eval_negate(Run *r, const Node *n) { return arith_negate(r, eval(r, n->a)); }
static Value eval_plus(Run *r, const Node *n) {
    return arith_negate(r, arith_negate(r, eval(r, n->a)));
}

static Value eval_binary(Run *r, const Node *n) {
    Value a = eval(r, n->a);
    Value b = eval(r, n->b);
    r->line = n->line;
    return arith_binary(r, n->name, a, b);
}

static bool compare(Run *r, Str op, Value a, Value b) {
    if (str_is(op, "==")) return value_equal(r, a, b);
    if (str_is(op, "!=")) return !value_equal(r, a, b);
    if (str_is(op, "in")) return value_contains(r, b, a);
    if (str_is(op, "not in")) return !value_contains(r, b, a);
    int c = value_compare(r, a, b,
                          str_is(op, "<")    ? "<"
                          : str_is(op, "<=") ? "<="
                          : str_is(op, ">")  ? ">"
                                             : ">=");
    if (c == 2) return false;
    bool or_equal = op.n == 2;
    return op.p[0] == '<' ? (c < 0 || (or_equal && c == 0)) : (c > 0 || (or_equal && c == 0));
}

static Value eval_compare(Run *r, const Node *n) {
    Value left = eval(r, n->a);
    for (size_t i = 0; i < n->list.n; i++) { /* a < b < c: b is evaluated once */
        Value right = eval(r, n->list.at[i]);
        r->line = n->line;
        if (!compare(r, n->names[i], left, right)) return value_bool(false);
        left = right;
    }
    return value_bool(true);
}

Value eval(Run *r, const Node *n) {
    static Value (*const EVAL[N_NODES])(Run *, const Node *) = {
        [NODE_CONST] = eval_const,
        [NODE_NAME] = eval_name,
        [NODE_CAPTURED] = eval_captured,
        [NODE_LIST] = eval_list,
        [NODE_TUPLE] = eval_tuple,
        [NODE_DICT] = eval_dict,
        [NODE_ATTRIBUTE] = eval_attribute,
        [NODE_ELEMENT] = eval_element,
        [NODE_SLICE] = eval_slice,
        [NODE_CALL] = eval_call,
        [NODE_FILTER] = eval_filter,
        [NODE_TEST] = eval_test,
        [NODE_CHOICE] = eval_choice,
        [NODE_AND] = eval_and,
        [NODE_OR] = eval_or,
        [NODE_NOT] = eval_not,
        [NODE_NEGATE] = eval_negate,
        [NODE_PLUS] = eval_plus,
        [NODE_BINARY] = eval_binary,
        [NODE_COMPARE] = eval_compare,
    };
    r->line = n->line;
    run_step(r, 1);
    run_deeper(r);
    Value v = EVAL[n->kind](r, n);
    r->depth--;
    return v;
}
