/* jinja_filters.c - the filters for texts and numbers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "jinja_builtins.h"
#include "jinja_print.h"
#include "jinja_text.h"

static Str self_text(Run *r, const Call *c) { return value_print(r, c->self); }

static Value filter_upper(Run *r, const Call *c) {
    return value_str(str_case(r, self_text(r, c), UPPER));
}
static Value filter_lower(Run *r, const Call *c) {
    return value_str(str_case(r, self_text(r, c), LOWER));
}
static Value filter_capitalize(Run *r, const Call *c) {
    return value_str(str_case(r, self_text(r, c), CAPITAL));
}

/* Unlike str.title, words begin behind white space and - ( { [ < only: they're, not They'Re. */
static Value filter_title(Run *r, const Call *c) {
    Str s = self_text(r, c);
    Text t = {0};
    size_t start = 0;
    for (size_t i = 0; i <= s.n; i += i < s.n ? str_point_bytes(s, i) : 1) {
        uint32_t p = i < s.n ? str_point(s, i) : ' ';
        bool cut = point_is_space(p) || (p < 0x80 && strchr("-({[<", (int)p));
        if (!cut) continue;
        append_str(r, &t, str_case(r, (Str){s.p + start, i - start}, CAPITAL));
        if (i < s.n) append_bytes(r, &t, s.p + i, str_point_bytes(s, i));
        start = i + (i < s.n ? str_point_bytes(s, i) : 0);
    }
    return value_text(&t);
}

static Value filter_trim(Run *r, const Call *c) {
    Str chars = arg_str(r, c, 0, STR(""));
    return value_str(str_strip(self_text(r, c), BOTH, c->a[0].kind == IS_STRING ? &chars : NULL));
}

static Value filter_replace(Run *r, const Call *c) {
    return value_str(str_replace(r, self_text(r, c), value_print(r, c->a[0]),
                                 value_print(r, c->a[1]), arg_int(r, c, 2, -1)));
}

static Value filter_string(Run *r, const Call *c) { return value_str(self_text(r, c)); }
static Value filter_safe(Run *r, const Call *c) {
    Value v = value_str(self_text(r, c));
    v.safe = true;
    return v;
}

static Value filter_escape(Run *r, const Call *c) {
    Value v = value_str(c->self.safe ? c->self.s : str_escape(r, self_text(r, c)));
    v.safe = true;
    return v;
}

static Value filter_forceescape(Run *r, const Call *c) {
    Value v = value_str(str_escape(r, self_text(r, c)));
    v.safe = true;
    return v;
}

static Str spaces(Run *r, int64_t n) { return str_pad(r, STR(""), n, "<", STR(" ")); }

static Value filter_indent(Run *r, const Call *c) {
    if (c->self.kind == IS_UNDEFINED) value_fail_undefined(r, c->self);
    if (c->self.kind != IS_STRING)
        run_fail(r, "indent wants a string, not %s", value_type(c->self));
    Str by = c->a[0].kind == IS_STRING ? c->a[0].s : spaces(r, arg_int(r, c, 0, 4));
    bool first = arg_truth(c, 1, false), blank = arg_truth(c, 2, false);
    Text whole = {0}, t = {0};
    append_str(r, &whole, c->self.s);
    append_bytes(r, &whole, "\n", 1); /* so that a last empty line is a line too */
    const List *lines = str_lines(r, text_str(&whole), false);
    for (size_t i = 0; i < lines->n; i++) {
        Str line = lines->at[i].s;
        if (i) append_bytes(r, &t, "\n", 1);
        if (i == 0 ? first : blank || line.n) append_str(r, &t, by);
        append_str(r, &t, line);
    }
    return value_text(&t);
}

static Value filter_center(Run *r, const Call *c) {
    return value_str(str_pad(r, self_text(r, c), arg_int(r, c, 0, 80), "c", STR(" ")));
}

static Value filter_truncate(Run *r, const Call *c) {
    if (c->self.kind == IS_UNDEFINED) value_fail_undefined(r, c->self);
    if (c->self.kind != IS_STRING)
        run_fail(r, "truncate wants a string, not %s", value_type(c->self));
    Str s = self_text(r, c), end = arg_str(r, c, 2, STR("..."));
    int64_t length = arg_int(r, c, 0, 255), leeway = arg_int(r, c, 3, 5);
    int64_t room = length - (int64_t)str_length(end);
    if (room < 0 || leeway < 0) run_fail(r, "truncate wants room for its end mark");
    if ((int64_t)str_length(s) - leeway <= length) return value_str(s);
    Str cut = str_slice(s, 0, (size_t)room);
    size_t word = str_find_last(cut, STR(" "));
    if (!arg_truth(c, 1, false) && word != SIZE_MAX) cut.n = word;
    Text t = {0};
    append_str(r, &t, cut);
    append_str(r, &t, end);
    return value_text(&t);
}

static Value filter_wordcount(Run *r, const Call *c) {
    Str s = self_text(r, c);
    int64_t n = 0;
    bool inside = false;
    for (size_t i = 0; i < s.n; i += str_point_bytes(s, i)) {
        uint32_t p = str_point(s, i);
        bool word = p == '_' || point_is_alpha(p) || point_is_digit(p);
        n += word && !inside;
        inside = word;
    }
    return value_int(n);
}

static Value filter_format(Run *r, const Call *c) {
    const Args *args = c->args;
    if (args->n && args->n_keys)
        run_fail(r, "format takes either positional or keyword arguments, not both");
    Dict *named = dict_new(r);
    List *at = list_new(r, args->n);
    for (size_t i = 0; i < args->n; i++) list_add(r, at, args->at[i]);
    for (size_t i = 0; i < args->n_keys; i++)
        dict_set(r, named, value_str(args->key[i]), args->value[i]);
    Value values =
        args->n_keys ? (Value){.kind = IS_DICT, .dict = named} : value_list(IS_TUPLE, at);
    return value_str(format_percent(r, self_text(r, c), values));
}

static Value filter_default(Run *r, const Call *c) {
    bool use = c->self.kind == IS_UNDEFINED || (arg_truth(c, 1, false) && !value_truth(c->self));
    (void)r;
    if (!use) return c->self;
    return c->a[0].kind == IS_ABSENT ? value_str(STR("")) : c->a[0];
}

/* A number as Python's int() and float() read one: blanks around, single _ between digits. */
static bool read_number(Run *r, Str s, int base, Value *out) {
    char *text = run_take(r, s.n + 1), *end;
    size_t n = 0;
    s = str_strip(s, BOTH, NULL);
    for (size_t i = 0; i < s.n; i++) {
        bool gap = s.p[i] == '_' && i > 0 && i + 1 < s.n && s.p[i - 1] != '_' && s.p[i + 1] != '_';
        if (s.p[i] == 0 || s.p[i] == ' ' || s.p[i] == '\n') return false;
        if (!gap) text[n++] = s.p[i];
    }
    if (n == 0) return false;
    if (base < 0) {
        if (strpbrk(text, "xX(")) return false; /* C's hexadecimal floats and nan(...) */
        *out = value_float(strtod(text, &end));
    } else {
        char *digits = text + (text[0] == '-' || text[0] == '+');
        if (base != 10 && digits[0] == '0' &&
            strchr(base == 16  ? "xX"
                   : base == 8 ? "oO"
                               : "bB",
                   digits[1]) &&
            digits[1])
            memmove(digits, digits + 2, strlen(digits + 2) + 1);
        if (*digits == '-' || *digits == '+' || *digits == 0) return false;
        long long i = strtoll(text, &end, base);
        if (*end == 0 && (i == INT64_MAX || i == INT64_MIN))
            run_fail(r, "the number %s does not fit 64 bits", text);
        *out = value_int(i);
    }
    return *end == 0;
}

static Value float_to_int(Run *r, double f, Value fallback) {
    if (!isfinite(f)) return fallback;
    if (fabs(f) >= 9223372036854775808.0) run_fail(r, "the number %g does not fit 64 bits", f);
    return value_int((int64_t)f);
}

static Value filter_int(Run *r, const Call *c) {
    Value v = c->self, n;
    Value fallback = c->a[0].kind == IS_ABSENT ? value_int(0) : c->a[0];
    int64_t base = arg_int(r, c, 1, 10);
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind == IS_INT) return v;
    if (v.kind == IS_BOOL) return value_int(v.b);
    if (v.kind == IS_FLOAT) return float_to_int(r, v.f, fallback);
    if (v.kind != IS_STRING) return fallback;
    if (base != 2 && base != 8 && base != 10 && base != 16)
        run_fail(r, "int reads base 2, 8, 10 or 16, not %lld", (long long)base);
    if (read_number(r, v.s, (int)base, &n)) return n;
    return read_number(r, v.s, -1, &n) ? float_to_int(r, n.f, fallback) : fallback;
}

static Value filter_float(Run *r, const Call *c) {
    Value v = c->self, n;
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind == IS_FLOAT) return v;
    if (v.kind == IS_INT) return value_float((double)v.i);
    if (v.kind == IS_BOOL) return value_float(v.b);
    if (v.kind == IS_STRING && read_number(r, v.s, -1, &n)) return n;
    return c->a[0].kind == IS_ABSENT ? value_float(0) : c->a[0];
}

static Value filter_abs(Run *r, const Call *c) {
    Value v = c->self;
    if (v.kind == IS_FLOAT) return value_float(fabs(v.f));
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind == IS_BOOL) return value_int(v.b);
    if (v.kind != IS_INT || v.i == INT64_MIN)
        run_fail(r, "abs wants a number, not %s", value_type(v));
    return value_int(v.i < 0 ? -v.i : v.i);
}

static Value filter_round(Run *r, const Call *c) {
    static const struct {
        const char *name;
        double (*run)(double);
    } METHODS[] = {{"ceil", ceil}, {"floor", floor}};
    int64_t places = arg_int(r, c, 0, 0);
    Str method = arg_str(r, c, 1, STR("common"));
    Value v = c->self;
    char text[400];
    if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
    if (v.kind == IS_BOOL) v = value_int(v.b);
    if (v.kind != IS_INT && v.kind != IS_FLOAT)
        run_fail(r, "round wants a number, not %s", value_type(v));
    double f = v.kind == IS_INT ? (double)v.i : v.f;
    for (size_t i = 0; i < COUNT_OF(METHODS); i++)
        if (str_is(method, METHODS[i].name))
            return value_float(METHODS[i].run(f * pow(10, (double)places)) /
                               pow(10, (double)places));
    if (!str_is(method, "common")) run_fail(r, "round knows common, ceil and floor");
    if (v.kind == IS_INT && places >= 0) return v;
    if (places < 0) {
        double scale = pow(10, (double)-places), whole = nearbyint(f / scale) * scale;
        return v.kind == IS_INT ? value_int((int64_t)whole) : value_float(whole);
    }
    if (places > 300 || !isfinite(f)) return v;
    snprintf(text, sizeof text, "%.*f", (int)places, f); /* exact, half to even, as Python's */
    return value_float(strtod(text, NULL));
}

static Value filter_tojson(Run *r, const Call *c) {
    Value indent = c->a[1], separators = c->a[2];
    JsonStyle style = {.ascii = arg_truth(c, 0, false), .sorted = arg_truth(c, 3, false)};
    style.lines = indent.kind != IS_ABSENT && indent.kind != IS_NONE;
    style.comma = style.lines ? STR(",") : STR(", ");
    style.colon = STR(": ");
    if (style.lines)
        style.indent = indent.kind == IS_STRING ? indent.s : spaces(r, arg_int(r, c, 1, 0));
    if (separators.kind != IS_ABSENT && separators.kind != IS_NONE) {
        const List *pair = value_items(r, separators);
        if (pair->n != 2 || pair->at[0].kind != IS_STRING || pair->at[1].kind != IS_STRING)
            run_fail(r, "tojson wants separators as a pair of strings");
        style.comma = pair->at[0].s;
        style.colon = pair->at[1].s;
    }
    Text t = {0};
    value_write_json(r, &t, c->self, &style);
    return value_text(&t);
}

static Value filter_attr(Run *r, const Call *c) {
    if (c->self.kind == IS_UNDEFINED) value_fail_undefined(r, c->self);
    Value v = attribute_find(r, c->self, arg_str(r, c, 0, STR("")));
    return v.kind == IS_ABSENT ? value_missing(r, c->self, c->a[0]) : v;
}

const Builtin FILTERS_TEXT[] = {
    {"upper", "", filter_upper},
    {"lower", "", filter_lower},
    {"capitalize", "", filter_capitalize},
    {"title", "", filter_title},
    {"trim", "chars?", filter_trim},
    {"replace", "old new count?", filter_replace},
    {"string", "", filter_string},
    {"safe", "", filter_safe},
    {"escape", "", filter_escape},
    {"e", "", filter_escape},
    {"forceescape", "", filter_forceescape},
    {"indent", "width? first? blank?", filter_indent},
    {"center", "width?", filter_center},
    {"truncate", "length? killwords? end? leeway?", filter_truncate},
    {"wordcount", "", filter_wordcount},
    {"format", "*", filter_format},
    {"default", "default_value? boolean?", filter_default},
    {"d", "default_value? boolean?", filter_default},
    {"int", "default? base?", filter_int},
    {"float", "default?", filter_float},
    {"abs", "", filter_abs},
    {"round", "precision? method?", filter_round},
    {"tojson", "ensure_ascii? indent? separators? sort_keys?", filter_tojson},
    {"attr", "name", filter_attr},
    {0},
};
