/* chat.h - messages to text by the checkpoint's own chat template, and which part of that text an
 * assistant wrote. */
#ifndef CHAT_H
#define CHAT_H
#include <jansson.h>
#include "tokenizer.h"

typedef struct Chat Chat;
typedef enum Thinking { THINKING_UNSET, THINKING_OFF, THINKING_ON } Thinking;

/* model_dir: where chat_template.jinja or tokenizer_config.json (chat_template, bos_token,
 * eos_token, ...) lie. which: "auto", a path to a .jinja file, or a name in configs/templates/;
 * model_dir then only gives the special tokens, and may be NULL. */
int chat_open(Chat **out, const char *model_dir, const char *which, Thinking thinking, Err *e);
void chat_close(Chat *c);
/* The text of "eos_token", "bos_token", ... of tokenizer_config.json; NULL: it has none. */
const char *chat_token(const Chat *c, const char *name);

/* messages: a JSON array; tools: a JSON array or NULL. Appends the text. */
int chat_render(const Chat *c, const json_t *messages, const json_t *tools, bool generation_prompt,
                Buf *out, Err *e);

/* A stretch of rendered text: bytes [from, to) of role's turn; [to, end_of_turn) are the bytes that
 * close it (its end-of-turn token). message is the index into messages. */
typedef struct ChatSpan {
    size_t from, to;    /* the answer itself: after the header and what a generation prompt adds */
    size_t end_of_turn; /* == to, or behind it where the turn closes with a token */
    int message;
} ChatSpan;
/* Renders, and finds where each message with this role stands, by rendering alone (no rules for
 * any model). Appends to text; the spans count from the text's first byte, are in order and do not
 * overlap; a message that the template leaves out has none. *spans is the caller's (mem_free). A
 * template that rewrites a turn so that its place cannot be told is an error. */
int chat_spans(const Chat *c, const json_t *messages, const json_t *tools, const char *role,
               const Tokenizer *tok, Buf *text, ChatSpan **spans, int *n_spans, Err *e);
#endif
