/* tokenizer_post.h - the post-processor: the special tokens before and behind a text. */
#ifndef TOKENIZER_POST_H
#define TOKENIZER_POST_H
#include <jansson.h>
#include "../autograd/base.h"

typedef struct Ids {
    int32_t *at;
    size_t n;
} Ids;
typedef struct PostProcessor {
    Ids before, behind;
} PostProcessor;
/* value: "post_processor" of a tokenizer.json, or NULL. Whether the ids are anyone's is not
 * checked. */
int post_processor_read(PostProcessor *p, const json_t *value, const char *name, Err *e);
void post_processor_free(PostProcessor *p);
#endif
