/* dispatch.c - see Dispatch in ops.h: a stable counting sort of (token, choice) by expert. */
#include "ops.h"
#include <string.h>

static void sort_by_expert(const Tensor *choice, int64_t n_expert, Dispatch *d) {
    const int32_t *expert = i32(choice);
    int32_t *off = i32(d->off);
    int64_t rows = tensor_numel(choice), k = tensor_cols(choice);
    memset(off, 0, (size_t)tensor_bytes(d->off));
    for (int64_t i = 0; i < rows; i++) {
        CHECK(expert[i] >= 0 && expert[i] < n_expert, "dispatch: expert %d of %ld", (int)expert[i],
              (long)n_expert);
        off[expert[i] + 1]++;
    }
    for (int64_t e = 0; e < n_expert; e++) off[e + 1] += off[e];
    for (int64_t i = 0; i < rows; i++) { /* off[e] runs to the end of e, the start of e + 1 */
        int32_t row = off[expert[i]]++;
        i32(d->row_of)[i] = row;
        i32(d->token_of)[row] = (int32_t)(i / k);
    }
    memmove(off + 1, off, (size_t)n_expert * sizeof *off);
    off[0] = 0;
}

Dispatch dispatch_by_expert(Tape *t, Tensor *choice, int64_t n_expert) {
    int64_t rows = tensor_numel(choice);
    CHECK(choice->dtype == DT_i32 && rows <= INT32_MAX, "dispatch: %ld rows of %s", (long)rows,
          dtype_info[choice->dtype].name);
    Dispatch d = {.row_of = tensor_1d(t->step, DT_i32, rows),
                  .token_of = tensor_1d(t->step, DT_i32, rows),
                  .off = tensor_1d(t->step, DT_i32, n_expert + 1)};
    if (!t->dry) sort_by_expert(choice, n_expert, &d);
    return d;
}
