/* base_format.h - which format base_quantization asks for, kind by kind and tensor by tensor. */
#ifndef BASE_FORMAT_H
#define BASE_FORMAT_H
#include "../model/model.h"
#include "config.h"

/* The word of base_quantization for each kind; NULL: as stored. A plain word is for attention,
 * dense and experts; those of a map go before it. Routers and norms have none. */
typedef struct BaseWords {
    const char *word[KIND_COUNT];
} BaseWords;
BaseWords base_words(const Config *cfg);
bool base_words_any(const BaseWords *words);
/* "tq4", or "attention-nf4,experts-tq4": for a file's name. Appended. */
void base_words_text(const BaseWords *words, Buf *out);
json_t *base_words_json(const BaseWords *words); /* {"experts": "tq4", ...} */

/* The format of a site that its source has as stored. */
DType base_format(const BaseWords *words, const Site *s, DType stored, int64_t cols);

/* What a site's checkpoint stores it as; without one, what config.json states. */
DType base_stored(const Model *m, const Site *s);
/* Whether any tensor of a checkpoint, or of shapes, would be kept in another format than it has:
 * then a run makes a base.h5 of it, or did so before. */
bool base_changes(const BaseWords *words, const Model *m);

bool base_is_quantised(const Config *cfg); /* whether any word is given */
#endif
