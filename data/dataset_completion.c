/* dataset_completion.c - {"prompt":, "completion":}: what follows the prompt is learned, to the
 * end-of-text token. Both are tokenised as one text, as they will be met in use. */
#include "dataset_room.h"

/* The first token that lies wholly behind the prompt; what stands for no text (added by the
 * post-processor) goes with what comes before it. */
static size_t first_of_completion(const Tokens *t, size_t prompt_bytes) {
    size_t i = 0;
    while (i < t->n && (t->from[i] < prompt_bytes || t->to[i] == t->from[i])) i++;
    return i;
}

int dataset_read_completion(const DatasetContext *ctx, const json_t *object, DatasetRow *row,
                            Err *e) {
    bool whole = !json_object_get(object, "prompt") && !json_object_get(object, "completion");
    if (whole && json_object_get(object, "text")) return dataset_read_text(ctx, object, row, e);
    TRY(row_add_field(object, "prompt", row, e));
    size_t prompt_bytes = row->text.n;
    TRY(row_add_field(object, "completion", row, e));
    row->empty = row->text.n == 0;
    if (row->empty) return 0;
    TRY(tokenizer_encode(ctx->tokenizer, row->text.p, row->text.n, true, &row->tokens, e));
    row_ignore_all(row);
    size_t first = ctx->train_on_inputs ? 0 : first_of_completion(&row->tokens, prompt_bytes);
    for (size_t i = first; i < row->tokens.n; i++) row_supervise(row, i);
    return row_add_end_of_text(ctx, row, e);
}
