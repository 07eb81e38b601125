/* config.h - what a run was asked to do: every key of config_keys.def as a field, set from its
 * default, then from the YAML file, then from flags. The table is the only place that knows a key;
 * this file only knows how a kind of key is read, checked and written. */
#ifndef CONFIG_H
#define CONFIG_H
#include "../autograd/base.h"
#include "../data/dataset.h"

typedef struct TextList {
    char **p;
    int n;
} TextList;

typedef struct DatasetList {
    DatasetSpec *p;
    int n;
} DatasetList;

typedef bool FIELD_BOOL;
typedef int64_t FIELD_INT;  /* 0 where the table gives no default and none was set */
typedef double FIELD_REAL;  /* the same */
typedef char *FIELD_TEXT;   /* NULL: not set */
typedef char *FIELD_CHOICE; /* one of the table's words, or NULL */
typedef TextList FIELD_LIST;
typedef Thinking FIELD_SWITCH; /* THINKING_UNSET, _OFF, _ON */
typedef DatasetList FIELD_DATASETS;

#define GROUP(title, field)
#define MEANS(name, value, key, text)
#define IGNORED(pattern, why)
#define KEY(kind, field, ...) CONFIG_##field,
typedef enum ConfigKey {
#include "config_keys.def"
    CONFIG_KEYS
} ConfigKey;
#undef KEY

/* The field of a dotted key has an underscore: cfg.router_lora_r is router.lora_r. Beyond the
 * table's defaults: router.lora_r and router.learning_rate follow lora_r and learning_rate,
 * router.proj among lora_target_modules has moved into router.train, and trainable is [all] under
 * adapter none. */
typedef struct Config {
#define KEY(kind, field, ...) FIELD_##kind field;
#include "config_keys.def"
#undef KEY
    bool given[CONFIG_KEYS]; /* set by the file or a flag */
    TextList warnings;       /* sentences for the user, such as of ignored keys */
    char *path;              /* of the file it was read from; NULL: of flags alone */
} Config;
#undef GROUP
#undef MEANS
#undef IGNORED

/* A flag of the command line: --name value. */
typedef struct Flag {
    char *name, *value;
} Flag;

/* Defaults, then the file (NULL: none), then the flags; then every check that needs no model. On
 * -1 e holds one sentence with the key, what was found and expected, and the line or flag. The
 * Config is freed with config_free either way. */
int config_load(Config *cfg, const char *yaml_path, const Flag *flags, int n_flags, Err *e);
void config_free(Config *cfg);

/* In place of -1 where only a run can tell that the config is at fault: e has the sentence, and the
 * exit status is that of a config error. */
enum { CONFIG_REFUSED = -2 };

bool config_given(const Config *cfg, const char *name); /* name: of the table, no alias */
int config_require(const Config *cfg, const char *name,
                   Err *e); /* an error unless it has a value */

/* Whether name (or an alias, or an ignored switch) may stand alone on the command line, as true. */
bool config_is_bool(const char *name);

/* The words that a choice may be, without one of them: "bf16, int8 or nf4". Appended. */
void config_list_words(const char *name, const char *without, Buf *out);

void config_write_yaml(const Config *cfg, Buf *out); /* loads again to the same Config */
/* What `now` says otherwise of how a run learns: "learning_rate 0.001 (0.0002 before), ...", or
 * nothing. Appended. */
void config_write_changes(const Config *was, const Config *now, Buf *out);
#endif
