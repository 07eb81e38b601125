/* rope: rotary position embedding (Su et al. 2021), pairs (i, i + d/2) of every head:
 *   y[i] = x[i] cos a - x[i+d/2] sin a     y[i+d/2] = x[i+d/2] cos a + x[i] sin a
 *   a = pos * theta^(-2i/d) / factor for i < n_angles; pairs beyond stay as they are
 *   dx: the turn by -a
 * Angles are rounded to float32 at every step as the reference implementations do (frequency,
 * product, cosine): at position 100000 a double angle would differ in the third decimal. */
#include "../rows.h"
#include "../simd.h"
#include "sample.h"
#include <math.h>
#include <string.h>

enum { MAX_ANGLES = 512 }; /* head_dim up to 1024 */

static void frequencies(const Rope *r, float *freq) {
    for (int i = 0; i < r->n_angles; i++) {
        freq[i] = 1 / powf(r->theta, (float)(2 * i) / (float)r->head_dim) / r->factor;
    }
}

/* y = or += x turned; half is d/2, n the pairs that turn. */
SIMD static void turn(const float *restrict x, const float *restrict c, const float *restrict s,
                      float *restrict y, int n, int half) {
    for (int i = 0; i < n; i++) {
        y[i] = x[i] * c[i] - x[i + half] * s[i];
        y[i + half] = x[i + half] * c[i] + x[i] * s[i];
    }
}
SIMD static void turn_back(const float *restrict x, const float *restrict c,
                           const float *restrict s, float *restrict y, int n, int half) {
    for (int i = 0; i < n; i++) {
        y[i] = x[i] * c[i] + x[i + half] * s[i];
        y[i + half] = x[i + half] * c[i] - x[i] * s[i];
    }
}
SIMD static void add_turned_back(const float *restrict x, const float *restrict c,
                                 const float *restrict s, float *restrict y, int n, int half) {
    for (int i = 0; i < n; i++) {
        y[i] += x[i] * c[i] + x[i + half] * s[i];
        y[i + half] += x[i + half] * c[i] - x[i] * s[i];
    }
}

Tensor *rope_angles(Tape *t, Tensor *pos, Rope r) {
    CHECK(r.n_angles >= 0 && r.n_angles <= MAX_ANGLES && r.factor > 0, "rope: %d angles, factor %g",
          r.n_angles, (double)r.factor);
    int64_t T = tensor_numel(pos), n = r.n_angles;
    Tensor *angles = tensor_2d(t->step, DT_f32, T, 2 * n);
    float freq[MAX_ANGLES];
    if (t->dry) return angles;
    frequencies(&r, freq);
    FOR_ROWS(i, T, n * 64) {
        float *c = f32(angles) + i * 2 * n;
        for (int64_t j = 0; j < n; j++) {
            float a = (float)i32(pos)[i] * freq[j];
            c[j] = cosf(a);
            c[n + j] = sinf(a);
        }
    }
    return angles;
}

static void fwd(Tape *t, Node *n) {
    (void)t;
    const Rope *r = ATTR(n, Rope);
    int64_t T = tensor_rows(n->in[0]), cols = tensor_cols(n->in[0]);
    int d = r->head_dim, half = d / 2, rest = half - r->n_angles;
    const float *x = f32(n->in[0]);
    float *y = f32(n->out[0]);
    FOR_ROWS(i, T, cols) {
        const float *c = f32(n->in[1]) + i * 2 * r->n_angles, *s = c + r->n_angles;
        for (int64_t at = i * cols; at < (i + 1) * cols; at += d) {
            turn(x + at, c, s, y + at, r->n_angles, half);
            for (int64_t p = at + r->n_angles; p < at + d; p += half) {
                memcpy(y + p, x + p, (size_t)rest * sizeof *y);
            }
        }
    }
}

static void bwd(Tape *t, Node *n) {
    (void)t;
    const Rope *r = ATTR(n, Rope);
    int64_t T = tensor_rows(n->in[0]), cols = tensor_cols(n->in[0]);
    int d = r->head_dim, half = d / 2, rest = half - r->n_angles;
    const float *dy = f32(n->out[0]->grad);
    float *dx = f32(n->in[0]->grad);
    FOR_ROWS(i, T, cols) {
        const float *c = f32(n->in[1]) + i * 2 * r->n_angles, *s = c + r->n_angles;
        for (int64_t at = i * cols; at < (i + 1) * cols; at += d) {
            if (n->fresh)
                turn_back(dy + at, c, s, dx + at, r->n_angles, half);
            else
                add_turned_back(dy + at, c, s, dx + at, r->n_angles, half);
            for (int64_t p = at + r->n_angles; p < at + d; p += half) {
                row_put_scaled(dx + p, dy + p, 1, rest, n->fresh);
            }
        }
    }
}

static OpCase sample(Tape *t, Rng *rng, int i) {
    /* all pairs; a part of them; none; many rows, slower */
    static const Rope r[] = {
        {2, 8, 4, 1e4f, 1}, {3, 12, 2, 1e6f, 1}, {1, 4, 0, 1e4f, 1}, {4, 64, 32, 1e4f, 8}};
    static const int64_t tokens[] = {3, 5, 2, 70};
    Tensor *x = sample_2d(t, rng, tokens[i], (int64_t)r[i].n_head * r[i].head_dim);
    Tensor *pos = sample_ints(t, rng, tokens[i], 5000);
    return (OpCase){rope(t, x, rope_angles(t, pos, r[i]), r[i]), i == 3};
}

const Op op_rope = {"rope", {fwd, CUDA(rope_fwd_cuda)}, {bwd, CUDA(rope_bwd_cuda)}, sample, NULL, 1,
                    0};

Tensor *rope(Tape *t, Tensor *x, Tensor *angles, Rope r) {
    CHECK(r.head_dim > 0 && r.head_dim % 2 == 0 && r.head_dim <= 2 * MAX_ANGLES,
          "rope: a head of %d", r.head_dim);
    CHECK(r.n_angles >= 0 && r.n_angles <= r.head_dim / 2, "rope: %d angles, a head of %d",
          r.n_angles, r.head_dim);
    CHECK(tensor_cols(x) == (int64_t)r.n_head * r.head_dim, "rope: %d heads of %d in rows of %ld",
          r.n_head, r.head_dim, (long)tensor_cols(x));
    CHECK(angles->dtype == DT_f32 && tensor_rows(angles) == tensor_rows(x) &&
              tensor_cols(angles) == 2 * r.n_angles,
          "rope: %ld rows, angles (%ld,%ld) for %d", (long)tensor_rows(x),
          (long)tensor_rows(angles), (long)tensor_cols(angles), r.n_angles);
    Node *n = tape_node(t, &op_rope, 2, (Tensor *[]){x, angles});
    *ATTR(n, Rope) = r;
    n->out[0] = tensor_like(t->step, x);
    return tape_run(t, n);
}
