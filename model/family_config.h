/* family_config.h - what families read of a config.json (of its text model). Absent or null means
 * the preset, which is Transformers' default for the family; all fail with a sentence that names
 * the key; whoever asks a family for its sizes puts the file's name before it. */
#ifndef FAMILY_CONFIG_H
#define FAMILY_CONFIG_H
#include "model.h"

/* A whole number from `least` to 2^28. */
int config_int(const json_t *c, const char *key, int preset, int least, int *out, Err *e);
/* From 0 on: no family has a number below. */
int config_float(const json_t *c, const char *key, float preset, float *out, Err *e);
bool config_bool(const json_t *c, const char *key, bool preset);

/* layer_types, where there, has an entry per layer. */
int config_check_layer_types(const json_t *c, int n_layers, Err *e);
/* Whether layer i attends to all before it (full_attention) or to a window (sliding_attention). */
int config_is_full(const json_t *c, int i, bool preset, bool *full, Err *e);
/* Layer i's heads divide evenly over its keys and values and can be turned in pairs. */
int config_check_heads(const Model *m, int i, Err *e);
#endif
