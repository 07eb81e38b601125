/* config.c - the sources of a Config one after the other, then what they amount to. See config.h.
 */
#include "config.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config_check.h"
#include "config_value.h"

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
    if (!json_is_true(value)) return loader_refuse(l, name, value, "true or false");
    loader_translate(l, name, "true");
    return 0;
}

static int apply_object(Loader *l, const char *prefix, const json_t *object);

static int apply_pair(Loader *l, const char *name, const json_t *value) {
    loader_look_at(l, name);
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
        int k = config_key_index(key);
        if (l->seen[k] && l->yaml) {
            return err_set(l->e, "%s: %s is set twice, here as %s; leave one out", l->where,
                           key->name, name);
        }
        l->seen[k] = true;
        return loader_set(l, key, value);
    }
    if (config_key_is_switch(name)) return apply_switch(l, name, value);
    if (config_key_has_inner(name)) {
        return json_is_null(value)
                   ? 0
                   : loader_refuse(l, name, value,
                                   "keys of its own below it, as --help lists them");
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

/* Two words of one source that say different things of a key k: neither wins silently. */
static int check_implied(Loader *l, int k) {
    const KeyInfo *key = &config_keys[k];
    const KeyMeaning *m = &config_meanings[l->implied[k] - 1];
    loader_look_at(l, m->name);
    if (l->against[k]) {
        const KeyMeaning *other = &config_meanings[l->against[k] - 1];
        return err_set(l->e, "%s: %s: %s and %s: %s exclude each other; leave one out", l->where,
                       other->name, other->value, m->name, m->value);
    }
    bool chosen = l->seen[k] && key->kind == KIND_CHOICE && l->cfg->given[k];
    const char *word = chosen ? *(char *const *)config_field_const(l->cfg, key) : "";
    if (!chosen || !config_key_is_switch(m->name) || config_word_in(m->text, word)) return 0;
    return err_set(l->e, "%s: %s: %s and %s: %s exclude each other; leave one out", l->where,
                   m->name, m->value, key->name, word);
}

/* What the source's words imply for keys it did not name itself. */
static int apply_implied(Loader *l) {
    for (int k = 0; k < CONFIG_KEYS; k++) {
        if (!l->implied[k]) continue;
        TRY(check_implied(l, k));
        if (l->seen[k] && l->cfg->given[k]) continue;
        const KeyMeaning *m = &config_meanings[l->implied[k] - 1];
        char word[KEY_NAME_MAX + 1];
        snprintf(word, sizeof word, "%.*s", (int)strcspn(m->text, " "), m->text);
        json_t *value = config_value_from_text(&config_keys[k], word);
        int rc = loader_set(l, &config_keys[k], value);
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
    memset(l->against, 0, sizeof l->against);
    loader_look_at(l, "");
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
            rc = loader_refuse(l, "the whole file", yaml.root, "lines of KEY: VALUE");
        }
    }
    yaml_close(&yaml);
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
    json_t *value =
        strcmp(end + 1, "weight") == 0 ? yaml_scalar(text, strlen(text)) : json_string(text);
    int rc = loader_set_entry(l, key, (int)i, end + 1, value);
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
    json_t *value = key ? config_value_from_text(key, flag->value)
                        : yaml_scalar(flag->value, strlen(flag->value));
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

static bool is_available(const Config *cfg, const KeyInfo *key) {
    const void *field = config_field_const(cfg, key);
    const char *only = key->only;
    if (!*only) return true;
    if (key->kind == KIND_BOOL) return !*(const bool *)field;
    if (key->kind == KIND_REAL) return *(const double *)field == strtod(only, NULL);
    if (key->kind == KIND_LIST) {
        const TextList *list = field;
        for (int i = 0; i < list->n; i++) {
            if (!config_word_in(only, list->p[i])) return false;
        }
        return true;
    }
    const char *text = *(char *const *)field;
    return !text || config_word_in(only, text);
}

static int check_available(Loader *l, const char *path) {
    for (int k = 0; k < CONFIG_KEYS; k++) {
        const KeyInfo *key = &config_keys[k];
        if (is_available(l->cfg, key)) continue;
        char where[300] = "command line";
        if (l->line[k]) snprintf(where, sizeof where, "%.250s:%d", path, l->line[k]);
        if (strcmp(key->only, "-") == 0) {
            return err_set(l->e, "%s: %s is not available in this version; leave it out", where,
                           key->name);
        }
        Buf value = {0};
        config_value_write(l->cfg, key, &value);
        err_set(l->e, "%s: %s:%.100s is not available in this version, only %s", where, key->name,
                value.p, key->only);
        buf_free(&value);
        return -1;
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
    *cfg = (Config){.path = yaml_path ? mem_copy_text(yaml_path) : NULL};
    Loader l = {.cfg = cfg, .e = e};
    begin_source(&l, "the key table", NULL);
    for (int k = 0; k < CONFIG_KEYS; k++) {
        CHECK(loader_set(&l, &config_keys[k], json_null()) == 0, "%s", e->text);
    }
    if (yaml_path) TRY(load_file(&l, yaml_path));
    TRY(load_flags(&l, flags, n_flags));
    config_resolve(cfg);
    TRY(check_paths(cfg, e));
    TRY(config_check(cfg, e));
    return check_available(&l, yaml_path);
}

void config_free(Config *cfg) {
    for (int k = 0; k < CONFIG_KEYS; k++) config_value_clear(cfg, &config_keys[k]);
    text_list_free(&cfg->warnings);
    mem_free(cfg->path);
}

bool config_given(const Config *cfg, const char *name) {
    const KeyInfo *key = config_key_find(name);
    CHECK(key, "there is no key %s", name);
    return cfg->given[config_key_index(key)];
}

int config_require(const Config *cfg, const char *name, Err *e) {
    const KeyInfo *key = config_key_find(name);
    CHECK(key, "there is no key %s", name);
    if (config_value_is_set(cfg, key)) return 0;
    return err_set(e, "the key %s is missing; set it in the config or with --%s (%s)", name, name,
                   key->meaning);
}

bool config_is_bool(const char *name) {
    const KeyInfo *key = config_key_find(name);
    if (key) return key->kind == KIND_BOOL || key->kind == KIND_SWITCH;
    return config_key_is_switch(name);
}

void config_list_words(const char *name, const char *without, Buf *out) {
    const KeyInfo *key = config_key_find(name);
    CHECK(key && key->kind == KIND_CHOICE, "%s is no choice", name);
    const char *end = key->values + strlen(key->values), *sep = "";
    for (const char *at = key->values; at < end;) {
        int n = (int)strcspn(at, " ");
        const char *next = at + n + strspn(at + n, " ");
        if ((size_t)n != strlen(without) || strncmp(at, without, (size_t)n)) {
            buf_printf(out, "%s%.*s", *sep && next == end ? " or " : sep, n, at);
            sep = ", ";
        }
        at = next;
    }
}

/* ---- config.yaml ---- */

/* Keys an adapter directory decides: written beside lora_model_dir only where the user gave them,
 * since reading them back would else make givens of defaults. */
static const ConfigKey adapter_decides[] = {
    CONFIG_lora_r,
    CONFIG_lora_alpha,
    CONFIG_use_rslora,
    CONFIG_lora_target_modules,
    CONFIG_lora_target_parameters,
    CONFIG_router_train,
    CONFIG_router_layers,
    CONFIG_layers_to_transform,
};

/* What reading the file again has to say so that it gives the same Config. */
static bool belongs_in_file(const Config *cfg, int k) {
    if (k >= CONFIG_resume_from_checkpoint) return false; /* the group "This run" */
    if (cfg->given[k]) return true;
    for (size_t i = 0; cfg->lora_model_dir && i < COUNT_OF(adapter_decides); i++) {
        if (adapter_decides[i] == (ConfigKey)k) return false;
    }
    return *config_keys[k].initial != 0;
}

void config_write_yaml(const Config *cfg, Buf *out) {
    char open[KEY_NAME_MAX + 1] = ""; /* the map whose inner keys are being written */
    for (int k = 0; k < CONFIG_KEYS; k++) {
        const KeyInfo *key = &config_keys[k];
        if (!belongs_in_file(cfg, k)) continue;
        const char *dot = strchr(key->name, '.');
        char outer[KEY_NAME_MAX + 1] = "";
        if (dot) memcpy(outer, key->name, (size_t)(dot - key->name));
        bool nests = dot && !config_key_find(outer); /* else a value of its own stands there */
        if (nests && strcmp(open, outer) != 0) buf_printf(out, "%s:\n", outer);
        memcpy(open, nests ? outer : "", nests ? sizeof open : 1);
        buf_printf(out, nests ? "  %s:" : "%s:", nests ? dot + 1 : key->name);
        config_value_write(cfg, key, out);
        buf_add_text(out, "\n");
    }
}

/* ---- one config beside another ---- */

/* Keys of how a run learns, not of what it reads, measures and writes. */
static bool is_of_learning(int k) {
    return (k >= CONFIG_adapter && k < CONFIG_datasets) ||
           (k >= CONFIG_micro_batch_size && k < CONFIG_output_dir);
}

void config_write_changes(const Config *was, const Config *now, Buf *out) {
    size_t before = out->n;
    for (int k = 0; k < CONFIG_KEYS; k++) {
        Buf old = {0}, new = {0};
        if (!is_of_learning(k) || !(was->given[k] || now->given[k])) continue;
        config_value_write(was, &config_keys[k], &old);
        config_value_write(now, &config_keys[k], &new);
        if (strcmp(old.p, new.p))
            buf_printf(out, "%s%s%s (%s before)", out->n > before ? ", " : "", config_keys[k].name,
                       new.p, old.p + 1);
        buf_free(&old);
        buf_free(&new);
    }
}
