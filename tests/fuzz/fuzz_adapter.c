/* fuzz_adapter.c - any bytes as an adapter directory, adapter_config.json up to the first NUL and
 * the tensors behind it: refused with a sentence, or read whole and written in every form. verify's
 * own readers get the same. Run from the repository root: the model is a golden one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/files.h"
#include "train/verify.h"

#define GOLDEN "tests/golden/adapters"
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Model *model;
static Tensor **slot; /* of the model's sites as they were */
static Verify against;
static Config cfg;

static void open_golden(void) {
    Err e;
    Flag flags[] = {
        {"base_model", GOLDEN "/model"}, {"lora_model_dir", GOLDEN "/peft"}, {"format", "peft"}};
    if (config_load(&cfg, NULL, flags, 3, &e) || model_open(&model, GOLDEN "/model", &e) ||
        session_open_original(&against.run, &cfg, &e)) {
        fprintf(stderr, "%s\n", e.text);
        abort();
    }
    against.cfg = &cfg;
    slot = mem_alloc(sizeof *slot * (size_t)model->n_sites);
    for (int i = 0; i < model->n_sites; i++) slot[i] = *model->site[i].slot;
}

static void write_forms(ParamSet *ps, const Plan *plan, const Adapter *a, const char *dir) {
    static const char *const forms[] = {"peft", "peft-per-expert", "mlx"};
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        Err e;
        AdapterOut how = {.form = forms[i], .keep = i % 2};
        adapter_export(dir, &how, model, ps, plan, a, &e);
        buf_free(&how.notes);
    }
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

static void write_part(const char *dir, const char *name, const void *bytes, size_t n) {
    Err e;
    char *path = files_join(dir, name);
    if (files_write_whole(path, bytes, n, &e)) abort();
    mem_free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char dir[] = P_tmpdir "/moesmith-fuzz-XXXXXX", out[] = P_tmpdir "/moesmith-fuzz-XXXXXX";
    Err e;
    if (!model) open_golden();
    if (!mkdtemp(dir) || !mkdtemp(out)) abort();
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t config = end ? (size_t)(end - data) : size, rest = end ? size - config - 1 : 0;
    write_part(dir, "adapter_config.json", data, config);
    write_part(dir, "adapter_model.safetensors", end ? end + 1 : data, rest);
    write_part(dir, "adapters.safetensors", end ? end + 1 : data, rest);
    read_adapter(dir, out, NULL);
    read_adapter(dir, out, "expert_major");
    verify_adapter(dir);
    files_remove(dir, &e);
    files_remove(out, &e);
    return 0;
}
