/* config_table.c - the rows of config_keys.def as arrays. See config_table.h. */
#include "config_table.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The table is read once for each kind of row; the other kinds say nothing meanwhile. */
#define GROUP(title, field)
#define MEANS(name, value, key, text)
#define IGNORED(pattern, why)
#define KEY(kind, field, name, initial, values, only, aliases, meaning)                            \
    {KIND_##kind, offsetof(Config, field), name, initial, values, only, aliases, meaning},
const KeyInfo config_keys[CONFIG_KEYS] = {
#include "config_keys.def"
};
#undef KEY
#define KEY(kind, field, ...)

#undef GROUP
#define GROUP(title, field) {title, CONFIG_##field},
const KeyGroup config_groups[] = {
#include "config_keys.def"
    {NULL, CONFIG_KEYS},
};
#undef GROUP
#define GROUP(title, field)

#undef MEANS
#define MEANS(name, value, key, text) {name, value, key, text},
const KeyMeaning config_meanings[] = {
#include "config_keys.def"
};
const int config_n_meanings = COUNT_OF(config_meanings);
#undef MEANS
#define MEANS(name, value, key, text)

#undef IGNORED
#define IGNORED(pattern, why) {pattern, why},
const KeyIgnored config_ignored[] = {
#include "config_keys.def"
};
const int config_n_ignored = COUNT_OF(config_ignored);

bool config_word_in(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; n && (at = strstr(at, word)); at++) {
        if ((at == words || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
    }
    return false;
}

const KeyInfo *config_key_find(const char *name) {
    if (strchr(name, ' ')) return NULL;
    for (int i = 0; i < CONFIG_KEYS; i++) {
        const KeyInfo *key = &config_keys[i];
        if (strcmp(key->name, name) == 0 || config_word_in(key->aliases, name)) return key;
    }
    return NULL;
}

bool config_key_has_inner(const char *name) {
    size_t n = strlen(name);
    for (int i = 0; i < CONFIG_KEYS; i++) {
        if (strncmp(config_keys[i].name, name, n) == 0 && config_keys[i].name[n] == '.')
            return true;
    }
    return false;
}

const char *config_key_ignored(const char *name) {
    for (int i = 0; i < config_n_ignored; i++) {
        const char *pattern = config_ignored[i].pattern, *star = strchr(pattern, '*');
        if (star ? strncmp(name, pattern, (size_t)(star - pattern)) == 0
                 : strcmp(name, pattern) == 0) {
            return config_ignored[i].why;
        }
    }
    return NULL;
}

bool config_key_is_switch(const char *name) {
    if (config_key_find(name)) return false;
    for (int i = 0; i < config_n_meanings; i++) {
        if (strcmp(config_meanings[i].name, name) == 0) return true;
    }
    return false;
}

enum { PART_LEAST = 4, PART_FAR = 2 };

static int least(int a, int b) { return a < b ? a : b; }

int config_word_distance(const char *a, const char *b) {
    enum { LONGEST = 63 };
    int rows[3][LONGEST + 1], *before = rows[0], *above = rows[1], *row = rows[2];
    int n = (int)strlen(b), m = (int)strlen(a);
    if (n > LONGEST || m > LONGEST) return n > m ? n : m;
    for (int j = 0; j <= n; j++) above[j] = j;
    for (int i = 1; i <= m; i++) {
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) row[j] = least(row[j], before[j - 2] + 1);
        }
        int *reuse = before;
        before = above, above = row, row = reuse;
    }
    return above[n];
}

/* Calls one word of a row nearer than *best when it is. A name that is a part of the word (epochs of
 * num_epochs) counts as near. */
static void compare_word(const char *name, const char *word, size_t n, int *best, char *out) {
    char candidate[KEY_NAME_MAX + 1] = "";
    CHECK(n <= KEY_NAME_MAX, "the key table has a name of %zu bytes", n);
    memcpy(candidate, word, n);
    int distance = config_word_distance(name, candidate);
    if (strlen(name) >= PART_LEAST && strstr(candidate, name)) distance = least(distance, PART_FAR);
    if (distance >= *best) return;
    *best = distance;
    memcpy(out, candidate, sizeof candidate);
}

bool config_key_nearest(const char *name, char out[KEY_NAME_MAX + 1]) {
    int best = (int)strlen(name) / 3 + 2; /* what is this far is no slip */
    out[0] = 0;
    for (int i = 0; i < CONFIG_KEYS; i++) {
        const KeyInfo *key = &config_keys[i];
        compare_word(name, key->name, strlen(key->name), &best, out);
        for (const char *at = key->aliases; *at;) {
            size_t n = strcspn(at, " ");
            compare_word(name, at, n, &best, out);
            at += n + (at[n] == ' ');
        }
    }
    return out[0] != 0;
}

Interval config_interval(const char *values) {
    char *end;
    Interval out = {.low_open = values[0] == '('};
    out.low = strtod(values + 1, &end);
    CHECK(*end == ',', "%s is no interval", values);
    out.high = strtod(end + 1, &end);
    out.high_open = *end == ')';
    return out;
}

static void describe_interval(const char *noun, const char *values, Buf *out) {
    Interval in = config_interval(values);
    bool up = isinf(in.high);
    buf_printf(out, "%s %s %.16g", noun,
               in.low_open ? "above"
               : up        ? "of at least"
                           : "from",
               in.low);
    if (!up) buf_printf(out, "%s %.16g", in.high_open ? " to below" : " to", in.high);
}

static void describe_words(const char *before, const char *words, Buf *out) {
    buf_add_text(out, before);
    for (; *words; words++) {
        if (*words == ' ') {
            buf_add_text(out, ", ");
        } else {
            buf_add(out, words, 1);
        }
    }
}

void config_describe(const KeyInfo *key, Buf *out) {
    switch (key->kind) {
    case KIND_BOOL:
        buf_add_text(out, "true or false");
        return;
    case KIND_INT:
        describe_interval("a whole number", key->values, out);
        return;
    case KIND_REAL:
        describe_interval("a number", key->values, out);
        return;
    case KIND_TEXT:
        buf_add_text(out, "text");
        return;
    case KIND_CHOICE:
        describe_words("one of ", key->values, out);
        return;
    case KIND_LIST:
        describe_words(*key->values ? "a list out of " : "a list of texts", key->values, out);
        return;
    case KIND_SWITCH:
        buf_add_text(out, "true, false or nothing");
        return;
    case KIND_DATASETS:
        buf_add_text(out, "a list of path, type, split, weight");
        return;
    }
}
