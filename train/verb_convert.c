/* verb_convert.c - an adapter from one form into another. Other than export it keeps what the forms
 * share, ranks and scale, so that nothing is rounded on the way there and back. */
#include "../data/files.h"
#include "progress.h"
#include "session.h"
#include "verbs.h"

static int refuse_format(const Config *cfg, Err *e) {
    err_set(e,
            "format: %s is no adapter's; convert writes peft, peft-per-expert, mlx and gguf-lora",
            cfg->format);
    return CONFIG_REFUSED;
}

/* A file's writer writes beside and renames by itself. */
static int write_form(const Config *cfg, Session *s, Err *e) {
    DirOut out;
    if (adapter_form_is_file(cfg->format))
        return session_write_adapter(s, cfg, true, cfg->output, e);
    TRY(files_dir_begin(&out, cfg->output, e));
    int bad = session_write_adapter(s, cfg, true, out.temp, e) || files_dir_commit(&out, e);
    if (bad) files_dir_abort(&out);
    return bad ? -1 : 0;
}

int verb_convert(const Config *cfg, json_t *result, Err *e) {
    Session s;
    if (!adapter_form_known(cfg->format)) return refuse_format(cfg, e);
    TRY(output_check(cfg, adapter_form_is_file(cfg->format) ? OUTPUT_FILE : OUTPUT_DIR, e));
    TRY(session_open_original(&s, cfg, e));
    const char *from = adapter_form_name(&s.adapter);
    int bad = write_form(cfg, &s, e);
    if (!bad) {
        json_object_set_new(result, "output", json_string(cfg->output));
        json_object_set_new(result, "from", json_string(from));
        json_object_set_new(result, "format", json_string(cfg->format));
        progress_say(NULL, "wrote %s (%s, from %s)", cfg->output, cfg->format, from);
    }
    session_close(&s);
    return bad;
}
