/* verbs.h - what the program can do, as a table; main() looks verbs up here. */
#ifndef VERBS_H
#define VERBS_H
#include <jansson.h>
#include "config.h"

/* 0: done, result says what (for --json); -1 or CONFIG_REFUSED: Err; above 0: the exit status of a
 * run that was stopped by a signal and can go on. */
typedef int (*VerbFn)(const Config *cfg, json_t *result, Err *e);
typedef struct Verb {
    const char *name, *needs, *summary; /* needs: keys, separated by spaces */
    VerbFn run;
} Verb;
extern const Verb verbs[];
extern const int n_verbs;

#define VERB(name, needs, summary) int verb_##name(const Config *cfg, json_t *result, Err *e);
#include "verbs.def"
#undef VERB
#endif
