/* bnb.c - see bnb.h. bitsandbytes counts along the flattened tensor: value i is the high nibble of
 * byte i/2 where i is even, the low one where it is odd, and belongs to scale i / block. */
#include "bnb.h"
#include <string.h>
#include "../autograd/quant/line.h"
#include "../autograd/weight.h"
#include "../data/weights_bnb.h"

enum { HALF = BLOCK_COLS / 2 };

typedef struct Source {
    const WeightView *view;
    int64_t rows, cols;
} Source;

static unsigned code_at(const uint8_t *codes, int64_t i) {
    return i % 2 ? codes[i / 2] & 15u : codes[i / 2] >> 4;
}

/* Row r of a block from its first value on: see line.h. Even and odd rows are the low and the high
 * bytes of the same words. */
static void put_nf4_row(const uint8_t *codes, int64_t first, int r, uint8_t *block) {
    uint8_t *line = block + r / 2 * LINE_BYTES + r % 2;
    for (int w = 0; w < LINE_WORDS; w++) {
        int64_t at = first + line_column(w);
        line[2 * w] = (uint8_t)(code_at(codes, at) | code_at(codes, at + HALF) << 4);
    }
}

static void pack_nf4(const Source *s, int64_t row, int n, uint8_t *panel) {
    const Bnb *b = s->view->bnb;
    for (int64_t col = 0; col < s->cols;
         col += BLOCK_COLS, panel += dtype_info[DT_nf4].packed->block_bytes) {
        float absmax[PANEL_ROWS] = {0};
        memset(panel, 0, LINES * LINE_BYTES);
        for (int r = 0; r < n; r++) {
            int64_t first = (row + r) * s->cols + col;
            put_nf4_row(s->view->data, first, r, panel);
            absmax[r] = bnb_absmax(b, first / b->block);
        }
        memcpy(panel + LINES * LINE_BYTES, absmax, sizeof absmax);
    }
}

static void pack_int8(const Source *s, int64_t row, int n, uint8_t *panel) {
    const int8_t *codes = s->view->data;
    float scale[PANEL_ROWS] = {0};
    int64_t blocks = (s->cols + BLOCK_COLS - 1) / BLOCK_COLS;
    memset(panel, 0, (size_t)panel_bytes(DT_int8, s->cols));
    for (int r = 0; r < n; r++) {
        for (int64_t c = 0; c < s->cols; c++) {
            int64_t at = c / BLOCK_COLS * PANEL_ROWS * BLOCK_COLS + r * BLOCK_COLS +
                         c % BLOCK_COLS / HALF * HALF + line_word((int)(c % HALF));
            panel[at] = (uint8_t)codes[(row + r) * s->cols + c];
        }
        scale[r] = s->view->bnb->absmax[row + r] / 127;
    }
    memcpy(panel + blocks * PANEL_ROWS * BLOCK_COLS, scale, sizeof scale);
}

/* Flattened codes stay as they are; a scale is written per 64 of them. */
static void pack_flat(const WeightView *v, int64_t numel, uint8_t *dst) {
    int64_t codes = nf4_flat_code_bytes(numel);
    memset(dst, 0, (size_t)codes);
    memcpy(dst, v->data, (size_t)v->bytes);
    float *absmax = (float *)(dst + codes);
    for (int64_t i = 0; i * NF4_BLOCK < numel; i++)
        absmax[i] = bnb_absmax(v->bnb, i * NF4_BLOCK / v->bnb->block);
}

static void pack_panels(const WeightView *v, int64_t outer, uint8_t *dst) {
    const Source s = {v, v->dim[v->n_dim - 2], v->dim[v->n_dim - 1]};
    int64_t panels = panel_count(s.rows), bytes = panel_bytes(v->dtype, s.cols);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < outer * panels; i++) {
        int64_t first = i % panels * PANEL_ROWS, row = i / panels * s.rows + first;
        int n = s.rows - first < PANEL_ROWS ? (int)(s.rows - first) : PANEL_ROWS;
        (v->dtype == DT_int8 ? pack_int8 : pack_nf4)(&s, row, n, dst + i * bytes);
    }
}

void bnb_repack(const WeightView *v, void *dst) {
    int64_t outer = 1;
    for (int i = 0; i + 2 < v->n_dim; i++) outer *= v->dim[i];
    if (v->dtype == DT_nf4_flat)
        pack_flat(v, outer * v->dim[v->n_dim - 2] * v->dim[v->n_dim - 1], dst);
    else
        pack_panels(v, outer, dst);
}
