/* jinja_print.c - values as Python prints them: str(), repr() and json.dumps(). */
#include "jinja_print.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "jinja_builtins.h"
#include "jinja_text.h"

static const char *const TYPES[N_KINDS] = {
    [IS_ABSENT] = "missing",    [IS_UNDEFINED] = "Undefined",
    [IS_NONE] = "NoneType",     [IS_BOOL] = "bool",
    [IS_INT] = "int",           [IS_FLOAT] = "float",
    [IS_STRING] = "str",        [IS_LIST] = "list",
    [IS_TUPLE] = "tuple",       [IS_DICT] = "dict",
    [IS_RANGE] = "range",       [IS_VIEW] = "dict view",
    [IS_STREAM] = "generator",  [IS_NAMESPACE] = "namespace",
    [IS_FUNCTION] = "function", [IS_MACRO] = "macro",
    [IS_LOOP] = "loop",
};

const char *value_type(Value v) { return TYPES[v.kind]; }

/* Python's repr: the shortest digits that read back as the same number, an exponent below 1e-4
 * and from 1e16 on. */
void value_write_float(Run *r, Text *t, double f) {
    char digits[40], plain[400];
    int precision = 0;
    if (isnan(f) || isinf(f)) {
        append_format(r, t, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) { /* C writes the exponent as Python does: e-05, e+16 */
        append_format(r, t, "%s", digits);
        return;
    }
    int decimals = precision - exponent;
    snprintf(plain, sizeof plain, "%.*f", decimals > 1 ? decimals : 1, f);
    append_format(r, t, "%s", plain);
}

static void write_repr_string(Run *r, Text *t, Str s) {
    bool single = memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n);
    char quote = single ? '"' : '\'';
    append_bytes(r, t, &quote, 1);
    for (size_t i = 0; i < s.n; i += str_point_bytes(s, i)) {
        static const char NAMED[] = "\nn\rr\tt";
        uint32_t p = str_point(s, i);
        const char *named = p && p < 0x80 ? strchr("\n\r\t", (int)p) : NULL;
        if (p == (uint32_t)quote || p == '\\') {
            append_format(r, t, "\\%c", (char)p);
        } else if (named) {
            append_format(r, t, "\\%c", strchr(NAMED, (int)p)[1]);
        } else if (point_is_printable(p)) {
            append_bytes(r, t, s.p + i, str_point_bytes(s, i));
        } else {
            append_format(r, t, p < 0x100 ? "\\x%02x" : p < 0x10000 ? "\\u%04x" : "\\U%08x", p);
        }
    }
    append_bytes(r, t, &quote, 1);
}

static void write_items(Run *r, Text *t, const List *l, const char *open, const char *close) {
    append_str(r, t, str_of(open));
    for (size_t i = 0; i < l->n; i++) {
        if (i) append_bytes(r, t, ", ", 2);
        value_write_repr(r, t, l->at[i]);
    }
    append_str(r, t, str_of(close));
}

static void write_list(Run *r, Text *t, Value v) { write_items(r, t, v.list, "[", "]"); }
static void write_tuple(Run *r, Text *t, Value v) {
    write_items(r, t, v.list, "(", v.list->n == 1 ? ",)" : ")");
}
static void write_view(Run *r, Text *t, Value v) {
    append_format(r, t, "%s", v.list->name);
    write_items(r, t, v.list, "([", "])");
}

static void write_dict(Run *r, Text *t, Value v) {
    const Dict *d = v.dict;
    append_bytes(r, t, "{", 1);
    for (size_t i = 0; i < d->n; i++) {
        if (i) append_bytes(r, t, ", ", 2);
        value_write_repr(r, t, d->key[i]);
        append_bytes(r, t, ": ", 2);
        value_write_repr(r, t, d->value[i]);
    }
    append_bytes(r, t, "}", 1);
}

static void write_namespace(Run *r, Text *t, Value v) {
    append_format(r, t, "<Namespace ");
    write_dict(r, t, v);
    append_bytes(r, t, ">", 1);
}

static void write_range(Run *r, Text *t, Value v) {
    const Range *g = v.range;
    append_format(r, t, "range(%lld, %lld", (long long)g->start, (long long)g->stop);
    if (g->step != 1) append_format(r, t, ", %lld", (long long)g->step);
    append_bytes(r, t, ")", 1);
}

static void write_undefined(Run *r, Text *t, Value v) { (void)v, append_format(r, t, "Undefined"); }
static void write_none(Run *r, Text *t, Value v) { (void)v, append_format(r, t, "None"); }
static void write_bool(Run *r, Text *t, Value v) { append_format(r, t, v.b ? "True" : "False"); }
static void write_int(Run *r, Text *t, Value v) { append_format(r, t, "%lld", (long long)v.i); }
static void write_float(Run *r, Text *t, Value v) { value_write_float(r, t, v.f); }
static void write_string(Run *r, Text *t, Value v) { write_repr_string(r, t, v.s); }

void value_write_repr(Run *r, Text *t, Value v) {
    static void (*const WRITE[N_KINDS])(Run *, Text *, Value) = {
        [IS_UNDEFINED] = write_undefined, [IS_NONE] = write_none,
        [IS_BOOL] = write_bool,           [IS_INT] = write_int,
        [IS_FLOAT] = write_float,         [IS_STRING] = write_string,
        [IS_LIST] = write_list,           [IS_TUPLE] = write_tuple,
        [IS_DICT] = write_dict,           [IS_RANGE] = write_range,
        [IS_VIEW] = write_view,           [IS_NAMESPACE] = write_namespace,
    };
    if (!WRITE[v.kind])
        run_fail(r, "a %s has no text of its own; a list needs `| list` before it is printed",
                 value_type(v));
    run_deeper(r);
    run_step(r, 1);
    WRITE[v.kind](r, t, v);
    r->depth--;
}

void value_write(Run *r, Text *t, Value v) {
    if (v.kind == IS_STRING) {
        append_str(r, t, v.s);
    } else if (v.kind != IS_UNDEFINED) {
        value_write_repr(r, t, v);
    }
}

Str value_print(Run *r, Value v) {
    Text t = {0};
    if (v.kind == IS_STRING) return v.s;
    value_write(r, &t, v);
    return text_str(&t);
}

static void write_json_string(Run *r, Text *t, Str s, bool ascii) {
    append_bytes(r, t, "\"", 1);
    for (size_t i = 0; i < s.n; i += str_point_bytes(s, i)) {
        static const char FROM[] = "\"\\\n\r\t\b\f", TO[] = "\"\\nrtbf";
        uint32_t p = str_point(s, i);
        const char *short_ = p && p < 0x80 ? strchr(FROM, (int)p) : NULL;
        if (short_) {
            append_format(r, t, "\\%c", TO[short_ - FROM]);
        } else if (p < 0x20 || (ascii && p >= 0x7f && p < 0x10000)) {
            append_format(r, t, "\\u%04x", p);
        } else if (ascii && p >= 0x10000) {
            append_format(r, t, "\\u%04x\\u%04x", 0xd7c0 + (p >> 10), 0xdc00 + (p & 0x3ff));
        } else {
            append_bytes(r, t, s.p + i, str_point_bytes(s, i));
        }
    }
    append_bytes(r, t, "\"", 1);
}

static void new_line(Run *r, Text *t, const JsonStyle *style, int level) {
    if (!style->lines) return;
    append_bytes(r, t, "\n", 1);
    for (int i = 0; i < level; i++) append_str(r, t, style->indent);
}

static void write_json(Run *r, Text *t, Value v, const JsonStyle *style, int level);

static void write_json_list(Run *r, Text *t, Value v, const JsonStyle *style, int level) {
    append_bytes(r, t, "[", 1);
    for (size_t i = 0; i < v.list->n; i++) {
        if (i) append_str(r, t, style->comma);
        new_line(r, t, style, level + 1);
        write_json(r, t, v.list->at[i], style, level + 1);
    }
    if (v.list->n) new_line(r, t, style, level);
    append_bytes(r, t, "]", 1);
}

static void write_json_key(Run *r, Text *t, Value key, const JsonStyle *style) {
    if (key.kind == IS_STRING) {
        write_json_string(r, t, key.s, style->ascii);
    } else if (key.kind == IS_NONE || key.kind == IS_BOOL || key.kind == IS_INT ||
               key.kind == IS_FLOAT) {
        append_bytes(r, t, "\"", 1);
        write_json(r, t, key, style, 0);
        append_bytes(r, t, "\"", 1);
    } else {
        run_fail(r, "keys must be str, int, float, bool or None, not %s", value_type(key));
    }
}

static void write_json_dict(Run *r, Text *t, Value v, const JsonStyle *style, int level) {
    const Dict *d = v.dict;
    List *order = list_new(r, d->n);
    for (size_t i = 0; i < d->n; i++) list_add(r, order, value_pair(r, d->key[i], d->value[i]));
    if (style->sorted) list_sort(r, order, compare_first, NULL);
    append_bytes(r, t, "{", 1);
    for (size_t i = 0; i < d->n; i++) {
        const Value *pair = order->at[i].list->at;
        if (i) append_str(r, t, style->comma);
        new_line(r, t, style, level + 1);
        write_json_key(r, t, pair[0], style);
        append_str(r, t, style->colon);
        write_json(r, t, pair[1], style, level + 1);
    }
    if (d->n) new_line(r, t, style, level);
    append_bytes(r, t, "}", 1);
}

static void write_json(Run *r, Text *t, Value v, const JsonStyle *style, int level) {
    run_deeper(r);
    run_step(r, 1);
    switch (v.kind) {
    case IS_NONE:
        append_format(r, t, "null");
        break;
    case IS_BOOL:
        append_format(r, t, v.b ? "true" : "false");
        break;
    case IS_INT:
        write_int(r, t, v);
        break;
    case IS_FLOAT:
        if (isfinite(v.f)) {
            write_float(r, t, v);
        } else {
            append_format(r, t, "%s", isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
        }
        break;
    case IS_STRING:
        write_json_string(r, t, v.s, style->ascii);
        break;
    case IS_LIST:
    case IS_TUPLE:
        write_json_list(r, t, v, style, level);
        break;
    case IS_DICT:
        write_json_dict(r, t, v, style, level);
        break;
    case IS_UNDEFINED:
        value_fail_undefined(r, v);
    default:
        run_fail(r, "a %s cannot be written as JSON", value_type(v));
    }
    r->depth--;
}

void value_write_json(Run *r, Text *t, Value v, const JsonStyle *style) {
    write_json(r, t, v, style, 0);
}
