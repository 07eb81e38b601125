/* chat_mask.c - chat_spans: which part of a rendered conversation a message wrote, found by
 * comparing renderings. No template is known by name; two views are tried, and where neither is
 * sure the message is refused.
 *
 * From the front: render the conversation up to a message, with and without it. What it adds
 * behind the generation prompt is its answer, provided the whole conversation begins with the very
 * same bytes. This holds wherever a template only ever appends.
 *
 * In place: render the whole conversation with the message's texts replaced by marks. What changes
 * is the message's; the header before it is the generation prompt's. This serves templates that
 * write a turn differently once others follow (drop its reasoning, move a system prompt) or that
 * refuse a conversation that ends early. */
#include <string.h>
#include "chat_trial.h"

typedef struct Mask {
    Conversation v;
    const char *role;
    Buf whole;
    Buf prompt; /* a generation prompt, for turns whose own cannot be told */
} Mask;

typedef struct Closing { /* the token that ends a turn */
    bool known, found;   /* known: the turn was looked at; found: it had one */
    char text[128];
} Closing;

/* What the conversation up to message `at` tells. */
typedef struct Front {
    bool has_history, has_prompt, has_full;
    Buf history, prompt, full, a, b; /* a, b: full with the message bare and marked */
    ChatSpan span;                   /* in full */
    Closing closing, bare_closing;
} Front;

static void front_free(Front *f) {
    Buf *all[] = {&f->history, &f->prompt, &f->full, &f->a, &f->b};
    for (size_t i = 0; i < COUNT_OF(all); i++) buf_free(all[i]);
}

static void note_closing(Closing *c, const Buf *text, bool found, size_t start, size_t end) {
    c->known = true;
    c->found = found && end - start < sizeof c->text;
    if (c->found) {
        memcpy(c->text, text->p + start, end - start);
        c->text[end - start] = 0;
    }
}

/* A generation prompt is the assistant's header; other roles have none. */
static bool is_prompted(const Mask *m) { return strcmp(m->role, "assistant") == 0; }

/* Fills m->prompt from the first place in the conversation where a generation prompt shows. */
static void learn_prompt(Mask *m) {
    size_t n = json_array_size(m->v.messages);
    for (size_t i = 1; is_prompted(m) && i <= n && m->prompt.n == 0; i++) {
        const json_t *role = json_object_get(json_array_get(m->v.messages, i), "role");
        if (i < n && strcmp(json_string_value(role), m->role) != 0) continue;
        Buf without = {0}, with = {0};
        if (trial_render(&m->v, i, i, CHANGE_NOTHING, MARK_A, false, &without) &&
            trial_render(&m->v, i, i, CHANGE_NOTHING, MARK_A, true, &with) &&
            common_head(&without, &with) == without.n)
            buf_add(&m->prompt, with.p + without.n, with.n - without.n);
        buf_free(&without);
        buf_free(&with);
    }
}

static void front_render(const Mask *m, size_t at, Front *f) {
    const Conversation *v = &m->v;
    f->has_full = trial_render(v, at + 1, at, CHANGE_NOTHING, MARK_A, false, &f->full) &&
                  trial_render(v, at + 1, at, CHANGE_BARE, MARK_A, false, &f->a) &&
                  trial_render(v, at + 1, at, CHANGE_BARE, MARK_B, false, &f->b);
    f->has_history = at > 0 && trial_render(v, at, at, CHANGE_NOTHING, MARK_A, false, &f->history);
    f->has_prompt = f->has_history && is_prompted(m) &&
                    trial_render(v, at, at, CHANGE_NOTHING, MARK_A, true, &f->prompt) &&
                    common_head(&f->history, &f->prompt) == f->history.n;
}

/* The end of the header in whole[low, at): the prompt's last full occurrence, or the longest part
 * of its front that ends right there (a prompt may add more than the header). Returns SIZE_MAX
 * where neither is to be found. */
static size_t header_end(const Buf *whole, size_t low, size_t at, const char *prompt, size_t n) {
    enum { SHORTEST = 8 }; /* bytes: less could be chance */
    size_t partial = SIZE_MAX;
    for (size_t h = at; h-- > low;) {
        size_t room = at - h, k = 0;
        while (k < n && k < room && whole->p[h + k] == prompt[k]) k++;
        if (k == n) return h + n;
        if (k == room && k >= SHORTEST) partial = at;
    }
    return partial;
}

static bool has_calls(const Mask *m, size_t at) {
    const json_t *calls = json_object_get(json_array_get(m->v.messages, at), "tool_calls");
    return json_array_size(calls) > 0;
}

/* A call of a tool may end with a token of its own that no tokenizer calls special: the last one
 * behind all that the message's texts change. */
static bool find_call_end(const Mask *m, size_t at, const Front *f, size_t *start, size_t *end) {
    Buf a = {0}, b = {0};
    bool found = false;
    if (has_calls(m, at) && trial_render(&m->v, at + 1, at, CHANGE_TEXTS, MARK_A, false, &a) &&
        trial_render(&m->v, at + 1, at, CHANGE_TEXTS, MARK_B, false, &b)) {
        Agreement same = agreement_of(&f->full, &a, &b);
        found = find_last_token(&m->v, &f->full, f->full.n - same.tail, false, start, end);
    }
    buf_free(&a);
    buf_free(&b);
    return found;
}

/* Fills f->span. False where the message does not show, or changes what was said before it. */
static bool front_span(const Mask *m, size_t at, Front *f) {
    Agreement same = agreement_of(&f->full, &f->a, &f->b);
    size_t start = 0, end = 0;
    if (f->has_prompt && f->prompt.n > f->history.n) {
        Agreement prompted = agreement_of(&f->prompt, &f->a, &f->b);
        size_t own = common_head(&f->prompt, &f->full);
        same.head = prompted.head < own ? prompted.head : own;
    } else if (!f->has_prompt && m->prompt.n) {
        end = header_end(&f->full, 0, same.head, m->prompt.p, m->prompt.n);
        if (end != SIZE_MAX) same.head = end;
    }
    if (common_head(&f->a, &f->b) == f->a.n && f->a.n == f->b.n) return false; /* left out */
    size_t text_end = f->full.n - same.tail;
    f->span = (ChatSpan){same.head, text_end, text_end, (int)at};
    bool found = find_special(&m->v, &f->full, text_end, f->full.n, &start, &end) ||
                 find_last_token(&m->v, &f->full, same.head, true, &start, &end) ||
                 find_call_end(m, at, f, &start, &end);
    if (found) {
        f->span.to = start;
        f->span.end_of_turn = end;
    }
    note_closing(&f->closing, &f->full, found, start, end);
    size_t bare_end = f->a.n - common_tail(&f->a, &f->b);
    found = find_special(&m->v, &f->a, bare_end, f->a.n, &start, &end);
    note_closing(&f->bare_closing, &f->a, found, start, end);
    if (f->span.to < f->span.from) return false;
    return !f->has_history ||
           (common_head(&f->history, &f->full) == f->history.n && f->span.from >= f->history.n);
}

static bool is_in_place(const Mask *m, const Front *f) {
    size_t n = f->span.end_of_turn;
    return m->whole.n >= n && memcmp(m->whole.p, f->full.p, n) == 0;
}

/* Where a message's own texts stand in the whole. */
typedef struct Place {
    bool rendered; /* with marks in its texts, or bare where it has none */
    bool present;  /* and the marks came out */
    size_t from, to;
} Place;

static Place place_of(const Mask *m, size_t at, Change change) {
    Place place = {0};
    size_t n = json_array_size(m->v.messages);
    Buf a = {0}, b = {0};
    if (trial_render(&m->v, n, at, change, MARK_A, false, &a) &&
        trial_render(&m->v, n, at, change, MARK_B, false, &b)) {
        Agreement same = agreement_of(&m->whole, &a, &b);
        place = (Place){true, a.n != b.n || memcmp(a.p, b.p, a.n) != 0, same.head,
                        m->whole.n - same.tail};
    }
    buf_free(&a);
    buf_free(&b);
    return place;
}

/* The end of the turn whose texts end at `from`: *span's to and end_of_turn. */
static bool close_in_place(const Mask *m, const Front *f, bool calls, size_t from, size_t limit,
                           ChatSpan *span) {
    const Closing *known[] = {&f->closing, &f->bare_closing};
    size_t start = SIZE_MAX, end = 0;
    span->to = span->end_of_turn = from;
    if (!calls) { /* nothing but the answer's text: the next special token closes it */
        if (f->bare_closing.known && !f->bare_closing.found) return true;
        if (!find_special(&m->v, &m->whole, from, limit, &start, &end)) return true;
    } else {
        for (size_t i = 0; i < COUNT_OF(known); i++) {
            size_t n = strlen(known[i]->text);
            const char *hit =
                known[i]->found ? memmem(m->whole.p + from, limit - from, known[i]->text, n) : NULL;
            if (!hit || (size_t)(hit - m->whole.p) >= start) continue;
            start = (size_t)(hit - m->whole.p);
            end = start + n;
        }
        if (start == SIZE_MAX) return false;
    }
    span->to = start;
    span->end_of_turn = end;
    return true;
}

/* The texts of the neighbours bound a turn: *low is where the one before ends, *high where the one
 * behind begins. False where they overlap the place itself. */
static bool between_neighbours(const Mask *m, size_t at, const Place *place, size_t *low,
                               size_t *high) {
    *low = 0;
    *high = m->whole.n;
    if (at > 0) {
        Place before = place_of(m, at - 1, CHANGE_TEXTS);
        if (before.present) *low = before.to;
    }
    if (at + 1 < json_array_size(m->v.messages)) {
        Place behind = place_of(m, at + 1, CHANGE_TEXTS);
        if (behind.present) *high = behind.from;
    }
    return *low <= place->from && place->to <= *high;
}

static size_t start_in_place(const Mask *m, const Front *f, size_t low, size_t texts,
                             const Place *bare) {
    size_t start, end, at = bare->present && bare->from < texts ? bare->from : texts;
    size_t n = f->has_prompt ? f->prompt.n - f->history.n : m->prompt.n;
    const char *prompt = f->has_prompt ? f->prompt.p + f->history.n : m->prompt.p;
    if (n > 0) return header_end(&m->whole, low, at, prompt, n);
    if (bare->present) return at; /* no header of its own beyond what precedes a bare answer */
    bool found = find_special(&m->v, &m->whole, low, texts, &start, &end);
    return found ? end : SIZE_MAX;
}

/* 1: found, 0: the template leaves the message out, -1: its place cannot be told. */
static int find_in_place(const Mask *m, size_t at, const Front *f, ChatSpan *span) {
    const json_t *message = json_array_get(m->v.messages, at);
    bool calls = has_calls(m, at);
    bool has_texts = trial_count_texts(message) > 0;
    Place bare = place_of(m, at, CHANGE_BARE);
    Place place = has_texts ? place_of(m, at, CHANGE_TEXTS) : bare;
    size_t low, high;
    if (!place.rendered) return -1;
    if (!place.present) return calls ? -1 : 0;
    if (place.to < place.from || !between_neighbours(m, at, &place, &low, &high)) return -1;
    size_t from = start_in_place(m, f, low, place.from, &bare);
    *span = (ChatSpan){.from = from, .message = (int)at};
    if (from == SIZE_MAX || from > place.to) return -1;
    return close_in_place(m, f, calls, place.to, high, span) ? 1 : -1;
}

static int find_span(Mask *m, size_t at, ChatSpan *span) {
    Front f = {0};
    int found;
    front_render(m, at, &f);
    if (!f.has_prompt) learn_prompt(m);
    if (f.has_full && front_span(m, at, &f) && is_in_place(m, &f)) {
        *span = f.span;
        found = 1;
    } else {
        found = find_in_place(m, at, &f, span);
    }
    front_free(&f);
    return found;
}

static int find_all(Mask *m, ChatSpan **spans, int *n, Err *e) {
    size_t i, total = json_array_size(m->v.messages), end = 0;
    json_t *message;
    *spans = mem_alloc(total * sizeof **spans);
    json_array_foreach(m->v.messages, i, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        ChatSpan span;
        if (strcmp(role, m->role) != 0) continue;
        int found = find_span(m, i, &span);
        if (found == 0) continue;
        if (found < 0 || span.from < end || span.to < span.from)
            return err_set(
                e,
                "messages[%zu] (%s): the chat template rewrites this turn, so that what "
                "of the text it wrote cannot be told; use another chat_template (chatml, "
                "say), or leave this role out of roles_to_train",
                i, role);
        end = span.end_of_turn;
        (*spans)[(*n)++] = span;
    }
    return 0;
}

int chat_spans(const Chat *c, const json_t *messages, const json_t *tools, const char *role,
               const Tokenizer *tok, Buf *text, ChatSpan **spans, int *n_spans, Err *e) {
    Mask m = {.v = {c, messages, tools, tok}, .role = role};
    *spans = NULL;
    *n_spans = 0;
    int failed = chat_render(c, messages, tools, false, &m.whole, e);
    if (!failed) failed = find_all(&m, spans, n_spans, e);
    if (failed) {
        mem_free(*spans);
        *spans = NULL;
    } else {
        for (int i = 0; i < *n_spans; i++) {
            (*spans)[i].from += text->n;
            (*spans)[i].to += text->n;
            (*spans)[i].end_of_turn += text->n;
        }
        buf_add(text, m.whole.p, m.whole.n);
    }
    buf_free(&m.whole);
    buf_free(&m.prompt);
    return failed;
}
