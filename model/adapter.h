/* adapter.h - adapters as they are stored, out and in. A run's own is in PEFT's form: PEFT >=
 * 0.19.1; fused experts' lora_A is (E*R, I) with the expert outermost, lora_B is (O, R*E) with the
 * expert fastest. What PEFT's form cannot say stands in moesmith.json beside it. The other forms
 * that engines read are told in adapter_form.h: directories too, but for llama.cpp's, which is one
 * file. */
#ifndef ADAPTER_H
#define ADAPTER_H
#include "params.h"

enum { ROUTER_LORA = 1, ROUTER_FULL = 2, ROUTER_SCALE = 4, ROUTER_EXPERT_SCALE = 8 };
/* Which of these a router's tensor answers to, whatever its family calls it; 0: it is no router's. */
unsigned adapter_router_bits(const Site *s);

/* What the user asked to adapt. Layer lists are n_layers long, NULL: every layer. */
typedef struct AdapterSpec {
    const char *const *modules; /* suffixes of linears: q_proj, ... */
    int n_modules;
    const char *const *parameters; /* suffixes of fused experts: experts.gate_up_proj, ... */
    int n_parameters;
    int rank;
    float alpha;
    bool rslora;
    unsigned router; /* ROUTER_ bits */
    int router_rank;
    const bool *layers, *router_layers;
} AdapterSpec;

/* What adapter_config.json says for all of an adapter. */
typedef struct Adapter {
    int rank;
    float alpha;
    bool rslora;
    bool router_summed; /* read from a file that holds the routers' LoRA added to their projections
                           (PEFT cannot have it beside saved scales): they go on learning whole */
    char *prefix;       /* of PEFT's names before "layers."; NULL: from the model */
    char *dir;          /* where it was read from; NULL: new */
    char *base;         /* base_model_name_or_path */
    /* of what dir holds: */
    const struct AdapterForm *form;
    bool transposed, b_major; /* how PEFT's fused experts lie there (adapter_peft.c) */
    float gguf_alpha; /* gguf-lora: a tensor's scale is this over its own rank; 0: it is 1 */
    bool *apart;      /* per site: see part_view; NULL: none */
} Adapter;
void adapter_free(Adapter *a);
float adapter_scale(const Adapter *a, int rank, float alpha);

/* A new adapter. A pattern that names nothing in the model is an error. */
int adapter_plan_new(Plan *plan, Adapter *a, const Model *m, const AdapterSpec *spec, Err *e);
/* An existing one, in any form: what it adapts is read from dir (of gguf-lora a file); then, after
 * params_open, adapter_read fills in its values. The form is told by names and shapes; what these leave open and
 * nothing says is refused, as are tensors missing or left over, ranks and shapes that disagree.
 * b_order: "expert_fastest", "expert_major" (of the columns of fused experts' lora_B) or NULL. */
int adapter_plan_read(Plan *plan, Adapter *a, const Model *m, const char *dir, const char *b_order,
                      Err *e);
int adapter_read(ParamSet *ps, const Plan *plan, const Adapter *a, const Model *m, Err *e);
/* Full training: every tensor that one of the patterns names ("all": every parameter); * and ? as
 * in the shell, against the whole name or a suffix after a dot. */
int plan_full(Plan *plan, const Model *m, const char *const *patterns, int n, Err *e);

/* Into an existing directory, in PEFT's form. */
int adapter_write(const char *dir, Model *m, const ParamSet *ps, const Plan *plan, const Adapter *a,
                  Err *e);
/* How an adapter is written. */
typedef struct AdapterOut {
    const char *form;   /* by its name (adapter_forms.def) */
    bool keep;          /* a scale that all share, so that nothing is rounded */
    const char *beside; /* of gguf-lora: the GGUF file that it is to be loaded beside */
    Buf notes;          /* what was folded, a line each; the caller's */
} AdapterOut;
/* The same in any form, into an existing directory or (gguf-lora) a file. Forms for engines have
 * one rank (zeros fill up), alpha == rank and the scale in B; gguf-lora has every tensor's own
 * rank. What a form cannot carry is folded in where that is exact, else refused. */
int adapter_export(const char *path, AdapterOut *how, Model *m, const ParamSet *ps,
                   const Plan *plan, const Adapter *a, Err *e);
bool adapter_form_known(const char *name);
bool adapter_form_is_file(const char *name);     /* of a known one: not a directory */
const char *adapter_form_name(const Adapter *a); /* of one that was read */
/* The gradients of all that learns, named as in the adapter file (a != NULL) or the checkpoint. */
int params_write_grads(const char *path, Model *m, const ParamSet *ps, const Plan *plan,
                       const Adapter *a, Err *e);
#endif
