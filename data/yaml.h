/* yaml.h - a YAML file as a tree of JSON values, each with the line it stood on.
 *
 * One document. Plain scalars are read as both YAML 1.1 and 1.2 readers would want them: true, yes,
 * on (and their opposites) are booleans, 1e-5 is a number although 1.1 wants a dot in it, 0x1f and
 * 1_000 are whole numbers, ~ and nothing at all are null; quotes make a text of anything. Anchors,
 * aliases and merge keys (<<) work. What a config has no use for is refused: duplicate keys, keys
 * that are not texts, other tags, several documents. All sizes are bounded, aliases counted in
 * full, so no input costs more than a little memory. */
#ifndef DATA_YAML_H
#define DATA_YAML_H
#include <jansson.h>
#include "../autograd/base.h"

enum { YAML_BYTES_MAX = 1 << 20, YAML_NODES_MAX = 20000, YAML_DEPTH_MAX = 32, YAML_KEY_MAX = 200 };

typedef struct Yaml {
    json_t *root;  /* null for an empty document */
    json_t *lines; /* "datasets.0.path" -> line, for values of up to four parts */
} Yaml;

/* name is what the sentences call the text: "name:LINE: ...". yaml_close either way. */
int yaml_read_file(Yaml *out, const char *path, Err *e);
int yaml_read_text(Yaml *out, const char *text, size_t n, const char *name, Err *e);
int yaml_line(const Yaml *y, const char *path); /* 0: not known */
void yaml_close(Yaml *y); /* not yaml_free: libyaml has one of its own */

/* What a plain scalar stands for; a new reference. Numbers too great for 64 bits, .inf and .nan
 * stay texts. NULL where text is not UTF-8. */
json_t *yaml_scalar(const char *text, size_t n);

/* Appends text as a YAML scalar that reads back as just this text, quoted where it must be. */
void yaml_write_text(Buf *out, const char *text);
#endif
