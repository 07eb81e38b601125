/* verify_factors.c - see verify_factors.h. */
#include "verify_factors.h"
#include <math.h>
#include <string.h>
#include "../autograd/weight.h"

void found_free(Found *x) {
    for (int h = 0; h < 2; h++) mem_free(x->half[h].a), mem_free(x->half[h].b);
}

/* Where in the matrices: of expert e, its input (of A) or output (of B) k, rank j. */
typedef struct At {
    int64_t e, k, j;
    int half;
    bool is_a;
} At;

static int differs(const Found *x, const Site *s, At at, double is, double should, Err *e) {
    char *name = x->name(x->ctx, s, at.e, at.half, at.is_a);
    Buf expert = {0};
    if (site_is_stack(s)) buf_printf(&expert, "expert %ld, ", (long)at.e);
    err_set(e, "tensor %s: %s%s %ld of rank %ld is %.9g, the run's is %.9g", name,
            expert.n ? expert.p : "", at.is_a ? "input" : "output", (long)at.k, (long)at.j, is,
            should);
    buf_free(&expert);
    mem_free(name);
    return -1;
}

/* A and B rank by rank: A as it is, B times the run's scale if the file has scale 1. */
static int compare_factors(const Found *f, const Site *s, int half, Err *e) {
    const Half *h = &f->half[half];
    const Linear *l = s->linear;
    int64_t R = l->a ? l->a->dim[l->a->n_dim - 2] : 0, O = s->base->dim[s->base->n_dim - 2];
    bool kept = (float)h->scale == l->s;
    for (int64_t x = 0; x < h->E; x++) {
        double by = f->by ? (double)f->by[x] : 1;
        for (int64_t j = 0; j < h->R; j++) {
            for (int64_t i = 0; i < h->I; i++) {
                float is = h->a[(x * h->R + j) * h->I + i],
                      should = j < R ? f32(l->a)[(x * R + j) * h->I + i] : 0;
                if (!(is == should))
                    return differs(f, s, (At){x, i, j, half, true}, (double)is, (double)should, e);
            }
            for (int64_t o = 0; o < h->O; o++) {
                float b = j < R ? f32(l->b)[(x * O + half * h->O + o) * R + j] : 0;
                double is = (double)h->b[(x * h->O + o) * h->R + j], should = (double)b;
                if (!kept) should *= (double)l->s;
                if (f->by) should = (double)(float)should * by;
                if (!(fabs(is - should) <= (kept && !f->by ? 0 : verify_half_ulp(should, DT_f32))))
                    return differs(f, s, (At){x, o, j, half, false}, is, should, e);
            }
        }
    }
    return 0;
}

/* By how much the run changed a weight: (e,o,i) in float64. */
double verify_change_of(const Site *s, const double *column, int64_t e, int64_t o, int64_t i,
                        double is, double was) {
    const Linear *l = s->linear;
    double sum = is;
    int64_t I = tensor_cols(s->base), O = s->base->dim[s->base->n_dim - 2];
    int64_t R = l->a ? tensor_cols(l->b) : 0;
    for (int64_t j = 0; j < R; j++)
        sum += (double)l->s * (double)f32(l->b)[(e * O + o) * R + j] *
               (double)f32(l->a)[(e * R + j) * I + i];
    return sum * (column ? column[i] : 1) - was;
}

/* What a router's scale learned belongs to its projection's columns there. NULL: nothing. */
static double *router_columns(const Verify *v, const Site *s) {
    for (int i = 0; i < v->run.model->n_sites; i++) {
        const Site *o = &v->run.model->site[i];
        if (o->layer != s->layer || strcmp(o->row->hf, "router.scale")) continue;
        int64_t n = tensor_numel(o->base);
        double *by = mem_alloc(sizeof *by * (size_t)n);
        float *was = mem_alloc(sizeof *was * (size_t)n);
        weight_values(o->base, 0, n, was);
        for (int64_t k = 0; k < n; k++) {
            double is = (double)f32(*o->slot)[k];
            by[k] = is == (double)was[k] ? 1 : is / (double)was[k];
        }
        mem_free(was);
        return by;
    }
    return NULL;
}

/* The product against the run's change of the weight, for what is no low rank in memory, or has its
 * ranks elsewhere: what either stored number was rounded by is allowed. */
static int compare_change(const Verify *v, const Site *s, const Found *x, Err *e) {
    int64_t I = tensor_cols(s->base), O = s->base->dim[s->base->n_dim - 2];
    double *column = s->row->kind == KIND_ROUTER ? router_columns(v, s) : NULL;
    float *is = mem_alloc(sizeof *is * (size_t)I), *was = mem_alloc(sizeof *was * (size_t)I);
    int bad = 0;
    for (int64_t row = 0; row < tensor_rows(s->base) && !bad; row++) {
        int64_t ex = row / O, o = row % O, half = x->n == 2 && o >= O / 2;
        const Half *h = &x->half[half];
        const float *b = h->b + (ex * h->O + o - half * h->O) * h->R, *a = h->a + ex * h->R * I;
        weight_values(*s->slot, row * I, I, is);
        weight_values(s->base, row * I, I, was);
        for (int64_t i = 0; i < I && !bad; i++) {
            double sum = 0, size = 0;
            for (int64_t j = 0; j < h->R; j++) {
                double part = h->scale * (double)b[j] * (double)a[j * I + i];
                sum += part, size += fabs(part);
            }
            double should = verify_change_of(s, column, ex, o, i, (double)is[i], (double)was[i]);
            if (!(fabs(sum - should) <= 1.01 * verify_half_ulp(size, DT_f32)))
                bad = differs(x, s, (At){ex, i, 0, (int)half, true}, sum, should, e);
        }
    }
    mem_free(is);
    mem_free(was);
    mem_free(column);
    return bad;
}

/* Whether each half of gate_up uses ranks of its own: A of the file is then a part of the run's. */
static bool ranks_apart(const Site *s) {
    const Tensor *b = s->linear->b;
    int64_t R = tensor_cols(b), O = b->dim[1];
    for (int64_t row = 0; row < tensor_rows(b); row++)
        for (int64_t j = 0; j < R; j++)
            if (f32(b)[row * R + j] != 0 && (row % O >= O / 2) != (j >= R / 2)) return false;
    return R % 2 == 0;
}

bool verify_router_folds(const Verify *v, const Site *s) {
    double *by = s->linear && s->row->kind == KIND_ROUTER ? router_columns(v, s) : NULL;
    bool folds = false;
    for (int64_t i = 0; by && i < tensor_cols(s->base); i++) folds |= by[i] != 1;
    mem_free(by);
    return folds;
}

int verify_factors(const Verify *v, const Site *s, const Found *x, Err *e) {
    const Learn *l = &v->run.plan.learn[s - v->run.model->site];
    bool low_rank = l->rank && !verify_router_folds(v, s),
         apart = low_rank && x->n == 2 && ranks_apart(s);
    for (int h = 0; h < x->n && low_rank && !apart; h++) {
        double scale = x->half[h].scale;
        if ((float)scale == l->scale || scale == 1) continue;
        char *name = x->name(x->ctx, s, 0, h, false);
        err_set(e, "tensor %s: the file gives it scale %.9g, the run's is %.9g", name, scale,
                (double)l->scale);
        mem_free(name);
        return -1;
    }
    if (apart || (!low_rank && (l->full || s->row->kind == KIND_ROUTER)))
        return compare_change(v, s, x, e);
    for (int h = 0; h < x->n; h++) TRY(compare_factors(x, s, h, e));
    return 0;
}
