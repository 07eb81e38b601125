/* verify_gguf.h - a GGUF file that is verified, and its parts beside the tensors. Sentences lack the
 * file's name. */
#ifndef VERIFY_GGUF_H
#define VERIFY_GGUF_H
#include "../data/gguf.h"
#include "verify.h"

typedef struct GgufFile {
    Verify *v;
    const char *path;
    Gguf *g;
    bool *read; /* per tensor */
} GgufFile;

/* The first layer with a window, or without; NULL: there is none. */
const LayerDims *verify_layer_of(const Model *m, bool sliding);
/* Every key of the architecture is there and says what the run's model is. */
int verify_gguf_keys(const GgufFile *f, Err *e);
/* The file's own tokenizer makes the run's tokens, its chat template is the run's. */
int verify_gguf_texts(const GgufFile *f, Err *e);
#endif
