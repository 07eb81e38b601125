/* verb_train.c - datasets and model made ready, then the training loop. */
#include <math.h>
#include "output_dir.h"
#include "rows.h"
#include "trainer.h"
#include "verbs.h"

/* Held-out rows: test_datasets, or val_set_size of the training rows. */
static int split_rows(const Config *cfg, Rows *rows, Rows *test, TrainData *d, Err *e) {
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

static int train_rows(const Config *cfg, Rows *rows, json_t *result, Err *e) {
    Session s;
    Rows test = {0};
    TrainData d;
    int status = split_rows(cfg, rows, &test, &d, e);
    if (!status) status = session_open(&s, cfg, USE_TO_TRAIN, e);
    if (!status) {
        status = trainer_run(cfg, &s, &d, result, e);
        session_close(&s);
    }
    rows_close(&test);
    return status;
}

int verb_train(const Config *cfg, json_t *result, Err *e) {
    Rows rows;
    TRY(output_dir_check(cfg, e));
    TRY(rows_open(&rows, cfg, &cfg->datasets, ROWS_TO_LEARN, e));
    int status = train_rows(cfg, &rows, result, e);
    rows_close(&rows);
    return status;
}
