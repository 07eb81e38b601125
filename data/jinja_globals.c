/* jinja_globals.c - the functions every template may call. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "jinja_builtins.h"

static Value global_range(Run *r, const Call *c) {
    int64_t first = arg_int(r, c, 0, 0), step = arg_int(r, c, 2, 1);
    bool only = c->a[1].kind == IS_ABSENT;
    Range *g = run_take(r, sizeof *g);
    *g = (Range){only ? 0 : first, only ? first : arg_int(r, c, 1, 0), step, 0};
    if (step == 0) run_fail(r, "range() arg 3 must not be zero");
    __int128 span = step > 0 ? (__int128)g->stop - g->start : (__int128)g->start - g->stop;
    __int128 by = step > 0 ? (__int128)step : -(__int128)step;
    __int128 n = span > 0 ? (span + by - 1) / by : 0;
    if (n > MAX_RANGE)
        run_fail(r, "Range too big. The sandbox blocks ranges larger than %d", MAX_RANGE);
    g->n = (int64_t)n;
    return (Value){.kind = IS_RANGE, .range = g};
}

/* dict(mapping or pairs, name=value, ...) */
static Dict *dict_of_args(Run *r, const Call *c) {
    Dict *d = dict_new(r);
    if (c->args->n > 1) run_fail(r, "%s takes at most 1 positional argument", c->name);
    if (c->args->n == 1 && c->args->at[0].kind == IS_DICT) {
        const Dict *from = c->args->at[0].dict;
        for (size_t i = 0; i < from->n; i++) dict_set(r, d, from->key[i], from->value[i]);
    } else if (c->args->n == 1) {
        const List *pairs = value_items(r, c->args->at[0]);
        for (size_t i = 0; i < pairs->n; i++) {
            const List *pair = value_items(r, pairs->at[i]);
            if (pair->n != 2) run_fail(r, "%s wants pairs, item %zu has %zu", c->name, i, pair->n);
            dict_set(r, d, pair->at[0], pair->at[1]);
        }
    }
    for (size_t i = 0; i < c->args->n_keys; i++)
        dict_set(r, d, value_str(c->args->key[i]), c->args->value[i]);
    return d;
}

static Value global_dict(Run *r, const Call *c) {
    return (Value){.kind = IS_DICT, .dict = dict_of_args(r, c)};
}

static Value global_namespace(Run *r, const Call *c) {
    Dict *d = dict_of_args(r, c);
    for (size_t i = 0; i < d->n; i++)
        if (d->key[i].kind == IS_STRING && d->key[i].s.n && d->key[i].s.p[0] == '_')
            run_fail(r, "a namespace takes no attribute that begins with an underscore: '%.*s'",
                     (int)d->key[i].s.n, d->key[i].s.p);
    return (Value){.kind = IS_NAMESPACE, .dict = d};
}

static Value global_raise_exception(Run *r, const Call *c) {
    Str message = value_print(r, c->a[0]);
    run_fail(r, "the template refuses the conversation: %.*s", (int)message.n, message.p);
}

/* SOURCE_DATE_EPOCH, the reproducible builds' variable, fixes the moment. */
static Value global_strftime_now(Run *r, const Call *c) {
    Str format = arg_str(r, c, 0, STR(""));
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    char text[1024], *end;
    struct tm tm;
    time_t now = time(NULL);
    if (epoch && *epoch) {
        errno = 0;
        now = (time_t)strtoll(epoch, &end, 10);
        if (errno || *end) run_fail(r, "SOURCE_DATE_EPOCH is '%s', not a number of seconds", epoch);
    }
    if (!(epoch && *epoch ? gmtime_r(&now, &tm) : localtime_r(&now, &tm)))
        run_fail(r, "the time %lld has no calendar date", (long long)now);
    char *terminated = run_take(r, format.n + 1);
    memcpy(terminated, format.p, format.n);
    size_t n = strftime(text, sizeof text, terminated, &tm);
    Text t = {0};
    append_bytes(r, &t, text, n);
    return value_text(&t);
}

static Value member(Run *r, const Call *c, const char *name) {
    (void)r;
    return *dict_find_name(c->self.dict, str_of(name));
}

static Value cycler_turn(Run *r, const Call *c, bool reset) {
    const List *items = member(r, c, "items").list;
    Value was = member(r, c, "current");
    int64_t at = reset ? 0 : (member(r, c, "at").i + 1) % (int64_t)items->n;
    dict_set(r, c->self.dict, value_str(STR("at")), value_int(at));
    dict_set(r, c->self.dict, value_str(STR("current")), items->at[at]);
    return reset ? value_none() : was;
}
static Value cycler_next(Run *r, const Call *c) { return cycler_turn(r, c, false); }
static Value cycler_reset(Run *r, const Call *c) { return cycler_turn(r, c, true); }

static Value joiner_call(Run *r, const Call *c) {
    Value by = member(r, c, "by");
    dict_set(r, c->self.dict, value_str(STR("by")), member(r, c, "then"));
    return by;
}

static Value function_of(Run *r, const Builtin *b, Value self) {
    Function *f = run_take(r, sizeof *f);
    *f = (Function){b, self};
    return (Value){.kind = IS_FUNCTION, .function = f};
}

static const Builtin CYCLER_NEXT = {"next", "", cycler_next},
                     CYCLER_RESET = {"reset", "", cycler_reset};
static const Builtin JOINER_CALL = {"joiner", "", joiner_call};

static Value global_cycler(Run *r, const Call *c) {
    Value v = {.kind = IS_NAMESPACE, .dict = dict_new(r)};
    List *items = list_new(r, c->args->n);
    if (c->args->n == 0) run_fail(r, "cycler wants at least one item");
    for (size_t i = 0; i < c->args->n; i++) list_add(r, items, c->args->at[i]);
    dict_set(r, v.dict, value_str(STR("items")), value_list(IS_TUPLE, items));
    dict_set(r, v.dict, value_str(STR("at")), value_int(0));
    dict_set(r, v.dict, value_str(STR("current")), items->at[0]);
    dict_set(r, v.dict, value_str(STR("next")), function_of(r, &CYCLER_NEXT, v));
    dict_set(r, v.dict, value_str(STR("reset")), function_of(r, &CYCLER_RESET, v));
    return v;
}

static Value global_joiner(Run *r, const Call *c) {
    Value v = {.kind = IS_NAMESPACE, .dict = dict_new(r)};
    dict_set(r, v.dict, value_str(STR("by")), value_str(STR("")));
    dict_set(r, v.dict, value_str(STR("then")), value_str(arg_str(r, c, 0, STR(", "))));
    return function_of(r, &JOINER_CALL, v);
}

const Builtin GLOBALS[] = {
    {"range", "start stop? step?", global_range},
    {"dict", "*", global_dict},
    {"namespace", "*", global_namespace},
    {"raise_exception", "message", global_raise_exception},
    {"strftime_now", "format", global_strftime_now},
    {"cycler", "*", global_cycler},
    {"joiner", "sep?", global_joiner},
    {0},
};
