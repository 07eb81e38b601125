/* main.c - the program: a verb, a config, flags. The only place that prints an error and exits. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/blas.h"
#include "args.h"
#include "verbs.h"

const Verb verbs[] = {
#define VERB(name, summary) {#name, summary, verb_##name},
#include "verbs.def"
#undef VERB
};
const int n_verbs = COUNT_OF(verbs);
