/* rows.c - see rows.h. */
#include "rows.h"
#include "progress.h"

int rows_context(DatasetContext *ctx, const Config *cfg, const DatasetList *list, Err *e) {
    int bad = dataset_open(ctx, cfg->base_model, cfg->chat_template, cfg->enable_thinking, list->p,
                           list->n, e);
    ctx->sequence_len = cfg->sequence_len;
    ctx->excess_length_strategy = cfg->excess_length_strategy;
    ctx->roles_to_train = (const char *const *)cfg->roles_to_train.p;
    ctx->n_roles_to_train = cfg->roles_to_train.n;
    ctx->train_on_eos = cfg->train_on_eos;
    ctx->train_on_inputs = cfg->train_on_inputs;
    return bad;
}

static void show(void *user, int64_t done, int64_t total) {
    Progress *p = user;
    p->total = total;
    progress_show(p, done, "");
}

static void tell_dropped(const DatasetCounts *c) {
    int64_t dropped = c->dropped_long + c->dropped_empty + c->dropped_unsupervised;
    if (!dropped && !c->truncated) return;
    progress_say(NULL,
                 "data: of %ld rows %ld dropped (%ld too long, %ld empty, %ld with nothing "
                 "supervised), %ld truncated",
                 (long)c->rows, (long)dropped, (long)c->dropped_long, (long)c->dropped_empty,
                 (long)c->dropped_unsupervised, (long)c->truncated);
}

int rows_open(Rows *r, const Config *cfg, const DatasetList *list, RowsUse use, Err *e) {
    Progress p;
    *r = (Rows){0};
    int bad = rows_context(&r->context, cfg, list, e);
    progress_begin(&p, "reading", "bytes", 0, 0);
    r->context.keep_all = use == ROWS_TO_MEASURE;
    r->context.progress = show;
    r->context.progress_user = &p;
    if (!bad) bad = dataset_load(&r->set, list->p, list->n, &r->context, e);
    progress_end(&p);
    if (bad) {
        rows_close(r);
        return -1;
    }
    if (use == ROWS_TO_LEARN) tell_dropped(&r->set.counts);
    return 0;
}

void rows_close(Rows *r) {
    dataset_free(&r->set);
    dataset_close(&r->context);
}

int rows_split(Rows *rows, Rows *test, const Config *cfg, TrainData *d, Err *e) {
    Dataset *all = &rows->set;
    *d = (TrainData){all->samples, NULL, all->n, 0};
    if (cfg->test_datasets.n) {
        TRY(rows_open(test, cfg, &cfg->test_datasets, ROWS_TO_LEARN, e));
        d->held_out = test->set.samples, d->n_held_out = test->set.n;
    } else if (cfg->val_set_size > 0) {
        int64_t held = dataset_split(all, cfg->val_set_size, (uint64_t)cfg->seed),
                n = all->n - held;
        *d = (TrainData){all->samples, all->samples + n, n, held};
        if (!d->n_rows)
            return err_set(e, "val_set_size %g leaves none of %ld rows to train on",
                           cfg->val_set_size, (long)all->n);
    }
    return 0;
}
