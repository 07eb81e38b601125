/* adapter_config.h - adapter_config.json as PEFT writes it, and moesmith.json beside it: out, and
 * what they promise, in. */
#ifndef ADAPTER_CONFIG_H
#define ADAPTER_CONFIG_H
#include "adapter_form.h"

/* per_expert: experts stand in the file one by one, as modules. */
json_t *adapter_config_json(const Model *m, const Plan *plan, const Adapter *a, bool per_expert);
/* moesmith.json: which parts of a saved router learn (lora: its projection holds the sum), and the
 * layout in words. */
json_t *adapter_manifest_json(const Model *m, const Plan *plan, const Adapter *a);
int adapter_write_json(const char *dir, const char *name, json_t *value, Err *e); /* takes value */

/* What of adapter_config.json matters here; all borrowed. */
typedef struct PeftConfig {
    const json_t *json, *modules, *parameters, *saved, *ranks, *alphas, *layers;
    const char *version, *file;
} PeftConfig;
/* Fills a's rank, alpha, rslora and base too. Refuses by name what changes the base or is no plain
 * LoRA. */
int peft_config_read(PeftConfig *c, Adapter *a, const AdapterDir *d, Err *e);
/* a->prefix: what stands before "layers." in the names of the file. */
int peft_names_prefix(Adapter *a, Weights *w, const char *file, Err *e);

bool json_list_has(const json_t *list, const char *word);
bool peft_list_names(const json_t *list, const Site *s);
bool peft_list_saves(const json_t *list, const Site *s);
bool peft_layer_named(const json_t *layers, int layer);
/* Whether exclude_modules, ends of names or one expression for whole ones, takes a module out of
 * target_modules. 1, 0, -1 with a sentence. */
int peft_excludes(const PeftConfig *c, const Model *m, const Site *s, Err *e);
/* The rank and the alpha of a site that is adapted: the first of rank_pattern and alpha_pattern that
 * names it, else those of all. */
int peft_site_numbers(const PeftConfig *c, const Adapter *a, const Model *m, const Site *s,
                      int *rank, float *alpha, Err *e);
#endif
