/* verb_quantize.c - a Hugging Face checkpoint into one base file, tensor by tensor. */
#include <string.h>
#include <sys/stat.h>
#include "../autograd/amount.h"
#include "../data/base_file.h"
#include "base_quantise.h"
#include "progress.h"
#include "session.h"
#include "verbs.h"

static int64_t file_bytes(const char *path) {
    struct stat s;
    return stat(path, &s) ? 0 : (int64_t)s.st_size;
}

static int no_format(Err *e) {
    Buf words = {0};
    config_list_words("base_quantization", "none", &words);
    err_set(e,
            "quantize needs a format: --base_quantization %s, or a map of experts, attention, "
            "dense and embeddings",
            words.p);
    buf_free(&words);
    return -1;
}

static int check_keys(const Config *cfg, const BaseWords *words, Err *e) {
    int bad = 0;
    if (!base_words_any(words))
        bad = no_format(e);
    else if (!base_file_claims(cfg->output))
        bad = err_set(e, "quantize writes one file: give --output NAME.h5, not %s", cfg->output);
    else if (base_file_claims(cfg->base_model))
        bad = err_set(e, "quantize reads a Hugging Face directory, and %s is quantised already",
                      cfg->base_model);
    return bad ? CONFIG_REFUSED : 0;
}

int verb_quantize(const Config *cfg, json_t *result, Err *e) {
    const BaseWords words = base_words(cfg);
    Quantised q;
    int bad = check_keys(cfg, &words, e);
    if (bad) return bad;
    TRY(output_check(cfg, OUTPUT_FILE, e));
    double began = seconds_now();
    TRY(base_quantise(&q, cfg->base_model, &words, cfg->output, THERE_REPLACE, e));
    if (q.model->notes.n) progress_say(NULL, "%.*s", (int)q.model->notes.n - 1, q.model->notes.p);
    bad = base_report(cfg->output, q.model, q.before, result, e);
    if (!bad) {
        int64_t bytes = file_bytes(cfg->output);
        json_object_set_new(result, "output", json_string(cfg->output));
        json_object_set_new(result, "bytes", json_integer(bytes));
        json_object_set_new(result, "seconds", json_real(seconds_now() - began));
        progress_say(NULL, "wrote %s: %d tensors, %s", cfg->output, q.model->n_sites,
                     amount_bytes((double)bytes).text);
    }
    quantised_close(&q);
    return bad;
}
