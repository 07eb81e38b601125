/* rows.h - the samples a config's datasets hold, with the tokenizer and template that made them. */
#ifndef ROWS_H
#define ROWS_H
#include "../data/dataset.h"
#include "config.h"

typedef struct Rows {
    Tokenizer *tokenizer; /* NULL where only ids were read and the model has none */
    Chat      *chat;      /* NULL where no row needed a template */
    Dataset    set;
} Rows;

typedef enum RowsUse { ROWS_TO_LEARN, ROWS_TO_MEASURE } RowsUse; /* to measure: every row is kept as it is */

/* list: cfg->datasets or cfg->test_datasets. */
int  rows_open(Rows *r, const Config *cfg, const DatasetList *list, RowsUse use, Err *e);
void rows_close(Rows *r);
/* Ids that end an answer: config.json's and generation_config.json's eos_token_id. At most
 * STOP_IDS. */
enum { STOP_IDS = 32 };
int stop_ids(const char *model_dir, int32_t ids[STOP_IDS], int *n, Err *e);
#endif
