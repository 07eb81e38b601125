/* weights_gguf.c - the tensors of a GGUF file, mapped: under GGUF's names, which the model renames
 * (model/gguf_base.h). */
#include <string.h>
#include "gguf.h"

static int open_gguf(Weights *w, const char *path, Err *e) {
    const void *data;
    size_t n;
    Gguf *g;
    TRY(weights_map_file(w, path, &data, &n, e));
    TRY(gguf_parse(&g, data, n, path, e));
    const char *file = weights_keep_text(w, path);
    for (int i = 0; i < g->n_entries; i++) {
        const GgufEntry *t = &g->entry[i];
        WeightView v = {.name = weights_keep_text(w, t->name),
                        .dtype = t->dtype,
                        .stored = dtype_info[t->dtype].gguf,
                        .n_dim = t->n_dim,
                        .bytes = t->bytes,
                        .data = gguf_entry_data(g, t),
                        .file = file};
        memcpy(v.dim, t->dim, sizeof v.dim);
        weights_add(w, &v,
                    dtype_in_blocks(t->dtype) ? 1 : (size_t)dtype_info[t->dtype].block_bytes);
    }
    gguf_close(g);
    return 0;
}

const WeightFormat weight_format_gguf = {
    .name = "gguf",
    .looked_for = "a file NAME.gguf",
    .claims = gguf_claims,
    .open = open_gguf,
};
