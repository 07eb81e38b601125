/* fuzz_yaml.c - any bytes as YAML: a tree or a sentence, and a text written is read back. */
#include <string.h>
#include "data/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Yaml y;
    Err e = {{0}};
    int rc = yaml_read_text(&y, (const char *)data, size, "fuzz", &e);
    CHECK((rc == 0) == (y.root != NULL) && (rc == 0 || e.text[0]), "a tree or a sentence");
    if (rc == 0 && json_is_string(y.root) &&
        strlen(json_string_value(y.root)) == json_string_length(y.root)) {
        Buf out = {0};
        Yaml again;
        yaml_write_text(&out, json_string_value(y.root));
        CHECK(yaml_read_text(&again, out.p, out.n, "again", &e) == 0, "%s", e.text);
        CHECK(json_equal(y.root, again.root), "%s reads back as another text", out.p);
        yaml_close(&again);
        buf_free(&out);
    }
    yaml_close(&y);
    return 0;
}
