/* model.h - a decoder of a known family, bound to a checkpoint. Weights stay where the checkpoint
 * file is mapped; only what learns has memory of its own (params.h).
 *
 * Letters: T tokens, D width, H/K heads and KV heads, d head size, E experts, k used per token,
 * F expert width, V vocabulary, R rank, L layers. */
#ifndef MODEL_H
#define MODEL_H
#include <jansson.h>
#include "../autograd/tape.h"
#include "../data/side_files.h"
#include "../data/weights.h"

/* What a tensor belongs to, as told to the user before and after training. */
typedef enum Kind {
    KIND_ATTENTION,
    KIND_DENSE,
    KIND_EXPERTS,
    KIND_ROUTER,
    KIND_EMBEDDINGS,
    KIND_NORMS,
    KIND_COUNT
} Kind;
extern const char *const kind_name[KIND_COUNT];

/* y = x wT + s (x aT) bT. A linear without adapter has a == b == NULL; experts' w, a, b are 3-D
 * (E,O,I), (E,R,I), (E,O,R) and all experts of a layer are one Linear. */
typedef struct Linear {
    Tensor *w, *a, *b;
    float s;
    int site; /* index in Model.site: names its dropout stream */
} Linear;

/* Numbers that differ from layer to layer. */
typedef struct LayerDims {
    int n_kv, head_dim, window; /* window 0: full attention */
    Rope rope;
    int dense_width;
    int kv_from; /* the layer whose keys and values this one reads; itself: its own */
    bool k_eq_v;
} LayerDims;

typedef struct Dims {
    int n_layers, width, n_heads, vocab, pad_id;
    int n_experts, n_used, expert_width; /* n_experts 0: no experts */
    int ple_width, ple_vocab;            /* per-layer embeddings; 0: none */
    Norm norm;             /* of every norm: its plus is not in the tensors of KIND_NORMS */
    float attention_scale; /* of q kT */
    float softcap;         /* of the logits; 0: none */
    bool norm_values;      /* values are normed, without a weight */
    bool tied;
} Dims;

typedef struct Layer {
    LayerDims d;
    bool lends_kv; /* a later layer reads this one's keys and values */
    Tensor *input_norm, *post_attention_norm, *pre_mlp_norm, *post_mlp_norm;
    Linear q, k, v, o;
    Tensor *q_norm, *k_norm;
    Linear gate, up, down;
    Linear router;
    Tensor *router_scale, *per_expert_scale;
    Tensor *pre_experts_norm, *post_dense_norm, *post_experts_norm;
    Linear experts_in, experts_out; /* gate and up (E,2F,D); down (E,D,F) */
    Linear ple_gate, ple_proj;
    Tensor *ple_norm, *scalar; /* scalar NULL: 1 */
} Layer;

/* Shapes in the name table are symbols, looked up per layer. */
typedef enum DimSym {
    DIM_NONE,
    DIM_ONE,
    DIM_D,
    DIM_Q,
    DIM_KV,
    DIM_HEAD,
    DIM_DENSE,
    DIM_E,
    DIM_F,
    DIM_2F,
    DIM_V,
    DIM_PLE,
    DIM_PLE_ALL,
    DIM_PLE_V
} DimSym;
/* When a layer (or the model) has the tensor at all. */
typedef enum When { HAS_ALWAYS, HAS_OWN_KV, HAS_OWN_V, HAS_EXPERTS, HAS_PLE, HAS_HEAD } When;

/* One row per tensor of the family: names to fields, read by loading, init, adapters and export
 * alike. */
enum {
    ROW_LINEAR = 1, /* the field is a Linear and may carry an adapter */
    ROW_MAPPED = 2, /* big: used as stored; others are opened to float32 when loading */
    ROW_BUFFER = 4, /* not what torch calls a parameter: never trained */
};
typedef struct TensorRow {
    const char *hf;   /* Hugging Face's name, after "layers.N." or the model's prefix */
    const char *gguf; /* llama.cpp's, after "blk.N." or alone; NULL: GGUF has no such tensor */
    size_t at;        /* offset of the field in Layer or Model */
    Kind kind;
    When when;
    unsigned flags; /* ROW_ bits */
    DimSym dim[3];
} TensorRow;

/* One tensor of a bound model. */
typedef struct Site {
    const TensorRow *row;
    int layer;      /* -1: the model's own */
    char *name;     /* full name in the checkpoint */
    Tensor **slot;  /* the field that the forward pass reads */
    Linear *linear; /* the Linear it is the w of, or NULL */
    Tensor *base;   /* as in the checkpoint (its dtype, its memory) */
} Site;

typedef struct Model Model;
typedef struct Stream Stream;
/* What the model tells about its choices; called once per layer and batch, never in a replay.
 * logits (T,E), choice i32 (T,k), weight (T,k). */
typedef void (*RouteFn)(void *ctx, int layer, const Tensor *logits, const Tensor *choice,
                        const Tensor *weight);

typedef struct Family Family;
typedef struct Gguf Gguf; /* data/gguf.h */
struct Model {
    const Family *family;
    Dims dims;
    Layer *layer;
    Linear embed, head, ple_table, ple_model_proj; /* head.w == embed.w when tied */
    Tensor *norm, *ple_norm;
    Site *site;
    int n_sites;
    const char *prefix;  /* of every tensor name: "model.", or that of a multimodal checkpoint */
    const char *modules; /* what Transformers calls it once loaded, and so PEFT */
    json_t *config;      /* the whole config.json */
    Weights *weights;
    char *dir;        /* the checkpoint's directory, base.h5 or GGUF file */
    Arena keep;       /* lives as long as the model */
    Buf notes;        /* what was skipped while loading, one line each */
    bool leave_codes; /* see model_open_checkpoint */
    /* during a run */
    RouteFn on_route;
    void *on_route_ctx;
    float dropout; /* of the adapters' inputs; 0 outside training */
    /* Names the masks: of the first batch of a pass; the others count on. A pass moves it. */
    uint64_t dropout_seed, dropout_step;
    bool recompute; /* gradient checkpointing, per layer */
    Stream *stream; /* the base is larger than memory (stream.h); NULL: it is not */
};

/* Whether any family reads models of this config.json. */
bool model_knows(const json_t *config);
/* dir: a Hugging Face checkpoint directory (bitsandbytes' too), a base.h5, or a GGUF file. Fails,
 * naming it, on any tensor that is missing, of another shape, or that nobody reads. */
int model_open(Model **out, const char *dir, Err *e);
/* The same for who reads the checkpoint's own tensors (weights_find by the sites' names):
 * bitsandbytes' codes of ROW_MAPPED sites are not brought into memory, their bases have no data. */
int model_open_checkpoint(Model **out, const char *dir, Err *e);
/* Shapes only, from config.json (a file, a directory that holds one, a base.h5 or a GGUF file): for
 * init. No weights. */
int model_open_shapes(Model **out, const char *config_path, Err *e);
/* For a dry tape, after either: every site gets a tensor in the format that `format` gives it,
 * without data (what is opened to float32 when loading has memory of its own). */
void model_bind_shapes(Model *m, DType (*format)(void *ctx, const Model *, const Site *),
                       void *ctx);
void model_close(Model *m);

/* All files beside the weights that m was opened from (side_files.h; dir: what it was opened from),
 * config.json included whatever that is. Freed by side_files_free either way. */
int model_side_files(const Model *m, const char *dir, SideFiles *out, Err *e);

/* The number format that config.json states for the checkpoint; f32 where it states none. */
DType model_stated_dtype(const Model *m);

int64_t site_numel(const Model *m, const Site *s);
int site_dims(const Model *m, const Site *s, int64_t dim[3]); /* returns how many */
/* Whether a tensor of a checkpoint is the output head, whatever its prefix. */
bool model_names_head(const char *name);
/* -1 with a sentence naming the first base tensor that holds a NaN or infinity; 0 if none. Opens
 * all of the base: a large one takes a while. step (may be NULL): values so far, of all. */
typedef void (*ModelStep)(void *ctx, int64_t done, int64_t total);
int model_check_finite(const Model *m, ModelStep step, void *ctx, Err *e);

/* Rows of token ids, one after the other; row i owns ids[at[i]] .. ids[at[i+1]-1]. Rows never see
 * each other. labels (unshifted, -100: not supervised) may be NULL where no loss is asked. */
typedef struct Batch {
    int n_rows;
    const int32_t *at, *ids, *labels;
} Batch;
static inline int64_t batch_tokens(const Batch *b) { return b->at[b->n_rows]; }
int64_t batch_supervised(const Batch *b); /* after the shift */

/* Keys and values of what was read before, for one growing row (generation). */
typedef struct Cache {
    Tensor **k, **v; /* per layer (capacity, K*d); NULL where another layer's are read */
    int64_t len, capacity;
} Cache;
Cache *cache_new(const Model *m, Arena *a, int64_t capacity);
double cache_bytes(const Model *m, int64_t capacity); /* of its keys and values */

/* The final normed hidden states (T,D). With a cache: one row, whose tokens follow those cached. */
Tensor *model_hidden(Model *m, Tape *t, const Batch *b, Cache *cache);
/* s * summed cross-entropy of the supervised tokens: a scalar. */
Tensor *model_loss(Model *m, Tape *t, const Batch *b, float s);
/* The same of n batches (micro-batches of a step) that go through the model layer by layer, all
 * through one before the first reaches the next: a base that does not fit in memory is read once
 * for all of them. Losses and gradients are those, bit for bit, of one batch after the other
 * (unless embeddings that are also the head learn: their two gradients alternate then). More than
 * one batch implies recompute. */
void model_losses(Model *m, Tape *t, const Batch *b, int n, float s, Tensor **loss);
/* Softcapped logits (rows,V) of rows [from, from + n) of hidden. */
Tensor *model_logits(Model *m, Tape *t, Tensor *hidden, int64_t from, int64_t n);

/* ---- for families ---- */
struct Family {
    const char *name;
    int n_layers; /* where config.json does not say */
    bool (*knows)(const json_t *text_config);
    int (*dims)(Model *m, const json_t *text_config, Err *e); /* fills dims and layer[].d */
    const TensorRow *layer_rows, *model_rows;                 /* each ends with hf == NULL */
    const char *const
        *ignored; /* prefixes of tensors that are skipped, after "model."; ends with NULL */
    /* out[i]: final hidden states of b[i]. What a tape records of the batches is in descending
     * order within a layer, so that backward meets them in ascending order. cache: n is 1. */
    void (*hidden)(Model *m, Tape *t, const Batch *b, int n, Cache *cache, Tensor **out);
    /* Puts into an empty config what a config.json of the model in a GGUF file of the architecture
     * `name` would say (gguf_base.h has the tools); dims reads it. */
    int (*config_from_gguf)(json_t *config, const Gguf *g, Err *e);
    const struct GgufForm *gguf; /* how it is written as GGUF (gguf_out.h); NULL: it is not */
};
Tensor *linear_forward(Model *m, Tape *t, const Linear *l, Tensor *x);
Tensor *router_forward(Model *m, Tape *t, const Linear *l, Tensor *x); /* always in float32 */
Tensor *experts_forward(Model *m, Tape *t, const Linear *l, Tensor *x, Dispatch d);
#endif
