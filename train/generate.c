/* generate.c - see generate.h. */
#include "generate.h"
#include <math.h>
#include <stdlib.h>
#include "../autograd/amount.h"

typedef struct Candidate {
    float logit;
    int32_t id;
} Candidate;

static int by_logit(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

static int32_t likeliest(const float *logits, int64_t V) {
    int64_t best = 0;
    for (int64_t i = 1; i < V; i++) best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

/* Temperature first, then top_k, then top_p, as Transformers' generate orders them. */
static int32_t draw(Arena *a, const float *logits, int64_t V, const Sampling *how, int64_t step) {
    if (how->temperature <= 0) return likeliest(logits, V);
    Candidate *c = arena_push(a, sizeof *c * (size_t)V);
    double sum = 0, kept = 0, seen = 0;
    int64_t n = how->top_k > 0 && how->top_k < V ? how->top_k : V;
    for (int64_t i = 0; i < V; i++)
        c[i] = (Candidate){(float)(logits[i] / how->temperature), (int32_t)i};
    qsort(c, (size_t)V, sizeof *c, by_logit);
    for (int64_t i = 0; i < n; i++) sum += exp((double)(c[i].logit - c[0].logit));
    int64_t m = 0;
    while (m < n && (m == 0 || kept < how->top_p * sum))
        kept += exp((double)(c[m++].logit - c[0].logit));
    Rng rng = {how->seed, how->stream, (uint64_t)step};
    double want = rng_uniform(&rng) * kept;
    for (int64_t i = 0; i < m; i++) {
        seen += exp((double)(c[i].logit - c[0].logit));
        if (seen >= want) return c[i].id;
    }
    return c[m - 1].id;
}

static bool is_stop(int32_t id, const int32_t *stop, int n_stop) {
    for (int i = 0; i < n_stop; i++) {
        if (stop[i] == id) return true;
    }
    return false;
}

static int check_cache(const Session *s, int64_t tokens, Err *e) {
    double bytes = cache_bytes(s->model, tokens), most = (double)s->memory;
    if (bytes <= most) return 0;
    return err_set(e,
                   "the keys and values of %ld tokens would take %s, and there are %s: lower "
                   "max_new_tokens",
                   (long)tokens, amount_bytes(bytes).text, amount_bytes(most).text);
}

int generate(Session *s, const int32_t *prompt, int32_t n_prompt, int64_t max_new,
             const Sampling *how, const int32_t *stop, int n_stop, int32_t *out, int64_t *n,
             TokenFn each, void *ctx, Err *e) {
    size_t start = arena_mark(&s->step);
    TRY(check_cache(s, n_prompt + max_new, e));
    Cache *cache = cache_new(s->model, &s->step, n_prompt + max_new);
    int32_t next, at[2] = {0, n_prompt};
    Batch b = {1, at, prompt, NULL};
    *n = 0;
    s->tape.paused++;
    int bad = 0;
    while (*n < max_new) {
        size_t mark = arena_mark(&s->step);
        Tensor *hidden = model_hidden(s->model, &s->tape, &b, cache);
        Tensor *logits = model_logits(s->model, &s->tape, hidden, batch_tokens(&b) - 1, 1);
        bool finite = true;
        for (int64_t i = 0; i < tensor_numel(logits); i++) finite &= isfinite(f32(logits)[i]) != 0;
        if (!finite) {
            bad = session_blame_nonfinite(s, "generation", e);
            break;
        }
        next = draw(&s->step, f32(logits), tensor_cols(logits), how, *n);
        arena_release(&s->step, mark);
        if (is_stop(next, stop, n_stop)) break;
        out[(*n)++] = next;
        if (each) each(ctx, next);
        at[1] = 1;
        b = (Batch){1, at, &next, NULL};
    }
    s->tape.paused--;
    arena_release(&s->step, start);
    return bad;
}
