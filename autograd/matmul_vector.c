/* matmul_vector.c - the products of matmul_kernels.h in plain C. */
#include "matmul_kernels.h"
#include "weight.h"

enum { CHUNK = 256 }; /* of the inner side */
typedef struct Scratch {
    float w[PANEL_ROWS * CHUNK], x[TILE_TOKENS * CHUNK];
} Scratch;

static void round_row(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
}
static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

/* c[t][r] (+)= x[t] . w[r] for the tokens of one tile and columns [at, at + k) of x; w: k long. */
static void tile_times(const Packed *x, int64_t token_tile, int64_t at, int64_t k, const float *w,
                       float *xs, const ForwardTask *f, bool add) {
    for (int64_t tile = 0; tile * TILE_COLS < k; tile++) {
        const uint16_t *p = (const uint16_t *)packed_tile(x, token_tile, at / TILE_COLS + tile);
        for (int r = 0; r < 16; r++) {
            for (int t = 0; t < TILE_TOKENS * 2; t++) {
                xs[t / 2 * CHUNK + tile * TILE_COLS + pair_column(r) + t % 2] =
                    bf16_to_f32(p[r * TILE_TOKENS * 2 + t]);
            }
        }
    }
    for (int64_t t = 0; t < min_of(TILE_TOKENS, x->m - token_tile * TILE_TOKENS); t++) {
        float *y = f->y + (token_tile * TILE_TOKENS + t) * f->ldy;
        for (int r = 0; r < f->n; r++) {
            float sum = 0;
            for (int64_t i = 0; i < k; i++) sum += xs[t * CHUNK + i] * w[r * CHUNK + i];
            y[r] = add ? y[r] + sum : sum;
        }
    }
}

static void forward(const ForwardTask *f, void *scratch) {
    Scratch *s = scratch;
    int64_t K = tensor_cols(f->w), lora = (f->x->n_k - f->x->n_lora) * TILE_COLS;
    for (int64_t at = 0; at < K; at += CHUNK) {
        int64_t k = min_of(CHUNK, K - at);
        for (int r = 0; r < f->n; r++) {
            weight_open(f->w, f->row + r, at, k, s->w + r * CHUNK);
            round_row(s->w + r * CHUNK, k);
        }
        for (int64_t t = 0; t * TILE_TOKENS < f->x->m; t++) {
            tile_times(f->x, t, at, k, s->w, s->x, f, at > 0);
        }
    }
    for (int64_t at = 0; f->b && at < f->R; at += CHUNK) {
        int64_t k = min_of(CHUNK, f->R - at);
        for (int r = 0; r < f->n; r++) {
            memcpy(s->w + r * CHUNK, f->b + r * f->R + at, (size_t)k * 4);
            round_row(s->w + r * CHUNK, k);
        }
        for (int64_t t = 0; t * TILE_TOKENS < f->x->m; t++) {
            tile_times(f->x, t, lora + at, k, s->w, s->x, f, true);
        }
    }
}

/* dx[t] (+)= sum over k of dy[t][at + k] w[k]. */
static void times_rows(const BackwardTask *b, int64_t at, int64_t k, const float *w, bool add) {
    for (int64_t t = 0; t < b->dy->m; t++) {
        float *dx = b->dx + t * b->lddx;
        if (!add) memset(dx, 0, (size_t)b->n * 4);
        for (int64_t i = at; i < at + k; i++) {
            const uint16_t *p =
                (const uint16_t *)packed_tile(b->dy, t / TILE_TOKENS, i / TILE_COLS);
            float d = bf16_to_f32(p[t % TILE_TOKENS * TILE_COLS + i % TILE_COLS]);
            for (int c = 0; c < b->n; c++) dx[c] += d * w[(i - at) * BLOCK_COLS + c];
        }
    }
}

static void backward(const BackwardTask *b, void *scratch) {
    Scratch *s = scratch;
    int64_t lora = (b->dy->n_k - b->dy->n_lora) * TILE_COLS;
    for (int64_t at = 0; at < b->rows; at += TILE_COLS) {
        int64_t k = min_of(TILE_COLS, b->rows - at);
        for (int64_t i = 0; i < k; i++) {
            weight_open(b->w, b->row + at + i, b->col, b->n, s->w + i * BLOCK_COLS);
            round_row(s->w + i * BLOCK_COLS, b->n);
        }
        times_rows(b, at, k, s->w, b->add || at > 0);
    }
    for (int64_t at = 0; b->a && at < b->R; at += TILE_COLS) {
        int64_t k = min_of(TILE_COLS, b->R - at);
        for (int64_t i = 0; i < k; i++) {
            memcpy(s->w + i * BLOCK_COLS, b->a + (at + i) * b->lda, (size_t)b->n * 4);
            round_row(s->w + i * BLOCK_COLS, b->n);
        }
        times_rows(b, lora + at, k, s->w, true);
    }
}

static void nothing(void) {}
const MatmulKernels matmul_vector = {nothing, nothing, forward, backward, sizeof(Scratch)};
