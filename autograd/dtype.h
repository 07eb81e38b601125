/* dtype.h - every number format there is. A format is one header in quant/ and one line here;
 * the loaders, the kernels and the writers all read these tables. */
#ifndef DTYPE_H
#define DTYPE_H
#include <stdbool.h>
#include <stdint.h>
#include "quant/plain.h"

/* Plain formats: values one after the other.
 *      name  values per block, bytes per block, name in safetensors and GGUF, GGUF's number */
#define PLAIN_DTYPES(X)                                                                            \
    X(f32, 1, 4, "F32", 0)                                                                         \
    X(bf16, 1, 2, "BF16", 30)                                                                      \
    X(f16, 1, 2, "F16", 1)                                                                         \
    X(i32, 1, 4, "I32", 26)

/* Formats in small blocks along the row, as GGUF files hold them (quant/gguf.h): frozen weights,
 * row after row, every row a whole number of blocks. They are opened row by row.
 *      name  values per block, bytes per block, GGUF's name and number, what writes it */
#define BLOCK_DTYPES(X)                                                                            \
    X(q8_0, 32, 34, "Q8_0", 8, q8_0_rows_from_f32)                                                 \
    X(q4_0, 32, 18, "Q4_0", 2, q4_0_rows_from_f32)                                                 \
    X(q4_1, 32, 20, "Q4_1", 3, NULL)                                                               \
    X(q5_0, 32, 22, "Q5_0", 6, NULL)                                                               \
    X(q5_1, 32, 24, "Q5_1", 7, NULL)                                                               \
    X(q4_k, 256, 144, "Q4_K", 12, NULL)                                                            \
    X(q5_k, 256, 176, "Q5_K", 13, NULL)                                                            \
    X(q6_k, 256, 210, "Q6_K", 14, NULL)                                                            \
    X(mxfp4_gguf, 32, 17, "MXFP4", 39, mxfp4_gguf_rows_from_f32)

/* Packed formats hold frozen weights, in the one layout that the kernels read forward and backward.
 * A matrix (rows, cols) is cut into panels of PANEL_ROWS rows, a panel into blocks of BLOCK_COLS
 * columns; a panel is its blocks from left to right, then a tail (scales of whole rows). Rows and
 * columns that fill up the last panel and block mean nothing. A stack (E, rows, cols) is E matrices
 * one after the other. What stands in a block: quant/NAME.h.
 *      name      bytes of a block, of a tail; turned: rows are stored after turn_rows (turn.h) */
#define PACKED_DTYPES(X)                                                                           \
    X(int8, 2048, 128, false)                                                                      \
    X(nf4, 1152, 0, false)                                                                         \
    X(nf4_bf16, 1088, 0, false)                                                                    \
    X(tq4, 1024, 128, true)                                                                        \
    X(tq4_b64, 1088, 0, true)                                                                      \
    X(int4_g32, 1152, 0, false)                                                                    \
    X(mxfp4, 1088, 0, false)
enum { PANEL_ROWS = 32, BLOCK_COLS = 64 };

#define X(name, ...) DT_##name,
typedef enum DType {
    PLAIN_DTYPES(X) BLOCK_DTYPES(X) PACKED_DTYPES(X)
        DT_nf4_flat, /* nf4 whose blocks straddle rows: quant/nf4_flat.h */
    DT_COUNT
} DType;
#undef X

/* One packed format. */
typedef struct PackedFormat {
    int block_bytes, tail_bytes;
    bool turned;
    /* n <= PANEL_ROWS rows of cols float32 values (turned already where the format is) become one
     * panel; all its bytes are set. */
    void (*pack)(const float *rows, int n, int64_t cols, void *panel);
    /* Values [from, from + n) of row r of a panel; from: a multiple of BLOCK_COLS. */
    void (*open)(const void *panel, int r, int64_t cols, int64_t from, int64_t n, float *dst);
} PackedFormat;

typedef struct DTypeInfo {
    const char *name;
    const char *safetensors, *gguf; /* "": these files have no such type */
    int gguf_number;                /* looked at only where gguf is not "" */
    int block_n, block_bytes;       /* plain formats and those in blocks; else 0 */
    void (*to_f32)(const void *src, float *dst, int64_t n); /* plain formats */
    /* Of plain formats (to nearest, ties to even) and of those in blocks that can be written (n: a
     * whole number of blocks); else NULL. */
    void (*from_f32)(const float *src, void *dst, int64_t n);
    /* Formats in blocks: values [from, from + n) of blocks that begin at src. */
    void (*open)(const void *src, int64_t from, int64_t n, float *dst);
    const PackedFormat *packed; /* NULL: none */
} DTypeInfo;
extern const DTypeInfo dtype_info[DT_COUNT];

/* By our name ("bf16"); DT_COUNT where name is NULL or none of ours. */
DType dtype_find(const char *name);

/* Bytes of n values of a plain format, or of one in blocks (n: a whole number of them). */
static inline int64_t dtype_bytes(DType d, int64_t n) {
    return n / dtype_info[d].block_n * dtype_info[d].block_bytes;
}
static inline bool dtype_is_packed(DType d) { return dtype_info[d].packed != NULL; }
static inline bool dtype_in_blocks(DType d) { return dtype_info[d].open != NULL; }
/* Plain and not integers, values that can learn; all that a weight may be stored as. d may be
 * DT_COUNT. */
static inline bool dtype_is_float(DType d) {
    return d != DT_COUNT && d != DT_i32 && dtype_info[d].to_f32;
}
static inline bool dtype_is_weight(DType d) {
    return dtype_is_float(d) ||
           (d != DT_COUNT && (dtype_in_blocks(d) || dtype_is_packed(d) || d == DT_nf4_flat));
}
/* Whether rows of so many values can be stored. */
static inline bool dtype_takes_rows(DType d, int64_t cols) {
    return !dtype_in_blocks(d) || cols % dtype_info[d].block_n == 0;
}
static inline int64_t panel_count(int64_t rows) { return (rows + PANEL_ROWS - 1) / PANEL_ROWS; }
static inline int64_t panel_bytes(DType d, int64_t cols) {
    const PackedFormat *p = dtype_info[d].packed;
    return (cols + BLOCK_COLS - 1) / BLOCK_COLS * p->block_bytes + p->tail_bytes;
}
/* nf4_flat: where its scales stand, and all of it. */
enum { NF4_BLOCK = 64 };
static inline int64_t nf4_flat_code_bytes(int64_t numel) {
    return ((numel + 1) / 2 + 63) / 64 * 64;
}
static inline int64_t nf4_flat_bytes(int64_t numel) {
    int64_t scales = (numel + NF4_BLOCK - 1) / NF4_BLOCK;
    return nf4_flat_code_bytes(numel) + scales * (int64_t)sizeof(float);
}
#endif
