/* gguf_out.h - a model that has learned as one GGUF file, complete for llama.cpp: merged weights
 * under its names, the architecture's keys, tokenizer and chat template. */
#ifndef GGUF_OUT_H
#define GGUF_OUT_H
#include "../data/gguf_tokenizer.h"
#include "model.h"

/* What was decided on the way; told to the user. */
typedef struct GgufNotes {
    GgufTokenizerNotes tokenizer;
    int as_bf16; /* tensors that cannot be written in their format, or have no whole blocks of it */
} GgufNotes;

/* dtype: of the linears and experts (DT_COUNT: as the base is stored; bf16 where that cannot be
 * written). Norms, routers and other small tensors are float32; embeddings q8_0 where dtype has 4
 * bits. What is stored so already and did not learn is copied as it is.
 * Fails where llama.cpp has no such architecture or cannot run this shape of it. */
int model_write_gguf(const char *path, Model *m, DType dtype, GgufNotes *notes, Err *e);

/* A tensor's name in such a file: "blk.3.attn_q.weight". */
typedef struct GgufName {
    char text[GGUF_NAME_MAX + 1];
} GgufName;
GgufName gguf_site_name(const Site *s);

/* ---- for families ---- */
typedef struct GgufForm {
    const char *architecture; /* general.architecture, and what the family's keys begin with */
    GgufMerging merging;
    /* The architecture's keys, and tensors that no checkpoint has. */
    int (*keys)(GgufOut *g, const Model *m, Err *e);
} GgufForm;
extern const GgufForm gguf_gemma3, gguf_gemma4;
#endif
