/* verb_eval.c - loss and perplexity, every row alone. */
#include <math.h>
#include <stdio.h>
#include "evaluate.h"
#include "rows.h"
#include "verbs.h"

static int eval_rows(Session *s, const Rows *rows, json_t *result, Err *e) {
    EvalResult r;
    Progress p;
    progress_begin(&p, "evaluating", "rows", 0, rows->set.n);
    TRY(evaluate(s, rows->set.samples, rows->set.n, &p, &r, e));
    progress_end(&p);
    json_object_set_new(result, "loss", json_real(r.loss));
    json_object_set_new(result, "perplexity", json_real(exp(r.loss)));
    json_object_set_new(result, "tokens", json_integer(r.tokens));
    printf("loss %.6f, perplexity %.4f over %ld supervised tokens of %ld rows\n", r.loss,
           exp(r.loss), (long)r.tokens, (long)rows->set.n);
    return 0;
}

int verb_eval(const Config *cfg, json_t *result, Err *e) {
    Session s;
    Rows rows;
    TRY(rows_open(&rows, cfg, &cfg->datasets, ROWS_TO_MEASURE, e));
    int bad = session_open(&s, cfg, USE_AS_IS, e);
    if (!bad) {
        bad = eval_rows(&s, &rows, result, e);
        session_close(&s);
    }
    rows_close(&rows);
    return bad;
}
