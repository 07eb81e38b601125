/* embed: y[t] = s * w[ids[t]]        dw[ids[t]] += s*dy[t], but for ids[t] == pad
 * The rows of one token may occur many times. They are added in token order, and threads share
 * the columns, not the tokens: no two write to one place. */
#include "../rows.h"
#include "../weight.h"
#include "sample.h"

typedef struct Attr {
    float s;
    int pad;
} Attr;

static int32_t id_at(const Node *n, int64_t t) {
    int32_t id = i32(n->in[1])[t];
    CHECK(id >= 0 && id < n->in[0]->dim[0], "embed: id %d of token %ld, w has %ld rows", (int)id,
          (long)t, (long)n->in[0]->dim[0]);
    return id;
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const Tensor *w = n->in[0];
    int64_t T = tensor_numel(n->in[1]), D = w->dim[1];
    FOR_ROWS(i, T, D) {
        float *y = f32(n->out[0]) + i * D;
        weight_row(w, id_at(n, i), y);
        for (int64_t j = 0; j < D; j++) y[j] *= ATTR(n, Attr)->s;
    }
}

enum { COLUMNS = 256 }; /* of one task */

static void bwd(Tape *t, Node *n) {
    (void)t;
    int64_t T = tensor_numel(n->in[1]), D = n->in[0]->dim[1];
    int64_t tasks = (D + COLUMNS - 1) / COLUMNS;
    const float *dy = f32(n->out[0]->grad);
    float *dw = f32(n->in[0]->grad);
    const Attr *a = ATTR(n, Attr);
    FOR_ROWS(task, tasks, T * COLUMNS) {
        int64_t from = task * COLUMNS, cols = D - from < COLUMNS ? D - from : COLUMNS;
        for (int64_t i = 0; i < T; i++) {
            int32_t id = id_at(n, i);
            if (id == a->pad) continue; /* pad < 0: no id is */
            row_add_scaled(dw + id * D + from, dy + i * D + from, a->s, cols);
        }
    }
}

/* Ids repeat. The pad row is there but not read: what backward leaves out on purpose, differences
 * would find. */
static OpCase sample(Tape *t, Rng *rng, int i) {
    static const int64_t tokens[] = {6, 9, 80, 5, 5, 5, 5, 5},
                         width[] = {5, 8, 300, 8, 8, 70, 24, 96};
    static const int pad[] = {-1, 4, -1, -1, -1, -1, -1, -1};
    static const DType type[] = {DT_f32, DT_f32, DT_f32, DT_bf16, DT_f16, DT_int8, DT_tq4, DT_q4_0};
    Tensor *w = sample_2d(t, rng, 5, width[i]);
    w = sample_stored(t, w, type[i]);
    Tensor *ids = sample_ints(t, rng, tokens[i], 4);
    return (OpCase){embed(t, w, ids, i ? 7.25f : 1, pad[i]), i + 1 == (int)COUNT_OF(type)};
}

const Op op_embed = {
    "embed", {fwd, CUDA(embed_fwd_cuda)}, {bwd, CUDA(embed_bwd_cuda)}, sample, NULL, 0, 0};

Tensor *embed(Tape *t, Tensor *w, Tensor *ids, float s, int pad) {
    CHECK(w->n_dim == 2 && ids->dtype == DT_i32, "embed: w has %d dimensions, ids are %s", w->n_dim,
          dtype_info[ids->dtype].name);
    Node *n = tape_node(t, &op_embed, 2, (Tensor *[]){w, ids});
    *ATTR(n, Attr) = (Attr){s, pad};
    n->out[0] = tensor_2d(t->step, DT_f32, tensor_numel(ids), w->dim[1]);
    return tape_run(t, n);
}
