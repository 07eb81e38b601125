/* fuzz_tokenizer.c - a tokenizer.json, then a NUL, then a text: opened, encoded and decoded again.
 * Spans have to stay inside the text and ids inside the vocabulary, whatever the file says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "data/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int open_bytes(Tokenizer **t, const uint8_t *data, size_t n, Err *e) {
    char path[64];
    int fd = memfd_create("tokenizer.json", 0);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = tokenizer_open(t, path, e);
    close(fd);
    return rc;
}

static void encode(const Tokenizer *t, const char *text, size_t n, bool special) {
    Tokens ids = {0};
    Buf back = {0};
    Err e;
    if (tokenizer_encode(t, text, n, special, &ids, &e) == 0) {
        for (size_t i = 0; i < ids.n; i++) {
            CHECK(ids.from[i] <= ids.to[i] && ids.to[i] <= n, "span [%zu, %zu) of %zu bytes",
                  ids.from[i], ids.to[i], n);
            CHECK(tokenizer_piece(t, ids.id[i]), "id %d has no piece", ids.id[i]);
        }
        tokenizer_decode(t, ids.id, ids.n, special, &back);
    }
    buf_free(&back);
    tokens_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    size_t n = end ? (size_t)(end - data) : size;
    Tokenizer *t;
    Err e;
    if (open_bytes(&t, data, n, &e) != 0) return 0;
    const char *text = end ? (const char *)end + 1 : "";
    for (int special = 0; special < 2; special++) encode(t, text, end ? size - n - 1 : 0, special);
    tokenizer_close(t);
    return 0;
}
