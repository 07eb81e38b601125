#include "config.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config_check.h"
#include "config_table.h"
#include "../data/yaml.h"

/* One reading of defaults, file or flags. where says, for sentences, what is being read. */
typedef struct Loader {
    Config *cfg;
    const Yaml *yaml;         /* NULL while reading flags */
    const char *source;       /* the file's path, or "command line" */
    char where[300];          /* "train.yaml:7" */
    int at;                   /* the 7 of it; 0: none */
    bool seen[CONFIG_KEYS];   /* keys this source has named */
    int implied[CONFIG_KEYS]; /* 1 + the MEANS row that sets this key unless it is seen */
    int line[CONFIG_KEYS];    /* of the value that stands; 0: a flag's */
    Err *e;
} Loader;

static int key_index(const KeyInfo *key) { return (int)(key - config_keys); }

static void look_at(Loader *l, const char *path) {
    int line = 0;
    if (l->yaml) {
        char outer[200];
        snprintf(outer, sizeof outer, "%s", path);
        for (char *dot = outer;
             dot && !(line = yaml_line(l->yaml, outer));) { /* else what holds it */
            dot = strrchr(outer, '.');
            if (dot) *dot = 0;
        }
    }
    l->at = line;
    if (line) {
        snprintf(l->where, sizeof l->where, "%.250s:%d", l->source, line);
    } else {
        snprintf(l->where, sizeof l->where, "%.250s", l->source);
    }
}

/* ---- values ---- */

static int refuse(Loader *l, const char *name, const json_t *value, const char *expected) {
    enum { SHOWN = 60 };
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    CHECK(text, "%s: a value jansson cannot write", name);
    err_set(l->e, "%s: %s is %.*s%s, expected %s", l->where, name, SHOWN, text,
            strlen(text) > SHOWN ? "..." : "", expected);
    free(text); /* jansson's, hence its allocator */
    return -1;
}

static int refuse_key(Loader *l, const KeyInfo *key, const json_t *value) {
    Buf expected = {0};
    config_describe(key, &expected);
    refuse(l, key->name, value, expected.p);
    buf_free(&expected);
    return -1;
}

static bool in_interval(double x, const char *values) {
    Interval in = config_interval(values);
    return (in.low_open ? x > in.low : x >= in.low) &&
           (in.high_open ? x < in.high || isinf(in.high) : x <= in.high);
}

/* What a word stands for in this key's place, as a MEANS row says; it may imply another key too. */
static const char *translate(Loader *l, const char *name, const char *word) {
    const char *text = word;
    for (int i = 0; i < config_n_meanings; i++) {
        const KeyMeaning *m = &config_meanings[i];
        if (strcmp(m->name, name) != 0 || strcmp(m->value, word) != 0) continue;
        if (strcmp(m->key, name) == 0) {
            text = m->text;
        } else {
            l->implied[key_index(config_key_find(m->key))] = i + 1;
        }
    }
    return text;
}

static bool text_is_plain(const json_t *value) {
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

static void set_text(char **field, const char *text) {
    mem_free(*field);
    *field = mem_copy_text(text);
}

static int read_bool(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    if (!json_is_boolean(value)) return refuse_key(l, key, value);
    *(bool *)field = json_is_true(value);
    return 0;
}

static int read_int(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    double x = json_number_value(value);
    bool whole =
        json_is_integer(value) || (json_is_real(value) && x == floor(x) && fabs(x) <= 0x1p53);
    if (!whole || !in_interval(x, key->values)) return refuse_key(l, key, value);
    *(int64_t *)field = json_is_integer(value) ? json_integer_value(value) : (int64_t)x;
    return 0;
}

static int read_real(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    double x = json_number_value(value);
    if (!json_is_number(value) || !in_interval(x, key->values)) return refuse_key(l, key, value);
    *(double *)field = x;
    return 0;
}

static int read_text(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    const char *word = json_is_true(value) ? "true" : NULL;
    if (text_is_plain(value)) word = json_string_value(value);
    const char *text = word ? translate(l, key->name, word) : NULL;
    if (!text || (text == word && !json_is_string(value))) return refuse_key(l, key, value);
    set_text(field, text);
    return 0;
}

static int read_choice(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    if (!text_is_plain(value)) return refuse_key(l, key, value);
    const char *word = translate(l, key->name, json_string_value(value));
    if (!config_word_in(key->values, word)) return refuse_key(l, key, value);
    set_text(field, word);
    return 0;
}

static int read_switch(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    if (!json_is_boolean(value)) return refuse_key(l, key, value);
    *(Thinking *)field = json_is_true(value) ? THINKING_ON : THINKING_OFF;
    return 0;
}

static int read_item(Loader *l, const KeyInfo *key, TextList *list, const json_t *item) {
    char number[24];
    if (json_is_integer(item) && !*key->values) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(item));
        text_list_add(list, number);
        return 0;
    }
    if (!text_is_plain(item)) return refuse_key(l, key, item);
    const char *word = translate(l, key->name, json_string_value(item));
    if (*key->values && !config_word_in(key->values, word)) return refuse_key(l, key, item);
    text_list_add(list, word);
    return 0;
}

static int read_list(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    if (!json_is_array(value)) return read_item(l, key, field, value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        TRY(read_item(l, key, field, json_array_get(value, i)));
    }
    return 0;
}

/* ---- datasets ---- */

static int read_dataset_field(Loader *l, DatasetSpec *spec, const char *name, const json_t *value) {
    static const char fields[] = "path type split weight";
    if (!config_word_in(fields, name)) {
        return err_set(
            l->e,
            "%s: unknown key \"%.100s\" of a dataset, expected one of path, type, split, weight",
            l->where, name);
    }
    if (strcmp(name, "weight") == 0) {
        spec->weight = json_number_value(value);
        if (json_is_number(value) && spec->weight > 0 && spec->weight <= DATASET_WEIGHT_MAX)
            return 0;
        return refuse(l, "a dataset's weight", value, "a number above 0");
    }
    if (!text_is_plain(value) || !json_string_length(value)) {
        return refuse(l, "a dataset's path, type or split", value, "text");
    }
    const char *text = json_string_value(value);
    if (strcmp(name, "type") == 0) {
        if (dataset_type_check(text, l->e) != 0) return err_prefix(l->e, "%s", l->where);
        set_text(&spec->type, text);
    } else if (strcmp(name, "split") == 0) {
        if (strcmp(text, "train") != 0)
            return refuse(l, "a dataset's split", value, "train, the only one a file has");
        set_text(&spec->split, text);
    } else {
        set_text(&spec->path, text);
    }
    return 0;
}

static DatasetSpec *add_dataset(DatasetList *list) {
    size_t bytes = sizeof *list->p, n = (size_t)list->n++;
    list->p = mem_grow(list->p, bytes * n, bytes * (n + 1));
    list->p[n] = (DatasetSpec){.weight = 1};
    return &list->p[n];
}

static int read_dataset(Loader *l, const KeyInfo *key, DatasetList *list, const json_t *entry) {
    if (json_is_string(entry)) return read_dataset_field(l, add_dataset(list), "path", entry);
    if (!json_is_object(entry)) return refuse_key(l, key, entry);
    DatasetSpec *spec = add_dataset(list);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)entry, name, value) {
        char path[300];
        snprintf(path, sizeof path, "%s.%d.%.200s", key->name, list->n - 1, name);
        look_at(l, path);
        if (!json_is_null(value)) TRY(read_dataset_field(l, spec, name, value));
    }
    return 0;
}

static int read_datasets(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    if (!json_is_array(value)) return read_dataset(l, key, field, value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        TRY(read_dataset(l, key, field, json_array_get(value, i)));
    }
    return 0;
}

static void clear_datasets(DatasetList *list) {
    for (int i = 0; i < list->n; i++) {
        mem_free(list->p[i].path);
        mem_free(list->p[i].type);
        mem_free(list->p[i].split);
    }
    mem_free(list->p);
}

/* ---- kinds of key ---- */

static json_t *value_scalar(const char *text) { return yaml_scalar(text, strlen(text)); }

/* A list in one text: parts between commas, or none. */
static json_t *value_list(const char *text) {
    json_t *list = json_array();
    while (*text) {
        text += strspn(text, " ");
        size_t n = strcspn(text, ",");
        json_array_append_new(list, json_stringn(text, n));
        text += n + (text[n] == ',');
    }
    return list;
}

static void clear_text(void *field) { mem_free(*(char **)field); }
static void clear_list(void *field) { text_list_free(field); }
static void clear_entries(void *field) { clear_datasets(field); }

static const struct {
    size_t bytes;
    json_t *(*value)(const char *text); /* of what a flag or the table says */
    int (*read)(Loader *l, const KeyInfo *key, void *field, const json_t *value);
    void (*clear)(void *field); /* NULL: nothing to free */
} kinds[] = {
    [KIND_BOOL] = {sizeof(bool), value_scalar, read_bool, NULL},
    [KIND_INT] = {sizeof(int64_t), value_scalar, read_int, NULL},
    [KIND_REAL] = {sizeof(double), value_scalar, read_real, NULL},
    [KIND_TEXT] = {sizeof(char *), json_string, read_text, clear_text},
    [KIND_CHOICE] = {sizeof(char *), json_string, read_choice, clear_text},
    [KIND_LIST] = {sizeof(TextList), value_list, read_list, clear_list},
    [KIND_SWITCH] = {sizeof(Thinking), value_scalar, read_switch, NULL},
    [KIND_DATASETS] = {sizeof(DatasetList), value_list, read_datasets, clear_entries},
};

static void clear_field(Config *cfg, const KeyInfo *key) {
    void *field = config_field(cfg, key);
    if (kinds[key->kind].clear) kinds[key->kind].clear(field);
    memset(field, 0, kinds[key->kind].bytes);
}

static int set_initial(Loader *l, const KeyInfo *key) {
    clear_field(l->cfg, key);
    if (!*key->initial) return 0;
    json_t *value = kinds[key->kind].value(key->initial);
    int rc = kinds[key->kind].read(l, key, config_field(l->cfg, key), value);
    json_decref(value);
    return rc;
}

/* A comma-separated text is a list in a file too, as LLaMA-Factory's lora_target is written. */
static int set_value(Loader *l, const KeyInfo *key, const json_t *value) {
    int k = key_index(key);
    l->line[k] = l->at;
    l->cfg->given[k] = !json_is_null(value);
    if (json_is_null(value)) return set_initial(l, key);
    clear_field(l->cfg, key);
    json_t *split = NULL;
    if (key->kind == KIND_LIST && text_is_plain(value))
        split = value_list(json_string_value(value));
    int rc = kinds[key->kind].read(l, key, config_field(l->cfg, key), split ? split : value);
    json_decref(split);
    return rc;
}

/* ---- sources ---- */

static int unknown_key(Loader *l, const char *name) {
    char near[KEY_NAME_MAX + 1];
    if (!config_key_nearest(name, near)) {
        return err_set(l->e, "%s: unknown key \"%.100s\"; --help lists every key", l->where, name);
    }
    const char *proper = config_key_find(near)->name;
    if (strcmp(near, proper) == 0) {
        return err_set(l->e, "%s: unknown key \"%.100s\"; did you mean \"%s\"?", l->where, name,
                       near);
    }
    return err_set(l->e, "%s: unknown key \"%.100s\"; did you mean \"%s\" (%s)?", l->where, name,
                   near, proper);
}

/* load_in_4bit and the like: another trainer's switch, which here means a value of some key. */
static int apply_switch(Loader *l, const char *name, const json_t *value) {
    if (json_is_null(value) || json_is_false(value)) return 0;
    if (!json_is_true(value)) return refuse(l, name, value, "true or false");
    translate(l, name, "true");
    return 0;
}

static int apply_object(Loader *l, const char *prefix, const json_t *object);

static int apply_pair(Loader *l, const char *name, const json_t *value) {
    look_at(l, name);
    const char *why = config_key_ignored(name);
    if (why) {
        Buf text = {0};
        buf_printf(&text, "%s: the key %.100s is ignored: %s", l->where, name, why);
        text_list_add(&l->cfg->warnings, text.p);
        buf_free(&text);
        return 0;
    }
    if (json_is_object(value) && config_key_has_inner(name)) return apply_object(l, name, value);
    const KeyInfo *key = config_key_find(name);
    if (key) {
        int k = key_index(key);
        if (l->seen[k] && l->yaml) {
            return err_set(l->e, "%s: %s is set twice, here as %s; leave one out", l->where,
                           key->name, name);
        }
        l->seen[k] = true;
        return set_value(l, key, value);
    }
    if (config_key_is_switch(name)) return apply_switch(l, name, value);
    if (config_key_has_inner(name)) {
        return json_is_null(value)
                   ? 0
                   : refuse(l, name, value, "keys of its own below it, as --help lists them");
    }
    return unknown_key(l, name);
}

static int apply_object(Loader *l, const char *prefix, const json_t *object) {
    const char *part;
    json_t *value;
    json_object_foreach((json_t *)object, part, value) {
        char name[500]; /* two keys of YAML_KEY_MAX fit; deeper ones are unknown whatever is cut */
        snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", part);
        TRY(apply_pair(l, name, value));
    }
    return 0;
}

/* What the source's words imply for keys it did not name itself. */
static int apply_implied(Loader *l) {
    for (int k = 0; k < CONFIG_KEYS; k++) {
        if (!l->implied[k] || l->seen[k]) continue;
        const KeyMeaning *m = &config_meanings[l->implied[k] - 1];
        look_at(l, m->name);
        json_t *value = kinds[config_keys[k].kind].value(m->text);
        int rc = set_value(l, &config_keys[k], value);
        json_decref(value);
        TRY(rc);
    }
    return 0;
}

static void begin_source(Loader *l, const char *source, const Yaml *yaml) {
    l->source = source;
    l->yaml = yaml;
    memset(l->seen, 0, sizeof l->seen);
    memset(l->implied, 0, sizeof l->implied);
    look_at(l, "");
}

static int load_file(Loader *l, const char *path) {
    Yaml yaml;
    int rc = yaml_read_file(&yaml, path, l->e);
    if (rc == 0) {
        begin_source(l, path, &yaml);
        if (json_is_object(yaml.root)) {
            rc = apply_object(l, "", yaml.root);
            if (rc == 0) rc = apply_implied(l);
        } else if (!json_is_null(yaml.root)) {
            rc = refuse(l, "the whole file", yaml.root, "lines of KEY: VALUE");
        }
    }
    yaml_free(&yaml);
    l->yaml = NULL;
    return rc;
}

/* datasets.0.type: a field of an entry that is there, or of the next one. */
static int apply_entry_flag(Loader *l, const KeyInfo *key, const char *rest, const char *text) {
    DatasetList *list = config_field(l->cfg, key);
    char *end;
    long i = strtol(rest, &end, 10);
    if (*end != '.' || i < 0 || i > list->n) {
        return err_set(l->e,
                       "command line: --%s.%.40s names no entry: there are %d, counted from 0",
                       key->name, rest, list->n);
    }
    DatasetSpec *spec = i == list->n ? add_dataset(list) : &list->p[i];
    l->cfg->given[key_index(key)] = true;
    json_t *value = strcmp(end + 1, "weight") == 0 ? value_scalar(text) : json_string(text);
    int rc = read_dataset_field(l, spec, end + 1, value);
    json_decref(value);
    return rc;
}

/* The DATASETS key whose entry name speaks of, and behind it "0.type"; NULL: none. */
static const KeyInfo *entry_key(const char *name, const char **rest) {
    for (int i = 0; i < CONFIG_KEYS; i++) {
        size_t n = strlen(config_keys[i].name);
        if (config_keys[i].kind != KIND_DATASETS || strncmp(name, config_keys[i].name, n) != 0)
            continue;
        if (name[n] != '.' || name[n + 1] < '0' || name[n + 1] > '9') continue;
        *rest = name + n + 1;
        return &config_keys[i];
    }
    return NULL;
}

static int apply_flag(Loader *l, const Flag *flag, bool entries) {
    const char *rest;
    const KeyInfo *inner = entry_key(flag->name, &rest), *key = config_key_find(flag->name);
    if ((inner != NULL) != entries) return 0;
    json_t *text = json_string(flag->value);
    if (!text)
        return err_set(l->e, "command line: --%.100s: the value is not UTF-8 text", flag->name);
    json_decref(text);
    json_t *value = key ? kinds[key->kind].value(flag->value) : value_scalar(flag->value);
    int rc =
        inner ? apply_entry_flag(l, inner, rest, flag->value) : apply_pair(l, flag->name, value);
    json_decref(value);
    return rc;
}

/* Entries come last, so that --datasets.0.type works whichever side of --datasets it stands. */
static int load_flags(Loader *l, const Flag *flags, int n) {
    begin_source(l, "command line", NULL);
    for (int entries = 0; entries <= 1; entries++) {
        for (int i = 0; i < n; i++) TRY(apply_flag(l, &flags[i], entries));
    }
    return apply_implied(l);
}

/* ---- the whole ---- */

/* The first word of the field that the only column does not have, NULL where all are there. */
static const char *not_yet(const Config *cfg, const KeyInfo *key) {
    const void *field = config_field_const(cfg, key);
    const char *only = key->only;
    if (!*only) return NULL;
    if (key->kind == KIND_BOOL) return *(const bool *)field ? "true" : NULL;
    if (key->kind == KIND_REAL)
        return *(const double *)field != strtod(only, NULL) ? "a value but 0" : NULL;
    if (key->kind == KIND_LIST) {
        const TextList *list = field;
        for (int i = 0; i < list->n; i++) {
            if (!config_word_in(only, list->p[i])) return list->p[i];
        }
        return NULL;
    }
    const char *text = *(char *const *)field;
    return text && !config_word_in(only, text) ? text : NULL;
}

static int check_available(Loader *l, const char *path) {
    for (int k = 0; k < CONFIG_KEYS; k++) {
        const KeyInfo *key = &config_keys[k];
        const char *word = not_yet(l->cfg, key);
        if (!word) continue;
        char where[300] = "command line";
        if (l->line[k]) snprintf(where, sizeof where, "%.250s:%d", path, l->line[k]);
        if (strcmp(key->only, "-") == 0) {
            return err_set(l->e, "%s: %s is not available in this version; leave it out", where,
                           key->name);
        }
        return err_set(l->e, "%s: %s: %.100s is not available in this version, only %s", where,
                       key->name, word, key->only);
    }
    return 0;
}

static int check_paths(const Config *cfg, Err *e) {
    const DatasetList *lists[] = {&cfg->datasets, &cfg->test_datasets};
    for (int which = 0; which < 2; which++) {
        for (int i = 0; i < lists[which]->n; i++) {
            if (lists[which]->p[i].path) continue;
            return err_set(e, "%s.%d has no path: name its JSONL file",
                           which ? "test_datasets" : "datasets", i);
        }
    }
    return 0;
}

int config_load(Config *cfg, const char *yaml_path, const Flag *flags, int n_flags, Err *e) {
    *cfg = (Config){0};
    Loader l = {.cfg = cfg, .e = e};
    begin_source(&l, "the key table", NULL);
    for (int k = 0; k < CONFIG_KEYS; k++) {
        CHECK(set_initial(&l, &config_keys[k]) == 0, "%s", e->text);
    }
    if (yaml_path) TRY(load_file(&l, yaml_path));
    TRY(load_flags(&l, flags, n_flags));
    config_resolve(cfg);
    TRY(check_paths(cfg, e));
    TRY(config_check(cfg, e));
    return check_available(&l, yaml_path);
}

void config_free(Config *cfg) {
    for (int k = 0; k < CONFIG_KEYS; k++) clear_field(cfg, &config_keys[k]);
    text_list_free(&cfg->warnings);
}

bool config_given(const Config *cfg, const char *name) {
    const KeyInfo *key = config_key_find(name);
    CHECK(key, "there is no key %s", name);
    return cfg->given[key_index(key)];
}

static bool has_value(const Config *cfg, const KeyInfo *key) {
    static const char zero[sizeof(DatasetList) + sizeof(TextList)];
    return memcmp(config_field_const(cfg, key), zero, kinds[key->kind].bytes) != 0;
}

int config_require(const Config *cfg, const char *name, Err *e) {
    const KeyInfo *key = config_key_find(name);
    CHECK(key, "there is no key %s", name);
    if (has_value(cfg, key)) return 0;
    return err_set(e, "the key %s is missing; set it in the config or with --%s (%s)", name, name,
                   key->meaning);
}

bool config_is_bool(const char *name) {
    const KeyInfo *key = config_key_find(name);
    if (key) return key->kind == KIND_BOOL || key->kind == KIND_SWITCH;
    return config_key_is_switch(name);
}
