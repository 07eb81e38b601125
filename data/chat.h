/* chat.h - messages to text by the checkpoint's own chat template, and which part of that text an
 * assistant wrote. */
#ifndef CHAT_H
#define CHAT_H
#include <jansson.h>
#include "tokenizer.h"

typedef struct Chat Chat;
typedef enum Thinking { THINKING_UNSET, THINKING_OFF, THINKING_ON } Thinking;

/* model_dir: where chat_template.jinja or tokenizer_config.json (chat_template, bos_token,
 * eos_token, ...) lie. which: "auto", a path to a .jinja file, or a name in configs/templates/. */
int  chat_open(Chat **out, const char *model_dir, const char *which, Thinking thinking, Err *e);
void chat_close(Chat *c);
/* messages: a JSON array; tools: a JSON array or NULL. Appends the text. */
int chat_render(const Chat *c, const json_t *messages, const json_t *tools, bool generation_prompt,
                Buf *out, Err *e);

/* A stretch of rendered text: bytes [from, to) of role's turn; end_of_turn marks the bytes that
 * close it (its end-of-turn token). message is the index into messages. */
typedef struct ChatSpan {
    size_t from, to;     /* the answer itself: after the header and what a generation prompt adds */
    size_t end_of_turn;  /* == to, or behind it where the turn closes with a token */
    int    message;
} ChatSpan;
/* Renders, and finds where each message with this role stands, by rendering alone (no rules for any model). */
int chat_spans(const Chat *c, const json_t *messages, const json_t *tools, const char *role,
               const Tokenizer *tok, Buf *text, ChatSpan **spans, int *n_spans, Err *e);
#endif
