/* checkpoint.h - a training run on disk: output_dir/checkpoint-N with what was learned so far in
 * its public form (adapter, or a whole checkpoint) and state.h5, which holds all that a resumed
 * run needs to go on with the same bits. */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H
#include "optimizer.h"
#include "session.h"

/* Where a run stands. Random numbers and data order follow from seed and step alone. */
typedef struct RunState {
    int64_t step;               /* optimiser steps done */
    int64_t tokens, supervised; /* seen so far */
    uint64_t *first_hash;       /* per param: of its values before training */
    /* What makes it this run and no other: a resumed one must have the same. */
    int64_t seed, rows_per_step, shuffle;
    int64_t packed_to;            /* Epochs.room */
    int64_t data_hash, base_hash; /* of the samples, and checkpoint_base_hash */
    const char *compute;
} RunState;

/* What was learned, into dir (made if absent), in its public form. */
int learned_write(const char *dir, Session *s, DType save_dtype, Err *e);
/* output_dir/checkpoint-<step>, whole or not at all; then the oldest beyond limit go (0: all stay).
 */
int checkpoint_write(const char *output_dir, Session *s, const Optimizer *o, const RunState *r,
                     DType save_dtype, int64_t limit, Err *e);
bool checkpoint_exists(const char *output_dir, int64_t step);
/* Removes the checkpoints of later steps: a run that went on from an earlier one has left them
 * behind. *n: how many. */
int checkpoint_drop_later(const char *output_dir, int64_t step, int *n, Err *e);
/* which: a checkpoint's path, or "auto": the newest in output_dir. *path is NULL where auto finds
 * none; on the heap. */
int checkpoint_find(char **path, const char *output_dir, const char *which, Err *e);
/* Values, moments and state. Fails where the run is another one, and says in what. How long it is
 * to be, and its learning rate, may change. */
int checkpoint_read(const char *path, Session *s, Optimizer *o, RunState *r, Err *e);
/* A base by the hash it carries, else by its tensors' names, types, shapes and first values: all of
 * them would take minutes. */
int64_t checkpoint_base_hash(const Model *m);
uint64_t hash_bytes(uint64_t h, const void *p,
                    size_t n); /* FNV-1a, 64 bits; h: hash so far, 0 at first */
#endif
