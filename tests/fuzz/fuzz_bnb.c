/* fuzz_bnb.c - any bytes as a safetensors file that bitsandbytes may have quantised: refused with a
 * sentence, or its codes are moved into the kernels' layout. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "autograd/weight.h"
#include "data/files.h"
#include "data/weights_bnb.h"
#include "model/bnb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char dir[] = P_tmpdir "/moesmith-fuzz-XXXXXX";
    Err e;
    Weights *w = NULL;
    if (!mkdtemp(dir)) abort();
    char *path = files_join(dir, "x.safetensors");
    if (files_write_whole(path, data, size, &e)) abort();
    int rc = weights_open(&w, path, &e);
    for (int i = 0; rc == 0 && i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        if (!v->bnb) continue;
        void *packed = mem_alloc((size_t)weight_bytes(v->dtype, v->n_dim, v->dim));
        bnb_nonfinite(v);
        bnb_repack(v, packed);
        mem_free(packed);
    }
    weights_close(w);
    files_remove(dir, &e);
    mem_free(path);
    return 0;
}
