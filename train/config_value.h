/* config_value.h - how each kind of key is read, cleared and written, and the sentence when a value
 * is not what its row of the table asks for. Only config.c uses this. */
#ifndef CONFIG_VALUE_H
#define CONFIG_VALUE_H
#include <jansson.h>
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
    int against[CONFIG_KEYS]; /* 1 + an earlier one of them that says otherwise */
    int line[CONFIG_KEYS];    /* of the value that stands; 0: a flag's */
    Err *e;
} Loader;

static inline int config_key_index(const KeyInfo *key) { return (int)(key - config_keys); }

void loader_look_at(Loader *l, const char *path); /* sets where, by the line of a dotted path */
/* "WHERE: NAME is VALUE, expected EXPECTED"; returns -1. */
int loader_refuse(Loader *l, const char *name, const json_t *value, const char *expected);
/* What a word stands for in this key's place, as a MEANS row says; it may imply another key too. */
const char *loader_translate(Loader *l, const char *name, const char *word);
/* The key's field from a value; null puts its default back. */
int loader_set(Loader *l, const KeyInfo *key, const json_t *value);
/* One field ("type") of entry i of a DATASETS key; i may be the number of entries: a new one. */
int loader_set_entry(Loader *l, const KeyInfo *key, int i, const char *name, const json_t *value);

json_t *config_value_from_text(const KeyInfo *key, const char *text); /* as written after a flag */
void config_value_clear(Config *cfg, const KeyInfo *key);
bool config_value_is_set(const Config *cfg, const KeyInfo *key); /* not 0, false, NULL, empty */
/* What stands behind "key:" in YAML. */
void config_value_write(const Config *cfg, const KeyInfo *key, Buf *out);
#endif
