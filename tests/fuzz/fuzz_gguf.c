/* fuzz_gguf.c - any bytes as a GGUF file: refused with a sentence, or every tensor lies inside the
 * bytes, its tokenizer and its other files are made of it, and it is opened as a model. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "data/files.h"
#include "data/gguf_side.h"
#include "data/tokenizer.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void open_tokenizer(const char *path) {
    static const char text[] = "a  b\n<turn>c 12345 \xc3\xa9";
    Tokenizer *t;
    Tokens ids = {0};
    Err e;
    if (tokenizer_open_model(&t, path, &e)) return;
    if (tokenizer_encode(t, text, sizeof text - 1, true, &ids, &e) == 0)
        for (size_t i = 0; i < ids.n; i++)
            CHECK(tokenizer_piece(t, ids.id[i]), "id %d has no piece", ids.id[i]);
    tokens_free(&ids);
    tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    Gguf *g;
    Model *m;
    Err e;
    unsigned sum = 0;
    if (gguf_parse(&g, data, size, "input", &e)) return 0;
    for (int i = 0; i < g->n_entries; i++)
        for (int64_t at = 0; at < g->entry[i].bytes; at++) sum += data[g->entry[i].from + at];
    CHECK(sum <= 255 * size, "a byte was counted twice");
    for (size_t i = 0; gguf_side_name(i); i++) {
        Buf out = {0};
        if (gguf_side_has(g, gguf_side_name(i)))
            (void)gguf_side_write(g, gguf_side_name(i), &out, &e);
        buf_free(&out);
    }
    gguf_close(g);
    snprintf(path, sizeof path, P_tmpdir "/moesmith-fuzz-%ld.gguf", (long)getpid());
    CHECK(files_write_whole(path, data, size, &e) == 0, "%s", e.text);
    open_tokenizer(path);
    if (model_open(&m, path, &e) == 0) model_close(m);
    files_remove(path, &e);
    return 0;
}
