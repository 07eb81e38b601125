/* fuzz_jinja.c - any bytes as a chat template over one conversation: text or one sentence, never a
 * crash, and within the bounds. */
#include <string.h>
#include "data/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char VARS[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \" h\\u00e9 \\u4e16 \\u0000\"},"
        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": "
        "{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, true, \"x\"]}}}]}],"
        "\"tools\": null, \"add_generation_prompt\": true, \"bos_token\": \"<bos>\"}";
    json_t *vars = json_loads(VARS, JSON_ALLOW_NUL, NULL);
    Jinja *j;
    Buf out = {0};
    Err e;
    if (jinja_compile(&j, (const char *)data, size, "fuzz", &e) == 0) {
        jinja_render(j, vars, &out, &e);
        jinja_free(j);
    }
    buf_free(&out);
    json_decref(vars);
    return 0;
}
