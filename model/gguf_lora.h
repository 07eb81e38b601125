/* gguf_lora.h - an adapter as llama.cpp loads it beside a base GGUF file. It adds low-rank products
 * to products with weights, experts and routers included, and to nothing else. */
#ifndef GGUF_LORA_H
#define GGUF_LORA_H
#include "params.h"

/* base: the GGUF file that the adapter is to be loaded beside; which tensors it has (experts'
 * gate and up as one or as two) decides the names. Scales are folded into B (adapter.lora.alpha is
 * 0: none), as is the per-expert scale that llama.cpp multiplies onto the experts' products before
 * it adds the adapter's. A router that was trained whole, or whose scale was, becomes an adapter
 * of rank E (B the identity), which is exact. Refused: all else that learned (per_expert_scale). */
int model_write_gguf_lora(const char *path, const Model *m, const Plan *plan, const char *base,
                          Err *e);
#endif
