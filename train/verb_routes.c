/* verb_routes.c - which experts every token of the datasets went to, each row alone, into HDF5:
 * /layer.N/experts int32 [tokens, k] in descending probability, /layer.N/weights float32
 * [tokens, k] as multiplied onto the experts' outputs, /layer.N/load int64 [experts]. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/h5.h"
#include "evaluate.h"
#include "metrics.h"
#include "rows.h"
#include "verbs.h"

/* All routing of a run, layer by layer. */
typedef struct Record {
    RouteLoad load;
    int32_t **experts; /* per layer (tokens, k) */
    float **weights;
    int64_t at, tokens; /* the row in work starts at token at */
    int k;
    bool finite;
} Record;

static void record(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                   const Tensor *weight) {
    Record *r = ctx;
    memcpy(r->experts[layer] + r->at * r->k, choice->data, (size_t)tensor_bytes(choice));
    memcpy(r->weights[layer] + r->at * r->k, weight->data, (size_t)tensor_bytes(weight));
    for (int64_t i = 0; i < tensor_numel(weight); i++) r->finite &= isfinite(f32(weight)[i]) != 0;
    route_load_add(&r->load, layer, logits, choice, weight);
}

static void record_open(Record *r, const Model *m, const Rows *rows) {
    int L = m->dims.n_layers;
    *r = (Record){.load = route_load_new(m), .k = m->dims.n_used, .finite = true};
    for (int64_t i = 0; i < rows->set.n; i++) r->tokens += rows->set.samples[i].n;
    r->experts = mem_alloc(sizeof *r->experts * (size_t)L);
    r->weights = mem_alloc(sizeof *r->weights * (size_t)L);
    for (int l = 0; l < L; l++) {
        r->experts[l] = mem_alloc(sizeof(int32_t) * (size_t)(r->tokens * r->k));
        r->weights[l] = mem_alloc(sizeof(float) * (size_t)(r->tokens * r->k));
    }
}

static void record_close(Record *r) {
    for (int l = 0; l < r->load.n_layers; l++) mem_free(r->experts[l]), mem_free(r->weights[l]);
    mem_free(r->experts);
    mem_free(r->weights);
    route_load_free(&r->load);
}

static int run_rows(Record *r, Session *s, const Rows *rows, Err *e) {
    Progress p;
    progress_begin(&p, "routing", "rows", 0, rows->set.n);
    s->model->on_route = record;
    s->model->on_route_ctx = r;
    for (int64_t i = 0; i < rows->set.n; i++) {
        const Sample *row = &rows->set.samples[i];
        size_t mark = arena_mark(&s->step);
        Batch b = batch_of(&s->step, &row, 1);
        model_hidden(s->model, &s->tape, &b, NULL);
        arena_release(&s->step, mark);
        r->at += row->n;
        progress_show(&p, i + 1, "");
    }
    progress_end(&p);
    return r->finite ? 0 : session_blame_nonfinite(s, "routes", e);
}

static int write_layer(HdfFile *f, const Record *r, int l, Err *e) {
    char name[64];
    int64_t dim[2] = {r->tokens, r->k}, E = r->load.n_experts;
    snprintf(name, sizeof name, "/layer.%d/experts", l);
    TRY(h5_write(f, name, HDF_I32, 2, dim, r->experts[l], e));
    snprintf(name, sizeof name, "/layer.%d/weights", l);
    TRY(h5_write(f, name, HDF_F32, 2, dim, r->weights[l], e));
    snprintf(name, sizeof name, "/layer.%d/load", l);
    return h5_write(f, name, HDF_I64, 1, &E, r->load.count + l * E, e);
}

static int write_file(const char *path, const Record *r, Err *e) {
    HdfFile *f;
    TRY(h5_create(&f, path, e));
    for (int l = 0; l < r->load.n_layers; l++) {
        if (write_layer(f, r, l, e)) {
            h5_close(f);
            return -1;
        }
    }
    return h5_commit(f, e);
}

/* One bar an expert, as tall as its share of the tokens. */
static void print_load(const RouteLoad *r, int l) {
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    int64_t most = 1;
    for (int i = 0; i < r->n_experts; i++)
        most = r->count[l * r->n_experts + i] > most ? r->count[l * r->n_experts + i] : most;
    printf("layer %2d  ", l);
    for (int i = 0; i < r->n_experts; i++) {
        int64_t n = r->count[l * r->n_experts + i];
        printf("%s", n ? bars[n * 7 / most] : "·");
    }
    printf("  entropy %.3f  busiest %.2fx  idle %d\n", route_load_entropy(r, l),
           route_load_peak(r, l), route_load_idle(r, l));
}

static json_t *layer_json(const RouteLoad *r, int l) {
    json_t *load = json_array();
    for (int i = 0; i < r->n_experts; i++)
        json_array_append_new(load, json_integer(r->count[l * r->n_experts + i]));
    return json_pack("{s:i, s:o, s:f, s:f, s:i}", "layer", l, "load", load, "entropy",
                     route_load_entropy(r, l), "peak", route_load_peak(r, l), "idle",
                     route_load_idle(r, l));
}

static int run(const Config *cfg, Session *s, const Rows *rows, json_t *result, Err *e) {
    Record r;
    if (!s->model->dims.n_experts)
        return err_set(e, "%s has no experts, so there is nothing to route", cfg->base_model);
    record_open(&r, s->model, rows);
    int bad = run_rows(&r, s, rows, e) || write_file(cfg->output, &r, e);
    if (!bad) {
        json_t *layers = json_array();
        for (int l = 0; l < r.load.n_layers; l++) {
            print_load(&r.load, l);
            json_array_append_new(layers, layer_json(&r.load, l));
        }
        json_object_set_new(result, "layers", layers);
        json_object_set_new(result, "tokens", json_integer(r.tokens));
        json_object_set_new(result, "output", json_string(cfg->output));
        progress_say(NULL, "wrote %s", cfg->output);
    }
    record_close(&r);
    return bad ? -1 : 0;
}

int verb_routes(const Config *cfg, json_t *result, Err *e) {
    TRY(output_check(cfg, OUTPUT_FILE, e));
    return measure_rows(cfg, run, result, e);
}
