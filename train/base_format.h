/* base_format.h - which format base_quantization asks for, tensor by tensor. */
#ifndef BASE_FORMAT_H
#define BASE_FORMAT_H
#include "../model/model.h"
#include "config.h"

/* A word of base_quantization: of the site's kind where the map names it; "none" for what is never
 * quantised (norms, routers) and, unless named, for embeddings. */
const char *base_word(const Config *cfg, const Site *s);
bool base_is_quantised(const Config *cfg); /* whether any tensor is kept in another format */
#endif
