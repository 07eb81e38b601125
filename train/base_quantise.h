/* base_quantise.h - a Hugging Face checkpoint into a base.h5: for the verb, and on first use into a
 * cache beside the model. */
#ifndef BASE_QUANTISE_H
#define BASE_QUANTISE_H
#include "base_build.h"

typedef struct Quantised {
    Model *model;               /* of the checkpoint, for the report; model_close */
    int64_t before[KIND_COUNT]; /* bytes of the checkpoint's tensors */
    bool made;                  /* false: the file was there */
} Quantised;
/* What becomes of a file that is there. REUSE: one made from this checkpoint with these words is
 * left as it is. KEEP: and any other is an error that calls it base_cache. */
typedef enum IfThere { THERE_REPLACE, THERE_REUSE, THERE_KEEP } IfThere;
/* dir into path. A file that another process is making is waited for. */
int base_quantise(Quantised *out, const char *dir, const BaseWords *words, const char *path,
                  IfThere there, Err *e);
void quantised_close(Quantised *q);

/* What to open for a config's base_model and base_quantization, on the heap: base_model itself, or
 * the cache of it, made now if it is not there. An error where the two contradict. */
int base_to_open(char **path, const Config *cfg, Err *e);
#endif
