/* fuzz_jsonl.c - any bytes as a JSONL file, and every row of it as a row of type tokens. */
#include "data/dataset_room.h"
#include "data/jsonl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_as_tokens(const json_t *row) {
    static const DatasetContext ctx = {.vocab_size = 100};
    DatasetRow out = {0};
    Err e;
    if (dataset_read_tokens(&ctx, row, &out, &e) == 0) {
        for (size_t i = 0; i < out.tokens.n; i++) {
            int32_t id = out.tokens.id[i], label = out.labels[i];
            CHECK(id >= 0 && id < 100 && (label == LABEL_IGNORE || (label >= 0 && label < 100)),
                  "id %d, label %d", id, label);
        }
    }
    tokens_free(&out.tokens);
    buf_free(&out.text);
    mem_free(out.labels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Jsonl j;
    json_t *row;
    Err e = {{0}};
    if (jsonl_open_text(&j, data, size, "fuzz", &e) != 0) {
        jsonl_close(&j);
        return 0;
    }
    while (jsonl_next(&j, &row, &e) == 0 && row) {
        read_as_tokens(row);
        CHECK(dataset_room_find("auto", row, &e) || e.text[0], "a room or a sentence");
        json_decref(row);
    }
    jsonl_close(&j);
    return 0;
}
