/* jinja.c - see jinja.h: where a template is compiled and rendered, and where failures land. */
#include "jinja.h"
#include <string.h>
#include "jinja_eval.h"
#include "jinja_text.h"

struct Jinja {
    char *name;
    Run run; /* holds the tree's memory */
    const Node *tree;
};

int jinja_compile(Jinja **out, const char *source, size_t n, const char *name, Err *e) {
    Jinja *j = mem_alloc(sizeof *j);
    j->name = mem_copy_text(name);
    j->run.e = e;
    j->run.name = j->name;
    j->run.line = 1;
    *out = NULL;
    if (setjmp(j->run.escape)) {
        jinja_free(j);
        return -1;
    }
    if (!str_is_utf8((Str){source, n})) run_fail(&j->run, "the template is not UTF-8 text");
    j->tree = jinja_parse(&j->run, (Str){source, n});
    *out = j;
    return 0;
}

int jinja_render(const Jinja *j, const json_t *vars, Buf *out, Err *e) {
    Run *r = mem_alloc(sizeof *r);
    int failed = setjmp(r->escape);
    if (!failed) {
        Text text = {0};
        Scope *given;
        const char *key;
        json_t *value;
        r->e = e;
        r->name = j->name;
        r->line = 1;
        given = scope_new(r, NULL);
        json_object_foreach((json_t *)(uintptr_t)vars, key, value) {
            scope_set(r, given, str_of(key), value_from_json(r, value));
        }
        r->scope = scope_new(r, given);
        r->out = &text;
        exec(r, j->tree);
        buf_add(out, text.p, text.n);
    }
    run_free(r);
    mem_free(r);
    return failed ? -1 : 0;
}

void jinja_free(Jinja *j) {
    if (!j) return;
    run_free(&j->run);
    mem_free(j->name);
    mem_free(j);
}
