/* weight.c - see weight.h. */
#include "weight.h"

int64_t weight_bytes(DType d, int n_dim, const int64_t *dim) {
    int64_t n = 1;
    if (!dtype_is_packed(d)) {
        for (int i = 0; i < n_dim; i++) n *= dim[i];
        return dtype_bytes(d, n);
    }
    for (int i = 0; i + 2 < n_dim; i++) n *= dim[i];
    return n * panel_count(dim[n_dim - 2]) * panel_bytes(d, dim[n_dim - 1]);
}
