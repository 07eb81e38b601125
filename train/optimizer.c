/* optimizer.c - see optimizer.h. AdamW: Loshchilov & Hutter 2019, in torch.optim.AdamW's order of
 * operations; SGD: torch.optim.SGD without momentum (weight decay joins the gradient). */
#include "optimizer.h"
#include <math.h>
#include <string.h>
#include "../autograd/rows.h"
#include "adamw_8bit.h"

/* w -= lr*wd*w;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
 * w -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps) */
void adamw_update(const OptimizerSettings *s, int64_t step, double lr, int64_t n, float *w,
                  const float *g, void *const *moment) {
    float *m = moment[0], *v = moment[1];
    double c1 = 1 - pow(s->beta1, (double)step), c2 = 1 - pow(s->beta2, (double)step);
    float keep = (float)(1 - lr * s->weight_decay), size = (float)(lr / c1), root = (float)sqrt(c2);
    float b1 = (float)s->beta1, b2 = (float)s->beta2, a1 = (float)(1 - s->beta1),
          a2 = (float)(1 - s->beta2), eps = (float)s->epsilon;
#pragma omp parallel for simd schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        float mi = b1 * m[i] + a1 * g[i], vi = b2 * v[i] + a2 * g[i] * g[i];
        m[i] = mi, v[i] = vi;
        w[i] = w[i] * keep - size * mi / (sqrtf(vi) / root + eps);
    }
}

static void update_sgd(const OptimizerSettings *s, int64_t step, double lr, int64_t n, float *w,
                       const float *g, void *const *moment) {
    float rate = (float)lr, decay = (float)s->weight_decay;
    (void)step, (void)moment;
    for (int64_t i = 0; i < n; i++) w[i] -= rate * (g[i] + decay * w[i]);
}

static const OptimizerRule rules[] = {
    {"adamw", 2, adamw_update, NULL, NULL},
    {"adamw_8bit", 2, adamw_8bit_update, adamw_8bit_bytes, adamw_8bit_finite},
    {"sgd", 0, update_sgd, NULL, NULL},
};

const OptimizerRule *optimizer_find(const char *name) {
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        if (!strcmp(rules[i].name, name)) return &rules[i];
    }
    return NULL;
}

static size_t moment_bytes(const OptimizerRule *rule, const Param *p) {
    int64_t n = tensor_numel(p->tensor);
    return rule->bytes ? rule->bytes(n) : (size_t)n * 4;
}

size_t optimizer_moment_bytes(const OptimizerRule *rule, const ParamSet *ps) {
    size_t all = 0;
    for (int i = 0; i < ps->n && rule->n_moments; i++) all += moment_bytes(rule, &ps->param[i]);
    return all;
}

size_t optimizer_bytes(const OptimizerRule *rule, const ParamSet *ps) {
    return optimizer_moment_bytes(rule, ps) * (size_t)rule->n_moments;
}

int optimizer_open(Optimizer *o, const OptimizerRule *rule, const OptimizerSettings *s,
                   const ParamSet *ps, Err *e) {
    *o = (Optimizer){.rule = rule, .settings = *s};
    TRY(arena_open(&o->memory, (size_t)256 << 30, e));
    for (int i = 0; i < rule->n_moments; i++)
        o->moment[i] = arena_push_zero(&o->memory, optimizer_moment_bytes(rule, ps));
    o->lr_ratio = arena_push(&o->memory, sizeof(double) * (size_t)(ps->n + 1));
    for (int i = 0; i < ps->n; i++) o->lr_ratio[i] = 1;
    return 0;
}

void optimizer_close(Optimizer *o) {
    arena_close(&o->memory);
    *o = (Optimizer){0};
}

/* Values that one thread adds up at a time: the sums of these are added in order. */
enum { NORM_PIECE = 1 << 16 };

double params_grad_norm(const ParamSet *ps) {
    int64_t n = (ps->numel + NORM_PIECE - 1) / NORM_PIECE;
    double *part = mem_alloc(sizeof *part * (size_t)(n + 1)), sum = 0;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        int64_t at = i * NORM_PIECE, left = ps->numel - at;
        part[i] = row_dot(ps->grad + at, ps->grad + at, left < NORM_PIECE ? left : NORM_PIECE);
    }
    for (int64_t i = 0; i < n; i++) sum += part[i];
    mem_free(part);
    return sqrt(sum);
}

void params_scale_grad(ParamSet *ps, float s) {
#pragma omp parallel for simd schedule(static) if (ps->numel > NORM_PIECE)
    for (int64_t i = 0; i < ps->numel; i++) ps->grad[i] *= s;
}

bool optimizer_finite(const Optimizer *o, const ParamSet *ps) {
    for (int k = 0; k < o->rule->n_moments; k++) {
        const char *at = o->moment[k];
        for (int i = 0; i < ps->n; i++) {
            int64_t n = tensor_numel(ps->param[i].tensor);
            const void *moment = at;
            if (!(o->rule->finite ? o->rule->finite(moment, n) : f32_all_finite(moment, n)))
                return false;
            at += moment_bytes(o->rule, &ps->param[i]);
        }
    }
    return true;
}

void optimizer_step(Optimizer *o, ParamSet *ps, int64_t step, double lr) {
    size_t at = 0;
    for (int i = 0; i < ps->n; i++) {
        const Param *p = &ps->param[i];
        void *moment[OPTIMIZER_MOMENTS] = {0};
        for (int k = 0; k < o->rule->n_moments; k++) moment[k] = (char *)o->moment[k] + at;
        at += o->rule->n_moments ? moment_bytes(o->rule, p) : 0;
        if (!p->learns) continue;
        o->rule->update(&o->settings, step, lr * o->lr_ratio[i], tensor_numel(p->tensor),
                        ps->weight + p->at, ps->grad + p->at, moment);
    }
}
