/* main.c - the program: a verb, a config, flags. The only place that prints an error and exits. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/blas.h"
#include "args.h"
#include "config_help.h"
#include "progress.h"
#include "verbs.h"

const Verb verbs[] = {
#define VERB(name, needs, summary) {#name, needs, summary, verb_##name},
#include "verbs.def"
#undef VERB
};
const int n_verbs = COUNT_OF(verbs);

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static int complain(int status, const Err *e) {
    progress_break();
    fprintf(stderr, "moesmith: %s\n", e->text);
    return status;
}

/* Of one verb, or of the program (NULL); all keys either way. */
static void print_help(const Verb *verb) {
    Buf text = {0};
    printf("moesmith - fine-tunes Mixture-of-Experts language models\n\n"
           "usage: moesmith %s [CONFIG.yaml] [--key value ...]\n\n",
           verb ? verb->name : "VERB");
    if (verb) printf("%s\nneeds: %s\n", verb->summary, verb->needs);
    if (!verb) puts("verbs:");
    for (int i = 0; i < n_verbs && !verb; i++)
        printf("  %-12s %s\n", verbs[i].name, verbs[i].summary);
    printf("\nEvery key below stands in the YAML file or on the command line; flags win.\n");
    config_help(&text);
    fwrite(text.p, 1, text.n, stdout);
    buf_free(&text);
}

static const Verb *find_verb(const char *name) {
    for (int i = 0; i < n_verbs; i++) {
        if (!strcmp(verbs[i].name, name)) return &verbs[i];
    }
    return NULL;
}

static int refuse_verb(const char *name) {
    Err e;
    Buf list = {0};
    for (int i = 0; i < n_verbs; i++) buf_printf(&list, "%s%s", i ? ", " : "", verbs[i].name);
    if (name)
        err_set(&e, "there is no verb \"%s\"; the verbs are %s", name, list.p);
    else
        err_set(&e, "no verb given; the verbs are %s (moesmith --help tells more)", list.p);
    buf_free(&list);
    return complain(EXIT_USAGE, &e);
}

/* The result as one line, numbers in full. */
static void print_result(json_t *result) {
    fflush(stderr);
    json_dumpf(result, stdout, JSON_REAL_PRECISION(17) | JSON_ENSURE_ASCII);
    putchar('\n');
}

static int check_needs(const Verb *verb, const Config *cfg, Err *e) {
    char words[256];
    snprintf(words, sizeof words, "%s", verb->needs);
    for (char *rest = words, *key; (key = strtok_r(rest, " ", &rest));)
        TRY(config_require(cfg, key, e));
    return 0;
}

static int run_verb(const Verb *verb, const Config *cfg) {
    Err e = {{0}};
    json_t *result = json_object();
    for (int i = 0; i < cfg->warnings.n; i++) fprintf(stderr, "moesmith: %s\n", cfg->warnings.p[i]);
    int status = verb->run(cfg, result, &e);
    if (status < 0) {
        status = complain(status == CONFIG_REFUSED ? EXIT_USAGE : EXIT_FAILED, &e);
        json_object_clear(result);
        json_object_set_new(result, "error", json_string(e.text));
    }
    if (cfg->json) print_result(result);
    json_decref(result);
    return status;
}

static int run_args(const Args *a) {
    Err e = {{0}};
    Config cfg;
    const Verb *verb = a->verb ? find_verb(a->verb) : NULL;
    if (a->version) return puts("moesmith " MOESMITH_VERSION), EXIT_DONE;
    if (a->help) return print_help(verb), EXIT_DONE;
    if (!verb) return refuse_verb(a->verb);
    int bad =
        config_load(&cfg, a->config_path, a->flags, a->n_flags, &e) || check_needs(verb, &cfg, &e);
    int status = bad ? complain(EXIT_USAGE, &e) : run_verb(verb, &cfg);
    config_free(&cfg);
    return status;
}

int main(int argc, char **argv) {
    Args a;
    Err e = {{0}};
    blas_prepare(argv);
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is then an error like a full disk */
    int status = args_parse(&a, argc, argv, &e) ? complain(EXIT_USAGE, &e) : run_args(&a);
    args_free(&a);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == EXIT_DONE) {
        err_set(&e, "standard output could not be written");
        status = complain(EXIT_FAILED, &e);
    }
    return status;
}
