/* jinja_format.c - Python's two ways to fill a text: "%s of %d" % values and "{} of {n}".format().
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "jinja_builtins.h"
#include "jinja_text.h"

/* What stands between the brackets or behind the %: how one value is to be written. */
typedef struct Spec {
    char align; /* < > ^ =, or 0 */
    Str fill;
    char sign; /* + or space, or 0 */
    bool alternate, comma, zero;
    int64_t width, precision; /* precision -1: not given */
    char type;                /* 0: by the value */
} Spec;

static int64_t read_digits(Run *r, Str s, size_t *at) {
    int64_t n = 0;
    while (*at < s.n && s.p[*at] >= '0' && s.p[*at] <= '9') {
        n = n * 10 + (s.p[(*at)++] - '0');
        if (n > 1000000) run_fail(r, "a width or precision in a format is too large");
    }
    return n;
}

static void add_commas(Run *r, Text *t, const char *digits) {
    size_t whole = strspn(digits, "0123456789");
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0) append_bytes(r, t, ",", 1);
        append_bytes(r, t, digits + i, 1);
    }
    append_str(r, t, str_of(digits + whole));
}

/* The number without its sign; *negative says whether it had one. */
static Str number_digits(Run *r, const Spec *spec, Value v, bool *negative) {
    char type = spec->type, text[512], fmt[] = {'%', '.', '*', 'f', 0};
    Text t = {0};
    if (v.kind == IS_BOOL) v = value_int(v.b);
    if (type == 0 || type == 'n') type = v.kind == IS_INT ? 'd' : spec->precision >= 0 ? 'g' : 'r';
    if (strchr("eEfFgG%", type)) {
        double f = v.kind == IS_INT ? (double)v.i : v.f;
        fmt[3] = type == '%' ? 'f' : type;
        *negative = signbit(f) && !isnan(f);
        if (spec->precision > 100)
            run_fail(r, "a precision beyond 100 in a format is not supported");
        snprintf(text, sizeof text, fmt, spec->precision < 0 ? 6 : (int)spec->precision,
                 fabs(type == '%' ? f * 100 : f));
        if (spec->type == 0 && !strpbrk(text, ".en")) strcat(text, ".0");
    } else if (type == 'r') {
        *negative = signbit(v.f) && !isnan(v.f);
        value_write_float(r, &t, fabs(v.f));
        return text_str(&t);
    } else {
        *negative = v.i < 0;
        uint64_t u = *negative ? 0 - (uint64_t)v.i : (uint64_t)v.i;
        fmt[1] = 'l', fmt[2] = 'l',
        fmt[3] = type == 'x'   ? 'x'
                 : type == 'X' ? 'X'
                 : type == 'o' ? 'o'
                               : 'u';
        if (type == 'b') {
            size_t n = 0, top = 64;
            while (top > 1 && !(u >> (top - 1) & 1)) top--;
            while (top > 0) text[n++] = (char)('0' + (u >> --top & 1));
            text[n] = 0;
        } else {
            snprintf(text, sizeof text, fmt, (unsigned long long)u);
        }
        if (spec->alternate && strchr("xXob", type)) append_format(r, &t, "0%c", type);
    }
    if (spec->comma) {
        add_commas(r, &t, text);
    } else {
        append_str(r, &t, str_of(text));
    }
    if (type == '%') append_bytes(r, &t, "%", 1);
    return text_str(&t);
}

static void write_number(Run *r, Text *t, const Spec *spec, Value v) {
    bool negative = false;
    Str digits = number_digits(r, spec, v, &negative);
    char sign = negative ? '-' : spec->sign;
    bool inner = spec->align == '=' || (spec->zero && !spec->align);
    Text body = {0};
    if (inner) {
        Str fill = spec->zero && !spec->align ? STR("0") : spec->fill;
        digits = str_pad(r, digits, spec->width - (sign != 0), ">", fill);
    }
    append_bytes(r, &body, &sign, sign != 0);
    append_str(r, &body, digits);
    char align[] = {spec->align && !inner ? spec->align : '>', 0};
    append_str(r, t, str_pad(r, text_str(&body), spec->width, align, spec->fill));
}

static void write_string(Run *r, Text *t, const Spec *spec, Str s) {
    char align[] = {spec->align ? spec->align : '<', 0};
    if (spec->precision >= 0) s = str_slice(s, 0, (size_t)spec->precision);
    if (align[0] == '=') run_fail(r, "'=' alignment not allowed in string format specifier");
    append_str(r, t, str_pad(r, s, spec->width, align, spec->fill));
}

static bool is_number(Value v) {
    return v.kind == IS_INT || v.kind == IS_FLOAT || v.kind == IS_BOOL;
}

/* One %-conversion: type and flags as C has them, with Python's rules for the value. */
static void percent_value(Run *r, Text *t, Spec *spec, Value v) {
    if (strchr("sra", spec->type)) {
        Text repr = {0};
        if (spec->type != 's') value_write_repr(r, &repr, v);
        write_string(r, t, spec, spec->type == 's' ? value_print(r, v) : text_str(&repr));
    } else if (spec->type == 'c') {
        Text one = {0};
        if (v.kind == IS_INT && v.i >= 0 && v.i < 0xd800)
            append_point(r, &one, (uint32_t)v.i);
        else if (v.kind == IS_STRING && str_length(v.s) == 1)
            append_str(r, &one, v.s);
        else
            run_fail(r, "%%c requires a character");
        write_string(r, t, spec, text_str(&one));
    } else if (strchr("diuxXoeEfFgG", spec->type)) {
        if (v.kind == IS_UNDEFINED) value_fail_undefined(r, v);
        if (!is_number(v))
            run_fail(r, "%%%c format: a number is required, not %s", spec->type, value_type(v));
        bool whole = strchr("diuxXo", spec->type) != NULL;
        if (whole && v.kind == IS_FLOAT) {
            if (!(fabs(v.f) < 9e18)) run_fail(r, "the number does not fit 64 bits");
            v = value_int((int64_t)v.f);
        }
        if (strchr("diu", spec->type)) spec->type = 'd';
        write_number(r, t, spec, v);
    } else {
        run_fail(r, "unsupported format character '%c' behind %%", spec->type);
    }
}

/* The value an (name) or the next position asks for; at counts the positions used. */
static Value percent_argument(Run *r, Value values, size_t *at) {
    if (values.kind == IS_TUPLE) {
        if (*at >= values.list->n) run_fail(r, "not enough arguments for format string");
        return values.list->at[(*at)++];
    }
    if ((*at)++ > 0) run_fail(r, "not enough arguments for format string");
    return values;
}

Str format_percent(Run *r, Str f, Value values) {
    Text t = {0};
    size_t used = 0;
    bool named = false;
    for (size_t i = 0; i < f.n;) {
        size_t start = i;
        while (i < f.n && f.p[i] != '%') i++;
        append_bytes(r, &t, f.p + start, i - start);
        if (i++ >= f.n) break;
        Spec spec = {.precision = -1, .fill = STR(" "), .align = '>'};
        Value v = {.kind = IS_ABSENT};
        if (i < f.n && f.p[i] == '(') {
            size_t close = str_find(f, STR(")"), i);
            if (close == SIZE_MAX || values.kind != IS_DICT)
                run_fail(r, "format requires a mapping");
            v = value_element(r, values, value_str((Str){f.p + i + 1, close - i - 1}));
            named = true;
            i = close + 1;
        }
        for (; i < f.n && f.p[i] && strchr("-+ 0#", f.p[i]); i++) {
            if (f.p[i] == '-') spec.align = '<';
            if (f.p[i] == '+' || (f.p[i] == ' ' && !spec.sign)) spec.sign = f.p[i];
            if (f.p[i] == '#') spec.alternate = true;
            if (f.p[i] == '0') spec.zero = true;
        }
        spec.width = read_digits(r, f, &i);
        if (i < f.n && f.p[i] == '.') {
            i++;
            spec.precision = read_digits(r, f, &i);
        }
        if (i >= f.n) run_fail(r, "incomplete format: a text ends behind %%");
        spec.type = f.p[i++];
        if (spec.type == '%') {
            append_bytes(r, &t, "%", 1);
            continue;
        }
        if (spec.zero && spec.align == '>' && !strchr("sracx", spec.type)) spec.align = 0;
        if (v.kind == IS_ABSENT) v = percent_argument(r, values, &used);
        percent_value(r, &t, &spec, v);
    }
    size_t given = values.kind == IS_TUPLE ? values.list->n : 1;
    if (!named && used < given && values.kind != IS_DICT && values.kind != IS_LIST)
        run_fail(r, "not all arguments converted during string formatting");
    return text_str(&t);
}

static bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

static Spec read_spec(Run *r, Str s) {
    Spec spec = {.precision = -1, .fill = STR(" ")};
    size_t i = 0;
    size_t lead = s.n ? str_point_bytes(s, 0) : 0;
    if (lead && lead < s.n && is_align(s.p[lead])) {
        spec.fill = (Str){s.p, lead};
        spec.align = s.p[lead];
        i = lead + 1;
    } else if (s.n && is_align(s.p[0])) {
        spec.align = s.p[i++];
    }
    if (i < s.n && (s.p[i] == '+' || s.p[i] == ' ' || s.p[i] == '-')) spec.sign = s.p[i++];
    if (spec.sign == '-') spec.sign = 0;
    if (i < s.n && s.p[i] == '#') spec.alternate = ++i;
    if (i < s.n && s.p[i] == '0') spec.zero = ++i;
    spec.width = read_digits(r, s, &i);
    if (i < s.n && s.p[i] == ',') spec.comma = ++i;
    if (i < s.n && s.p[i] == '.') {
        i++;
        spec.precision = read_digits(r, s, &i);
    }
    if (i < s.n) spec.type = s.p[i++];
    if (i < s.n) run_fail(r, "the format '%.*s' is not understood", (int)s.n, s.p);
    return spec;
}

static void format_value(Run *r, Text *t, Str text, Value v) {
    Spec spec = read_spec(r, text);
    if (is_number(v) && !(v.kind == IS_BOOL && !spec.type)) {
        const char *known = v.kind == IS_FLOAT ? "eEfFgGn%" : "bdoxXneEfFgG%";
        if (spec.type && !strchr(known, spec.type))
            run_fail(r, "unknown format code '%c' for a %s", spec.type, value_type(v));
        write_number(r, t, &spec, v);
    } else {
        if (spec.type && spec.type != 's')
            run_fail(r, "unknown format code '%c' for a %s", spec.type, value_type(v));
        if (text.n && v.kind != IS_STRING && v.kind != IS_BOOL)
            run_fail(r, "a %s cannot be formatted with '%.*s'", value_type(v), (int)text.n, text.p);
        write_string(r, t, &spec, value_print(r, v));
    }
}

static bool all_digits(Str s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9') return false;
    return s.n > 0;
}

static Value positional(Run *r, const Args *args, size_t i) {
    if (i >= args->n) run_fail(r, "format: there is no argument %zu", i);
    return args->at[i];
}

/* The value of "0.name[key]": the first part names an argument, the rest leads into it. */
static Value field_value(Run *r, Str field, const Args *args, size_t *next) {
    size_t n = 0;
    Value v = {.kind = IS_ABSENT};
    while (n < field.n && field.p[n] != '.' && field.p[n] != '[') n++;
    Str first = {field.p, n};
    if (n == 0) {
        v = positional(r, args, (*next)++);
    } else if (all_digits(first)) {
        size_t at = 0;
        v = positional(r, args, (size_t)read_digits(r, first, &at));
    } else {
        for (size_t i = 0; i < args->n_keys; i++)
            if (str_equal(args->key[i], first)) v = args->value[i];
        if (v.kind == IS_ABSENT)
            run_fail(r, "format: there is no argument '%.*s'", (int)n, field.p);
    }
    while (n < field.n) {
        bool bracket = field.p[n++] == '[';
        size_t from = n;
        while (n < field.n &&
               (bracket ? field.p[n] != ']' : field.p[n] != '.' && field.p[n] != '['))
            n++;
        Str part = {field.p + from, n - from};
        if (bracket && n++ >= field.n) run_fail(r, "format: a ] is missing");
        size_t at = 0;
        v = !bracket           ? value_attribute(r, v, part)
            : all_digits(part) ? value_element(r, v, value_int(read_digits(r, part, &at)))
                               : value_element(r, v, value_str(part));
    }
    return v;
}

static void format_field(Run *r, Text *t, Str field, const Args *args, size_t *next) {
    size_t colon = str_find(field, STR(":"), 0), end = colon == SIZE_MAX ? field.n : colon;
    Str spec = colon == SIZE_MAX ? STR("") : (Str){field.p + colon + 1, field.n - colon - 1};
    size_t mark = str_find((Str){field.p, end}, STR("!"), 0);
    Value v = field_value(r, (Str){field.p, mark == SIZE_MAX ? end : mark}, args, next);
    if (mark != SIZE_MAX) {
        Text printed = {0};
        char how = end == mark + 2 ? field.p[mark + 1] : 0;
        if (how != 's' && how != 'r') run_fail(r, "format knows the conversions !s and !r");
        if (how == 'r') value_write_repr(r, &printed, v);
        v = value_str(how == 'r' ? text_str(&printed) : value_print(r, v));
    }
    format_value(r, t, spec, v);
}

Str format_braces(Run *r, Str f, const Args *args) {
    Text t = {0};
    size_t next = 0;
    for (size_t i = 0; i < f.n;) {
        char c = f.p[i];
        if (c != '{' && c != '}') {
            append_bytes(r, &t, &f.p[i++], 1);
        } else if (i + 1 < f.n && f.p[i + 1] == c) { /* {{ and }} stand for one */
            append_bytes(r, &t, &c, 1);
            i += 2;
        } else {
            size_t close = c == '{' ? str_find(f, STR("}"), i) : SIZE_MAX;
            if (close == SIZE_MAX) run_fail(r, "single '%c' in a format string", c);
            Str field = {f.p + i + 1, close - i - 1};
            if (str_find(field, STR("{"), 0) != SIZE_MAX)
                run_fail(r, "format fields inside format fields are not supported");
            format_field(r, &t, field, args, &next);
            i = close + 1;
        }
    }
    return text_str(&t);
}
