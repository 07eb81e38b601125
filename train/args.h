/* args.h - the command line: moesmith VERB [CONFIG.yaml] [--key value | --key=value | --key]...
 *
 * Every flag is a key of the config's own table, so a walk over argv that asks the table which keys
 * may stand alone (booleans) is all there is to it. */
#ifndef ARGS_H
#define ARGS_H
#include "config.h"

typedef struct Args {
    const char *verb, *config_path; /* of argv; NULL where not given */
    Flag *flags;                    /* in order; --help and --version are none of them */
    int n_flags;
    bool help, version;
} Args;

/* -1: a usage error (exit status 2). What a verb is called is not checked here. Free either way. */
int args_parse(Args *a, int argc, char **argv, Err *e);
void args_free(Args *a);
#endif
