/* dataset_tokens.c - {"input_ids":, "labels":}: verbatim. Whatever made the ids has decided on
 * special tokens and mask. */
#include "dataset_room.h"
#include "json.h"

static int read_id(const DatasetContext *ctx, const json_t *list, const char *key, size_t i,
                   bool may_ignore, int32_t *out, Err *e) {
    const json_t *value = json_array_get(list, i);
    int64_t id = json_integer_value(value), end = ctx->vocab_size ? ctx->vocab_size : INT32_MAX;
    if (!json_is_integer(value)) {
        return err_set(e, "%s[%zu] is %s, expected a token id", key, i, json_kind(value));
    }
    *out = (int32_t)id;
    if ((id >= 0 && id < end) || (may_ignore && id == LABEL_IGNORE)) return 0;
    return err_set(e, "%s[%zu] is %lld, expected 0 to %lld%s", key, i, (long long)id,
                   (long long)end - 1, may_ignore ? " or -100" : "");
}

static int read_list(const json_t *object, const char *key, const json_t **out, Err *e) {
    *out = json_object_get(object, key);
    if (json_is_array(*out)) return 0;
    return err_set(e, "\"%s\" is %s, expected a list of token ids", key, json_kind(*out));
}

int dataset_read_tokens(const DatasetContext *ctx, const json_t *object, DatasetRow *row, Err *e) {
    const json_t *ids, *labels = json_object_get(object, "labels");
    const json_t *text = json_object_get(object, "text");
    TRY(read_list(object, "input_ids", &ids, e));
    if (json_is_null(labels)) labels = NULL;
    if (labels) TRY(read_list(object, "labels", &labels, e));
    size_t n = json_array_size(ids);
    if (n == 0) return err_set(e, "\"input_ids\" is empty");
    if (labels && json_array_size(labels) != n) {
        return err_set(e,
                       "\"labels\" has %zu entries and \"input_ids\" %zu, expected the same number",
                       json_array_size(labels), n);
    }
    for (size_t i = 0; i < n; i++) {
        int32_t id = 0, label;
        TRY(read_id(ctx, ids, "input_ids", i, false, &id, e));
        label = id;
        if (labels) TRY(read_id(ctx, labels, "labels", i, true, &label, e));
        row_add(row, id, label);
    }
    if (json_is_string(text))
        buf_add(&row->text, json_string_value(text), json_string_length(text));
    return 0;
}
