/* jinja_value.c - the pool, and what Python's values do: truth, equality, order, membership. */
#include "jinja_value.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "jinja_builtins.h"
#include "jinja_text.h"

enum { CHUNK = 64 * 1024 };

typedef struct Chunk {
    struct Chunk *next;
    size_t used, cap;
    _Alignas(16) char bytes[];
} Chunk;

Str str_of(const char *text) { return (Str){text, strlen(text)}; }
bool str_equal(Str a, Str b) { return a.n == b.n && memcmp(a.p, b.p, a.n) == 0; }
bool str_is(Str a, const char *b) { return a.n == strlen(b) && memcmp(a.p, b, a.n) == 0; }

void run_fail(Run *r, const char *fmt, ...) {
    char what[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    err_set(r->e, "chat template %s, line %d: %s", r->name, r->line, what);
    longjmp(r->escape, 1);
}

void run_step(Run *r, size_t cost) {
    r->steps += cost;
    if (r->steps > MAX_STEPS)
        run_fail(r, "the template does more than %d steps; does it loop without end?", MAX_STEPS);
}

void run_deeper(Run *r) {
    if (++r->depth > MAX_DEPTH)
        run_fail(r, "nested more than %d deep; does a macro call itself without end?", MAX_DEPTH);
}

void *run_take(Run *r, size_t bytes) {
    if (bytes > MAX_MEMORY || r->memory + bytes > MAX_MEMORY)
        run_fail(r, "the template needs more than %d MiB of memory", MAX_MEMORY >> 20);
    bytes = (bytes + 15) & ~(size_t)15;
    Chunk *c = r->chunks;
    if (!c || c->cap - c->used < bytes) {
        size_t cap = bytes > CHUNK / 4 ? bytes : CHUNK;
        c = mem_alloc(sizeof *c + cap);
        c->cap = cap;
        if (r->chunks && cap == bytes) { /* a big piece goes behind the chunk still being filled */
            c->next = r->chunks->next;
            r->chunks->next = c;
        } else {
            c->next = r->chunks;
            r->chunks = c;
        }
    }
    void *p = c->bytes + c->used;
    c->used += bytes;
    r->memory += bytes;
    return p;
}

void run_free(Run *r) {
    for (Chunk *c = r->chunks, *next; c; c = next) {
        next = c->next;
        mem_free(c);
    }
    r->chunks = NULL;
}

void append_bytes(Run *r, Text *t, const char *p, size_t n) {
    if (t->cap - t->n < n) {
        size_t cap = (t->n + n) * 2 + 32;
        char *more = run_take(r, cap);
        if (t->n) memcpy(more, t->p, t->n);
        t->p = more;
        t->cap = cap;
    }
    if (n) memcpy(t->p + t->n, p, n);
    t->n += n;
    if (t->n > MAX_OUTPUT) run_fail(r, "the text grows beyond %d MiB", MAX_OUTPUT >> 20);
}

void append_str(Run *r, Text *t, Str s) { append_bytes(r, t, s.p, s.n); }

void append_format(Run *r, Text *t, const char *fmt, ...) {
    char small[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    CHECK(n >= 0 && (size_t)n < sizeof small, "append_format is for short texts, not %d bytes", n);
    append_bytes(r, t, small, (size_t)n);
}

Value value_undefined(Run *r, const char *hint) {
    Undefined *u = run_take(r, sizeof *u);
    u->hint = hint;
    return (Value){.kind = IS_UNDEFINED, .undefined = u};
}

Value value_missing(Run *r, Value of, Value name) {
    Undefined *u = run_take(r, sizeof *u);
    u->of = value_type(of);
    u->name = name;
    return (Value){.kind = IS_UNDEFINED, .undefined = u};
}

void value_fail_undefined(Run *r, Value v) {
    const Undefined *u = v.undefined;
    if (u->hint) run_fail(r, "%s", u->hint);
    Str name = value_print(r, u->name);
    if (!u->of) run_fail(r, "'%.*s' is undefined", (int)name.n, name.p);
    run_fail(r, "'%s object' has no %s '%.*s'", u->of,
             u->name.kind == IS_STRING ? "attribute" : "element", (int)name.n, name.p);
}

List *list_new(Run *r, size_t room) {
    List *l = run_take(r, sizeof *l);
    l->cap = room;
    l->at = run_take(r, room * sizeof *l->at);
    return l;
}

void list_add(Run *r, List *l, Value v) {
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 4;
        Value *more = run_take(r, cap * sizeof *more);
        if (l->n) memcpy(more, l->at, l->n * sizeof *more);
        l->at = more;
        l->cap = cap;
    }
    l->at[l->n++] = v;
}

Value value_pair(Run *r, Value a, Value b) {
    List *l = list_new(r, 2);
    list_add(r, l, a);
    list_add(r, l, b);
    return value_list(IS_TUPLE, l);
}

Dict *dict_new(Run *r) { return run_take(r, sizeof(Dict)); }

Value *dict_find_name(const Dict *d, Str key) {
    for (size_t i = 0; i < d->n; i++)
        if (d->key[i].kind == IS_STRING && str_equal(d->key[i].s, key)) return &d->value[i];
    return NULL;
}

Value *dict_find(Run *r, const Dict *d, Value key) {
    if (key.kind == IS_LIST || key.kind == IS_DICT)
        run_fail(r, "unhashable type: '%s' as a key", value_type(key));
    run_step(r, d->n / 16);
    if (key.kind == IS_STRING) return dict_find_name(d, key.s);
    for (size_t i = 0; i < d->n; i++)
        if (value_equal(r, d->key[i], key)) return &d->value[i];
    return NULL;
}

static void dict_append(Run *r, Dict *d, Value key, Value v) {
    if (d->n == d->cap) {
        size_t cap = d->cap * 2 + 4;
        Value *more = run_take(r, 2 * cap * sizeof *more);
        if (d->n) {
            memcpy(more, d->key, d->n * sizeof *more);
            memcpy(more + cap, d->value, d->n * sizeof *more);
        }
        d->key = more;
        d->value = more + cap;
        d->cap = cap;
    }
    d->key[d->n] = key;
    d->value[d->n++] = v;
}

void dict_set(Run *r, Dict *d, Value key, Value v) {
    Value *was = dict_find(r, d, key);
    if (was) {
        *was = v;
    } else {
        dict_append(r, d, key, v);
    }
}

Value value_from_json(Run *r, const json_t *j) {
    Value v = value_none();
    run_deeper(r);
    if (json_is_string(j)) {
        v = value_str((Str){json_string_value(j), json_string_length(j)});
    } else if (json_is_integer(j)) {
        v = value_int(json_integer_value(j));
    } else if (json_is_real(j)) {
        v = value_float(json_real_value(j));
    } else if (json_is_boolean(j)) {
        v = value_bool(json_is_true(j));
    } else if (json_is_array(j)) {
        v = value_list(IS_LIST, list_new(r, json_array_size(j)));
        for (size_t i = 0; i < json_array_size(j); i++)
            list_add(r, v.list, value_from_json(r, json_array_get(j, i)));
    } else if (json_is_object(j)) {
        v = (Value){.kind = IS_DICT, .dict = dict_new(r)};
        const char *key;
        json_t *member;
        json_object_foreach((json_t *)(uintptr_t)j, key, member) {
            dict_append(r, v.dict, value_str(str_of(key)), value_from_json(r, member));
        }
    }
    r->depth--;
    return v;
}

static bool is_number(Value v) {
    return v.kind == IS_BOOL || v.kind == IS_INT || v.kind == IS_FLOAT;
}

bool value_length(Value v, size_t *n) {
    switch (v.kind) {
    case IS_STRING:
        *n = str_length(v.s);
        return true;
    case IS_LIST:
    case IS_TUPLE:
    case IS_VIEW:
        *n = v.list->n;
        return true;
    case IS_DICT:
        *n = v.dict->n;
        return true;
    case IS_RANGE:
        *n = (size_t)v.range->n;
        return true;
    case IS_UNDEFINED:
        *n = 0;
        return true;
    default:
        return false;
    }
}

bool value_truth(Value v) {
    size_t n;
    if (v.kind == IS_NONE) return false;
    if (v.kind == IS_BOOL) return v.b;
    if (v.kind == IS_INT) return v.i != 0;
    if (v.kind == IS_FLOAT) return v.f != 0;
    if (v.kind == IS_STRING) return v.s.n != 0;
    return value_length(v, &n) ? n != 0 : true;
}

/* Whole numbers against whole numbers exactly, anything else as floats (a float against a whole
 * number beyond 2^53 is rounded first; Python compares exactly). */
static int compare_numbers(Value a, Value b) {
    if (a.kind == IS_BOOL) a = value_int(a.b);
    if (b.kind == IS_BOOL) b = value_int(b.b);
    if (a.kind == IS_INT && b.kind == IS_INT) return (a.i > b.i) - (a.i < b.i);
    double x = a.kind == IS_INT ? (double)a.i : a.f, y = b.kind == IS_INT ? (double)b.i : b.f;
    if (isnan(x) || isnan(y)) return 2;
    return (x > y) - (x < y);
}

static bool equal_lists(Run *r, const List *a, const List *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!value_equal(r, a->at[i], b->at[i])) return false;
    return true;
}

static bool equal_dicts(Run *r, const Dict *a, const Dict *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const Value *other = dict_find(r, b, a->key[i]);
        if (!other || !value_equal(r, a->value[i], *other)) return false;
    }
    return true;
}

static bool equal_ranges(const Range *a, const Range *b) {
    return a->n == b->n &&
           (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

bool value_equal(Run *r, Value a, Value b) {
    run_step(r, 1);
    if (is_number(a) && is_number(b)) return compare_numbers(a, b) == 0;
    if (a.kind != b.kind) return false;
    run_deeper(r);
    bool same = false;
    switch (a.kind) {
    case IS_UNDEFINED:
    case IS_NONE:
        same = true;
        break;
    case IS_STRING:
        run_step(r, a.s.n / 256);
        same = str_equal(a.s, b.s);
        break;
    case IS_LIST:
    case IS_TUPLE:
    case IS_VIEW:
        same = a.list == b.list || equal_lists(r, a.list, b.list);
        break;
    case IS_DICT:
        same = a.dict == b.dict || equal_dicts(r, a.dict, b.dict);
        break;
    case IS_RANGE:
        same = equal_ranges(a.range, b.range);
        break;
    default:
        same = a.list == b.list; /* the rest are themselves only */
    }
    r->depth--;
    return same;
}

int value_compare(Run *r, Value a, Value b, const char *op) {
    run_step(r, 1);
    if (a.kind == IS_UNDEFINED) value_fail_undefined(r, a);
    if (b.kind == IS_UNDEFINED) value_fail_undefined(r, b);
    if (is_number(a) && is_number(b)) return compare_numbers(a, b);
    if (a.kind == IS_STRING && b.kind == IS_STRING) return str_compare(a.s, b.s);
    if (a.kind != b.kind || (a.kind != IS_LIST && a.kind != IS_TUPLE))
        run_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, value_type(a),
                 value_type(b));
    run_deeper(r);
    const List *x = a.list, *y = b.list;
    int c = (x->n > y->n) - (x->n < y->n);
    for (size_t i = 0; i < x->n && i < y->n; i++)
        if (!value_equal(r, x->at[i], y->at[i])) {
            c = value_compare(r, x->at[i], y->at[i], op);
            break;
        }
    r->depth--;
    return c;
}

bool value_contains(Run *r, Value in, Value what) {
    if (in.kind == IS_STRING) {
        if (what.kind != IS_STRING)
            run_fail(r, "'in <string>' requires string as left operand, not %s", value_type(what));
        run_step(r, in.s.n / 64);
        return str_find(in.s, what.s, 0) != SIZE_MAX;
    }
    if (in.kind == IS_DICT) return dict_find(r, in.dict, what) != NULL;
    if (in.kind == IS_STREAM) { /* read only as far as the item found */
        List *l = in.list;
        while (l->next < l->n)
            if (value_equal(r, l->at[l->next++], what)) return true;
        return false;
    }
    const List *l = value_items(r, in);
    for (size_t i = 0; i < l->n; i++)
        if (value_equal(r, l->at[i], what)) return true;
    return false;
}

static List *items_of_string(Run *r, Str s) {
    List *l = list_new(r, str_length(s));
    for (size_t i = 0; i < s.n;) {
        size_t n = str_point_bytes(s, i);
        list_add(r, l, value_str((Str){s.p + i, n}));
        i += n;
    }
    return l;
}

List *value_items(Run *r, Value v) {
    List *l = NULL;
    switch (v.kind) {
    case IS_LIST:
    case IS_TUPLE:
    case IS_VIEW:
        l = v.list;
        break;
    case IS_STREAM:
        l = run_take(r, sizeof *l);
        l->at = v.list->at + v.list->next;
        l->n = l->cap = v.list->n - v.list->next;
        v.list->next = v.list->n;
        break;
    case IS_STRING:
        l = items_of_string(r, v.s);
        break;
    case IS_DICT:
        l = run_take(r, sizeof *l);
        l->at = v.dict->key;
        l->n = l->cap = v.dict->n;
        break;
    case IS_RANGE:
        l = list_new(r, (size_t)v.range->n);
        for (int64_t i = 0; i < v.range->n; i++)
            list_add(r, l, value_int(v.range->start + i * v.range->step));
        break;
    case IS_UNDEFINED:
        l = list_new(r, 0);
        break;
    default:
        run_fail(r, "'%s' object is not iterable", value_type(v));
    }
    run_step(r, l->n);
    return l;
}

static Value element_at(Run *r, Value of, Value index) {
    size_t n;
    if (index.kind == IS_BOOL) index = value_int(index.b);
    if (index.kind != IS_INT || of.kind == IS_VIEW || !value_length(of, &n))
        return value_missing(r, of, index);
    int64_t i = index.i < 0 ? index.i + (int64_t)n : index.i;
    if (i < 0 || i >= (int64_t)n) return value_missing(r, of, index);
    if (of.kind == IS_STRING) return value_str(str_slice(of.s, (size_t)i, (size_t)i + 1));
    if (of.kind == IS_RANGE) return value_int(of.range->start + i * of.range->step);
    return of.list->at[i];
}

Value value_element(Run *r, Value of, Value index) {
    if (of.kind == IS_UNDEFINED) value_fail_undefined(r, of);
    if (of.kind == IS_DICT) {
        bool hashable = index.kind != IS_LIST && index.kind != IS_DICT;
        const Value *found = hashable ? dict_find(r, of.dict, index) : NULL;
        if (found) return *found;
    } else if (of.kind == IS_STRING || of.kind == IS_LIST || of.kind == IS_TUPLE ||
               of.kind == IS_RANGE) {
        if (index.kind != IS_STRING) return element_at(r, of, index);
    }
    Value v = index.kind == IS_STRING ? attribute_find(r, of, index.s) : (Value){.kind = IS_ABSENT};
    return v.kind == IS_ABSENT ? value_missing(r, of, index) : v;
}

Value value_attribute(Run *r, Value of, Str name) {
    if (of.kind == IS_UNDEFINED) value_fail_undefined(r, of);
    Value v = attribute_find(r, of, name);
    if (v.kind != IS_ABSENT) return v;
    const Value *found = of.kind == IS_DICT ? dict_find_name(of.dict, name) : NULL;
    return found ? *found : value_missing(r, of, value_str(name));
}
