/* output_dir.h - the directory a training run writes: whether it may be used, and making room in
 * it. Only what a run of ours writes is ever touched. */
#ifndef OUTPUT_DIR_H
#define OUTPUT_DIR_H
#include "config.h"

/* Whether a run may write there; changes nothing, and needs neither data nor model: asked first. */
int output_dir_check(const Config *cfg, Err *e);
/* The directory, which exists, is this run's until *lock is closed, or the process ends; an error
 * where it is another's. */
int output_dir_lock(int *lock, const char *dir, Err *e);
/* For --overwrite: removes what an older run may have left, so that nothing of it is ever taken for
 * a part of the new one. */
int output_dir_clear(const char *dir, Err *e);
#endif
