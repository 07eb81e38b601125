/* generate.h - text from a model, token by token, with a key-value cache. */
#ifndef GENERATE_H
#define GENERATE_H
#include "session.h"

typedef struct Sampling {
    double temperature; /* 0: the likeliest token */
    double top_p;       /* of the likeliest tokens with this share of probability together */
    int64_t top_k;      /* of so many likeliest; 0: all */
    uint64_t seed, stream;
} Sampling;

/* Called with each new token as it comes; may be NULL. */
typedef void (*TokenFn)(void *ctx, int32_t id);

/* Appends up to max_new ids to out (room for them) and returns how many in *n; stops before an id
 * of stop (n_stop long). */
int generate(Session *s, const int32_t *prompt, int32_t n_prompt, int64_t max_new,
             const Sampling *how, const int32_t *stop, int n_stop, int32_t *out, int64_t *n,
             TokenFn each, void *ctx, Err *e);
#endif
