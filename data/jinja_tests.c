/* jinja_tests.c - what may stand behind `is`. */
#include "jinja_builtins.h"
#include "jinja_text.h"

static bool is(const Call *c, Kind kind) { return c->self.kind == kind; }

static Value test_defined(Run *r, const Call *c) {
    return (void)r, value_bool(!is(c, IS_UNDEFINED));
}
static Value test_undefined(Run *r, const Call *c) {
    return (void)r, value_bool(is(c, IS_UNDEFINED));
}
static Value test_none(Run *r, const Call *c) { return (void)r, value_bool(is(c, IS_NONE)); }
static Value test_boolean(Run *r, const Call *c) { return (void)r, value_bool(is(c, IS_BOOL)); }
static Value test_true(Run *r, const Call *c) {
    return (void)r, value_bool(is(c, IS_BOOL) && c->self.b);
}
static Value test_false(Run *r, const Call *c) {
    return (void)r, value_bool(is(c, IS_BOOL) && !c->self.b);
}
static Value test_integer(Run *r, const Call *c) { return (void)r, value_bool(is(c, IS_INT)); }
static Value test_float(Run *r, const Call *c) { return (void)r, value_bool(is(c, IS_FLOAT)); }
static Value test_string(Run *r, const Call *c) { return (void)r, value_bool(is(c, IS_STRING)); }
static Value test_mapping(Run *r, const Call *c) { return (void)r, value_bool(is(c, IS_DICT)); }

static Value test_number(Run *r, const Call *c) { /* bool is one of Python's numbers */
    return (void)r, value_bool(is(c, IS_INT) || is(c, IS_FLOAT) || is(c, IS_BOOL));
}

static Value test_sequence(Run *r, const Call *c) { /* has a length and elements */
    size_t n;
    return (void)r, value_bool(value_length(c->self, &n) && !is(c, IS_VIEW));
}

static Value test_iterable(Run *r, const Call *c) {
    size_t n;
    return (void)r, value_bool(value_length(c->self, &n) || is(c, IS_STREAM) || is(c, IS_LOOP));
}

static Value test_callable(Run *r, const Call *c) {
    return (void)r, value_bool(is(c, IS_FUNCTION) || is(c, IS_MACRO) || is(c, IS_LOOP) ||
                               is(c, IS_UNDEFINED));
}

static int64_t whole(Run *r, const Call *c, Value v) {
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind == IS_BOOL) return v.b;
    if (v.kind != IS_INT) run_fail(r, "%s wants a whole number, not %s", c->name, value_type(v));
    return v.i;
}

static Value test_odd(Run *r, const Call *c) { return value_bool(whole(r, c, c->self) & 1); }
static Value test_even(Run *r, const Call *c) { return value_bool(!(whole(r, c, c->self) & 1)); }

static Value test_divisibleby(Run *r, const Call *c) {
    int64_t by = whole(r, c, c->a[0]), v = whole(r, c, c->self);
    if (by == 0) run_fail(r, "division by zero in divisibleby");
    return value_bool(by == -1 || v % by == 0);
}

/* All cased letters are of this case, and there is one. */
static Value all_cased(Run *r, const Call *c, bool (*wanted)(uint32_t), bool (*other)(uint32_t)) {
    Str s = value_print(r, c->self);
    bool some = false;
    for (size_t i = 0; i < s.n; i += str_point_bytes(s, i)) {
        if (other(str_point(s, i))) return value_bool(false);
        some |= wanted(str_point(s, i));
    }
    return value_bool(some);
}
static Value test_lower(Run *r, const Call *c) {
    return all_cased(r, c, point_is_lower, point_is_upper);
}
static Value test_upper(Run *r, const Call *c) {
    return all_cased(r, c, point_is_upper, point_is_lower);
}

static Value test_eq(Run *r, const Call *c) { return value_bool(value_equal(r, c->self, c->a[0])); }
static Value test_ne(Run *r, const Call *c) {
    return value_bool(!value_equal(r, c->self, c->a[0]));
}
static Value test_lt(Run *r, const Call *c) {
    return value_bool(value_compare(r, c->self, c->a[0], "<") < 0);
}
static Value test_le(Run *r, const Call *c) {
    return value_bool(value_compare(r, c->self, c->a[0], "<=") <= 0);
}
static Value test_gt(Run *r, const Call *c) {
    return value_bool(value_compare(r, c->self, c->a[0], ">") == 1);
}
static Value test_ge(Run *r, const Call *c) {
    int order = value_compare(r, c->self, c->a[0], ">=");
    return value_bool(order == 0 || order == 1);
}
static Value test_in(Run *r, const Call *c) {
    return value_bool(value_contains(r, c->a[0], c->self));
}

/* Python's `is`: small values are the same when equal, containers when they are one object. */
static Value test_sameas(Run *r, const Call *c) {
    bool box = is(c, IS_LIST) || is(c, IS_TUPLE) || is(c, IS_DICT) || is(c, IS_NAMESPACE);
    if (c->self.kind != c->a[0].kind) return value_bool(false);
    return value_bool(box ? c->self.list == c->a[0].list : value_equal(r, c->self, c->a[0]));
}

static Value test_escaped(Run *r, const Call *c) { return (void)r, value_bool(c->self.safe); }

static Value test_filter(Run *r, const Call *c) {
    return value_bool(filter_find(value_print(r, c->self)) != NULL);
}
static Value test_test(Run *r, const Call *c) {
    return value_bool(builtin_find(TESTS, value_print(r, c->self)) != NULL);
}

const Builtin TESTS[] = {
    {"defined", "", test_defined},
    {"undefined", "", test_undefined},
    {"none", "", test_none},
    {"boolean", "", test_boolean},
    {"true", "", test_true},
    {"false", "", test_false},
    {"integer", "", test_integer},
    {"float", "", test_float},
    {"number", "", test_number},
    {"string", "", test_string},
    {"mapping", "", test_mapping},
    {"sequence", "", test_sequence},
    {"iterable", "", test_iterable},
    {"callable", "", test_callable},
    {"odd", "", test_odd},
    {"even", "", test_even},
    {"divisibleby", "num", test_divisibleby},
    {"lower", "", test_lower},
    {"upper", "", test_upper},
    {"eq", "other", test_eq},
    {"equalto", "other", test_eq},
    {"==", "other", test_eq},
    {"ne", "other", test_ne},
    {"!=", "other", test_ne},
    {"lt", "other", test_lt},
    {"lessthan", "other", test_lt},
    {"<", "other", test_lt},
    {"le", "other", test_le},
    {"<=", "other", test_le},
    {"gt", "other", test_gt},
    {"greaterthan", "other", test_gt},
    {">", "other", test_gt},
    {"ge", "other", test_ge},
    {">=", "other", test_ge},
    {"in", "seq", test_in},
    {"sameas", "other", test_sameas},
    {"escaped", "", test_escaped},
    {"filter", "", test_filter},
    {"test", "", test_test},
    {0},
};
