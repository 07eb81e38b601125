/* json.h - what all of data/ needs on top of jansson: whole files into a tree with one clear
 * sentence when that fails, and fields of an object by type.
 *
 * Texts may hold U+0000, so their length is json_string_length(), not strlen(). Nesting is bounded
 * by JSON_DEPTH_MAX, so a walk over a tree read here may recurse. */
#ifndef DATA_JSON_H
#define DATA_JSON_H
#include <jansson.h>
#include "../autograd/base.h"

enum { JSON_DEPTH_MAX = 256 };

/* An object or array out of a file, or out of text; name is what the sentence calls the text. The
 * caller owns *out (json_decref). A whole number beyond 64 bits is read as a fraction. */
int json_read_file(json_t **out, const char *path, Err *e);
int json_read_text(json_t **out, const char *text, size_t n, const char *name, Err *e);

/* Fields by type. A missing or null field leaves *out as it was (put the default there first); one
 * of another type is an error; where is what the sentence calls the object. What *out points to
 * belongs to the object. */
int json_get_text(const json_t *object, const char *key, const char **out, const char *where,
                  Err *e);
int json_get_bool(const json_t *object, const char *key, bool *out, const char *where, Err *e);
int json_get_int(const json_t *object, const char *key, int64_t low, int64_t high, int64_t *out,
                 const char *where, Err *e);
int json_get_real(const json_t *object, const char *key, double *out, const char *where, Err *e);
int json_get_array(const json_t *object, const char *key, const json_t **out, const char *where,
                   Err *e);
int json_get_object(const json_t *object, const char *key, const json_t **out, const char *where,
                    Err *e);
/* An error unless the object has this field, and not null. */
int json_require(const json_t *object, const char *key, const char *where, Err *e);
/* "an object", "a string", ...: the type of a value, for sentences. NULL is "nothing". */
const char *json_kind(const json_t *value);
#endif
