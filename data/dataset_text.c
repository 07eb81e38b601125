/* dataset_text.c - {"text":}: all of it is learned, to the end-of-text token. */
#include "dataset_room.h"

int dataset_read_text(const DatasetContext *ctx, const json_t *object, DatasetRow *row, Err *e) {
    TRY(row_add_field(object, "text", row, e));
    row->empty = row->text.n == 0;
    if (row->empty) return 0;
    TRY(tokenizer_encode(ctx->tokenizer, row->text.p, row->text.n, true, &row->tokens, e));
    row_ignore_all(row);
    for (size_t i = 0; i < row->tokens.n; i++) row_supervise(row, i);
    return row_add_end_of_text(ctx, row, e);
}
