/* verb_train.c - datasets and model made ready, then the training loop. */
#include "output_dir.h"
#include "rows.h"
#include "trainer.h"
#include "verbs.h"

static int train_rows(const Config *cfg, Rows *rows, json_t *result, Err *e) {
    Session s;
    Rows test = {0};
    TrainData d;
    int status = rows_split(rows, &test, cfg, &d, e);
    if (!status) status = session_open(&s, cfg, USE_UNFILLED, e);
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
