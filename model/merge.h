/* merge.h - whole checkpoints out of a model that has learned, and what lies beside their weights.
 */
#ifndef MERGE_H
#define MERGE_H
#include "model.h"

/* Values [first, first + n) of one site as it now stands, adapter included. */
void site_values(const Site *s, int64_t first, int64_t n, float *dst);

/* The whole checkpoint with what was learned put in (float32 add, one rounding to the stored type,
 * or to save_dtype where not DT_COUNT), and the base's side files, into an existing directory. */
int model_write_merged(const char *dir, Model *m, DType save_dtype, Err *e);

/* The file `config` as to/config.json, and from beside it what a checkpoint has besides weights:
 * tokenizer, chat template, generation and processor settings, licence. Nothing else is taken: the
 * directory may be one that training wrote, or one that holds many configs. */
int model_copy_side_files(const char *config, const char *to, Err *e);
#endif
