/* jinja_arith.c - see jinja_arith.h. */
#include "jinja_arith.h"
#include <math.h>
#include "jinja_builtins.h"
#include "jinja_text.h"

static _Noreturn void fail_operands(Run *r, const char *op, Value a, Value b) {
    if (a.kind == IS_UNDEFINED) value_fail_undefined(r, a);
    if (b.kind == IS_UNDEFINED) value_fail_undefined(r, b);
    run_fail(r, "unsupported operand types for %s: '%s' and '%s'", op, value_type(a),
             value_type(b));
}

static _Noreturn void fail_overflow(Run *r, const char *op) {
    run_fail(r, "the result of %s does not fit a 64-bit number", op);
}

static bool is_whole(Value v) { return v.kind == IS_INT; }
static bool is_number(Value v) { return v.kind == IS_INT || v.kind == IS_FLOAT; }
static double as_float(Value v) { return v.kind == IS_INT ? (double)v.i : v.f; }

static bool is_list(Value v) { return v.kind == IS_LIST || v.kind == IS_TUPLE; }

static Value join_lists(Run *r, Value a, Value b) {
    List *l = list_new(r, a.list->n + b.list->n);
    for (size_t i = 0; i < a.list->n; i++) list_add(r, l, a.list->at[i]);
    for (size_t i = 0; i < b.list->n; i++) list_add(r, l, b.list->at[i]);
    run_step(r, l->n / 4);
    return value_list(a.kind, l);
}

static Value join_strings(Run *r, Str a, Str b) {
    char *p = run_take(r, a.n + b.n);
    for (size_t i = 0; i < a.n; i++) p[i] = a.p[i];
    for (size_t i = 0; i < b.n; i++) p[a.n + i] = b.p[i];
    return value_str((Str){p, a.n + b.n});
}

/* As markupsafe has it: a plain text is escaped where it joins a safe one. */
static Value add_strings(Run *r, Value a, Value b) {
    bool safe = a.safe || b.safe;
    if (safe && !a.safe) a.s = str_escape(r, a.s);
    if (safe && !b.safe) b.s = str_escape(r, b.s);
    Value v = join_strings(r, a.s, b.s);
    v.safe = safe;
    return v;
}

static Value op_add(Run *r, Value a, Value b) {
    int64_t i;
    if (a.kind == IS_STRING && b.kind == IS_STRING) return add_strings(r, a, b);
    if (is_list(a) && a.kind == b.kind) return join_lists(r, a, b);
    if (is_whole(a) && is_whole(b)) {
        if (__builtin_add_overflow(a.i, b.i, &i)) fail_overflow(r, "+");
        return value_int(i);
    }
    if (is_number(a) && is_number(b)) return value_float(as_float(a) + as_float(b));
    if (a.kind == IS_STRING && b.kind != IS_UNDEFINED)
        run_fail(r, "can only concatenate str (not \"%s\") to str", value_type(b));
    fail_operands(r, "+", a, b);
}

static Value op_subtract(Run *r, Value a, Value b) {
    int64_t i;
    if (!is_number(a) || !is_number(b)) fail_operands(r, "-", a, b);
    if (!is_whole(a) || !is_whole(b)) return value_float(as_float(a) - as_float(b));
    if (__builtin_sub_overflow(a.i, b.i, &i)) fail_overflow(r, "-");
    return value_int(i);
}

static Value op_concatenate(Run *r, Value a, Value b) {
    return join_strings(r, value_print(r, a), value_print(r, b));
}

static Value repeat(Run *r, Value v, int64_t times) {
    if (v.kind == IS_STRING) {
        Text t = {0};
        if (v.s.n == 0) return v;
        run_step(r, times > 0 ? (size_t)times : 0);
        for (int64_t i = 0; i < times; i++) append_str(r, &t, v.s);
        return value_text(&t);
    }
    List *l = list_new(r, 0);
    for (int64_t i = 0; v.list->n && i < times; i++) {
        run_step(r, v.list->n);
        for (size_t k = 0; k < v.list->n; k++) list_add(r, l, v.list->at[k]);
    }
    return value_list(v.kind, l);
}

static Value op_multiply(Run *r, Value a, Value b) {
    int64_t i;
    if ((a.kind == IS_STRING || is_list(a)) && is_whole(b)) return repeat(r, a, b.i);
    if ((b.kind == IS_STRING || is_list(b)) && is_whole(a)) return repeat(r, b, a.i);
    if (!is_number(a) || !is_number(b)) fail_operands(r, "*", a, b);
    if (!is_whole(a) || !is_whole(b)) return value_float(as_float(a) * as_float(b));
    if (__builtin_mul_overflow(a.i, b.i, &i)) fail_overflow(r, "*");
    return value_int(i);
}

static void check_divisor(Run *r, Value a, Value b, const char *op) {
    if (!is_number(a) || !is_number(b)) fail_operands(r, op, a, b);
    if (as_float(b) == 0) run_fail(r, "division by zero in %s", op);
}

static Value op_divide(Run *r, Value a, Value b) {
    check_divisor(r, a, b, "/");
    return value_float(as_float(a) / as_float(b));
}

/* Python rounds down, so that the remainder has the divisor's sign. */
static Value op_floor_divide(Run *r, Value a, Value b) {
    check_divisor(r, a, b, "//");
    if (!is_whole(a) || !is_whole(b)) {
        double x = as_float(a), y = as_float(b), m = fmod(x, y);
        if (m != 0 && (m < 0) != (y < 0)) m += y;
        double d = (x - m) / y, f = floor(d);
        return value_float(d - f > 0.5 ? f + 1 : f);
    }
    if (b.i == -1) return op_subtract(r, value_int(0), a);
    int64_t q = a.i / b.i, m = a.i % b.i;
    return value_int(m != 0 && (m < 0) != (b.i < 0) ? q - 1 : q);
}

static Value op_modulo(Run *r, Value a, Value b) {
    if (a.kind == IS_STRING) return value_str(format_percent(r, a.s, b));
    check_divisor(r, a, b, "%");
    if (!is_whole(a) || !is_whole(b)) {
        double y = as_float(b), m = fmod(as_float(a), y);
        return value_float(m != 0 && (m < 0) != (y < 0) ? m + y : m == 0 ? copysign(0, y) : m);
    }
    if (b.i == -1) return value_int(0);
    int64_t m = a.i % b.i;
    return value_int(m != 0 && (m < 0) != (b.i < 0) ? m + b.i : m);
}

static Value op_power(Run *r, Value a, Value b) {
    if (!is_number(a) || !is_number(b)) fail_operands(r, "**", a, b);
    if (is_whole(a) && is_whole(b) && b.i >= 0) {
        int64_t result = 1, base = a.i;
        for (uint64_t n = (uint64_t)b.i; n; n >>= 1) {
            if ((n & 1) && __builtin_mul_overflow(result, base, &result)) fail_overflow(r, "**");
            if (n > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow(r, "**");
        }
        return value_int(result);
    }
    double x = as_float(a), y = as_float(b), z = pow(x, y);
    if (x == 0 && y < 0) run_fail(r, "0.0 cannot be raised to a negative power");
    if (isnan(z) && !isnan(x) && !isnan(y))
        run_fail(r, "a negative number to a fractional power is not a real number");
    if (isinf(z) && !isinf(x) && !isinf(y)) run_fail(r, "the result of ** is too large");
    return value_float(z);
}

Value arith_binary(Run *r, Str op, Value a, Value b) {
    static const struct {
        const char *name;
        Value (*run)(Run *r, Value a, Value b);
    } OPS[] = {
        {"+", op_add},    {"-", op_subtract}, {"*", op_multiply},      {"~", op_concatenate},
        {"/", op_divide}, {"%", op_modulo},   {"//", op_floor_divide}, {"**", op_power},
    };
    bool print = str_is(op, "~");
    bool text = a.kind == IS_STRING && str_is(op, "%");
    if (a.kind == IS_BOOL && !print) a = value_int(a.b); /* True counts as 1 */
    if (b.kind == IS_BOOL && !print && !text) b = value_int(b.b);
    for (size_t i = 0; i < COUNT_OF(OPS); i++)
        if (str_is(op, OPS[i].name)) return OPS[i].run(r, a, b);
    CHECK(false, "no operator %.*s", (int)op.n, op.p);
    return value_none();
}

Value arith_negate(Run *r, Value v) {
    if (v.kind == IS_FLOAT) return value_float(-v.f);
    return op_subtract(r, value_int(0), v.kind == IS_BOOL ? value_int(v.b) : v);
}

static int64_t slice_bound(Run *r, Value v, int64_t fallback, int64_t n, int64_t step) {
    if (v.kind == IS_ABSENT || v.kind == IS_NONE) return fallback;
    if (v.kind == IS_BOOL) v = value_int(v.b);
    if (v.kind != IS_INT)
        run_fail(r, "slice indices must be integers or None, not %s", value_type(v));
    int64_t i = v.i < 0 ? v.i + n : v.i;
    int64_t low = step < 0 ? -1 : 0;
    int64_t high = step < 0 ? n - 1 : n;
    return i < low ? low : i > high ? high : i;
}

static Value slice_range(Run *r, const Range *of, int64_t start, int64_t stop, int64_t step,
                         int64_t n) {
    Range *g = run_take(r, sizeof *g);
    *g = (Range){of->start + start * of->step, of->start + stop * of->step, of->step * step, n};
    return (Value){.kind = IS_RANGE, .range = g};
}

Value arith_slice(Run *r, Value of, const Value part[3]) {
    size_t length;
    int64_t step = 1;
    if (of.kind == IS_UNDEFINED) value_fail_undefined(r, of);
    if (of.kind != IS_STRING && of.kind != IS_LIST && of.kind != IS_TUPLE && of.kind != IS_RANGE)
        run_fail(r, "a %s cannot be sliced", value_type(of));
    value_length(of, &length);
    int64_t n = (int64_t)length;
    if (part[2].kind == IS_INT) step = part[2].i;
    if (step == 0) run_fail(r, "slice step cannot be zero");
    if (step > INT32_MAX) step = INT32_MAX; /* beyond any length, and safe to add */
    if (step < -INT32_MAX) step = -INT32_MAX;
    int64_t start = slice_bound(r, part[0], step < 0 ? n - 1 : 0, n, step);
    int64_t stop = slice_bound(r, part[1], step < 0 ? -1 : n, n, step);
    int64_t count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    if (count < 0) count = 0;
    run_step(r, (size_t)count / 8);
    if (of.kind == IS_RANGE) return slice_range(r, of.range, start, stop, step, count);
    if (of.kind == IS_STRING && step == 1)
        return value_str(str_slice(of.s, (size_t)start, (size_t)(start + count)));
    Value items = of.kind == IS_STRING ? value_list(IS_LIST, value_items(r, of)) : of;
    List *l = list_new(r, (size_t)count);
    for (int64_t i = 0; i < count; i++) list_add(r, l, items.list->at[start + i * step]);
    if (of.kind != IS_STRING) return value_list(of.kind, l);
    Text t = {0};
    for (size_t i = 0; i < l->n; i++) append_str(r, &t, l->at[i].s);
    return value_text(&t);
}
