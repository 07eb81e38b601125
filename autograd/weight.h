/* weight.h - a stored weight, whatever its format: its size, its rows as float32, and how float32
 * rows become one. A weight is (rows, cols) or a stack (E, rows, cols); a row number counts the
 * leading dims together. */
#ifndef WEIGHT_H
#define WEIGHT_H
#include "tensor.h"

/* Bytes of a tensor of any format whose rows it takes (dtype_takes_rows). */
int64_t weight_bytes(DType d, int n_dim, const int64_t *dim);

/* Values [from, from + n) of a row as stored: in the turned basis where the format is turned (see
 * turn.h). from: a multiple of BLOCK_COLS for packed formats, else anything. */
void weight_open(const Tensor *w, int64_t row, int64_t from, int64_t n, float *dst);
bool weight_is_turned(const Tensor *w);
/* A whole row in its own basis: what the format made of the checkpoint's row. */
void weight_row(const Tensor *w, int64_t row, float *dst);

/* Values [first, first + n) of the whole tensor, in its own basis. Whole rows are cheapest. */
void weight_values(const Tensor *w, int64_t first, int64_t n, float *dst);

/* Packed formats: the panel that holds rows [32*panel, ...) of matrix e of a stack (0: no stack).
 */
const void *weight_panel(const Tensor *w, int64_t e, int64_t panel);

/* Where in the tensor's data the values of a row stand, with their scales: of a packed format all
 * over its panel; of DT_nf4_flat in two places. Returns how many ranges. */
typedef struct ByteRange {
    int64_t from, bytes;
} ByteRange;
int weight_row_ranges(const Tensor *w, int64_t row, ByteRange out[2]);

/* The format that a word of base_quantization asks for, given what the checkpoint stores and the
 * shape: "nf4" keeps absmax as bfloat16 where the source is bfloat16 (lossless there), and is flat
 * where blocks of 64 would straddle rows. DT_COUNT for "none" and unknown words; GGUF's own formats
 * are read, never chosen. */
DType weight_format_of(const char *word, DType source, int64_t cols);

/* n rows (in their own basis; a whole number of panels unless they are the matrix's last) packed to
 * dst, where their first panel stands. rows is used up as scratch. error_sum, value_sum: squares of
 * what was lost and of the rows are added (for the report). Serial; packed formats only. */
void weight_pack(DType d, float *rows, int64_t n, int64_t cols, void *dst, double *error_sum,
                 double *value_sum);
/* A whole tensor in one go, in any format that can be written; values are used up as scratch.
 * Serial: for small ones.
 */
void weight_pack_all(DType d, float *values, int n_dim, const int64_t *dim, void *dst);
/* The whole tensor (numel values) in one go for DT_nf4_flat. */
void weight_pack_flat(const float *values, int64_t numel, void *dst, double *error_sum,
                      double *value_sum);
#endif
