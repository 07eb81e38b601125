/* metrics.h - output_dir/metrics.jsonl: one line a logged step, written whole or not at all. */
#ifndef METRICS_H
#define METRICS_H
#include <jansson.h>
#include "../model/model.h"

/* How a step used its experts: counts by layer and expert. */
typedef struct RouteLoad {
    int64_t *count; /* (layers, experts) */
    int n_layers, n_experts;
} RouteLoad;
RouteLoad route_load_new(const Model *m);
void route_load_free(RouteLoad *r);
void route_load_clear(RouteLoad *r);
void route_load_add(void *r, int layer, const Tensor *logits, const Tensor *choice,
                    const Tensor *weight); /* a RouteFn */
/* Of one layer: entropy of the load over its maximum (1: all experts alike), the busiest expert's
 * share times the number of experts (1: all alike), and how many experts had no token. */
double route_load_entropy(const RouteLoad *r, int layer);
double route_load_peak(const RouteLoad *r, int layer);
int route_load_idle(const RouteLoad *r, int layer);
/* "routing": {"entropy": [...], "peak": [...], "idle": [...]}, a value a layer. */
json_t *route_load_json(const RouteLoad *r);

/* Keeps the lines of steps up to last and drops what follows (a resumed run writes it again). */
int metrics_resume(const char *path, int64_t last, Err *e);
int metrics_append(const char *path, json_t *line, Err *e); /* takes line */
#endif
