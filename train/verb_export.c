/* verb_export.c - an adapter or merged weights in the form an engine wants. A form is one row of a
 * table. */
#include <string.h>
#include "../data/base_file.h"
#include "../data/files.h"
#include "../model/gguf_out.h"
#include "progress.h"
#include "session.h"
#include "verbs.h"

static int export_adapter(const Config *cfg, Session *s, const char *path, MergeReport *r, Err *e) {
    (void)r;
    return session_write_adapter(s, cfg, false, path, e);
}

static int export_merged(const Config *cfg, Session *s, const char *dir, MergeReport *r, Err *e) {
    return model_write_merged(dir, s->model, dtype_find(cfg->save_dtype), r, e);
}

static int export_gguf(const Config *cfg, Session *s, const char *path, MergeReport *r, Err *e) {
    GgufNotes notes;
    (void)r;
    TRY(model_write_gguf(path, s->model, gguf_find_dtype(cfg->gguf_type), &notes, e));
    if (notes.tokenizer.none)
        progress_say(NULL, "%s has no tokenizer: the file takes and gives token ids only",
                     cfg->base_model);
    if (notes.tokenizer.across_newline)
        progress_say(NULL,
                     "%d pieces of the vocabulary join a newline with something else: llama.cpp "
                     "never makes these",
                     notes.tokenizer.across_newline);
    if (notes.as_bf16 && cfg->gguf_type)
        progress_say(NULL, "%d tensors are bf16: their rows are no whole blocks of %s",
                     notes.as_bf16, cfg->gguf_type);
    else if (notes.as_bf16)
        progress_say(NULL, "%d tensors are bf16: what the base has them in is read only",
                     notes.as_bf16);
    return 0;
}

static const struct {
    const char *name;
    OutputForm form;
    bool merges; /* into the base's weights */
    int (*write)(const Config *cfg, Session *s, const char *path, MergeReport *merged, Err *e);
} formats[] = {{"peft", OUTPUT_DIR, false, export_adapter},
               {"peft-per-expert", OUTPUT_DIR, false, export_adapter},
               {"mlx", OUTPUT_DIR, false, export_adapter},
               {"merged", OUTPUT_DIR, true, export_merged},
               {"gguf", OUTPUT_FILE, true, export_gguf},
               {"gguf-lora", OUTPUT_FILE, false, export_adapter}};

/* A value of the base that is no number would be one of the result, and of all that comes of it. */
static int check_base(const Session *s, Err *e) {
    Progress p;
    progress_begin(&p, "checking the base", "values", 0, 0);
    int bad = model_check_finite(s->model, progress_step, &p, e);
    progress_end(&p);
    return bad;
}

/* Into a directory beside output, which is then renamed; a file's writer does that itself. */
static int write_form(size_t f, const Config *cfg, Session *s, MergeReport *merged, Err *e) {
    DirOut out;
    if (formats[f].merges) TRY(check_base(s, e));
    if (formats[f].form == OUTPUT_FILE) return formats[f].write(cfg, s, cfg->output, merged, e);
    TRY(files_dir_begin(&out, cfg->output, e));
    int bad = formats[f].write(cfg, s, out.temp, merged, e) || files_dir_commit(&out, e) ? -1 : 0;
    if (bad) files_dir_abort(&out);
    return bad;
}

/* An adapter that was trained beside a quantised base is merged into the original weights, which a
 * directory or a GGUF file still has, unless merge_into says otherwise. */
static int open_to_export(Session *s, const Config *cfg, Err *e) {
    bool original = !strcmp(cfg->merge_into, "original");
    if (original && !base_file_claims(cfg->base_model))
        TRY(session_open_original(s, cfg, e));
    else
        TRY(session_open(s, cfg, USE_AS_IS, e));
    if (!original || !config_given(cfg, "merge_into") || !session_base_is_packed(s)) return 0;
    session_close(s);
    err_set(e,
            "merge_into: original, and base_model %s holds quantised weights alone; give the "
            "original directory, or merge_into: dequantised",
            cfg->base_model);
    return CONFIG_REFUSED;
}

/* Into which weights, and what rounding them took back. */
static void tell_merged(const Config *cfg, const Session *s, const MergeReport *r, json_t *result) {
    bool packed = session_base_is_packed(s);
    json_t *kinds = json_object();
    json_object_set_new(result, "merge_into", json_string(packed ? "dequantised" : "original"));
    if (s->has_adapter)
        progress_say(NULL, "merged into the %s weights of %s", packed ? "dequantised" : "original",
                     cfg->base_model);
    for (int k = 0; k < KIND_COUNT; k++) {
        const MergeCount *c = &r->of[k];
        if (!c->meant) continue;
        progress_say(NULL,
                     "%-10s  %ld values learned another value, %ld of them (%.2f %%) round "
                     "back to what they were",
                     kind_name[k], (long)c->meant, (long)c->unchanged,
                     100 * (double)c->unchanged / (double)c->meant);
        json_object_set_new(kinds, kind_name[k],
                            json_pack("{s:I, s:I}", "learned", (json_int_t)c->meant, "unchanged",
                                      (json_int_t)c->unchanged));
    }
    json_object_set_new(result, "rounding", kinds);
}

int verb_export(const Config *cfg, json_t *result, Err *e) {
    Session s;
    size_t f = 0;
    while (f < COUNT_OF(formats) && strcmp(formats[f].name, cfg->format)) f++;
    CHECK(f < COUNT_OF(formats), "the key table lets format %s pass", cfg->format);
    if (!formats[f].merges && !cfg->lora_model_dir) {
        err_set(e, "export --format %s: name the adapter with --lora_model_dir", cfg->format);
        return CONFIG_REFUSED;
    }
    TRY(output_check(cfg, formats[f].form, e));
    int bad = open_to_export(&s, cfg, e);
    if (bad) return bad;
    MergeReport merged = {0};
    bad = write_form(f, cfg, &s, &merged, e);
    if (!bad && formats[f].merges) tell_merged(cfg, &s, &merged, result);
    session_close(&s);
    if (bad) return -1;
    json_object_set_new(result, "output", json_string(cfg->output));
    json_object_set_new(result, "format", json_string(cfg->format));
    progress_say(NULL, "wrote %s (%s)", cfg->output, cfg->format);
    return 0;
}
