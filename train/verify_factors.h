/* verify_factors.h - the A and B that a file has of one linear, put into one order whatever the file
 * is, against what the run learned. */
#ifndef VERIFY_FACTORS_H
#define VERIFY_FACTORS_H
#include "verify.h"

static inline bool site_is_stack(const Site *s) { return s->base->n_dim == 3; }

typedef struct Half {
    float *a, *b;       /* (E,R,I), (E,O,R) of the half's outputs; on the heap */
    int64_t E, R, I, O; /* E: 1 without experts */
    double scale;       /* what their product is multiplied with */
} Half;
typedef struct Found {
    Half half[2];    /* gate and up, where the file has them apart */
    int n;           /* 0: nothing is there */
    const float *by; /* (E): the file's B is the run's times these; NULL: 1 */
    char *(*name)(const void *ctx, const Site *s, int64_t expert, int half, bool is_a); /* heap */
    const void *ctx;
} Found;
void found_free(Found *x);

/* A and B rank by rank; where the run has no such ranks, or has them elsewhere (a router that learned
 * whole, gate and up with an A each), their product against the change of the weight. */
int verify_factors(const Verify *v, const Site *s, const Found *x, Err *e);
/* A router whose scale learned: forms that hold low rank alone have it in the projection. */
bool verify_router_folds(const Verify *v, const Site *s);
/* (e,o,i) of a weight that is `is` with the run's adapter, times its column's, less `was`. */
double verify_change_of(const Site *s, const double *column, int64_t e, int64_t o, int64_t i,
                        double is, double was);
#endif
