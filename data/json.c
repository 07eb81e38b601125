/* json.c - jansson with sentences; the nesting is measured before it parses, since it recurses. */
#include <string.h>
#include "files.h"
#include "json.h"

/* The deepest nesting in text, which need not be valid JSON. */
static int depth_of(const char *text, size_t n) {
    int depth = 0, deepest = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            if (++depth > deepest) deepest = depth;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return deepest;
}

/* The whole number of len digits, in place, as a fraction of 17 digits and an exponent. */
static void shorten_digits(char *digits, size_t len) {
    enum { KEPT = 17 }; /* what a double holds */
    size_t exponent = len - KEPT;
    digits[KEPT] = 'e';
    for (size_t i = len - 1; i > KEPT; i--, exponent /= 10) digits[i] = (char)('0' + exponent % 10);
}

/* Whole numbers beyond 64 bits become fractions: Transformers writes 10^30 for "no limit". */
static void shorten_integers(char *text, size_t n) {
    static const char LARGEST[] = "9223372036854775807";
    const size_t most = sizeof LARGEST - 1;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"') quoted = !quoted;
        if (quoted && text[i] == '\\') i++;
        if (quoted || !strchr("0123456789", text[i]) || !text[i]) continue;
        size_t from = i, digits = 0;
        while (i + 1 < n && text[i + 1] && strchr("0123456789.eE+-", text[i + 1])) i++;
        while (digits <= i - from && text[from + digits] >= '0' && text[from + digits] <= '9')
            digits++;
        bool whole = digits == i - from + 1;
        if (whole && (digits > most || (digits == most && memcmp(text + from, LARGEST, most) > 0)))
            shorten_digits(text + from, digits);
    }
}

static json_t *parse(const char *text, size_t n, json_error_t *fault) {
    json_t *json = json_loadb(text, n, JSON_ALLOW_NUL, fault);
    if (json || json_error_code(fault) != json_error_numeric_overflow) return json;
    json_error_t ignored; /* its columns are of the changed text */
    char *changed = memcpy(mem_alloc(n), text, n);
    shorten_integers(changed, n);
    json = json_loadb(changed, n, JSON_ALLOW_NUL, &ignored);
    mem_free(changed);
    return json;
}

int json_read_text(json_t **out, const char *text, size_t n, const char *name, Err *e) {
    *out = NULL;
    if (n == 0) return err_set(e, "%s: is empty, expected JSON", name);
    if (depth_of(text, n) > JSON_DEPTH_MAX)
        return err_set(e, "%s: JSON nested deeper than %d levels", name, JSON_DEPTH_MAX);
    json_error_t fault;
    *out = parse(text, n, &fault);
    if (*out) return 0;
    if (!memchr(text, '\n', n))
        return err_set(e, "%s: not valid JSON at column %d: %s", name, fault.column, fault.text);
    return err_set(e, "%s: not valid JSON at line %d, column %d: %s", name, fault.line,
                   fault.column, fault.text);
}

int json_read_file(json_t **out, const char *path, Err *e) {
    *out = NULL;
    Buf text = {0};
    int rc = files_read(path, &text, e);
    if (rc == 0) rc = json_read_text(out, text.p, text.n, path, e);
    buf_free(&text);
    return rc;
}

const char *json_kind(const json_t *value) {
    static const char *const names[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "a number", [JSON_REAL] = "a fraction", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return value ? names[json_typeof(value)] : "nothing";
}

/* The field, or NULL where it is missing or null: then the default stands. */
static const json_t *field(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

static int wrong_kind(const json_t *value, const char *key, const char *expected, const char *where,
                      Err *e) {
    return err_set(e, "%s: \"%s\" is %s, expected %s", where, key, json_kind(value), expected);
}

int json_get_text(const json_t *object, const char *key, const char **out, const char *where,
                  Err *e) {
    const json_t *value = field(object, key);
    if (!value) return 0;
    if (!json_is_string(value)) return wrong_kind(value, key, "a string", where, e);
    *out = json_string_value(value);
    return 0;
}

int json_get_bool(const json_t *object, const char *key, bool *out, const char *where, Err *e) {
    const json_t *value = field(object, key);
    if (!value) return 0;
    if (!json_is_boolean(value)) return wrong_kind(value, key, "true or false", where, e);
    *out = json_is_true(value);
    return 0;
}

int json_get_int(const json_t *object, const char *key, int64_t low, int64_t high, int64_t *out,
                 const char *where, Err *e) {
    const json_t *value = field(object, key);
    if (!value) return 0;
    if (!json_is_integer(value)) return wrong_kind(value, key, "a whole number", where, e);
    int64_t number = json_integer_value(value);
    if (number < low || number > high)
        return err_set(e, "%s: \"%s\" is %lld, expected %lld to %lld", where, key,
                       (long long)number, (long long)low, (long long)high);
    *out = number;
    return 0;
}

int json_get_real(const json_t *object, const char *key, double *out, const char *where, Err *e) {
    const json_t *value = field(object, key);
    if (!value) return 0;
    if (!json_is_number(value)) return wrong_kind(value, key, "a number", where, e);
    *out = json_number_value(value);
    return 0;
}

int json_get_array(const json_t *object, const char *key, const json_t **out, const char *where,
                   Err *e) {
    const json_t *value = field(object, key);
    if (!value) return 0;
    if (!json_is_array(value)) return wrong_kind(value, key, "an array", where, e);
    *out = value;
    return 0;
}

int json_get_object(const json_t *object, const char *key, const json_t **out, const char *where,
                    Err *e) {
    const json_t *value = field(object, key);
    if (!value) return 0;
    if (!json_is_object(value)) return wrong_kind(value, key, "an object", where, e);
    *out = value;
    return 0;
}

int json_require(const json_t *object, const char *key, const char *where, Err *e) {
    if (field(object, key)) return 0;
    return err_set(e, "%s: has no \"%s\"", where, key);
}
