/* params.h - what learns. A Plan says, tensor by tensor of the model, whether it gets a low-rank
 * adapter or is trained whole; a ParamSet gives that memory: one block of float32 weights and one
 * of gradients, in a fixed order. */
#ifndef PARAMS_H
#define PARAMS_H
#include "model.h"

/* For one site. */
typedef struct Learn {
    int rank;    /* 0: no adapter */
    float scale; /* of the adapter: alpha/r, or alpha/sqrt(r) for rsLoRA */
    bool full;   /* the tensor itself learns (from its checkpoint value) */
    bool saved;  /* stands in the adapter file whole (PEFT's modules_to_save) although it may not
                    learn */
} Learn;
typedef struct Plan {
    Learn *learn; /* n_sites long; on the heap */
    int n;
} Plan;
Plan plan_new(const Model *m);
void plan_free(Plan *p);

typedef enum ParamRole { PARAM_WHOLE, PARAM_LORA_A, PARAM_LORA_B } ParamRole;
typedef struct Param {
    Tensor *tensor; /* f32; data and grad lie in the set's blocks */
    int site;
    ParamRole role;
    int64_t at;  /* where its values start in the blocks */
    bool learns; /* false: only carried along (Learn.saved) */
} Param;

typedef struct ParamSet {
    Param *param;
    int n;
    int64_t numel; /* of the blocks: all parameters together */
    float *weight, *grad;
    Arena memory;
} ParamSet;

/* Makes tensors for all the plan asks for and puts them into the model (a linear's a, b; or the
 * field itself). Adapters start as PEFT's do: a uniform in +-1/sqrt(I), b zero; whole tensors from
 * the checkpoint. */
int params_open(ParamSet *ps, Model *m, const Plan *plan, uint64_t seed, Err *e);
/* The same without memory for any values: what a dry tape needs. */
int params_open_shapes(ParamSet *ps, Model *m, const Plan *plan, Err *e);
/* What params_open does beyond that: memory, and first values. */
int params_fill(ParamSet *ps, Model *m, uint64_t seed, Err *e);
/* Bytes that params_open takes of ps->memory. */
size_t params_bytes(const ParamSet *ps);
void params_close(ParamSet *ps);
void params_zero_grad(ParamSet *ps);

/* "model.layers.0.self_attn.q_proj" of a site: its name without ".weight". On the heap. */
char *site_module(const Site *s);
/* Whether a pattern names this site: a suffix of the module's name after a dot, or all of it. */
bool site_matches(const Site *s, const char *pattern);
bool site_is_parameter(const Site *s); /* fused experts: PEFT calls them parameters, not modules */
#endif
