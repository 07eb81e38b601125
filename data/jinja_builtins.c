/* jinja_builtins.c - finding builtins, binding their arguments, and the attributes of values. */
#include "jinja_builtins.h"
#include <string.h>
#include "jinja_eval.h"
#include "jinja_text.h"

const Builtin *builtin_find(const Builtin *table, Str name) {
    for (; table->name; table++)
        if (str_is(name, table->name)) return table;
    return NULL;
}

const Builtin *filter_find(Str name) {
    const Builtin *b = builtin_find(FILTERS_TEXT, name);
    return b ? b : builtin_find(FILTERS_SEQUENCE, name);
}

typedef struct Param {
    Str name;
    bool optional;
} Param;

static size_t split_params(const char *text, Param *out) {
    size_t n = 0;
    while (*text) {
        size_t length = strcspn(text, " ");
        bool optional = text[length - 1] == '?';
        CHECK(n < MAX_PARAMS, "a builtin with more than %d parameters", MAX_PARAMS);
        out[n++] = (Param){{text, length - optional}, optional};
        text += length + (text[length] == ' ');
    }
    return n;
}

Value builtin_call(Run *r, const Builtin *b, Value self, const Args *args) {
    Call c = {.name = b->name, .self = self, .args = args};
    Param params[MAX_PARAMS];
    run_step(r, 1);
    if (str_is(STR("*"), b->params)) return b->run(r, &c);
    size_t n = split_params(b->params, params);
    if (args->n > n) run_fail(r, "%s takes at most %zu arguments, not %zu", b->name, n, args->n);
    for (size_t i = 0; i < args->n; i++) c.a[i] = args->at[i];
    for (size_t k = 0; k < args->n_keys; k++) {
        size_t i = 0;
        while (i < n && !str_equal(params[i].name, args->key[k])) i++;
        if (i == n)
            run_fail(r, "%s has no argument '%.*s'", b->name, (int)args->key[k].n, args->key[k].p);
        if (c.a[i].kind != IS_ABSENT)
            run_fail(r, "%s got '%.*s' twice", b->name, (int)args->key[k].n, args->key[k].p);
        c.a[i] = args->value[k];
    }
    for (size_t i = 0; i < n; i++)
        if (!params[i].optional && c.a[i].kind == IS_ABSENT)
            run_fail(r, "%s wants the argument '%.*s'", b->name, (int)params[i].name.n,
                     params[i].name.p);
    return b->run(r, &c);
}

int64_t arg_int(Run *r, const Call *c, int i, int64_t fallback) {
    Value v = c->a[i];
    if (v.kind == IS_ABSENT || v.kind == IS_NONE) return fallback;
    if (v.kind == IS_BOOL) return v.b;
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind != IS_INT)
        run_fail(r, "%s wants a whole number as argument %d, not %s", c->name, i + 1,
                 value_type(v));
    return v.i;
}

bool arg_truth(const Call *c, int i, bool fallback) {
    return c->a[i].kind == IS_ABSENT ? fallback : value_truth(c->a[i]);
}

Str arg_str(Run *r, const Call *c, int i, Str fallback) {
    Value v = c->a[i];
    if (v.kind == IS_ABSENT || v.kind == IS_NONE) return fallback;
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind != IS_STRING)
        run_fail(r, "%s wants a string as argument %d, not %s", c->name, i + 1, value_type(v));
    return v.s;
}

static Value bound_method(Run *r, const Builtin *table, Value self, Str name) {
    const Builtin *b = builtin_find(table, name);
    if (!b) return (Value){.kind = IS_ABSENT};
    Function *f = run_take(r, sizeof *f);
    *f = (Function){b, self};
    return (Value){.kind = IS_FUNCTION, .function = f};
}

static Value loop_cycle(Run *r, const Call *c) {
    if (c->args->n == 0) run_fail(r, "loop.cycle wants items to cycle through");
    return c->args->at[c->self.loop->index % c->args->n];
}

static Value loop_changed(Run *r, const Call *c) {
    Loop *loop = c->self.loop;
    List *l = list_new(r, c->args->n);
    for (size_t i = 0; i < c->args->n; i++) list_add(r, l, c->args->at[i]);
    Value now = value_list(IS_TUPLE, l);
    bool changed = loop->seen.kind == IS_ABSENT || !value_equal(r, loop->seen, now);
    loop->seen = now;
    return value_bool(changed);
}

static const Builtin METHODS_LOOP[] = {
    {"cycle", "*", loop_cycle}, {"changed", "*", loop_changed}, {0}};

static Value loop_attribute(Run *r, Value v, Str name) {
    const Loop *l = v.loop;
    int64_t i = (int64_t)l->index, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        int64_t value;
    } NUMBERS[] = {{"index", i + 1},         {"index0", i}, {"revindex", n - i},
                   {"revindex0", n - i - 1}, {"length", n}, {"depth", l->depth + 1},
                   {"depth0", l->depth}};
    for (size_t k = 0; k < COUNT_OF(NUMBERS); k++)
        if (str_is(name, NUMBERS[k].name)) return value_int(NUMBERS[k].value);
    if (str_is(name, "first")) return value_bool(i == 0);
    if (str_is(name, "last")) return value_bool(i == n - 1);
    if (str_is(name, "previtem"))
        return i > 0 ? l->items->at[i - 1] : value_undefined(r, "there is no previous item");
    if (str_is(name, "nextitem"))
        return i + 1 < n ? l->items->at[i + 1] : value_undefined(r, "there is no next item");
    return bound_method(r, METHODS_LOOP, v, name);
}

static Value undefined_if_changing(Run *r, const char *const *names, Str name) {
    for (; *names; names++)
        if (str_is(name, *names))
            return value_undefined(r, "the sandbox refuses methods that change a list or dict "
                                      "(append, update, ...); use namespace() or +");
    return (Value){.kind = IS_ABSENT};
}

static Value list_attribute(Run *r, Value of, Str name) {
    static const char *const CHANGING[] = {"append", "clear",  "pop",    "reverse", "insert",
                                           "sort",   "extend", "remove", NULL};
    Value v = bound_method(r, METHODS_LIST, of, name);
    return v.kind != IS_ABSENT || of.kind != IS_LIST ? v : undefined_if_changing(r, CHANGING, name);
}

static Value dict_attribute(Run *r, Value of, Str name) {
    static const char *const CHANGING[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    Value v = bound_method(r, METHODS_DICT, of, name);
    return v.kind != IS_ABSENT ? v : undefined_if_changing(r, CHANGING, name);
}

Value attribute_find(Run *r, Value of, Str name) {
    const Value *found;
    switch (of.kind) {
    case IS_STRING:
        return bound_method(r, METHODS_STRING, of, name);
    case IS_LIST:
    case IS_TUPLE:
        return list_attribute(r, of, name);
    case IS_DICT:
        return dict_attribute(r, of, name);
    case IS_LOOP:
        return loop_attribute(r, of, name);
    case IS_MACRO:
        if (str_is(name, "name")) return value_str(of.macro->node->name);
        break;
    case IS_NAMESPACE:
        found = dict_find_name(of.dict, name);
        if (found) return *found;
        break;
    default:
        break;
    }
    return (Value){.kind = IS_ABSENT};
}

/* Merges the sorted runs [from, middle) and [middle, to) of a into b. */
static void merge(Run *r, const Value *a, Value *b, size_t from, size_t middle, size_t to,
                  ListCompare *compare, const void *how) {
    size_t i = from, k = middle;
    for (size_t at = from; at < to; at++) {
        bool left = i < middle && (k == to || compare(r, a[k], a[i], how) >= 0);
        b[at] = left ? a[i++] : a[k++];
    }
}

void list_sort(Run *r, List *l, ListCompare *compare, const void *how) {
    size_t n = l->n;
    Value *other = run_take(r, n * sizeof *other);
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t middle = from + width < n ? from + width : n;
            size_t to = middle + width < n ? middle + width : n;
            merge(r, l->at, other, from, middle, to, compare, how);
        }
        Value *was = l->at;
        l->at = other;
        other = was;
    }
    l->cap = n;
}

int compare_first(Run *r, Value a, Value b, const void *how) {
    (void)how;
    return value_compare(r, a.list->at[0], b.list->at[0], "<");
}
