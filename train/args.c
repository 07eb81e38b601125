/* args.c - see args.h. */
#include "args.h"
#include <string.h>
#include <strings.h>

static bool says_bool(const char *text) {
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null"};
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        if (strcasecmp(text, words[i]) == 0) return true;
    }
    return false;
}

static void add_flag(Args *a, const char *name, size_t n, const char *value) {
    size_t bytes = sizeof *a->flags, count = (size_t)a->n_flags++;
    a->flags = mem_grow(a->flags, bytes * count, bytes * (count + 1));
    char *copy = mem_alloc(n + 1);
    memcpy(copy, name, n);
    a->flags[count] = (Flag){copy, mem_copy_text(value)};
}

/* Reads argv[i] (and argv[i + 1], where that is its value); the number of words read, or -1. */
static int read_flag(Args *a, int argc, char **argv, int i, Err *e) {
    const char *name = argv[i] + 2;
    size_t n = strcspn(name, "=");
    const char *next = i + 1 < argc ? argv[i + 1] : NULL;
    bool alone = config_is_bool(name) && (!next || !says_bool(next));
    if (n == 0)
        return err_set(e, "command line: \"%.100s\" names no key; write --key value", argv[i]);
    if (name[n] == '=') {
        add_flag(a, name, n, name + n + 1);
        return 1;
    }
    if (alone) {
        add_flag(a, name, n, "true");
        return 1;
    }
    if (!next || strncmp(next, "--", 2) == 0) {
        return err_set(
            e, "command line: --%.100s needs a value; write --%.100s VALUE or --%.100s=VALUE", name,
            name, name);
    }
    add_flag(a, name, n, next);
    return 2;
}

static int read_word(Args *a, const char *word, Err *e) {
    if (*word == '-' && word[1]) {
        return err_set(
            e,
            "command line: unknown option %.100s; flags are written --key value, --help lists them",
            word);
    }
    if (!a->verb) {
        a->verb = word;
    } else if (!a->config_path) {
        a->config_path = word;
    } else {
        return err_set(e, "command line: \"%.100s\" is one word too many after the config %.100s",
                       word, a->config_path);
    }
    return 0;
}

int args_parse(Args *a, int argc, char **argv, Err *e) {
    *a = (Args){0};
    for (int i = 1; i < argc;) {
        int words = 1;
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            a->help = true;
        } else if (strcmp(argv[i], "--version") == 0) {
            a->version = true;
        } else if (strncmp(argv[i], "--", 2) == 0) {
            words = read_flag(a, argc, argv, i, e);
            if (words < 0) return -1;
        } else {
            TRY(read_word(a, argv[i], e));
        }
        i += words;
    }
    return 0;
}

void args_free(Args *a) {
    for (int i = 0; i < a->n_flags; i++) {
        mem_free(a->flags[i].name);
        mem_free(a->flags[i].value);
    }
    mem_free(a->flags);
    *a = (Args){0};
}
