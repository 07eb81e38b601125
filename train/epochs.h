/* epochs.h - which rows an optimiser step takes, and in which micro-batches.
 *
 * Every epoch goes through all rows once, in an order of its own. A bin is one row or, with
 * sample_packing, as many as fit into sequence_len tokens (first-fit in the epoch's order); a
 * micro-batch is micro_batch_size bins, a step gradient_accumulation_steps micro-batches. With
 * max_steps the bins of one epoch follow those of the last as a stream; otherwise the last step of
 * an epoch may be smaller. All of it follows from the config, the rows and the step alone. */
#ifndef EPOCHS_H
#define EPOCHS_H
#include "config.h"

typedef struct Epochs {
    const Config *cfg;
    const Sample *rows;
    int64_t n_rows;
    int64_t room;     /* tokens of a bin; 0: one row a bin */
    int64_t per_step; /* bins */
    int64_t epoch;    /* the one that follows: its rows in order of their bins; -1: none yet */
    int64_t n_bins, *order, *bin_at; /* bin i: order[bin_at[i]] .. order[bin_at[i + 1] - 1] */
    int64_t *first, n_first;         /* where epochs differ in bins: units before each (epochs.c) */
    int64_t *bin_of, *tree;          /* packing: scratch */
} Epochs;
/* rows are borrowed; n_rows is at least 1. */
void epochs_open(Epochs *s, const Config *cfg, const Sample *rows, int64_t n_rows);
void epochs_close(Epochs *s);

int64_t epochs_total_steps(Epochs *s);
int64_t epochs_steps(Epochs *s, int64_t epoch); /* of one epoch: as many as it begins */
double epochs_at(Epochs *s, int64_t steps);     /* epochs done after so many steps */

/* Rows of a step, one micro-batch after the other; step_rows_free. */
typedef struct StepRows {
    const Sample **row;
    int64_t *at; /* (n_micro + 1): micro-batch i is row[at[i]] .. row[at[i + 1] - 1] */
    int64_t n_rows, n_micro;
} StepRows;
StepRows epochs_step(Epochs *s, int64_t step);
void step_rows_free(StepRows *r);
#endif
