/* fuzz_adapter.c - any bytes as an adapter directory, adapter_config.json up to the first NUL and
 * the tensors behind it, or (what begins with GGUF) as llama.cpp's adapter: refused with a sentence,
 * or read whole and written in every form. verify's own readers get the same; that of merged models
 * as GGUF, too. Run from the repository root: the model is a golden one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/files.h"
#include "model/gguf_out.h"
#include "train/verify.h"

#define GOLDEN "tests/golden/adapters"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Model *model;
static Tensor **slot; /* of the model's sites as they were */
static Verify against;
static Config cfg;
static char base_gguf[] = P_tmpdir "/moesmith-fuzz-XXXXXX.gguf"; /* the model as such a file */

/* Removed when the program ends. */
static void remove_base(void) { unlink(base_gguf); }

static void open_golden(void) {
    Err e;
    Flag flags[] = {
        {"base_model", GOLDEN "/model"}, {"lora_model_dir", GOLDEN "/peft"}, {"format", "peft"}};
    if (config_load(&cfg, NULL, flags, 3, &e) || model_open(&model, GOLDEN "/model", &e) ||
        session_open_original(&against.run, &cfg, &e)) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    GgufNotes notes;
    int fd = mkstemps(base_gguf, 5);
    if (fd < 0 || close(fd) || model_write_gguf(base_gguf, model, DT_f32, &notes, &e)) abort();
    atexit(remove_base);
    against.cfg = &cfg;
    cfg.base_gguf = base_gguf; /* not the config's to free */
    slot = mem_alloc(sizeof *slot * (size_t)model->n_sites);
    for (int i = 0; i < model->n_sites; i++) slot[i] = *model->site[i].slot;
}

static void write_forms(ParamSet *ps, const Plan *plan, const Adapter *a, const char *dir) {
    static const char *const forms[] = {"peft", "peft-per-expert", "mlx", "gguf-lora"};
    char *file = files_join(dir, "lora.gguf");
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        Err e;
        AdapterOut how = {.form = forms[i], .keep = i % 2, .beside = base_gguf};
        adapter_export(adapter_form_is_file(forms[i]) ? file : dir, &how, model, ps, plan, a, &e);
        buf_free(&how.notes);
    }
    mem_free(file);
}

static void read_adapter(const char *dir, const char *out, const char *order) {
    Err e;
    Plan plan;
    Adapter a;
    ParamSet ps = {0};
    if (adapter_plan_read(&plan, &a, model, dir, order, &e) == 0 &&
        params_open(&ps, model, &plan, 0, &e) == 0 && adapter_read(&ps, &plan, &a, model, &e) == 0)
        write_forms(&ps, &plan, &a, out);
    params_close(&ps);
    plan_free(&plan);
    adapter_free(&a);
    for (int i = 0; i < model->n_sites; i++) {
        *model->site[i].slot = slot[i];
        if (model->site[i].linear) model->site[i].linear->a = model->site[i].linear->b = NULL;
    }
}

static void verify_adapter(const char *dir) {
    static char *const forms[] = {"peft", "peft-per-expert", "mlx"};
    char *was = cfg.format;
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        Err e;
        Session back;
        cfg.format = forms[i];
        verify_adapter_compare(&against, dir, &e);
        if (verify_adapter_reload(&against, dir, &back, &e) == 0) session_close(&back);
    }
    cfg.format = was;
}

/* The merged model's tensors, keys and texts go by; opening one is fuzz_gguf's. */
static void verify_file(const char *path) {
    Err e;
    Session back;
    verify_gguf_lora_compare(&against, path, &e);
    if (verify_gguf_lora_reload(&against, path, &back, &e) == 0) session_close(&back);
    verify_gguf_compare(&against, path, &e);
}

static void write_part(const char *dir, const char *name, const void *bytes, size_t n) {
    Err e;
    char *path = files_join(dir, name);
    if (files_write_whole(path, bytes, n, &e)) abort();
    mem_free(path);
}

static void try_file(const uint8_t *data, size_t size, const char *dir, const char *out) {
    char *path = files_join(dir, "adapter.gguf");
    write_part(dir, "adapter.gguf", data, size);
    read_adapter(path, out, NULL);
    verify_file(path);
    mem_free(path);
}

static void try_dir(const uint8_t *data, size_t size, const char *dir, const char *out) {
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t config = end ? (size_t)(end - data) : size, rest = end ? size - config - 1 : 0;
    write_part(dir, "adapter_config.json", data, config);
    write_part(dir, "adapter_model.safetensors", end ? end + 1 : data, rest);
    write_part(dir, "adapters.safetensors", end ? end + 1 : data, rest);
    read_adapter(dir, out, NULL);
    read_adapter(dir, out, "expert_major");
    verify_adapter(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char dir[] = P_tmpdir "/moesmith-fuzz-XXXXXX", out[] = P_tmpdir "/moesmith-fuzz-XXXXXX";
    Err e;
    if (!model) open_golden();
    if (!mkdtemp(dir) || !mkdtemp(out)) abort();
    bool file = size > 4 && !memcmp(data, "GGUF", 4);
    (file ? try_file : try_dir)(data, size, dir, out);
    files_remove(dir, &e);
    files_remove(out, &e);
    return 0;
}
