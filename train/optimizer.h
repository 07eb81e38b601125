/* optimizer.h - update rules over the flat blocks of a ParamSet. A rule is one row of a table. */
#ifndef OPTIMIZER_H
#define OPTIMIZER_H
#include "../model/params.h"

enum { OPTIMIZER_MOMENTS = 2 };

typedef struct OptimizerSettings {
    double weight_decay, beta1, beta2, epsilon;
} OptimizerSettings;

/* One tensor with one learning rate; step counts from 1. Moments begin as zeros. */
typedef void OptimizerUpdate(const OptimizerSettings *s, int64_t step, double lr, int64_t n,
                             float *w, const float *g, void *const *moment);
typedef struct OptimizerRule {
    const char *name;
    int n_moments;
    OptimizerUpdate *update;
    size_t (*bytes)(int64_t n); /* of one moment of a tensor; NULL: n float32 */
    bool (*finite)(const void *moment, int64_t n);
} OptimizerRule;
const OptimizerRule *optimizer_find(const char *name); /* NULL: unknown */
OptimizerUpdate adamw_update;

/* Bytes of all moments, and of one of them. */
size_t optimizer_bytes(const OptimizerRule *rule, const ParamSet *ps);
size_t optimizer_moment_bytes(const OptimizerRule *rule, const ParamSet *ps);

typedef struct Optimizer {
    const OptimizerRule *rule;
    OptimizerSettings settings;
    double *lr_ratio;                /* per param: its learning rate over the schedule's */
    void *moment[OPTIMIZER_MOMENTS]; /* one param's after the other's; NULL: the rule has none */
    Arena memory;
} Optimizer;
int optimizer_open(Optimizer *o, const OptimizerRule *rule, const OptimizerSettings *s,
                   const ParamSet *ps, Err *e);
void optimizer_close(Optimizer *o);
bool optimizer_finite(const Optimizer *o, const ParamSet *ps); /* the moments are numbers */

/* L2 norm of all gradients, in double, in fixed order. */
double params_grad_norm(const ParamSet *ps);
void params_scale_grad(ParamSet *ps, float s);
void optimizer_step(Optimizer *o, ParamSet *ps, int64_t step, double lr);
#endif
