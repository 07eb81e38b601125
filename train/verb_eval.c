/* verb_eval.c - loss and perplexity, every row alone. */
#include <math.h>
#include <stdio.h>
#include "evaluate.h"
#include "rows.h"
#include "verbs.h"

static int eval_rows(const Config *cfg, Session *s, const Rows *rows, json_t *result, Err *e) {
    EvalResult r;
    Progress p;
    (void)cfg;
    progress_begin(&p, "evaluating", "rows", 0, rows->set.n);
    TRY(evaluate(s, rows->set.samples, rows->set.n, &p, &r, e));
    progress_end(&p);
    if (!r.tokens)
        return err_set(e, "datasets: no token is supervised, so there is no loss; eval needs a "
                          "label that is not -100 after a row's first token");
    json_object_set_new(result, "loss", json_real(r.loss));
    json_object_set_new(result, "perplexity", json_real(exp(r.loss)));
    json_object_set_new(result, "tokens", json_integer(r.tokens));
    printf("loss %.6f, perplexity %.4f over %ld supervised tokens of %ld rows\n", r.loss,
           exp(r.loss), (long)r.tokens, (long)rows->set.n);
    return 0;
}

int verb_eval(const Config *cfg, json_t *result, Err *e) {
    return measure_rows(cfg, eval_rows, result, e);
}
