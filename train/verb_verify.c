/* verb_verify.c - what export wrote at --output, read from disk again and held against the run:
 * tensor by tensor, on rows, every expert by itself, and by a canary. A format is one row of a
 * table. */
#include <math.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/base_file.h"
#include "../data/files.h"
#include "progress.h"
#include "verbs.h"
#include "verify.h"

static const VerifyFormat formats[] = {
    {"peft", true, verify_adapter_compare, verify_adapter_reload},
    {"peft-per-expert", true, verify_adapter_compare, verify_adapter_reload},
    {"mlx", true, verify_adapter_compare, verify_adapter_reload},
    {"gguf-lora", true, verify_gguf_lora_compare, verify_gguf_lora_reload},
    {"merged", false, verify_merged_compare, verify_merged_reload},
    {"gguf", false, verify_gguf_compare, verify_gguf_reload},
};

/* ---- what was found ---- */

double verify_half_ulp(double x, DType d) {
    static const struct {
        int bits, least; /* of the significand; the exponent of the smallest normal number */
    } type[DT_COUNT] = {[DT_f32] = {24, -126}, [DT_bf16] = {8, -126}, [DT_f16] = {11, -14}};
    int exponent = type[d].least;
    if (x != 0) exponent = ilogb(x) > exponent ? ilogb(x) : exponent;
    return ldexp(0.5 * (1 + 1e-9), exponent - type[d].bits + 1); /* the sum in float64 rounds too */
}

void verify_rounds_to(Verify *v, DType d) {
    v->rounded = fmax(v->rounded, 2 * verify_half_ulp(1, d));
}

bool verify_changed(const Verify *v, int site) {
    const Site *s = &v->run.model->site[site];
    const Learn *l = &v->run.plan.learn[site];
    if (l->rank) return true;
    if (!l->full && !l->saved) return false;
    int64_t n = tensor_numel(s->base);
    float *was = mem_alloc(sizeof *was * (size_t)n);
    weight_values(s->base, 0, n, was);
    bool other = memcmp(was, (*s->slot)->data, sizeof *was * (size_t)n) != 0;
    mem_free(was);
    return other;
}

void verify_applied(Verify *v, const Site *s) {
    v->applied++;
    v->tensors[s->row->kind]++;
    v->values[s->row->kind] += tensor_numel(s->base);
}

static void count_planned(Verify *v) {
    for (int i = 0; i < v->run.plan.n; i++) v->planned += verify_changed(v, i);
}

static void tell(const Verify *v, json_t *result) {
    json_t *kinds = json_object();
    progress_say(NULL, "applied %d of %d", v->applied, v->planned);
    for (int k = 0; k < KIND_COUNT; k++) {
        if (!v->tensors[k]) continue;
        progress_say(NULL, "  %-10s  %4d tensors, %ld weights", kind_name[k], v->tensors[k],
                     (long)v->values[k]);
        json_object_set_new(
            kinds, kind_name[k],
            json_pack("{s:i, s:I}", "tensors", v->tensors[k], "weights", (json_int_t)v->values[k]));
    }
    json_object_set_new(result, "kinds", kinds);
    json_object_set_new(result, "applied", json_integer(v->applied));
    json_object_set_new(result, "planned", json_integer(v->planned));
}

/* ---- the checks ---- */

/* The exporter writes a pattern that no two experts share; a reader that mixes up experts, gate and
 * up, rows, columns or scales shows on it, whatever was learned. */
static int check_canary(Verify *v, const VerifyFormat *f, const char *path, Err *e) {
    Session back;
    Verify canary = *v;
    AdapterOut how = session_adapter_out(v->cfg, false);
    int unwritten =
        adapter_export(path, &how, v->run.model, &v->run.params, &v->run.plan, &v->run.adapter, e);
    buf_free(&how.notes); /* of no interest here */
    if (unwritten) return -1;
    canary.planned = canary.applied = 0;
    TRY(f->compare(&canary, path, e));
    TRY(f->reload(v, path, &back, e));
    back.tape.compute = COMPUTE_F32;
    back.tape.paused++;
    int bad = verify_forced(v, &back, "canary", e);
    session_close(&back);
    return bad;
}

static int canary(Verify *v, const VerifyFormat *f, Err *e) {
    char *dir;
    Err ignored;
    TRY(files_temp_dir(&dir, "canary", e));
    char *file = files_join(dir, "canary.gguf");
    float *kept = verify_make_canary(v);
    int bad = check_canary(v, f, adapter_form_is_file(f->name) ? file : dir, e);
    verify_restore(v, kept);
    mem_free(file);
    files_remove(dir, &ignored);
    mem_free(dir);
    return bad;
}

/* The model that was written, beside the run. */
static int check_model(Verify *v, const VerifyFormat *f, json_t *result, Err *e) {
    Session back;
    TRY(f->reload(v, v->cfg->output, &back, e));
    back.tape.compute = COMPUTE_F32;
    back.tape.paused++;
    int bad = verify_forced(v, &back, v->cfg->output, e);
    if (!bad) {
        bad = verify_rows(v, &back, result, e);
        if (bad) err_prefix(e, "%s", v->cfg->output);
    }
    session_close(&back);
    return bad;
}

static int verify_all(Verify *v, const VerifyFormat *f, json_t *result, Err *e) {
    count_planned(v);
    TRY(f->compare(v, v->cfg->output, e));
    tell(v, result);
    if (v->applied != v->planned)
        return err_set(e, "%s: has %d of the %d tensors that learned", v->cfg->output, v->applied,
                       v->planned);
    TRY(check_model(v, f, result, e));
    if (f->is_adapter) TRY(canary(v, f, e));
    progress_say(NULL, "%s is what the run learned", v->cfg->output);
    return 0;
}

/* ---- base.h5 ---- */

static int verify_base(const Config *cfg, json_t *result, Err *e) {
    Progress p;
    progress_begin(&p, "verifying", "bytes", 0, 0);
    int bad = base_file_verify(cfg->output, progress_step, &p, e);
    progress_end(&p);
    if (bad) return -1;
    json_object_set_new(result, "output", json_string(cfg->output));
    progress_say(NULL, "%s: every byte is what was written", cfg->output);
    return 0;
}

/* ---- the verb ---- */

static const VerifyFormat *format_named(const char *name) {
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (name && !strcmp(formats[i].name, name)) return &formats[i];
    return NULL;
}

static int refuse(const Config *cfg, Err *e) {
    Buf known = {0};
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        buf_printf(&known, "%s%s", i ? ", " : "", formats[i].name);
    if (!cfg->format)
        err_set(e, "verify: name what --output is with --format (%s)", known.p);
    else if (!format_named(cfg->format))
        err_set(e,
                "verify: --format %s cannot be verified by this version; it can verify %s and a "
                "base.h5",
                cfg->format, known.p);
    else if (!cfg->base_model)
        err_set(e, "verify: name the model of the run with --base_model");
    else
        err_set(e, "verify: name the adapter that was exported with --lora_model_dir");
    buf_free(&known);
    return CONFIG_REFUSED;
}

static int open_run(Verify *v, const VerifyFormat *f, Err *e) {
    bool dequantised = !f->is_adapter && !strcmp(v->cfg->merge_into, "dequantised");
    TRY(dequantised ? session_open(&v->run, v->cfg, USE_AS_IS, e)
                    : session_open_original(&v->run, v->cfg, e));
    v->run.tape.compute = COMPUTE_F32;
    v->run.tape.paused++;
    return 0;
}

int verb_verify(const Config *cfg, json_t *result, Err *e) {
    Verify v = {.cfg = cfg};
    if (base_file_claims(cfg->output)) return verify_base(cfg, result, e);
    const VerifyFormat *f = format_named(cfg->format);
    if (!f || !cfg->base_model || (f->is_adapter && !cfg->lora_model_dir)) return refuse(cfg, e);
    verify_rounds_to(&v, DT_f32);
    int bad = open_run(&v, f, e);
    if (bad) return bad;
    bad = verify_all(&v, f, result, e);
    session_close(&v.run);
    json_object_set_new(result, "output", json_string(cfg->output));
    json_object_set_new(result, "format", json_string(cfg->format));
    return bad;
}
