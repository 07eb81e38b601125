/* weights_base.c - base.h5, the frozen base that quantize and init write: its tensors lie in the
 * mapped file as the kernels read them. */
#include <inttypes.h>
#include "base_file.h"

static int open_base(Weights *w, const char *path, Err *e) {
    BaseIndex x;
    const void *data;
    size_t n;
    TRY(weights_map_file(w, path, &data, &n, e));
    TRY(base_index_read(&x, data, n, path, e));
    const char *file = weights_keep_text(w, path);
    Buf names = {0};
    for (int i = 0; i < x.n_tensors; i++) {
        const BaseTensor *t = &x.tensor[i];
        WeightView v = {.name = weights_keep_text(w, t->name),
                        .dtype = t->dtype,
                        .stored = dtype_info[t->dtype].name,
                        .n_dim = t->n_dim,
                        .bytes = t->bytes,
                        .data = (const char *)data + t->offset,
                        .file = file};
        for (int k = 0; k < t->n_dim; k++) v.dim[k] = t->dim[k];
        buf_printf(&names, "%s %s %016" PRIx64 "\n", t->name, v.stored, t->hash);
        weights_add(w, &v, 1); /* whole pages: always aligned */
    }
    weights_set_hash(w, base_hash(names.p, names.n, 0)); /* whatever files lie beside them */
    buf_free(&names);
    base_index_free(&x);
    return 0;
}

const WeightFormat weight_format_base = {
    .name = "base",
    .looked_for = "a file NAME.h5 made by quantize",
    .claims = base_file_claims,
    .open = open_base,
};
