/* dataset_chat_template.c - {"messages":, "tools":}: a conversation as the model's own template
 * writes it. Learned is what the trained roles wrote and, as train_on_eos says, the token that ends
 * a turn; a token that lies partly outside of that is not. */
#include <stdlib.h>
#include <string.h>
#include "dataset_room.h"
#include "json.h"

/* Bytes [from, to) of the text, all of which are learned. */
typedef struct Stretch {
    size_t from, to;
} Stretch;

/* One message's place, with whether its role is trained. */
typedef struct Turn {
    ChatSpan span;
    bool trained;
} Turn;

typedef struct Turns {
    Turn *p;
    int n;
} Turns;

static const char *role_of(const json_t *messages, size_t i) {
    return json_string_value(json_object_get(json_array_get(messages, i), "role"));
}

static bool is_trained(const DatasetContext *ctx, const char *role) {
    for (int i = 0; i < ctx->n_roles_to_train; i++) {
        if (strcmp(ctx->roles_to_train[i], role) == 0) return true;
    }
    return false;
}

/* A template may print any role; a slip of the pen in one would only show as a row that teaches
 * nothing. */
static int check_role(const DatasetContext *ctx, const char *role, size_t i, Err *e) {
    static const char *const known[] = {"system", "developer", "user",  "assistant",
                                        "tool",   "function",  "model", "ipython"};
    for (size_t k = 0; k < COUNT_OF(known); k++) {
        if (strcmp(known[k], role) == 0) return 0;
    }
    if (is_trained(ctx, role)) return 0;
    return err_set(
        e,
        "messages[%zu].role is \"%.100s\", expected system, user, assistant or tool (a role "
        "of your own is named in roles_to_train)",
        i, role);
}

/* Text, or a list of parts; none only where the message calls a tool or shows reasoning. */
static int check_content(const json_t *message, size_t i, Err *e) {
    static const char *const instead[] = {"tool_calls", "reasoning_content", "thinking",
                                          "tool_responses"};
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content) || json_is_array(content)) return 0;
    for (size_t k = 0; k < COUNT_OF(instead) && (!content || json_is_null(content)); k++) {
        if (json_object_get(message, instead[k])) return 0;
    }
    return err_set(e, "messages[%zu].content is %s, expected text or a list of parts", i,
                   json_kind(content));
}

static int check_messages(const DatasetContext *ctx, const json_t *messages, Err *e) {
    if (!json_is_array(messages)) {
        return err_set(e, "\"messages\" is %s, expected a list of messages", json_kind(messages));
    }
    if (json_array_size(messages) == 0) return err_set(e, "\"messages\" is empty");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        if (!json_is_object(message)) {
            return err_set(e, "messages[%zu] is %s, expected an object with role and content", i,
                           json_kind(message));
        }
        if (!role_of(messages, i)) {
            return err_set(e, "messages[%zu].role is %s, expected a string", i,
                           json_kind(json_object_get(message, "role")));
        }
        TRY(check_role(ctx, role_of(messages, i), i, e));
        TRY(check_content(message, i, e));
    }
    return 0;
}

static bool role_is_new(const json_t *messages, size_t i) {
    for (size_t k = 0; k < i; k++) {
        if (strcmp(role_of(messages, k), role_of(messages, i)) == 0) return false;
    }
    return true;
}

static int turn_order(const void *a, const void *b) {
    const Turn *x = a, *y = b;
    return x->span.from < y->span.from ? -1 : x->span.from > y->span.from;
}

static bool ends_every_turn(const DatasetContext *ctx) {
    return strcmp(ctx->train_on_eos, "all") == 0 || strcmp(ctx->train_on_eos, "last") == 0;
}

static void add_turns(Turns *turns, const ChatSpan *spans, int n, bool trained) {
    size_t bytes = sizeof *turns->p;
    turns->p = mem_grow(turns->p, bytes * (size_t)turns->n, bytes * (size_t)(turns->n + n));
    for (int k = 0; k < n; k++) turns->p[turns->n++] = (Turn){spans[k], trained};
}

/* The turns of every role that is needed for the mask, or wanted to be shown, in the order of the
 * text; and the text itself, unless no role was asked for. */
static int find_turns(const DatasetContext *ctx, const json_t *messages, const json_t *tools,
                      Turns *out, Buf *text, Err *e) {
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const char *role = role_of(messages, i);
        bool trained = is_trained(ctx, role);
        bool needed = !ctx->train_on_inputs && (trained || ends_every_turn(ctx));
        if (!role_is_new(messages, i) || !(needed || ctx->want_parts)) continue;
        ChatSpan *spans = NULL;
        int n = 0;
        text->n = 0;
        if (chat_spans(ctx->chat, messages, tools, role, ctx->tokenizer, text, &spans, &n, e) ==
            0) {
            add_turns(out, spans, n, trained);
        } else if (needed) {
            return -1;
        } else {
            text->n = 0; /* only a label for people is lost */
        }
        mem_free(spans);
    }
    if (out->n) qsort(out->p, (size_t)out->n, sizeof *out->p, turn_order);
    return 0;
}

/* Adds [from, to), joined to the last stretch where it goes on from it. */
static void add_stretch(Stretch *list, int *n, size_t from, size_t to) {
    if (from >= to) return;
    if (*n && list[*n - 1].to >= from) {
        if (list[*n - 1].to < to) list[*n - 1].to = to;
    } else {
        list[(*n)++] = (Stretch){from, to};
    }
}

static int learned_stretches(const DatasetContext *ctx, const Turns *turns, Stretch *list) {
    int n = 0, last = -1;
    for (int i = 0; i < turns->n; i++) {
        if (turns->p[i].span.end_of_turn > turns->p[i].span.to) last = i;
    }
    for (int i = 0; i < turns->n; i++) {
        const Turn *t = &turns->p[i];
        bool eos = strcmp(ctx->train_on_eos, "all") == 0 ||
                   (strcmp(ctx->train_on_eos, "turn") == 0 && t->trained) ||
                   (strcmp(ctx->train_on_eos, "last") == 0 && i == last);
        if (t->trained) add_stretch(list, &n, t->span.from, t->span.to);
        if (eos) add_stretch(list, &n, t->span.to, t->span.end_of_turn);
    }
    return n;
}

static void supervise_inside(DatasetRow *row, const Stretch *list, int n) {
    const Tokens *t = &row->tokens;
    for (size_t i = 0, k = 0; i < t->n; i++) {
        while (k < (size_t)n && list[k].to <= t->from[i]) k++;
        if (k == (size_t)n) break;
        if (t->to[i] > t->from[i] && t->from[i] >= list[k].from && t->to[i] <= list[k].to)
            row_supervise(row, i);
    }
}

static void note_parts(DatasetRow *row, const Turns *turns, const json_t *messages) {
    mem_free(row->parts);
    row->parts = mem_alloc(sizeof *row->parts * (size_t)turns->n);
    row->n_parts = turns->n;
    for (int i = 0; i < turns->n; i++) {
        const ChatSpan *span = &turns->p[i].span;
        row->parts[i] = (DatasetPart){.from = span->from, .to = span->end_of_turn};
        strncpy(row->parts[i].role, role_of(messages, (size_t)span->message),
                sizeof row->parts[i].role - 1);
    }
}

static int mask_turns(const DatasetContext *ctx, const Turns *turns, DatasetRow *row, Err *e) {
    TRY(tokenizer_encode(ctx->tokenizer, row->text.p, row->text.n, false, &row->tokens, e));
    row_ignore_all(row);
    if (ctx->train_on_inputs) {
        for (size_t i = 0; i < row->tokens.n; i++) row_supervise(row, i);
        return 0;
    }
    Stretch *list = mem_alloc(sizeof *list * 2 * (size_t)(turns->n + 1));
    int n = learned_stretches(ctx, turns, list);
    supervise_inside(row, list, n);
    mem_free(list);
    return 0;
}

int dataset_read_chat_template(const DatasetContext *ctx, const json_t *object, DatasetRow *row,
                               Err *e) {
    const json_t *messages = json_object_get(object, "messages"),
                 *tools = json_object_get(object, "tools");
    if (json_is_null(tools)) tools = NULL;
    TRY(check_messages(ctx, messages, e));
    if (tools && !json_is_array(tools)) {
        return err_set(e, "\"tools\" is %s, expected a list of tools", json_kind(tools));
    }
    Turns turns = {0};
    int rc = find_turns(ctx, messages, tools, &turns, &row->text, e);
    if (rc == 0 && row->text.n == 0)
        rc = chat_render(ctx->chat, messages, tools, false, &row->text, e);
    if (rc == 0) rc = mask_turns(ctx, &turns, row, e);
    if (rc == 0 && ctx->want_parts) note_parts(row, &turns, messages);
    mem_free(turns.p);
    return rc;
}
