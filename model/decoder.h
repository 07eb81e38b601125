/* decoder.h - the forward pass of Gemma's text decoders, Gemma 3 and 4: sandwich norms around
 * attention (sliding and full layers, query and key norms) and around a gated MLP; in Gemma 4 also
 * experts beside that MLP, keys and values shared between layers, and per-layer embeddings. */
#ifndef DECODER_H
#define DECODER_H
#include "model.h"

/* A Family's hidden (model.h), for any that fills Dims and binds Layer's fields. */
void decoder_hidden(Model *m, Tape *t, const Batch *b, int n, Cache *cache, Tensor **out);
#endif
