/* gguf_base.h - a GGUF file as a base: its metadata as the config.json that the families read, its
 * tensors under Hugging Face's names and with Hugging Face's values. */
#ifndef GGUF_BASE_H
#define GGUF_BASE_H
#include "../data/gguf.h"
#include "model.h"

/* After the config and before tensors are looked for: every view of m->weights that the family's
 * table has a GGUF name for gets the name that the table has beside it, after m's usual prefix;
 * gate and up of experts that are stored apart become one; norms that are stored with their plus
 * lose it; what llama.cpp makes up (rope_freqs) counts as read. */
int gguf_base_rename(Model *m, Err *e);

/* ---- for families: Family.config_from_gguf puts together what a config.json would say ---- */

/* Keys of one value: the config's, and GGUF's after "ARCHITECTURE." (as general.architecture says).
 * One that must be there and is not is an error, others are then left to the config's preset. */
typedef enum GgufConfigType { GGUF_CONFIG_INT, GGUF_CONFIG_REAL } GgufConfigType;
typedef struct GgufConfigKey {
    const char *hf, *gguf;
    GgufConfigType type;
    bool must;
} GgufConfigKey;
int gguf_config_keys(json_t *config, const Gguf *g, const GgufConfigKey *keys, size_t n, Err *e);

/* "num_hidden_layers". */
int gguf_config_layers(json_t *config, const Gguf *g, int *n_layers, Err *e);

/* One whole number (from 0 on) per layer: GGUF's list, or its one number again and again; an error
 * where the key is missing. */
int gguf_config_per_layer(const Gguf *g, const char *key, int n_layers, int64_t *out, Err *e);

/* "layer_types": sliding_window_pattern is a list of bools, or a number: every so many-th layer is
 * full; missing: `every` is. */
int gguf_config_layer_types(json_t *config, const Gguf *g, int n_layers, int every, Err *e);

/* What does not depend on the family: vocab_size and tie_word_embeddings by the tensors, special
 * ids, max_position_embeddings. */
int gguf_config_common(json_t *config, const Gguf *g, Err *e);

int gguf_config_real(const Gguf *g, const char *key, double *out, Err *e); /* as gguf_get_real */

/* By what positions are divided in full layers; 1: by nothing. Other ways to scale are an error. */
int gguf_config_rope_factor(const Gguf *g, double *factor, Err *e);
#endif
