/* bench_step.c - LoRA steps of a Gemma 4 MoE with random weights, 1 x SEQ tokens, rank 8 on
 * attention, dense MLP, experts and router: tokens a second, resident memory, and what share of the
 * machine's own rates the step's arithmetic reaches. The rates are measured between the steps, for
 * they are the machine's of that moment: OpenBLAS's sgemm, and this program's own product with the
 * model's experts as they are stored (compute: bf16).
 *
 *   bench_step small|slice26b|DIR|FILE.h5 [STEPS [SEQ]] [--key value ...]
 *
 * small: 8 layers, 32 experts, 122 M parameters. slice26b: two layers of the shapes of 26B-A4B.
 * With --base_quantization their base is made quantised. */
#include <cblas.h>
#undef I /* of complex.h, which cblas.h brings along */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../autograd/blas.h"
#include "../../autograd/matmul.h"
#include "../../data/files.h"
#include "../../train/optimizer.h"
#include "../../train/progress.h"
#include "../../train/session.h"
#include "../../train/verbs.h"

enum { MAX_FLAGS = 64, MAX_STEPS = 256, OWN_FLAGS = 4 };

#define COMMON                                                                                     \
    "\"model_type\":\"gemma4_text\",\"dtype\":\"bfloat16\",\"attention_k_eq_v\":true,"             \
    "\"hidden_size_per_layer_input\":0,\"enable_moe_block\":true,"                                 \
    "\"final_logit_softcapping\":30.0,"
#define SLIDING "\"sliding_attention\""
#define FULL    "\"full_attention\""
static const struct {
    const char *name, *config;
} shapes[] = {
    {"small", "{" COMMON "\"vocab_size\":16384,\"hidden_size\":512,\"intermediate_size\":512,"
              "\"num_hidden_layers\":8,\"layer_types\":[" SLIDING "," SLIDING "," SLIDING "," FULL
              "," SLIDING "," SLIDING "," SLIDING "," FULL
              "],\"num_attention_heads\":8,\"num_key_value_heads\":4,"
              "\"num_global_key_value_heads\":2,\"head_dim\":64,\"global_head_dim\":128,"
              "\"sliding_window\":256,\"num_experts\":32,\"top_k_experts\":4,"
              "\"moe_intermediate_size\":256}"},
    {"slice26b", "{" COMMON "\"vocab_size\":32768,\"hidden_size\":2816,\"intermediate_size\":2112,"
                 "\"num_hidden_layers\":2,\"layer_types\":[" SLIDING "," FULL
                 "],\"num_attention_heads\":16,\"num_key_value_heads\":8,"
                 "\"num_global_key_value_heads\":2,\"head_dim\":256,\"global_head_dim\":512,"
                 "\"sliding_window\":1024,\"num_experts\":128,\"top_k_experts\":8,"
                 "\"moe_intermediate_size\":704}"},
};

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
        double R = s->linear->a ? (double)tensor_cols(s->linear->b) : 0;
        n += used * (lora_only ? R * (O + I) : O * I);
    }
    return lora_only ? n : n + (double)m->dims.width * m->dims.vocab;
}

static double attention_macs(const Model *m, int tokens) {
    double n = 0;
    for (int l = 0; l < m->dims.n_layers; l++) {
        const LayerDims *d = &m->layer[l].d;
        double w = d->window ? d->window : tokens, keys = 0;
        for (int i = 0; i < tokens; i++) keys += (i + 1 < w ? i + 1 : w) / tokens;
        n += 2 * keys * m->dims.n_heads * d->head_dim;
    }
    return n;
}

/* GFLOP/s of plain sgemm, one call a thread, 1024 x 1024 x 1024. */
static double sgemm_rate(void) {
    enum { N = 1024 };
    int threads = omp_get_max_threads();
    float *a = calloc((size_t)(3 * threads) * N * N, sizeof *a);
    double began = seconds_now();
#pragma omp parallel for schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        float *p = a + (size_t)(3 * t) * N * N;
        blas_single_thread();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, p, N, p + N * N, N, 0,
                    p + 2 * N * N, N);
    }
    double rate = 2e-9 * N * N * N * threads / (seconds_now() - began);
    free(a);
    return rate;
}

/* GFLOP/s of one product with the first layer's experts, all of them with as many rows. */
static double product_rate(Session *s, int tokens) {
    const Tensor *w = s->model->layer[0].experts_in.w;
    int64_t E = w->dim[0], O = w->dim[1], I = w->dim[2], rows = tokens * s->model->dims.n_used / E;
    size_t mark = arena_mark(&s->step);
    int32_t *off = arena_push(&s->step, sizeof *off * (size_t)(E + 1));
    rows = rows < 1 ? 1 : rows;
    for (int64_t e = 0; e <= E; e++) off[e] = (int32_t)(e * rows);
    Matmul m = {.w = w, .off = off, .T = E * rows, .s = 1};
    float *x = arena_push_zero(&s->step, (size_t)(m.T * I) * sizeof *x),
          *y = arena_push(&s->step, (size_t)(m.T * O) * sizeof *y);
    matmul_forward(&s->tape, &m, x, x, NULL, y);
    double began = seconds_now();
    matmul_forward(&s->tape, &m, x, x, NULL, y);
    double rate = 2e-9 * (double)(m.T * O * I) / (seconds_now() - began);
    arena_release(&s->step, mark);
    return rate;
}

static void step(Session *s, Optimizer *o, const Batch *b, int64_t n) {
    size_t mark = arena_mark(&s->step);
    params_zero_grad(&s->params);
    Tensor *loss = model_loss(s->model, &s->tape, b, 1.0f / (float)batch_tokens(b));
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
static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

/* A model of one of the shapes above, written to dir; else the argument is a model itself. */
static char *make_model(const char *name, const char *dir, Flag *flags, int n) {
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        if (strcmp(shapes[i].name, name)) continue;
        Config cfg;
        bool quantised = false;
        for (int k = 0; k < n; k++) quantised |= !strncmp(flags[k].name, "base_quantization", 17);
        char *shape = files_join(dir, "config.json"),
             *model = files_join(dir, quantised ? "base.h5" : "model");
        ok(files_write_whole(shape, shapes[i].config, strlen(shapes[i].config), &err));
        flags[0].value = shape, flags[1].value = model;
        ok(config_load(&cfg, NULL, flags, n, &err));
        json_t *ignored = json_object();
        ok(verb_init(&cfg, ignored, &err));
        json_decref(ignored);
        config_free(&cfg);
        mem_free(shape);
        return model;
    }
    return mem_copy_text(name);
}

static int64_t base_bytes(const Model *m) {
    int64_t n = 0;
    for (int i = 0; i < m->n_sites; i++) n += tensor_bytes(m->site[i].base);
    return n;
}

static void report(Session *s, int tokens, double *seconds, double *sgemm, double *product,
                   int steps) {
    double forward = 2 * (macs_of(s->model, false) + attention_macs(s->model, tokens)),
           lora = 2 * macs_of(s->model, true), T = tokens;
    double useful =
        2 * 2 * macs_of(s->model, false) + 6 * attention_macs(s->model, tokens) + 3 * lora;
    double head = 2.0 * s->model->dims.width * s->model->dims.vocab;
    double done = useful + (s->model->recompute ? forward + lora - head : 0);
    double took = median(seconds, steps), fastest = seconds[0];
    double a = median(sgemm, steps), b = median(product, steps);
    double rate = useful * T / took * 1e-9, whole = done * T / took * 1e-9;
    printf("%.1f tokens/s (median of %d steps, fastest %.1f), %.0f GFLOP/s of useful arithmetic, "
           "%.0f with what is computed twice\n",
           T / took, steps, T / fastest, rate, whole);
    printf("in this run: sgemm %.0f GFLOP/s, the step %.2f of it; the experts' product alone %.0f "
           "GFLOP/s, the step %.2f of it\n",
           a, whole / a, b, whole / b);
    printf("peak resident memory %.2f GiB (base %.2f GiB, mapped)\n",
           (double)mem_peak() / 1073741824, (double)base_bytes(s->model) / 1073741824);
}

int main(int argc, char **argv) {
    blas_prepare(argv);
    int at = 2, steps = 7, tokens = 1024, n = OWN_FLAGS;
    char dir[] = "/tmp/moesmith-bench-XXXXXX", text[16];
    Flag flags[MAX_FLAGS] = {{(char *)"base_model", NULL},
                             {(char *)"output", NULL},
                             {(char *)"router.train", (char *)"lora"},
                             {(char *)"sequence_len", text}};
    if (argc < 2 || !mkdtemp(dir)) return 1;
    if (at < argc && argv[at][0] != '-') steps = atoi(argv[at++]);
    if (at < argc && argv[at][0] != '-') tokens = atoi(argv[at++]);
    for (; at + 1 < argc && n < MAX_FLAGS; at += 2) flags[n++] = (Flag){argv[at] + 2, argv[at + 1]};
    snprintf(text, sizeof text, "%d", tokens);
    steps = steps < 1 ? 1 : steps > MAX_STEPS ? MAX_STEPS : steps;
    char *model = make_model(argv[1], dir, flags, n);
    flags[0].value = model, flags[1].value = dir;

    Config cfg;
    Session s;
    Optimizer o;
    ok(config_load(&cfg, NULL, flags, n, &err));
    ok(session_open(&s, &cfg, USE_TO_TRAIN, &err));
    ok(optimizer_open(&o, optimizer_find(cfg.optimizer), &(OptimizerSettings){0, 0.9, 0.999, 1e-8},
                      &s.params, &err));
    int32_t *ids = mem_alloc(sizeof *ids * (size_t)tokens), rows[2] = {0, tokens};
    for (int i = 0; i < tokens; i++)
        ids[i] = (int32_t)(rng_at(1, 2, (uint64_t)i) % (uint64_t)s.model->dims.vocab);
    Batch b = {.n_rows = 1, .at = rows, .ids = ids, .labels = ids};
    double seconds[MAX_STEPS], sgemm[MAX_STEPS], product[MAX_STEPS];
    step(&s, &o, &b, 1);
    for (int i = 0; i < steps; i++) {
        sgemm[i] = sgemm_rate();
        product[i] = product_rate(&s, tokens);
        double began = seconds_now();
        step(&s, &o, &b, 2 + i);
        seconds[i] = seconds_now() - began;
    }
    report(&s, tokens, seconds, sgemm, product, steps);
    session_close(&s);
    optimizer_close(&o);
    config_free(&cfg);
    mem_free(ids);
    mem_free(model);
    files_remove(dir, &err);
    return 0;
}
