/* trainer.h - the training loop: one optimiser step after the other, logged, evaluated, saved. */
#ifndef TRAINER_H
#define TRAINER_H
#include <jansson.h>
#include "evaluate.h"

/* Trains as cfg says and writes cfg->output_dir (output_dir_check has looked at it). 0: done; a
 * signal's exit status (130, 143): a checkpoint was written and the run can be resumed; -1: Err.
 * result gets what happened. */
int trainer_run(const Config *cfg, Session *s, const TrainData *data, json_t *result, Err *e);

/* An error where there is nothing to train on, or a step would be beyond bounds. */
/* longest: tokens of a row. */
int trainer_check_sizes(const Config *cfg, int64_t longest, Err *e);
int trainer_check_rows(const Config *cfg, const TrainData *data, Err *e);
#endif
