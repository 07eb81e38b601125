/* config_help.c - see config_help.h. */
#include "config_help.h"
#include <string.h>
#include "config_table.h"

enum { WIDTH = 100, INDENT = 34 };

/* Adds text word by word, going on in the next line, indented, where the width ends. The first
 * word comes where the line already stands at column. */
static void add_wrapped(Buf *out, const char *text, int column) {
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > INDENT && column + 1 + n > WIDTH) {
            buf_printf(out, "\n%*s", INDENT, "");
            column = INDENT;
        } else if (column > INDENT) {
            buf_add_text(out, " ");
            column++;
        }
        buf_add(out, text, (size_t)n);
        column += n;
        text += n + (text[n] == ' ');
    }
    buf_add_text(out, "\n");
}

static void add_words(Buf *out, const char *words) {
    for (; *words; words++) {
        if (*words == ' ') buf_add_text(out, ",");
        buf_add(out, words, 1);
    }
}

static void add_key(Buf *out, const KeyInfo *key) {
    Buf text = {0};
    config_describe(key, &text);
    if (*key->initial) {
        buf_add_text(&text, "; default ");
        buf_add_text(&text, key->initial);
    }
    buf_add_text(&text, ".");
    if (strcmp(key->only, "-") == 0) {
        buf_add_text(&text, " Not available in this version.");
    } else if (*key->only) {
        buf_add_text(&text, " In this version only ");
        add_words(&text, key->only);
        buf_add_text(&text, ".");
    }
    buf_printf(out, "  %-*s", INDENT - 2, key->name);
    add_wrapped(out, text.p, INDENT);
    text.n = 0;
    buf_add_text(&text, key->meaning);
    if (*key->aliases) {
        buf_add_text(&text, " Also: ");
        add_words(&text, key->aliases);
        buf_add_text(&text, ".");
    }
    buf_printf(out, "%*s", INDENT, "");
    add_wrapped(out, text.p, INDENT);
    buf_free(&text);
}

void config_help(Buf *out) {
    for (const KeyGroup *group = config_groups; group->title; group++) {
        buf_printf(out, "%s%s\n", group == config_groups ? "" : "\n", group->title);
        for (int k = (int)group[0].first; k < (int)group[1].first; k++)
            add_key(out, &config_keys[k]);
    }
    buf_add_text(out, "\nOther trainers' words\n");
    for (int i = 0; i < config_n_meanings; i++) {
        const KeyMeaning *m = &config_meanings[i];
        buf_printf(out, "  %s: %s is read as %s: %s\n", m->name, m->value, m->key, m->text);
    }
    for (int i = 0; i < config_n_ignored; i++) {
        buf_printf(out, "  %-30s  ignored: %s\n", config_ignored[i].pattern, config_ignored[i].why);
    }
}
