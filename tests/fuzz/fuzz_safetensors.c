/* fuzz_safetensors.c - any bytes as a safetensors file: refused with a sentence, or every tensor
 * lies inside the bytes. */
#include "data/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    SafetensorsHeader h;
    Err e;
    if (safetensors_parse(&h, data, size, "input", &e)) return 0;
    unsigned sum = 0;
    for (int i = 0; i < h.n; i++)
        for (int64_t at = h.tensor[i].from; at < h.tensor[i].to; at++) sum += data[at];
    CHECK(sum <= 255 * size, "a byte was counted twice");
    safetensors_free(&h);
    return 0;
}
