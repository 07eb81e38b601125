/* jinja_methods.c - the methods of str, dict and list that a template may call. */
#include "jinja_builtins.h"
#include "jinja_text.h"

static Value strip(Run *r, const Call *c, enum Side sides) {
    Str chars = arg_str(r, c, 0, STR(""));
    return value_str(str_strip(c->self.s, sides, c->a[0].kind == IS_STRING ? &chars : NULL));
}
static Value str_strip_both(Run *r, const Call *c) { return strip(r, c, BOTH); }
static Value str_lstrip(Run *r, const Call *c) { return strip(r, c, LEFT); }
static Value str_rstrip(Run *r, const Call *c) { return strip(r, c, RIGHT); }

static Value str_upper(Run *r, const Call *c) { return value_str(str_case(r, c->self.s, UPPER)); }
static Value str_lower(Run *r, const Call *c) { return value_str(str_case(r, c->self.s, LOWER)); }
static Value str_title(Run *r, const Call *c) { return value_str(str_case(r, c->self.s, TITLE)); }
static Value str_capitalize(Run *r, const Call *c) {
    return value_str(str_case(r, c->self.s, CAPITAL));
}
static Value str_swapcase(Run *r, const Call *c) { return value_str(str_case(r, c->self.s, SWAP)); }

/* Whether s has part at its front (or end); part may be a tuple of several. */
static Value has_edge(Run *r, const Call *c, bool front) {
    Str s = c->self.s;
    Value one = c->a[0];
    const List *l = one.kind == IS_TUPLE ? one.list : &(List){.at = &one, .n = 1};
    for (size_t i = 0; i < l->n; i++) {
        if (l->at[i].kind == IS_UNDEFINED) value_fail_undefined(r, l->at[i]);
        if (l->at[i].kind != IS_STRING)
            run_fail(r, "%s wants a string or a tuple of strings, not %s", c->name,
                     value_type(l->at[i]));
        Str part = l->at[i].s;
        if (part.n <= s.n && str_equal(part, (Str){s.p + (front ? 0 : s.n - part.n), part.n}))
            return value_bool(true);
    }
    return value_bool(false);
}
static Value str_startswith(Run *r, const Call *c) { return has_edge(r, c, true); }
static Value str_endswith(Run *r, const Call *c) { return has_edge(r, c, false); }

static Value str_removeprefix(Run *r, const Call *c) {
    Str s = c->self.s, part = arg_str(r, c, 0, STR(""));
    return has_edge(r, c, true).b ? value_str((Str){s.p + part.n, s.n - part.n}) : c->self;
}
static Value str_removesuffix(Run *r, const Call *c) {
    Str s = c->self.s, part = arg_str(r, c, 0, STR(""));
    return has_edge(r, c, false).b ? value_str((Str){s.p, s.n - part.n}) : c->self;
}

static Value str_replace_method(Run *r, const Call *c) {
    return value_str(str_replace(r, c->self.s, arg_str(r, c, 0, STR("")), arg_str(r, c, 1, STR("")),
                                 arg_int(r, c, 2, -1)));
}

/* The part of self that start and end (code points, a negative one from the end) leave; *before
 * is how many code points stand before it. False: start lies behind the end. */
static bool window(Run *r, const Call *c, Str *part, size_t *before) {
    int64_t n = (int64_t)str_length(c->self.s), from = arg_int(r, c, 1, 0),
            to = arg_int(r, c, 2, n);
    if (from < 0) from = from + n < 0 ? 0 : from + n;
    if (to < 0) to = to + n < 0 ? 0 : to + n;
    if (to > n) to = n;
    if (from > to) return false;
    *part = str_slice(c->self.s, (size_t)from, (size_t)to);
    *before = (size_t)from;
    return true;
}

static Value find(Run *r, const Call *c, bool last, bool must) {
    Str part = STR(""), what = arg_str(r, c, 0, STR(""));
    size_t before = 0, at = SIZE_MAX;
    run_step(r, c->self.s.n / 32);
    if (window(r, c, &part, &before))
        at = last ? str_find_last(part, what) : str_find(part, what, 0);
    if (at == SIZE_MAX && must) run_fail(r, "substring not found");
    if (at == SIZE_MAX) return value_int(-1);
    return value_int((int64_t)(before + str_length((Str){part.p, at})));
}
static Value str_find_method(Run *r, const Call *c) { return find(r, c, false, false); }
static Value str_rfind(Run *r, const Call *c) { return find(r, c, true, false); }
static Value str_index(Run *r, const Call *c) { return find(r, c, false, true); }
static Value str_rindex(Run *r, const Call *c) { return find(r, c, true, true); }

static Value str_count(Run *r, const Call *c) {
    Str part = STR(""), what = arg_str(r, c, 0, STR(""));
    size_t before, at = 0;
    int64_t n = 0;
    run_step(r, c->self.s.n / 32);
    if (!window(r, c, &part, &before)) return value_int(0);
    if (what.n == 0) return value_int((int64_t)str_length(part) + 1);
    for (; (at = str_find(part, what, at)) != SIZE_MAX; at += what.n) n++;
    return value_int(n);
}

static Value str_join(Run *r, const Call *c) {
    const List *l = value_items(r, c->a[0]);
    Text t = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (l->at[i].kind != IS_STRING)
            run_fail(r, "join wants strings, item %zu is a %s", i, value_type(l->at[i]));
        if (i) append_str(r, &t, c->self.s);
        append_str(r, &t, l->at[i].s);
    }
    return value_text(&t);
}

static void add_part(Run *r, List *l, const char *p, size_t n) {
    list_add(r, l, value_str((Str){p, n}));
}

static List *split_spaces(Run *r, Str s, int64_t max) {
    List *l = list_new(r, 0);
    s = str_strip(s, LEFT, NULL);
    while (s.n) {
        size_t end = 0;
        while (end < s.n && !point_is_space(str_point(s, end))) end += str_point_bytes(s, end);
        if (max >= 0 && (int64_t)l->n == max) { /* the rest as it is */
            add_part(r, l, s.p, s.n);
            break;
        }
        add_part(r, l, s.p, end);
        s = str_strip((Str){s.p + end, s.n - end}, LEFT, NULL);
    }
    return l;
}

static List *split_text(Run *r, Str s, Str by, int64_t max) {
    List *l = list_new(r, 0);
    for (size_t at; max != 0 && (at = str_find(s, by, 0)) != SIZE_MAX; max--) {
        add_part(r, l, s.p, at);
        s = (Str){s.p + at + by.n, s.n - at - by.n};
    }
    add_part(r, l, s.p, s.n);
    return l;
}

static List *reversed(Run *r, const List *l) {
    List *out = list_new(r, l->n);
    for (size_t i = l->n; i-- > 0;) list_add(r, out, l->at[i]);
    return out;
}

static List *split_spaces_right(Run *r, Str s, int64_t max) {
    List *l = list_new(r, 0);
    s = str_strip(s, RIGHT, NULL);
    while (s.n) {
        size_t start = s.n;
        while (start > 0 && !point_is_space(str_point(s, str_back(s, start))))
            start = str_back(s, start);
        if (max >= 0 && (int64_t)l->n == max) {
            add_part(r, l, s.p, s.n);
            break;
        }
        add_part(r, l, s.p + start, s.n - start);
        s = str_strip((Str){s.p, start}, RIGHT, NULL);
    }
    return reversed(r, l);
}

static List *split_text_right(Run *r, Str s, Str by, int64_t max) {
    List *l = list_new(r, 0);
    for (size_t at; max != 0 && (at = str_find_last(s, by)) != SIZE_MAX; max--) {
        add_part(r, l, s.p + at + by.n, s.n - at - by.n);
        s.n = at;
    }
    add_part(r, l, s.p, s.n);
    return reversed(r, l);
}

static Value split(Run *r, const Call *c, bool right) {
    int64_t max = arg_int(r, c, 1, -1);
    Str by = arg_str(r, c, 0, STR(" "));
    run_step(r, c->self.s.n / 16);
    if (by.n == 0) run_fail(r, "%s: empty separator", c->name);
    bool spaces = c->a[0].kind != IS_STRING;
    List *l = spaces ? (right ? split_spaces_right : split_spaces)(r, c->self.s, max)
                     : (right ? split_text_right : split_text)(r, c->self.s, by, max);
    return value_list(IS_LIST, l);
}
static Value str_split(Run *r, const Call *c) { return split(r, c, false); }
static Value str_rsplit(Run *r, const Call *c) { return split(r, c, true); }

static Value partition(Run *r, const Call *c, bool last) {
    Str s = c->self.s, by = arg_str(r, c, 0, STR(""));
    if (by.n == 0) run_fail(r, "%s: empty separator", c->name);
    size_t at = last ? str_find_last(s, by) : str_find(s, by, 0);
    List *l = list_new(r, 3);
    if (at == SIZE_MAX) {
        add_part(r, l, s.p, last ? 0 : s.n);
        add_part(r, l, s.p, 0);
        add_part(r, l, s.p, last ? s.n : 0);
    } else {
        add_part(r, l, s.p, at);
        add_part(r, l, by.p, by.n);
        add_part(r, l, s.p + at + by.n, s.n - at - by.n);
    }
    return value_list(IS_TUPLE, l);
}
static Value str_partition(Run *r, const Call *c) { return partition(r, c, false); }
static Value str_rpartition(Run *r, const Call *c) { return partition(r, c, true); }

static Value str_splitlines(Run *r, const Call *c) {
    return value_list(IS_LIST, str_lines(r, c->self.s, arg_truth(c, 0, false)));
}

static Value str_format(Run *r, const Call *c) {
    return value_str(format_braces(r, c->self.s, c->args));
}

static Value pad(Run *r, const Call *c, const char *align) {
    return value_str(str_pad(r, c->self.s, arg_int(r, c, 0, 0), align, arg_str(r, c, 1, STR(" "))));
}
static Value str_ljust(Run *r, const Call *c) { return pad(r, c, "<"); }
static Value str_rjust(Run *r, const Call *c) { return pad(r, c, ">"); }
static Value str_center(Run *r, const Call *c) { return pad(r, c, "c"); }

static Value str_zfill(Run *r, const Call *c) {
    Str s = c->self.s;
    bool sign = s.n && (s.p[0] == '-' || s.p[0] == '+');
    Text t = {0};
    append_bytes(r, &t, s.p, sign);
    append_str(
        r, &t,
        str_pad(r, (Str){s.p + sign, s.n - sign}, arg_int(r, c, 0, 0) - sign, ">", STR("0")));
    return value_text(&t);
}

static Value all_points(const Call *c, bool (*test)(uint32_t)) {
    Str s = c->self.s;
    for (size_t i = 0; i < s.n; i += str_point_bytes(s, i))
        if (!test(str_point(s, i))) return value_bool(false);
    return value_bool(s.n > 0);
}
static bool is_alnum(uint32_t p) { return point_is_alpha(p) || point_is_digit(p); }
static bool is_ascii(uint32_t p) { return p < 0x80; }
static Value str_isdigit(Run *r, const Call *c) { return (void)r, all_points(c, point_is_digit); }
static Value str_isalpha(Run *r, const Call *c) { return (void)r, all_points(c, point_is_alpha); }
static Value str_isspace(Run *r, const Call *c) { return (void)r, all_points(c, point_is_space); }
static Value str_isalnum(Run *r, const Call *c) { return (void)r, all_points(c, is_alnum); }
static Value str_isascii(Run *r, const Call *c) {
    return (void)r, value_bool(c->self.s.n == 0 || all_points(c, is_ascii).b);
}
static Value str_islower(Run *r, const Call *c) {
    return builtin_find(TESTS, STR("lower"))->run(r, c);
}
static Value str_isupper(Run *r, const Call *c) {
    return builtin_find(TESTS, STR("upper"))->run(r, c);
}

const Builtin METHODS_STRING[] = {
    {"strip", "chars?", str_strip_both},
    {"lstrip", "chars?", str_lstrip},
    {"rstrip", "chars?", str_rstrip},
    {"upper", "", str_upper},
    {"lower", "", str_lower},
    {"casefold", "", str_lower},
    {"title", "", str_title},
    {"capitalize", "", str_capitalize},
    {"swapcase", "", str_swapcase},
    {"startswith", "prefix", str_startswith},
    {"endswith", "suffix", str_endswith},
    {"removeprefix", "prefix", str_removeprefix},
    {"removesuffix", "suffix", str_removesuffix},
    {"replace", "old new count?", str_replace_method},
    {"find", "sub start? end?", str_find_method},
    {"rfind", "sub start? end?", str_rfind},
    {"index", "sub start? end?", str_index},
    {"rindex", "sub start? end?", str_rindex},
    {"count", "sub start? end?", str_count},
    {"join", "iterable", str_join},
    {"split", "sep? maxsplit?", str_split},
    {"rsplit", "sep? maxsplit?", str_rsplit},
    {"partition", "sep", str_partition},
    {"rpartition", "sep", str_rpartition},
    {"splitlines", "keepends?", str_splitlines},
    {"format", "*", str_format},
    {"ljust", "width fillchar?", str_ljust},
    {"rjust", "width fillchar?", str_rjust},
    {"center", "width fillchar?", str_center},
    {"zfill", "width", str_zfill},
    {"isdigit", "", str_isdigit},
    {"isdecimal", "", str_isdigit},
    {"isnumeric", "", str_isdigit},
    {"isalpha", "", str_isalpha},
    {"isalnum", "", str_isalnum},
    {"isspace", "", str_isspace},
    {"isascii", "", str_isascii},
    {"islower", "", str_islower},
    {"isupper", "", str_isupper},
    {0},
};

static Value view(Run *r, const Dict *d, const char *name, bool keys, bool values) {
    List *l = list_new(r, d->n);
    l->name = name;
    for (size_t i = 0; i < d->n; i++)
        list_add(r, l,
                 keys && values ? value_pair(r, d->key[i], d->value[i])
                 : keys         ? d->key[i]
                                : d->value[i]);
    return value_list(IS_VIEW, l);
}
static Value dict_items(Run *r, const Call *c) {
    return view(r, c->self.dict, "dict_items", true, true);
}
static Value dict_keys(Run *r, const Call *c) {
    return view(r, c->self.dict, "dict_keys", true, false);
}
static Value dict_values(Run *r, const Call *c) {
    return view(r, c->self.dict, "dict_values", false, true);
}

static Value dict_get(Run *r, const Call *c) {
    const Value *found = dict_find(r, c->self.dict, c->a[0]);
    if (found) return *found;
    return c->a[1].kind == IS_ABSENT ? value_none() : c->a[1];
}

static Value dict_copy(Run *r, const Call *c) {
    Dict *d = dict_new(r);
    for (size_t i = 0; i < c->self.dict->n; i++)
        dict_set(r, d, c->self.dict->key[i], c->self.dict->value[i]);
    return (Value){.kind = IS_DICT, .dict = d};
}

const Builtin METHODS_DICT[] = {
    {"items", "", dict_items}, {"keys", "", dict_keys},           {"values", "", dict_values},
    {"copy", "", dict_copy},   {"get", "key default?", dict_get}, {0},
};

static Value list_index(Run *r, const Call *c) {
    const List *l = c->self.list;
    int64_t n = (int64_t)l->n, from = arg_int(r, c, 1, 0), to = arg_int(r, c, 2, n);
    if (from < 0) from = from + n < 0 ? 0 : from + n;
    if (to < 0) to += n;
    for (int64_t i = from; i < n && i < to; i++)
        if (value_equal(r, l->at[i], c->a[0])) return value_int(i);
    run_fail(r, "the item is not in the list");
}

static Value list_count(Run *r, const Call *c) {
    int64_t n = 0;
    for (size_t i = 0; i < c->self.list->n; i++) n += value_equal(r, c->self.list->at[i], c->a[0]);
    return value_int(n);
}

static Value list_copy(Run *r, const Call *c) { return (void)r, c->self; }

const Builtin METHODS_LIST[] = {
    {"index", "value start? stop?", list_index},
    {"count", "value", list_count},
    {"copy", "", list_copy},
    {0},
};
