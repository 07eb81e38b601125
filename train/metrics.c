/* metrics.c - see metrics.h. */
#include "metrics.h"
#include <math.h>
#include <string.h>
#include "../data/files.h"

RouteLoad route_load_new(const Model *m) {
    RouteLoad r = {NULL, m->dims.n_layers, m->dims.n_experts};
    r.count = mem_alloc(sizeof *r.count * (size_t)r.n_layers * (size_t)(r.n_experts + 1));
    return r;
}

void route_load_free(RouteLoad *r) { mem_free(r->count); }
void route_load_clear(RouteLoad *r) {
    memset(r->count, 0, sizeof *r->count * (size_t)r->n_layers * (size_t)r->n_experts);
}

void route_load_add(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                    const Tensor *weight) {
    RouteLoad *r = ctx;
    (void)logits, (void)weight;
    for (int64_t i = 0; i < tensor_numel(choice); i++)
        r->count[layer * r->n_experts + i32(choice)[i]]++;
}

static int64_t layer_total(const RouteLoad *r, int layer) {
    int64_t n = 0;
    for (int e = 0; e < r->n_experts; e++) n += r->count[layer * r->n_experts + e];
    return n;
}

double route_load_entropy(const RouteLoad *r, int layer) {
    double h = 0, n = (double)layer_total(r, layer);
    for (int e = 0; e < r->n_experts && n > 0; e++) {
        double p = (double)r->count[layer * r->n_experts + e] / n;
        if (p > 0) h -= p * log(p);
    }
    return r->n_experts > 1 ? h / log(r->n_experts) : 1;
}

double route_load_peak(const RouteLoad *r, int layer) {
    int64_t most = 0, n = layer_total(r, layer);
    for (int e = 0; e < r->n_experts; e++) {
        if (r->count[layer * r->n_experts + e] > most) most = r->count[layer * r->n_experts + e];
    }
    return n ? (double)most * r->n_experts / (double)n : 0;
}

int route_load_idle(const RouteLoad *r, int layer) {
    int n = 0;
    for (int e = 0; e < r->n_experts; e++) n += r->count[layer * r->n_experts + e] == 0;
    return n;
}

/* Three digits are enough to look at. */
static json_t *short_real(double x) { return json_real(round(x * 1000) / 1000); }

json_t *route_load_json(const RouteLoad *r) {
    json_t *entropy = json_array(), *peak = json_array(), *idle = json_array();
    for (int l = 0; l < r->n_layers; l++) {
        json_array_append_new(entropy, short_real(route_load_entropy(r, l)));
        json_array_append_new(peak, short_real(route_load_peak(r, l)));
        json_array_append_new(idle, json_integer(route_load_idle(r, l)));
    }
    return json_pack("{s:o, s:o, s:o}", "entropy", entropy, "peak", peak, "idle", idle);
}

int metrics_resume(const char *path, int64_t last, Err *e) {
    Buf all = {0}, kept = {0};
    if (!files_exists(path)) return 0;
    TRY(files_drop_torn_line(path, e));
    if (files_read(path, &all, e)) return -1;
    for (const char *line = all.p, *end; line && *line && (end = strchr(line, '\n'));
         line = end + 1) {
        json_t *row = json_loadb(line, (size_t)(end - line), 0, NULL);
        json_t *step = json_object_get(row, "step");
        if (json_is_integer(step) && json_integer_value(step) <= last)
            buf_add(&kept, line, (size_t)(end - line) + 1);
        json_decref(row);
    }
    int bad = files_write_whole(path, kept.p ? kept.p : "", kept.n, e);
    buf_free(&all);
    buf_free(&kept);
    return bad;
}

int metrics_append(const char *path, json_t *line, Err *e) {
    /* of 15 digits, so that 0.99 is written as such */
    char *text = json_dumps(line, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(15));
    int bad = files_append_line(path, text, e);
    mem_free(text);
    json_decref(line);
    return bad;
}
