/* weight.c - see weight.h. */
#include "weight.h"
#include <string.h>
#include "quant/nf4_flat.h"
#include "simd.h"
#include "turn.h"

static int64_t product(int n_dim, const int64_t *dim) {
    int64_t n = 1;
    for (int i = 0; i < n_dim; i++) n *= dim[i];
    return n;
}

int64_t weight_bytes(DType d, int n_dim, const int64_t *dim) {
    if (d == DT_nf4_flat) return nf4_flat_bytes(product(n_dim, dim));
    if (!dtype_is_packed(d)) {
        CHECK(dtype_takes_rows(d, n_dim ? dim[n_dim - 1] : 1), "weight: rows of %ld as %s",
              (long)(n_dim ? dim[n_dim - 1] : 1), dtype_info[d].name);
        return dtype_bytes(d, product(n_dim, dim));
    }
    CHECK(n_dim >= 2, "weight: %s of %d dimensions", dtype_info[d].name, n_dim);
    return product(n_dim - 2, dim) * panel_count(dim[n_dim - 2]) * panel_bytes(d, dim[n_dim - 1]);
}

const void *weight_panel(const Tensor *w, int64_t e, int64_t panel) {
    int64_t panels = panel_count(w->dim[w->n_dim - 2]);
    return (const char *)w->data + (e * panels + panel) * panel_bytes(w->dtype, tensor_cols(w));
}

void weight_open(const Tensor *w, int64_t row, int64_t from, int64_t n, float *dst) {
    const DTypeInfo *info = &dtype_info[w->dtype];
    int64_t cols = tensor_cols(w), at = row * cols + from;
    if (info->packed) {
        int64_t rows = w->dim[w->n_dim - 2], r = row % rows;
        const void *panel = weight_panel(w, row / rows, r / PANEL_ROWS);
        info->packed->open(panel, (int)(r % PANEL_ROWS), cols, from, n, dst);
    } else if (w->dtype == DT_nf4_flat) {
        nf4_flat_open(w->data, tensor_numel(w), at, n, dst);
    } else if (info->open) {
        info->open(w->data, at, n, dst);
    } else {
        info->to_f32((const char *)w->data + dtype_bytes(w->dtype, at), dst, n);
    }
}

bool weight_is_turned(const Tensor *w) {
    const PackedFormat *p = dtype_info[w->dtype].packed;
    return p && p->turned;
}

void weight_row(const Tensor *w, int64_t row, float *dst) {
    int64_t cols = tensor_cols(w);
    weight_open(w, row, 0, cols, dst);
    if (weight_is_turned(w)) turn_rows_back(dst, 1, cols, cols);
}

void weight_values(const Tensor *w, int64_t first, int64_t n, float *dst) {
    int64_t cols = tensor_cols(w), at = 0;
    if (!dtype_is_packed(w->dtype)) {
        weight_open(w, 0, first, n, dst);
        return;
    }
    float *part = NULL; /* a row of which only some is asked for */
    while (at < n) {
        int64_t row = (first + at) / cols, from = (first + at) % cols;
        int64_t some = cols - from < n - at ? cols - from : n - at;
        if (some < cols && !part) part = mem_alloc((size_t)cols * sizeof *part);
        weight_row(w, row, some < cols ? part : dst + at);
        if (some < cols) memcpy(dst + at, part + from, (size_t)some * sizeof *dst);
        at += some;
    }
    mem_free(part);
}

int weight_row_ranges(const Tensor *w, int64_t row, ByteRange out[2]) {
    int64_t cols = tensor_cols(w), at = row * cols, end = at + cols;
    if (dtype_is_packed(w->dtype)) {
        int64_t rows = w->dim[w->n_dim - 2], bytes = panel_bytes(w->dtype, cols),
                panel = row / rows * panel_count(rows) + row % rows / PANEL_ROWS;
        out[0] = (ByteRange){panel * bytes, bytes};
        return 1;
    }
    if (w->dtype != DT_nf4_flat) {
        out[0] = (ByteRange){dtype_bytes(w->dtype, at), dtype_bytes(w->dtype, cols)};
        return 1;
    }
    int64_t scale = at / NF4_BLOCK, scales = (end + NF4_BLOCK - 1) / NF4_BLOCK - scale,
            each = (int64_t)sizeof(float);
    out[0] = (ByteRange){at / 2, (end + 1) / 2 - at / 2};
    out[1] = (ByteRange){nf4_flat_code_bytes(tensor_numel(w)) + scale * each, scales * each};
    return 2;
}

DType weight_format_of(const char *word, DType source, int64_t cols) {
    if (word && !strcmp(word, "nf4")) {
        if (cols % NF4_BLOCK) return DT_nf4_flat;
        return source == DT_bf16 ? DT_nf4_bf16 : DT_nf4;
    }
    DType d = dtype_find(word);
    if (d != DT_COUNT && dtype_in_blocks(d)) return DT_COUNT;
    return d == DT_i32 || d == DT_nf4_flat || d == DT_nf4_bf16 ? DT_COUNT : d;
}

/* Adds the squares of n values, and of what opening them anew lost. */
SIMD static void add_errors(const float *values, const float *opened, int64_t n, double *error_sum,
                            double *value_sum) {
    enum { LANES = 16 };
    double error[LANES] = {0}, value[LANES] = {0};
    for (int64_t at = 0; at < n; at += LANES) {
        int64_t some = n - at < LANES ? n - at : LANES;
        for (int64_t l = 0; l < LANES && l < some; l++) {
            double v = (double)values[at + l], lost = v - (double)opened[at + l];
            error[l] += lost * lost;
            value[l] += v * v;
        }
    }
    for (int l = 0; l < LANES; l++) *error_sum += error[l], *value_sum += value[l];
}

enum { OPENED = 1024 }; /* values opened at a time to be compared; a multiple of BLOCK_COLS */

void weight_pack(DType d, float *rows, int64_t n, int64_t cols, void *dst, double *error_sum,
                 double *value_sum) {
    const PackedFormat *p = dtype_info[d].packed;
    CHECK(p, "weight_pack: %s is not packed", dtype_info[d].name);
    if (p->turned) turn_rows(rows, n, cols, cols);
    for (int64_t at = 0; at < n; at += PANEL_ROWS) {
        int some = n - at < PANEL_ROWS ? (int)(n - at) : PANEL_ROWS;
        char *panel = (char *)dst + at / PANEL_ROWS * panel_bytes(d, cols);
        p->pack(rows + at * cols, some, cols, panel);
        for (int r = 0; r < some; r++) {
            const float *row = rows + (at + r) * cols;
            for (int64_t c = 0; c < cols; c += OPENED) {
                float opened[OPENED];
                int64_t k = cols - c < OPENED ? cols - c : OPENED;
                p->open(panel, r, cols, c, k, opened);
                add_errors(row + c, opened, k, error_sum, value_sum);
            }
        }
    }
}

void weight_pack_flat(const float *values, int64_t numel, void *dst, double *error_sum,
                      double *value_sum) {
    memset(dst, 0, (size_t)nf4_flat_code_bytes(numel));
    nf4_flat_pack(values, numel, 0, numel, dst);
    for (int64_t at = 0; at < numel; at += OPENED) {
        float opened[OPENED];
        int64_t k = numel - at < OPENED ? numel - at : OPENED;
        nf4_flat_open(dst, numel, at, k, opened);
        add_errors(values + at, opened, k, error_sum, value_sum);
    }
}

void weight_pack_all(DType d, float *values, int n_dim, const int64_t *dim, void *dst) {
    int64_t numel = product(n_dim, dim);
    double error = 0, value = 0;
    if (d == DT_nf4_flat) {
        weight_pack_flat(values, numel, dst, &error, &value);
    } else if (!dtype_is_packed(d)) {
        dtype_info[d].from_f32(values, dst, numel);
    } else {
        int64_t rows = dim[n_dim - 2], cols = dim[n_dim - 1], matrix = rows * cols;
        for (int64_t e = 0; e < numel / matrix; e++) {
            char *at = (char *)dst + e * panel_count(rows) * panel_bytes(d, cols);
            weight_pack(d, values + e * matrix, rows, cols, at, &error, &value);
        }
    }
}
