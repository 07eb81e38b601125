/* verb_export.c - an adapter or merged weights in the form an engine wants. A form is one row of a
 * table. */
#include <string.h>
#include "../data/files.h"
#include "progress.h"
#include "session.h"
#include "verbs.h"

static int export_peft(const Config *cfg, Session *s, const char *dir, Err *e) {
    if (!s->has_adapter)
        return err_set(e, "export --format peft: name the adapter with --lora_model_dir");
    (void)cfg;
    return adapter_write(dir, s->model, &s->params, &s->plan, &s->adapter, e);
}

static int export_merged(const Config *cfg, Session *s, const char *dir, Err *e) {
    return model_write_merged(dir, s->model, dtype_find(cfg->save_dtype), e);
}

static const struct {
    const char *name;
    int (*write)(const Config *cfg, Session *s, const char *dir, Err *e);
} formats[] = {{"peft", export_peft}, {"merged", export_merged}};

int verb_export(const Config *cfg, json_t *result, Err *e) {
    Session s;
    size_t f = 0;
    while (f < COUNT_OF(formats) && strcmp(formats[f].name, cfg->format)) f++;
    CHECK(f < COUNT_OF(formats), "the key table lets format %s pass", cfg->format);
    TRY(output_check(cfg, e));
    TRY(session_open(&s, cfg, USE_AS_IS, e));
    DirOut out;
    int bad = files_dir_begin(&out, cfg->output, e);
    if (!bad) {
        bad = formats[f].write(cfg, &s, out.temp, e) || files_dir_commit(&out, e) ? -1 : 0;
        if (bad) files_dir_abort(&out);
    }
    session_close(&s);
    if (bad) return -1;
    json_object_set_new(result, "output", json_string(cfg->output));
    json_object_set_new(result, "format", json_string(cfg->format));
    progress_say(NULL, "wrote %s (%s)", cfg->output, cfg->format);
    return 0;
}
