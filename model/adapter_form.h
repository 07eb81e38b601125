/* adapter_form.h - the forms adapters have on disk. A form is one file adapter_NAME.c, which both
 * writes and reads it, and one line in adapter_forms.def; --format calls it by its name. */
#ifndef ADAPTER_FORM_H
#define ADAPTER_FORM_H
#include "adapter.h"
#include "adapter_parts.h"

/* A directory that is read, or one GGUF file. */
typedef struct AdapterDir {
    const char *path;
    Gguf *gguf;                /* the file's keys; NULL: a directory, which has the next two */
    char *config_file;         /* path/adapter_config.json */
    json_t *config, *manifest; /* manifest: moesmith.json, or NULL */
    Weights *weights;
    const char *b_order; /* what the user says of lora_B's columns, or NULL */
} AdapterDir;

typedef struct AdapterForm {
    const char *name; /* of --format */
    const char *file; /* its tensors, beside adapter_config.json; NULL: the path itself */
    /* Low rank alone: ranks may have been filled up with zeros, and gate and up may have an A each.
     * false: everything that can be trained, as it is in memory. */
    bool even;
    bool all_experts; /* where an expert has one of gate, up and down it has to have all */
    /* Whether a directory, whose tensors lie in file, is in this form. */
    bool (*claims)(const AdapterDir *d);
    /* What is adapted, at which rank (the file's) and scale. */
    int (*plan)(Plan *plan, Adapter *a, const Model *m, const AdapterDir *d, Err *e);
    /* All tensors of the file. w: as that file has them (its ranks); NULL: as they are written. */
    void (*parts)(PartList *out, const Model *m, const Plan *plan, const Adapter *a, Weights *w);
    /* NULL: with one rank and one scale for all, as adapter_even.h says, by parts and config. */
    int (*write)(const char *path, AdapterOut *how, Model *m, const ParamSet *ps, const Plan *plan,
                 const Adapter *a, Err *e);
    json_t *(*config)(const Model *m, const Plan *plan, const Adapter *a);
} AdapterForm;

#define X(name) extern const AdapterForm adapter_form_##name;
#include "adapter_forms.def"
#undef X
const AdapterForm *adapter_form_find(const char *name); /* NULL: there is none */

/* The rank a site's tensor in a file has, along one of its dimensions; preset where w is NULL or
 * has no such tensor. */
int64_t form_rank(Weights *w, const char *name, int dim, int64_t preset);
/* How many parts a row's outputs have under their own names: 2 for gate and up, else 1. */
int site_halves(const Site *s);
/* alpha at which adapter_scale gives just this scale. */
float adapter_alpha(const Adapter *a, int rank, float scale);
/* A router whose scales are saved whole stands in PEFT's file as the sum of base and adapter: PEFT
 * cannot have both. */
bool adapter_router_summed(const Model *m, const Plan *plan, int site);
#endif
