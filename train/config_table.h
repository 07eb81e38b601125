/* config_table.h - config_keys.def as data, and looking things up in it. Only config*.c and args.c
 * read this; everyone else reads the fields of Config. */
#ifndef CONFIG_TABLE_H
#define CONFIG_TABLE_H
#include "config.h"

typedef enum KeyKind {
    KIND_BOOL,
    KIND_INT,
    KIND_REAL,
    KIND_TEXT,
    KIND_CHOICE,
    KIND_LIST,
    KIND_SWITCH,
    KIND_DATASETS
} KeyKind;

typedef struct KeyInfo { /* the columns of config_keys.def */
    KeyKind kind;
    size_t offset; /* of the field in Config */
    const char *name, *initial, *values, *only, *aliases, *meaning;
} KeyInfo;
extern const KeyInfo config_keys[CONFIG_KEYS];

/* The sections of --help: their title, before the key their first row is. */
typedef struct KeyGroup {
    const char *title;
    ConfigKey first; /* CONFIG_KEYS closes the list */
} KeyGroup;
extern const KeyGroup config_groups[];

typedef struct KeyMeaning {
    const char *name, *value, *key, *text;
} KeyMeaning;
extern const KeyMeaning config_meanings[];
extern const int config_n_meanings;

typedef struct KeyIgnored {
    const char *pattern, *why;
} KeyIgnored;
extern const KeyIgnored config_ignored[];
extern const int config_n_ignored;

static inline void *config_field(Config *cfg, const KeyInfo *key) {
    return (char *)cfg + key->offset;
}
static inline const void *config_field_const(const Config *cfg, const KeyInfo *key) {
    return (const char *)cfg + key->offset;
}

const KeyInfo *config_key_find(const char *name); /* by name or alias; NULL */
bool config_key_has_inner(const char *name);      /* some key is name.SOMETHING */
const char *config_key_ignored(const char *name); /* why it is ignored; NULL: it is not */
bool config_key_is_switch(const char *name);      /* a MEANS name that is no key */
/* The name or alias that name may be a slip of, into out; false: none is near. */
enum { KEY_NAME_MAX = 63 };
bool config_key_nearest(const char *name, char out[KEY_NAME_MAX + 1]);
bool config_word_in(const char *words, const char *word); /* words: separated by spaces */

/* How far apart two words are, in letters inserted, dropped, changed or swapped with a neighbour.
 */
int config_word_distance(const char *a, const char *b);

/* The interval of a number's values column: "[0,1)", "(0,inf)". */
typedef struct Interval {
    double low, high;
    bool low_open, high_open;
} Interval;
Interval config_interval(const char *values);

/* "a whole number of at least 1", "one of cosine, linear, constant": what a value has to be. */
void config_describe(const KeyInfo *key, Buf *out);
#endif
