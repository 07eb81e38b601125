/* jinja.h - the template language of chat templates: Jinja as Transformers' sandbox allows it.
 *
 * Blocks are trimmed (trim_blocks, lstrip_blocks), `break` and `continue` work, a `generation`
 * block is rendered as its body. Values follow Python: what str(), repr() and json.dumps() print
 * is what comes out. Known differences: whole numbers have 64 bits (an overflow is refused), and
 * methods called on what `safe` and `escape` give return plain strings. Whatever is not known here
 * is refused by name and line.
 *
 * A template is outside text: steps, depth, memory and output are bounded (jinja_value.h), and
 * each bound has its own sentence. */
#ifndef JINJA_H
#define JINJA_H
#include <jansson.h>
#include "../autograd/base.h"

typedef struct Jinja Jinja;

/* name stands in the error texts. The source is copied. */
int jinja_compile(Jinja **out, const char *source, size_t n, const char *name, Err *e);
/* vars: an object, one member per variable. Appends to out; on failure out is as it was. A
 * compiled template may be rendered from several threads at once. */
int jinja_render(const Jinja *j, const json_t *vars, Buf *out, Err *e);
void jinja_free(Jinja *j); /* NULL is fine */
#endif
