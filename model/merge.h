/* merge.h - whole checkpoints out of a model that has learned, and what lies beside their weights.
 */
#ifndef MERGE_H
#define MERGE_H
#include "model.h"

/* Values [first, first + n) of one site as it now stands, adapter included. */
void site_values(const Site *s, int64_t first, int64_t n, float *dst);
/* Whether these may differ from the checkpoint's: it has an adapter, or memory of its own. */
bool site_changed(const Site *s);

/* The whole checkpoint with what was learned put in (float32 add, one rounding to the stored type,
 * or to save_dtype where not DT_COUNT; packed weights are opened, to bfloat16), and the base's side
 * files, into an existing directory. */
int model_write_merged(const char *dir, Model *m, DType save_dtype, Err *e);
#endif
