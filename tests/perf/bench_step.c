/* bench_step.c - one LoRA step of a small Gemma 4 MoE (8 layers, 32 experts, 122 M parameters,
 * 1 x 1024 tokens, rank 8 on attention, dense MLP, experts and router, compute f32): tokens a
 * second, what share of OpenBLAS's own rate the step's arithmetic reaches in the same run, and
 * resident memory. Arguments: [steps] [gradient_checkpointing true|false]. */
#include <cblas.h>
#undef I /* of complex.h, which cblas.h brings along */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../autograd/blas.h"
#include "../../data/files.h"
#include "../../train/optimizer.h"
#include "../../train/progress.h"
#include "../../train/session.h"
#include "../../train/verbs.h"

enum { TOKENS = 1024 };

static const char config_json[] =
    "{\"model_type\":\"gemma4_text\",\"dtype\":\"float32\",\"vocab_size\":16384,"
    "\"hidden_size\":512,\"intermediate_size\":512,\"num_hidden_layers\":8,\"layer_types\":["
    "\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"full_attention\","
    "\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"full_attention\"],"
    "\"num_attention_heads\":8,\"num_key_value_heads\":4,\"num_global_key_value_heads\":2,"
    "\"head_dim\":64,\"global_head_dim\":128,\"sliding_window\":256,\"attention_k_eq_v\":true,"
    "\"hidden_size_per_layer_input\":0,\"enable_moe_block\":true,\"num_experts\":32,"
    "\"top_k_experts\":4,\"moe_intermediate_size\":256,\"final_logit_softcapping\":30.0}";

static Err err;
static void ok(int status) {
    if (status == 0) return;
    fprintf(stderr, "bench_step: %s\n", err.text);
    exit(1);
}

/* Multiply-accumulates of a forward pass, per token: products, and attention over visible keys. */
static double macs_of(const Model *m, bool lora_only) {
    double n = 0;
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        int64_t dim[3];
        int k = site_dims(m, s, dim);
        if (!s->linear || s->layer < 0) continue;
        double used = k == 3 ? m->dims.n_used : 1, O = (double)dim[k - 2], I = (double)dim[k - 1];
        n += lora_only ? (s->linear->a ? used * 8 * (O + I) : 0) : used * O * I;
    }
    return lora_only ? n : n + (double)m->dims.width * m->dims.vocab;
}

static double attention_macs(const Model *m) {
    double n = 0;
    for (int l = 0; l < m->dims.n_layers; l++) {
        const LayerDims *d = &m->layer[l].d;
        double w = d->window ? d->window : TOKENS, keys = 0;
        for (int i = 0; i < TOKENS; i++) keys += (i + 1 < w ? i + 1 : w) / TOKENS;
        n += 2 * keys * m->dims.n_heads * d->head_dim;
    }
    return n;
}

/* GFLOP/s of plain sgemm, one call a thread, 1024 x 1024 x 1024: the best of a few. */
static double sgemm_rate(void) {
    enum { N = 1024, TIMES = 5 };
    int threads = omp_get_max_threads();
    float *a = calloc((size_t)(3 * threads) * N * N, sizeof *a);
    double best = 0;
    for (int i = 0; i < TIMES; i++) {
        double began = seconds_now();
#pragma omp parallel for schedule(static, 1)
        for (int t = 0; t < threads; t++) {
            float *p = a + (size_t)(3 * t) * N * N;
            blas_single_thread();
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, p, N, p + N * N, N, 0,
                        p + 2 * N * N, N);
        }
        double rate = 2e-9 * N * N * N * threads / (seconds_now() - began);
        best = rate > best ? rate : best;
    }
    free(a);
    return best;
}

static void step(Session *s, Optimizer *o, const Batch *b, int64_t n) {
    size_t mark = arena_mark(&s->step);
    params_zero_grad(&s->params);
    Tensor *loss = model_loss(s->model, &s->tape, b, 1.0f / TOKENS);
    tape_backward(&s->tape, loss);
    tape_reset(&s->tape);
    arena_release(&s->step, mark);
    double norm = params_grad_norm(&s->params);
    if (norm > 1) params_scale_grad(&s->params, (float)(1 / norm));
    optimizer_step(o, &s->params, n, 1e-4);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    blas_prepare(argv);
    int steps = argc > 1 ? atoi(argv[1]) : 7;
    char dir[] = "/tmp/moesmith-bench-XXXXXX";
    if (!mkdtemp(dir)) return 1;
    char *shape = files_join(dir, "config.json"), *model = files_join(dir, "model");
    ok(files_write_whole(shape, config_json, strlen(config_json), &err));
    Config cfg;
    Flag flags[] = {{(char *)"base_model", shape},
                    {(char *)"output", model},
                    {(char *)"compute", (char *)"f32"},
                    {(char *)"router.train", (char *)"lora"},
                    {(char *)"gradient_checkpointing", argc > 2 ? argv[2] : (char *)"true"}};
    ok(config_load(&cfg, NULL, flags, 5, &err));
    json_t *ignored = json_object();
    ok(verb_init(&cfg, ignored, &err));
    flags[0].value = model;
    config_free(&cfg);
    ok(config_load(&cfg, NULL, flags, 5, &err));
    Session s;
    Optimizer o;
    ok(session_open(&s, &cfg, USE_TO_TRAIN, &err));
    ok(optimizer_open(&o, optimizer_find("adamw"), &(OptimizerSettings){0, 0.9, 0.999, 1e-8},
                      &s.params, &err));
    int32_t ids[TOKENS], at[2] = {0, TOKENS};
    for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % 16384);
    Batch b = {1, at, ids, ids};
    double seconds[64], rate = 0;
    for (int i = 0; i < 2; i++) step(&s, &o, &b, 1 + i);
    steps = steps < 1 ? 1 : steps > 64 ? 64 : steps;
    for (int i = 0; i < steps; i++) {
        double r = sgemm_rate(), began = seconds_now();
        step(&s, &o, &b, 3 + i);
        seconds[i] = seconds_now() - began;
        rate = r > rate ? r : rate;
    }
    qsort(seconds, (size_t)steps, sizeof *seconds, by_size);
    double median = seconds[steps / 2];
    double forward = 2 * (macs_of(s.model, false) + attention_macs(s.model)),
           lora = 2 * macs_of(s.model, true);
    double useful = 2 * 2 * macs_of(s.model, false) + 6 * attention_macs(s.model) + 3 * lora;
    double done =
        useful +
        (s.model->recompute ? forward + lora - 2.0 * s.model->dims.width * s.model->dims.vocab : 0);
    printf("%.0f tokens/s (median of %d steps, fastest %.0f), %.1f GFLOP/s of useful arithmetic, "
           "%.1f with what is computed twice\n",
           TOKENS / median, steps, TOKENS / seconds[0], useful * TOKENS / median * 1e-9,
           done * TOKENS / median * 1e-9);
    printf("plain sgemm in this run %.0f GFLOP/s: the step reaches %.2f of it\n", rate,
           done * TOKENS / median * 1e-9 / rate);
    printf("peak resident memory %.2f GiB (base %.2f GiB, mapped)\n",
           (double)mem_peak() / 1073741824, (double)model_mapped_bytes(s.model) / 1073741824);
    session_close(&s);
    optimizer_close(&o);
    config_free(&cfg);
    json_decref(ignored);
    files_remove(dir, &err);
    mem_free(shape);
    mem_free(model);
    return 0;
}
