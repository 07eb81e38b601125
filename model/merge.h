/* merge.h - whole checkpoints out of a model that has learned, and what lies beside their weights.
 */
#ifndef MERGE_H
#define MERGE_H
#include "model.h"

/* Values [first, first + n) of one site as it now stands, adapter included. */
void site_values(const Site *s, int64_t first, int64_t n, float *dst);
/* The same as floats that round on to 16 bits as the exact values would. */
void site_values_to_round(const Site *s, int64_t first, int64_t n, float *dst);
/* Whether these may differ from the checkpoint's: it has an adapter, or memory of its own. */
bool site_changed(const Site *s);

/* What became of the values of a kind that learning would change. */
typedef struct MergeCount {
    int64_t meant;     /* the exact sum is not the base's value */
    int64_t unchanged; /* and yet rounding to the stored type gives what it was */
} MergeCount;
typedef struct MergeReport {
    MergeCount of[KIND_COUNT];
} MergeReport;

/* The whole checkpoint with what was learned put in (summed in float64, rounded once to the stored
 * type, or to save_dtype where not DT_COUNT; packed weights are opened, to bfloat16), and the
 * base's side files, into an existing directory. Tensors stand in files of the names the base has,
 * where it is a directory. report may be NULL. */
int model_write_merged(const char *dir, Model *m, DType save_dtype, MergeReport *report, Err *e);
#endif
