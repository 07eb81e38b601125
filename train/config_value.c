/* config_value.c - see config_value.h. A kind of key is a row of the table below. */
#include "config_value.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config_check.h"

void loader_look_at(Loader *l, const char *path) {
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

int loader_refuse(Loader *l, const char *name, const json_t *value, const char *expected) {
    enum { SHOWN = 60 };
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    CHECK(text, "%s: a value jansson cannot write", name);
    err_set(l->e, "%s: %s is %.*s%s, expected %s", l->where, name, SHOWN, text,
            strlen(text) > SHOWN ? "..." : "", expected);
    free(text); /* jansson's, hence its allocator */
    return -1;
}

static int refuse_key(Loader *l, const KeyInfo *key, const json_t *value) {
    Buf expected = {0};
    config_describe(key, &expected);
    loader_refuse(l, key->name, value, expected.p);
    buf_free(&expected);
    return -1;
}

static bool in_interval(double x, const char *values) {
    Interval in = config_interval(values);
    return (in.low_open ? x > in.low : x >= in.low) &&
           (in.high_open ? x < in.high || isinf(in.high) : x <= in.high);
}

/* What a word stands for in this key's place, as a MEANS row says; it may imply another key too. */
const char *loader_translate(Loader *l, const char *name, const char *word) {
    const char *text = word;
    for (int i = 0; i < config_n_meanings; i++) {
        const KeyMeaning *m = &config_meanings[i];
        if (strcmp(m->name, name) != 0 || strcmp(m->value, word) != 0) continue;
        if (strcmp(m->key, name) == 0) {
            text = m->text;
        } else {
            int k = config_key_index(config_key_find(m->key)), *row = &l->implied[k];
            if (*row && strcmp(config_meanings[*row - 1].text, m->text)) l->against[k] = *row;
            *row = i + 1;
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
    const char *text = word ? loader_translate(l, key->name, word) : NULL;
    if (!text || (text == word && !json_is_string(value))) {
        return loader_refuse(l, key->name, value, "text; put it in quotes");
    }
    set_text(field, text);
    return 0;
}

static int read_choice(Loader *l, const KeyInfo *key, void *field, const json_t *value) {
    if (!text_is_plain(value)) return refuse_key(l, key, value);
    const char *word = loader_translate(l, key->name, json_string_value(value));
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
    const char *word = loader_translate(l, key->name, json_string_value(item));
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
        char expected[48];
        snprintf(expected, sizeof expected, "a number above 0, at most %d", DATASET_WEIGHT_MAX);
        return loader_refuse(l, "a dataset's weight", value, expected);
    }
    if (!text_is_plain(value) || !json_string_length(value)) {
        return loader_refuse(l, "a dataset's path, type or split", value, "text");
    }
    const char *text = json_string_value(value);
    if (strcmp(name, "type") == 0) {
        if (dataset_type_check(text, l->e) != 0) return err_prefix(l->e, "%s", l->where);
        set_text(&spec->type, text);
    } else if (strcmp(name, "split") == 0) {
        if (strcmp(text, "train") != 0)
            return loader_refuse(l, "a dataset's split", value, "train, the only one a file has");
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
        loader_look_at(l, path);
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

/* A list in one text: parts between commas; "" or [] has none. */
static json_t *value_list(const char *text) {
    json_t *list = json_array();
    if (strcmp(text, "[]") == 0) return list;
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

static void write_bool(const void *field, Buf *out) {
    buf_add_text(out, *(const bool *)field ? "true" : "false");
}

static void write_int(const void *field, Buf *out) {
    buf_printf(out, "%lld", (long long)*(const int64_t *)field);
}

/* The shortest digits that read back as the same number, with a dot that YAML 1.1 readers need. */
static void write_real(const void *field, Buf *out) {
    double x = *(const double *)field;
    char digits[40];
    int places = 6;
    do {
        snprintf(digits, sizeof digits, "%.*g", places, x);
    } while (strtod(digits, NULL) != x && places++ < 17);
    char *power = strchr(digits, 'e');
    if (power && !strchr(digits, '.')) {
        buf_add(out, digits, (size_t)(power - digits));
        buf_printf(out, ".0%s", power);
    } else {
        buf_add_text(out, digits);
    }
}

static void write_text(const void *field, Buf *out) {
    const char *text = *(char *const *)field;
    if (text) {
        yaml_write_text(out, text);
    } else {
        buf_add_text(out, "null");
    }
}

static void write_list(const void *field, Buf *out) {
    const TextList *list = field;
    for (int i = 0; i < list->n; i++) {
        buf_add_text(out, i ? ", " : "[");
        yaml_write_text(out, list->p[i]);
    }
    buf_add_text(out, list->n ? "]" : "[]");
}

static void write_switch(const void *field, Buf *out) {
    static const char *const words[] = {
        [THINKING_UNSET] = "null", [THINKING_OFF] = "false", [THINKING_ON] = "true"};
    buf_add_text(out, words[*(const Thinking *)field]);
}

static void write_entries(const void *field, Buf *out) {
    const DatasetList *list = field;
    if (!list->n) buf_add_text(out, "[]");
    for (int i = 0; i < list->n; i++) {
        const DatasetSpec *spec = &list->p[i];
        const void *const part[] = {&spec->path, &spec->type, &spec->split};
        const char *const name[] = {"\n  - path: ", "\n    type: ", "\n    split: "};
        for (int k = 0; k < 3; k++) {
            if (!*(char *const *)part[k]) continue;
            buf_add_text(out, name[k]);
            write_text(part[k], out);
        }
        buf_add_text(out, "\n    weight: ");
        write_real(&spec->weight, out);
    }
}

static const struct {
    size_t bytes;
    json_t *(*value)(const char *text); /* of what a flag or the table says */
    int (*read)(Loader *l, const KeyInfo *key, void *field, const json_t *value);
    void (*write)(const void *field, Buf *out);
    void (*clear)(void *field); /* NULL: nothing to free */
} kinds[] = {
    [KIND_BOOL] = {sizeof(bool), value_scalar, read_bool, write_bool, NULL},
    [KIND_INT] = {sizeof(int64_t), value_scalar, read_int, write_int, NULL},
    [KIND_REAL] = {sizeof(double), value_scalar, read_real, write_real, NULL},
    [KIND_TEXT] = {sizeof(char *), json_string, read_text, write_text, clear_text},
    [KIND_CHOICE] = {sizeof(char *), json_string, read_choice, write_text, clear_text},
    [KIND_LIST] = {sizeof(TextList), value_list, read_list, write_list, clear_list},
    [KIND_SWITCH] = {sizeof(Thinking), value_scalar, read_switch, write_switch, NULL},
    [KIND_DATASETS] = {sizeof(DatasetList), value_list, read_datasets, write_entries,
                       clear_entries},
};

void config_value_clear(Config *cfg, const KeyInfo *key) {
    void *field = config_field(cfg, key);
    if (kinds[key->kind].clear) kinds[key->kind].clear(field);
    memset(field, 0, kinds[key->kind].bytes);
}

json_t *config_value_from_text(const KeyInfo *key, const char *text) {
    return kinds[key->kind].value(text);
}

bool config_value_is_set(const Config *cfg, const KeyInfo *key) {
    static const char zero[sizeof(DatasetList) + sizeof(TextList)];
    return memcmp(config_field_const(cfg, key), zero, kinds[key->kind].bytes) != 0;
}

void config_value_write(const Config *cfg, const KeyInfo *key, Buf *out) {
    bool below = key->kind == KIND_DATASETS && config_value_is_set(cfg, key); /* a line each */
    if (!below) buf_add_text(out, " ");
    kinds[key->kind].write(config_field_const(cfg, key), out);
}

static int set_initial(Loader *l, const KeyInfo *key) {
    config_value_clear(l->cfg, key);
    if (!*key->initial) return 0;
    json_t *value = config_value_from_text(key, key->initial);
    int rc = kinds[key->kind].read(l, key, config_field(l->cfg, key), value);
    json_decref(value);
    return rc;
}

/* A comma-separated text is a list in a file too, as LLaMA-Factory's lora_target is written. */
int loader_set(Loader *l, const KeyInfo *key, const json_t *value) {
    int k = config_key_index(key);
    l->line[k] = l->at;
    l->cfg->given[k] = !json_is_null(value);
    if (json_is_null(value)) return set_initial(l, key);
    config_value_clear(l->cfg, key);
    json_t *split = NULL;
    if (key->kind == KIND_LIST && text_is_plain(value))
        split = value_list(json_string_value(value));
    int rc = kinds[key->kind].read(l, key, config_field(l->cfg, key), split ? split : value);
    json_decref(split);
    return rc;
}

int loader_set_entry(Loader *l, const KeyInfo *key, int i, const char *name, const json_t *value) {
    DatasetList *list = config_field(l->cfg, key);
    DatasetSpec *spec = i == list->n ? add_dataset(list) : &list->p[i];
    l->cfg->given[config_key_index(key)] = true;
    return read_dataset_field(l, spec, name, value);
}
