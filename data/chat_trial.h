/* chat_trial.h - trial renderings: the conversation with one message changed or the rest cut off,
 * to be compared with others byte by byte. */
#ifndef CHAT_TRIAL_H
#define CHAT_TRIAL_H
#include "chat.h"

typedef struct Conversation {
    const Chat *chat;
    const json_t *messages, *tools;
    const Tokenizer *tok;
} Conversation;

/* Two marks that share neither their first nor their last letter: where renderings of one and of
 * the other part company, a message's own text begins; where they meet again, it ends. */
typedef enum Mark { MARK_A, MARK_B } Mark;
typedef enum Change {
    CHANGE_NOTHING,
    CHANGE_BARE,  /* the message becomes its role and the mark as content */
    CHANGE_TEXTS, /* its shape stays, every text in it (but names and ids) becomes the mark */
} Change;

/* Renders the first n messages, message `at` changed. False where the template refuses. */
bool trial_render(const Conversation *v, size_t n, size_t at, Change change, Mark mark,
                  bool generation_prompt, Buf *out);
/* How many texts CHANGE_TEXTS replaces in a message. */
size_t trial_count_texts(const json_t *message);

size_t common_head(const Buf *a, const Buf *b); /* bytes, whole characters */
size_t common_tail(const Buf *a, const Buf *b);

/* Where all three agree: bytes at their heads, and at their tails (not reaching into the head). */
typedef struct Agreement {
    size_t head, tail;
} Agreement;
Agreement agreement_of(const Buf *text, const Buf *a, const Buf *b);

/* The first special token in text[from, to), as [*start, *end) of text; one token that stands alone
 * there counts too. */
bool find_special(const Conversation *v, const Buf *text, size_t from, size_t to, size_t *start,
                  size_t *end);
/* The token that text ends with but for white space, not starting before `from`; special: only a
 * special one. */
bool find_last_token(const Conversation *v, const Buf *text, size_t from, bool special,
                     size_t *start, size_t *end);
#endif
