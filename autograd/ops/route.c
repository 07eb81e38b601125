/* route: from a router's logits to k experts and their weights (Shazeer et al. 2017).
 *   p = softmax(logits) over all E       choice = the k largest logits, ties to the lower index
 *   q_j = p[choice_j], divided by their sum if renormalise       y_j = q_j * expert_scale[choice_j]
 * With g_j = dy_j * expert_scale[choice_j], m = sum_j q_j g_j and [e chosen] as 0 or 1:
 *   d expert_scale[choice_j] += q_j dy_j
 *   d logits[choice_j] = q_j (g_j - m)      if renormalise: the softmax over all cancels
 *   d logits[e] = p_e ([e chosen] g_e - m)  otherwise
 * The choice itself has no derivative; a replay keeps it. */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"

SIMD static void exp_row(const float *restrict x, float max, float *restrict p, int64_t n) {
    for (int64_t e = 0; e < n; e++) p[e] = simd_exp(x[e] - max);
}

static void softmax_row(const float *x, float *p, int64_t n) {
    float max = x[0];
    double sum = 0;
    for (int64_t e = 1; e < n; e++) max = x[e] > max ? x[e] : max;
    exp_row(x, max, p, n);
    for (int64_t e = 0; e < n; e++) sum += (double)p[e];
    float inverse = (float)(1 / sum);
    for (int64_t e = 0; e < n; e++) p[e] *= inverse;
}

/* Keeps the best so far in order. A later equal never passes an earlier one, nor does a NaN pass
 * or yield: whatever the logits, k different experts come out. */
static void choose_row(const float *x, int64_t n, int32_t *choice, int k) {
    for (int32_t e = 0; e < n; e++) {
        int at = e < k ? e : k;
        while (at > 0 && x[e] > x[choice[at - 1]]) at--;
        for (int j = k - 1; j > at; j--) choice[j] = choice[j - 1];
        if (at < k) choice[at] = e;
    }
}

/* What q_j = p[choice_j] is multiplied with. */
static float normaliser(const float *p, const int32_t *choice, RouteSpec r) {
    double sum = 0;
    if (!r.renormalise) return 1;
    for (int j = 0; j < r.k; j++) sum += (double)p[choice[j]];
    return (float)(1 / sum);
}

static void fwd(Tape *t, Node *n) {
    RouteSpec r = *ATTR(n, RouteSpec);
    int64_t T = tensor_rows(n->in[0]), E = tensor_cols(n->in[0]);
    const float *s = n->in[2] ? f32(n->in[2]) : NULL;
    FOR_ROWS(i, T, E) {
        const float *x = f32(n->in[0]) + i * E;
        float *p = f32(n->saved[0]) + i * E, *y = f32(n->out[0]) + i * r.k;
        int32_t *choice = i32(n->in[1]) + i * r.k;
        softmax_row(x, p, E);
        if (!t->replay) choose_row(x, E, choice, r.k);
        float q = normaliser(p, choice, r);
        for (int j = 0; j < r.k; j++) y[j] = p[choice[j]] * q * (s ? s[choice[j]] : 1);
    }
}

static void add_logit_grad(const float *p, const int32_t *choice, const float *s, const float *dy,
                           RouteSpec r, int64_t E, float *dx) {
    float q = normaliser(p, choice, r);
    double m = 0;
    for (int j = 0; j < r.k; j++) {
        m += (double)(p[choice[j]] * q) * (double)(dy[j] * (s ? s[choice[j]] : 1));
    }
    if (!r.renormalise) row_add_scaled(dx, p, (float)-m, E);
    for (int j = 0; j < r.k; j++) {
        int32_t e = choice[j];
        double g = (double)(dy[j] * (s ? s[e] : 1));
        dx[e] += (float)((double)(p[e] * q) * (r.renormalise ? g - m : g));
    }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    RouteSpec r = *ATTR(n, RouteSpec);
    int64_t T = tensor_rows(n->in[0]), E = tensor_cols(n->in[0]);
    const float *p = f32(n->saved[0]), *dy = f32(n->out[0]->grad);
    const float *s = n->in[2] ? f32(n->in[2]) : NULL;
    const int32_t *choice = i32(n->in[1]);
    if (n->in[0]->wants_grad) {
        float *dx = f32(n->in[0]->grad);
        FOR_ROWS(i, T, E) {
            add_logit_grad(p + i * E, choice + i * r.k, s, dy + i * r.k, r, E, dx + i * E);
        }
    }
    if (s && n->in[2]->wants_grad) { /* few values, in token order */
        float *ds = f32(n->in[2]->grad);
        for (int64_t i = 0; i < T; i++) {
            float q = normaliser(p + i * E, choice + i * r.k, r);
            for (int64_t j = i * r.k; j < (i + 1) * r.k; j++) {
                ds[choice[j]] += p[i * E + choice[j]] * q * dy[j];
            }
        }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    /* with and without renormalising and scale; scale frozen; logits frozen; one; all; threads */
    static const int64_t tokens[] = {4, 4, 3, 3, 3, 3, 3, 600};
    static const int64_t experts[] = {6, 6, 5, 5, 7, 5, 4, 32};
    static const RouteSpec spec[] = {{2, true}, {2, false}, {2, true}, {3, false},
                                     {3, true}, {1, false}, {4, true}, {4, false}};
    Tensor *logits = sample_2d(t, rng, tokens[i], experts[i]);
    Tensor *choice = tensor_2d(t->step, DT_i32, tokens[i], spec[i].k);
    Tensor *s = i == 0 || i == 1 || i == 5 ? NULL : sample_1d(t, rng, experts[i]);
    if (i == 3) s->wants_grad = false;
    if (i == 4) logits->wants_grad = false;
    return (OpCase){route(t, logits, choice, s, spec[i]), i == 7};
}

const Op op_route = {
    "route", {fwd, CUDA(route_fwd_cuda)}, {bwd, CUDA(route_bwd_cuda)}, sample, NULL, 0, 0};

Tensor *route(Tape *t, Tensor *logits, Tensor *choice, Tensor *expert_scale, RouteSpec r) {
    int64_t T = tensor_rows(logits), E = tensor_cols(logits);
    CHECK(r.k >= 1 && r.k <= E, "route: %d of %ld experts", r.k, (long)E);
    CHECK(choice->dtype == DT_i32 && tensor_numel(choice) == T * r.k,
          "route: %ld tokens of %d, choice has room for %ld", (long)T, r.k,
          (long)tensor_numel(choice));
    CHECK(!expert_scale || (expert_scale->dtype == DT_f32 && tensor_numel(expert_scale) == E),
          "route: %ld experts, another number of scales", (long)E);
    Node *n = tape_node(t, &op_route, 3, (Tensor *[]){logits, choice, expert_scale});
    *ATTR(n, RouteSpec) = r;
    n->saved[0] = tensor_2d(t->step, DT_f32, T, E); /* p */
    n->out[0] = tensor_2d(t->step, DT_f32, T, r.k);
    return tape_run(t, n);
}
