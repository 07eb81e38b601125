/* rows.h - the samples a config's datasets hold, with the tokenizer and template that made them. */
#ifndef ROWS_H
#define ROWS_H
#include "config.h"

typedef struct Rows {
    DatasetContext context;
    Dataset set;
} Rows;

/* To learn from: rows too long are cut or dropped as the config says, and what nothing can be
 * learned from is dropped; a line on standard error tells. To measure: every row is kept as it is.
 */
typedef enum RowsUse { ROWS_TO_LEARN, ROWS_TO_MEASURE } RowsUse;

/* list: cfg->datasets or cfg->test_datasets. rows_close is needed after success only. */
int rows_open(Rows *r, const Config *cfg, const DatasetList *list, RowsUse use, Err *e);
void rows_close(Rows *r);

/* What a run learns from and what it is measured on. */
typedef struct TrainData {
    const Sample *rows, *held_out;
    int64_t n_rows, n_held_out;
} TrainData;
/* Held out are test_datasets (read into test), or val_set_size of the rows. */
int rows_split(Rows *rows, Rows *test, const Config *cfg, TrainData *d, Err *e);
/* The context of a config, for a verb that reads rows itself; dataset_close either way. */
int rows_context(DatasetContext *ctx, const Config *cfg, const DatasetList *list, Err *e);
#endif
