/* jinja_sequences.c - the filters for lists, dicts and whatever else can be gone through. */
#include <string.h>
#include "jinja_arith.h"
#include "jinja_builtins.h"
#include "jinja_text.h"

/* "a.b.0" or a number: the way into each item. */
typedef struct Path {
    List *parts;    /* NULL: the item itself */
    Value fallback; /* where a part is undefined, or IS_ABSENT */
    bool fold;      /* strings in lower case: compared without regard to case */
} Path;

static bool all_digits(Str s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9') return false;
    return s.n > 0 && s.n < 10;
}

static Value path_part(Str s) {
    int64_t n = 0;
    if (!all_digits(s)) return value_str(s);
    for (size_t i = 0; i < s.n; i++) n = n * 10 + (s.p[i] - '0');
    return value_int(n);
}

static Path path_of(Run *r, Value attribute, bool fold) {
    Path path = {.fold = fold};
    if (attribute.kind == IS_ABSENT || attribute.kind == IS_NONE) return path;
    path.parts = list_new(r, 1);
    if (attribute.kind == IS_STRING) {
        Str s = attribute.s;
        for (size_t dot; (dot = str_find(s, STR("."), 0)) != SIZE_MAX;) {
            list_add(r, path.parts, path_part((Str){s.p, dot}));
            s = (Str){s.p + dot + 1, s.n - dot - 1};
        }
        list_add(r, path.parts, path_part(s));
    } else {
        list_add(r, path.parts, attribute);
    }
    return path;
}

static Value path_follow(Run *r, const Path *path, Value v) {
    for (size_t i = 0; path->parts && i < path->parts->n; i++) {
        v = value_element(r, v, path->parts->at[i]);
        if (v.kind == IS_UNDEFINED && path->fallback.kind != IS_ABSENT) v = path->fallback;
    }
    if (path->fold && v.kind == IS_STRING) v = value_str(str_case(r, v.s, LOWER));
    return v;
}

static Value filter_length(Run *r, const Call *c) {
    size_t n;
    if (!value_length(c->self, &n))
        run_fail(r, "object of type '%s' has no length", value_type(c->self));
    return value_int((int64_t)n);
}

static Value filter_first(Run *r, const Call *c) {
    Value v = c->self;
    if (v.kind == IS_STREAM && v.list->next < v.list->n) return v.list->at[v.list->next++];
    const List *l = value_items(r, v);
    return l->n ? l->at[0] : value_undefined(r, "No first item, sequence was empty.");
}

static Value filter_last(Run *r, const Call *c) {
    if (c->self.kind == IS_STREAM)
        run_fail(r, "last cannot read a generator; put `| list` before it");
    const List *l = value_items(r, c->self);
    return l->n ? l->at[l->n - 1] : value_undefined(r, "No last item, sequence was empty.");
}

static Value filter_list(Run *r, const Call *c) {
    return value_list(IS_LIST, value_items(r, c->self));
}

static Value filter_join(Run *r, const Call *c) {
    Path path = path_of(r, c->a[1], false);
    Str by = c->a[0].kind == IS_ABSENT ? STR("") : value_print(r, c->a[0]);
    const List *l = value_items(r, c->self);
    Text t = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (i) append_str(r, &t, by);
        value_write(r, &t, path_follow(r, &path, l->at[i]));
    }
    return value_text(&t);
}

/* The rest of a call's arguments, for the filter or test it names. */
static Args rest_of(const Args *args, size_t from) {
    Args rest = *args;
    rest.at += from;
    rest.n -= from;
    return rest;
}

static Value named_argument(Run *r, const Call *c, const char *name) {
    for (size_t i = 0; i < c->args->n_keys; i++)
        if (str_is(c->args->key[i], name)) return c->args->value[i];
    (void)r;
    return (Value){.kind = IS_ABSENT};
}

static Value map_attribute(Run *r, const Call *c, const List *l) {
    Path path = path_of(r, named_argument(r, c, "attribute"), false);
    path.fallback = named_argument(r, c, "default");
    if (!path.parts) run_fail(r, "map wants the name of a filter, or attribute=");
    List *out = list_new(r, l->n);
    for (size_t i = 0; i < l->n; i++) list_add(r, out, path_follow(r, &path, l->at[i]));
    return value_list(IS_STREAM, out);
}

/* What map and select go through: nothing where the value is false, whatever it is. */
static const List *items_if_true(Run *r, Value v) {
    return value_truth(v) ? value_items(r, v) : list_new(r, 0);
}

static Value filter_map(Run *r, const Call *c) {
    const List *l = items_if_true(r, c->self);
    if (c->args->n == 0) return map_attribute(r, c, l);
    Str name = value_print(r, c->args->at[0]);
    const Builtin *b = filter_find(name);
    if (!b) run_fail(r, "there is no filter '%.*s'", (int)name.n, name.p);
    Args rest = rest_of(c->args, 1);
    List *out = list_new(r, l->n);
    run_deeper(r);
    for (size_t i = 0; i < l->n; i++) list_add(r, out, builtin_call(r, b, l->at[i], &rest));
    r->depth--;
    return value_list(IS_STREAM, out);
}

/* select, reject (by_attribute: selectattr, rejectattr): the items whose test comes out as keep. */
static Value select_items(Run *r, const Call *c, bool by_attribute, bool keep) {
    const List *l = items_if_true(r, c->self);
    size_t skip = by_attribute;
    const Builtin *test = NULL;
    Path path = {0};
    if (by_attribute) {
        if (c->args->n == 0) run_fail(r, "%s wants the name of an attribute", c->name);
        path = path_of(r, c->args->at[0], false);
    }
    if (c->args->n > skip) {
        Str name = value_print(r, c->args->at[skip]);
        test = builtin_find(TESTS, name);
        if (!test) run_fail(r, "there is no test '%.*s'", (int)name.n, name.p);
    }
    Args rest = test ? rest_of(c->args, skip + 1) : (Args){0};
    List *out = list_new(r, 0);
    for (size_t i = 0; i < l->n; i++) {
        Value v = path_follow(r, &path, l->at[i]);
        if (test) v = builtin_call(r, test, v, &rest);
        if (value_truth(v) == keep) list_add(r, out, l->at[i]);
    }
    return value_list(IS_STREAM, out);
}
static Value filter_select(Run *r, const Call *c) { return select_items(r, c, false, true); }
static Value filter_reject(Run *r, const Call *c) { return select_items(r, c, false, false); }
static Value filter_selectattr(Run *r, const Call *c) { return select_items(r, c, true, true); }
static Value filter_rejectattr(Run *r, const Call *c) { return select_items(r, c, true, false); }

typedef struct Order {
    bool reverse;
} Order;

/* Items are sorted as pairs of key and item; reversed, equal ones still keep their order. */
static int compare_keys(Run *r, Value a, Value b, const void *how) {
    int c = value_compare(r, a.list->at[0], b.list->at[0], "<");
    return ((const Order *)how)->reverse ? -c : c;
}

/* By one path, or by several, the first deciding: keys are compared as lists are. */
static Value sort_by(Run *r, const List *l, const Path *path, size_t paths, bool reverse) {
    Order order = {reverse};
    List *pairs = list_new(r, l->n), *out = list_new(r, l->n);
    for (size_t i = 0; i < l->n; i++) {
        List *key = list_new(r, paths);
        for (size_t k = 0; k < paths; k++) list_add(r, key, path_follow(r, &path[k], l->at[i]));
        list_add(r, pairs, value_pair(r, value_list(IS_LIST, key), l->at[i]));
    }
    list_sort(r, pairs, compare_keys, &order);
    for (size_t i = 0; i < l->n; i++) list_add(r, out, pairs->at[i].list->at[1]);
    return value_list(IS_LIST, out);
}

static Value filter_sort(Run *r, const Call *c) {
    enum { MOST = 8 };
    bool fold = !arg_truth(c, 1, false);
    Value attribute = c->a[2];
    Path path[MOST];
    size_t n = 0;
    for (size_t comma;
         attribute.kind == IS_STRING && (comma = str_find(attribute.s, STR(","), 0)) != SIZE_MAX;) {
        if (n == MOST - 1) run_fail(r, "sort takes at most %d attributes", MOST);
        path[n++] = path_of(r, value_str((Str){attribute.s.p, comma}), fold);
        attribute.s = (Str){attribute.s.p + comma + 1, attribute.s.n - comma - 1};
    }
    path[n++] = path_of(r, attribute, fold);
    return sort_by(r, value_items(r, c->self), path, n, arg_truth(c, 0, false));
}

static Value filter_dictsort(Run *r, const Call *c) {
    Str by = arg_str(r, c, 1, STR("key"));
    if (c->self.kind == IS_UNDEFINED) value_fail_undefined(r, c->self);
    if (c->self.kind != IS_DICT) run_fail(r, "dictsort wants a dict, not %s", value_type(c->self));
    if (!str_is(by, "key") && !str_is(by, "value"))
        run_fail(r, "dictsort sorts by 'key' or by 'value'");
    const Dict *d = c->self.dict;
    Path path = path_of(r, value_int(str_is(by, "value")), !arg_truth(c, 0, false));
    List *pairs = list_new(r, d->n);
    for (size_t i = 0; i < d->n; i++) list_add(r, pairs, value_pair(r, d->key[i], d->value[i]));
    return sort_by(r, pairs, &path, 1, arg_truth(c, 2, false));
}

static Value filter_unique(Run *r, const Call *c) {
    Path path = path_of(r, c->a[1], !arg_truth(c, 0, false));
    const List *l = value_items(r, c->self);
    Dict *seen = dict_new(r);
    List *out = list_new(r, 0);
    for (size_t i = 0; i < l->n; i++) {
        Value key = path_follow(r, &path, l->at[i]);
        if (dict_find(r, seen, key)) continue;
        dict_set(r, seen, key, value_none());
        list_add(r, out, l->at[i]);
    }
    return value_list(IS_STREAM, out);
}

static Value filter_reverse(Run *r, const Call *c) {
    const List *l = value_items(r, c->self);
    List *out = list_new(r, l->n);
    Text t = {0};
    for (size_t i = l->n; i-- > 0;) list_add(r, out, l->at[i]);
    if (c->self.kind != IS_STRING) return value_list(IS_STREAM, out);
    for (size_t i = 0; i < out->n; i++) append_str(r, &t, out->at[i].s);
    return value_text(&t);
}

/* sign 1: the largest, -1: the smallest; the first of several. */
static Value extreme(Run *r, const Call *c, int sign) {
    Path path = path_of(r, c->a[1], !arg_truth(c, 0, false));
    const List *l = value_items(r, c->self);
    if (l->n == 0) return value_undefined(r, "No aggregated item, sequence was empty.");
    size_t best = 0;
    Value key = path_follow(r, &path, l->at[0]);
    for (size_t i = 1; i < l->n; i++) {
        Value other = path_follow(r, &path, l->at[i]);
        int order = value_compare(r, other, key, "<");
        if (order != 2 && order * sign > 0) {
            best = i;
            key = other;
        }
    }
    return l->at[best];
}
static Value filter_max(Run *r, const Call *c) { return extreme(r, c, 1); }
static Value filter_min(Run *r, const Call *c) { return extreme(r, c, -1); }

static Value filter_sum(Run *r, const Call *c) {
    Path path = path_of(r, c->a[0], false);
    const List *l = value_items(r, c->self);
    Value sum = c->a[1].kind == IS_ABSENT ? value_int(0) : c->a[1];
    if (sum.kind == IS_STRING) run_fail(r, "sum cannot add strings; use join");
    for (size_t i = 0; i < l->n; i++)
        sum = arith_binary(r, STR("+"), sum, path_follow(r, &path, l->at[i]));
    return sum;
}

static Value filter_items(Run *r, const Call *c) {
    List *out = list_new(r, 0);
    if (c->self.kind != IS_UNDEFINED && c->self.kind != IS_DICT)
        run_fail(r, "Can only get item pairs from a mapping.");
    for (size_t i = 0; c->self.kind == IS_DICT && i < c->self.dict->n; i++)
        list_add(r, out, value_pair(r, c->self.dict->key[i], c->self.dict->value[i]));
    return value_list(IS_STREAM, out);
}

static int64_t arg_parts(Run *r, const Call *c) {
    int64_t n = arg_int(r, c, 0, 0);
    if (n < 1 || n > MAX_RANGE) run_fail(r, "%s wants a number from 1 to %d", c->name, MAX_RANGE);
    return n;
}

static Value filter_batch(Run *r, const Call *c) {
    size_t size = (size_t)arg_parts(r, c);
    const List *l = value_items(r, c->self);
    List *out = list_new(r, 0), *row = NULL;
    for (size_t i = 0; i < l->n; i++) {
        if (i % size == 0) list_add(r, out, value_list(IS_LIST, row = list_new(r, 0)));
        list_add(r, row, l->at[i]);
    }
    bool fill = c->a[1].kind != IS_ABSENT && c->a[1].kind != IS_NONE;
    while (row && fill && row->n < size) list_add(r, row, c->a[1]);
    return value_list(IS_STREAM, out);
}

static Value filter_slice(Run *r, const Call *c) {
    size_t parts = (size_t)arg_parts(r, c);
    const List *l = value_items(r, c->self);
    List *out = list_new(r, parts);
    size_t each = l->n / parts, extra = l->n % parts, at = 0;
    bool fill = c->a[1].kind != IS_ABSENT && c->a[1].kind != IS_NONE;
    for (size_t k = 0; k < parts; k++) {
        List *part = list_new(r, 0);
        for (size_t i = 0; i < each + (k < extra); i++) list_add(r, part, l->at[at++]);
        if (fill && k >= extra) list_add(r, part, c->a[1]);
        list_add(r, out, value_list(IS_LIST, part));
    }
    return value_list(IS_STREAM, out);
}

/* Pairs of key and items, in the order of the keys; without regard to case the first key is shown.
 */
static Value filter_groupby(Run *r, const Call *c) {
    Path path = path_of(r, c->a[0], !arg_truth(c, 2, false));
    path.fallback = c->a[1];
    List *sorted = sort_by(r, value_items(r, c->self), &path, 1, false).list, *out = list_new(r, 0);
    Value group = {.kind = IS_ABSENT};
    List *items = NULL;
    Path shown = path;
    shown.fold = false;
    for (size_t i = 0; i < sorted->n; i++) {
        Value key = path_follow(r, &path, sorted->at[i]);
        if (!items || !value_equal(r, key, group)) {
            items = list_new(r, 0);
            list_add(
                r, out,
                value_pair(r, path_follow(r, &shown, sorted->at[i]), value_list(IS_LIST, items)));
            group = key;
        }
        list_add(r, items, sorted->at[i]);
    }
    return value_list(IS_LIST, out);
}

const Builtin FILTERS_SEQUENCE[] = {
    {"length", "", filter_length},
    {"count", "", filter_length},
    {"first", "", filter_first},
    {"last", "", filter_last},
    {"list", "", filter_list},
    {"join", "d? attribute?", filter_join},
    {"map", "*", filter_map},
    {"select", "*", filter_select},
    {"reject", "*", filter_reject},
    {"selectattr", "*", filter_selectattr},
    {"rejectattr", "*", filter_rejectattr},
    {"sort", "reverse? case_sensitive? attribute?", filter_sort},
    {"dictsort", "case_sensitive? by? reverse?", filter_dictsort},
    {"unique", "case_sensitive? attribute?", filter_unique},
    {"reverse", "", filter_reverse},
    {"max", "case_sensitive? attribute?", filter_max},
    {"min", "case_sensitive? attribute?", filter_min},
    {"sum", "attribute? start?", filter_sum},
    {"items", "", filter_items},
    {"batch", "linecount fill_with?", filter_batch},
    {"slice", "slices fill_with?", filter_slice},
    {"groupby", "attribute default? case_sensitive?", filter_groupby},
    {0},
};
