/* verb_generate.c - text from prompts, one after the other, and (verb_chat) a conversation on the
 * terminal. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../data/chat.h"
#include "../data/files.h"
#include "../data/jsonl.h"
#include "../data/side_files.h"
#include "generate.h"
#include "progress.h"
#include "verbs.h"

enum { STOPS = 32 };

typedef struct Writer {
    const Config *cfg;
    Session s;
    Tokenizer *tokenizer; /* NULL: the model has none; only ids can be read then */
    Chat *chat;           /* opened when the first messages come */
    int32_t stop[STOPS];
    int n_stop;
    int64_t row;
} Writer;

/* ---- ids that end an answer ---- */

static void add_stops(Writer *w, const json_t *value) {
    if (json_is_integer(value) && w->n_stop < STOPS)
        w->stop[w->n_stop++] = (int32_t)json_integer_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) add_stops(w, json_array_get(value, i));
}

static int read_stops(Writer *w, Err *e) {
    const json_t *c = w->s.model->config;
    json_t *gen;
    add_stops(w, json_object_get(c, "eos_token_id"));
    add_stops(w, json_object_get(json_object_get(c, "text_config"), "eos_token_id"));
    TRY(side_files_json(w->cfg->base_model, "generation_config.json", &gen, e));
    add_stops(w, json_object_get(gen, "eos_token_id"));
    json_decref(gen);
    return 0;
}

/* ---- prompts into ids ---- */

static int need_tokenizer(const Writer *w, Err *e) {
    return w->tokenizer
               ? 0
               : err_set(e, "%s has no tokenizer.json; only prompts of input_ids can be read",
                         w->cfg->base_model);
}

static int encode_text(Writer *w, const char *text, size_t n, bool special, Tokens *out, Err *e) {
    TRY(need_tokenizer(w, e));
    return tokenizer_encode(w->tokenizer, text, n, special, out, e);
}

static int encode_messages(Writer *w, const json_t *messages, const json_t *tools, Tokens *out,
                           Err *e) {
    Buf text = {0};
    if (!w->chat)
        TRY(chat_open(&w->chat, w->cfg->base_model, w->cfg->chat_template, w->cfg->enable_thinking,
                      e));
    int bad = chat_render(w->chat, messages, tools, true, &text, e);
    if (!bad) bad = encode_text(w, text.p ? text.p : "", text.n, false, out, e);
    buf_free(&text);
    return bad;
}

static int encode_ids(Writer *w, const json_t *ids, Tokens *out, Err *e) {
    size_t n = json_array_size(ids);
    out->id = mem_grow(out->id, 0, sizeof *out->id * (n + 1));
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= w->s.model->dims.vocab) {
            return err_set(e, "input_ids[%zu] is not a token id below %d", i,
                           w->s.model->dims.vocab);
        }
        out->id[i] = (int32_t)json_integer_value(id);
    }
    out->n = n;
    return 0;
}

static int encode_row(Writer *w, const json_t *row, Tokens *out, Err *e) {
    const json_t *messages = json_object_get(row, "messages"),
                 *prompt = json_object_get(row, "prompt"), *ids = json_object_get(row, "input_ids");
    if (json_is_array(messages))
        return encode_messages(w, messages, json_object_get(row, "tools"), out, e);
    if (json_is_string(prompt))
        return encode_text(w, json_string_value(prompt), json_string_length(prompt), true, out, e);
    if (json_is_array(ids)) return encode_ids(w, ids, out, e);
    return err_set(e, "a prompt row needs messages, prompt or input_ids");
}

static int check_prompt(const Tokens *prompt, Err *e) {
    return prompt->n ? 0 : err_set(e, "the prompt has no tokens; nothing can follow it");
}

/* All prompts of a file, before the first is answered: a bad row late in it costs no work. */
typedef struct Prompts {
    Tokens *p;
    int64_t n;
} Prompts;

static void free_prompts(Prompts *all) {
    for (int64_t i = 0; i < all->n; i++) tokens_free(&all->p[i]);
    mem_free(all->p);
}

static int read_prompts(Writer *w, Prompts *all, Err *e) {
    Jsonl j;
    json_t *row;
    int bad = jsonl_open(&j, w->cfg->prompts, e);
    while (!bad && !(bad = jsonl_next(&j, &row, e)) && row) {
        size_t bytes = sizeof *all->p, n = (size_t)all->n++;
        all->p = mem_grow(all->p, bytes * n, bytes * (n + 1));
        all->p[n] = (Tokens){0};
        bad = encode_row(w, row, &all->p[n], e) || check_prompt(&all->p[n], e);
        if (bad) err_prefix(e, "%s:%ld", w->cfg->prompts, (long)j.line);
        json_decref(row);
    }
    jsonl_close(&j);
    if (!bad && !all->n)
        bad =
            err_set(e, "%s: no prompt is there; expected one JSON object a line", w->cfg->prompts);
    return bad ? -1 : 0;
}

/* ---- answers ---- */

/* An answer as it grows. Its text is shown, or how far it is, or both where they do not meet. */
typedef struct Stream {
    const Tokenizer *tokenizer; /* NULL: no text is shown */
    Progress *bar;              /* NULL: none is */
    int64_t rows; /* answers before this one, if the bar counts those; -1: it counts tokens */
    int32_t *ids;
    int64_t n, most;
    size_t shown;
} Stream;

static Stream stream_new(const Config *cfg) {
    int64_t most = cfg->max_new_tokens;
    return (Stream){
        .rows = -1, .most = most, .ids = mem_alloc(sizeof(int32_t) * (size_t)(most + 1))};
}

/* Whether standard output and standard error are one: text there says itself how far it is. */
static bool one_screen(void) {
    struct stat out, err;
    return !fstat(STDOUT_FILENO, &out) && !fstat(STDERR_FILENO, &err) && out.st_dev == err.st_dev &&
           out.st_ino == err.st_ino;
}

static void show_bar(const Stream *s) {
    char note[64];
    snprintf(note, sizeof note, "answer %ld: %ld of up to %ld tokens", (long)s->rows + 1,
             (long)s->n, (long)s->most);
    if (s->rows < 0)
        progress_show(s->bar, s->n, "");
    else
        progress_show(s->bar, s->rows, note);
}

/* Prints what the ids add to the text so far; an unfinished character waits for its end. */
static void show_text(Stream *s) {
    Buf text = {0};
    tokenizer_decode(s->tokenizer, s->ids, (size_t)s->n, true, &text);
    bool cut = text.n >= 3 && !memcmp(text.p + text.n - 3, "\xef\xbf\xbd", 3);
    if (!cut && text.n > s->shown) {
        fwrite(text.p + s->shown, 1, text.n - s->shown, stdout);
        fflush(stdout);
        s->shown = text.n;
    }
    buf_free(&text);
}

/* The id is the last of s->ids already. */
static void tell_token(void *ctx, int32_t id) {
    Stream *s = ctx;
    (void)id;
    if (s->tokenizer) show_text(s);
    if (s->bar) show_bar(s);
}

static int answer(Writer *w, const Tokens *prompt, Stream *s, Err *e) {
    const Config *cfg = w->cfg;
    Sampling how = {cfg->temperature, cfg->top_p, cfg->top_k, (uint64_t)cfg->seed,
                    (uint64_t)w->row++};
    TRY(check_prompt(prompt, e));
    return generate(&w->s, prompt->id, (int32_t)prompt->n, cfg->max_new_tokens, &how, w->stop,
                    w->n_stop, s->ids, &s->n, tell_token, s, e);
}

/* {"text":, "ids":} of one answer. */
static json_t *answer_json(const Writer *w, const Stream *s) {
    json_t *list = json_array();
    Buf text = {0};
    for (int64_t i = 0; i < s->n; i++) json_array_append_new(list, json_integer(s->ids[i]));
    if (w->tokenizer) tokenizer_decode(w->tokenizer, s->ids, (size_t)s->n, true, &text);
    json_t *out =
        json_pack("{s:o, s:o}", "text", json_stringn(text.p ? text.p : "", text.n), "ids", list);
    buf_free(&text);
    return out;
}

static void add_line(Buf *lines, const json_t *answer) {
    char *text = json_dumps(answer, 0);
    buf_printf(lines, "%s\n", text);
    mem_free(text);
}

/* Each row of a file; answers go to --output, or to standard output. */
static int answer_file(Writer *w, Buf *lines, json_t *result, Err *e) {
    Progress p;
    Prompts all = {0};
    json_t *answers = json_array();
    Stream s = stream_new(w->cfg);
    int bad = read_prompts(w, &all, e);
    progress_begin(&p, "generating", "rows", 0, all.n);
    s.bar = &p;
    for (s.rows = 0; s.rows < all.n && !bad;) {
        bad = answer(w, &all.p[s.rows], &s, e);
        if (bad) break;
        json_t *out = answer_json(w, &s);
        add_line(lines, out);
        json_array_append_new(answers, out);
        progress_show(&p, ++s.rows, "");
    }
    progress_end(&p);
    free_prompts(&all);
    mem_free(s.ids);
    json_object_set_new(result, "rows", answers);
    return bad;
}

static int answer_prompt(Writer *w, json_t *result, Buf *lines, Err *e) {
    Tokens prompt = {0};
    Progress p;
    Stream s = stream_new(w->cfg);
    int bad = encode_text(w, w->cfg->prompt, strlen(w->cfg->prompt), true, &prompt, e);
    progress_begin(&p, "generating", "tokens", 0, w->cfg->max_new_tokens);
    if (!w->cfg->output) s.tokenizer = w->tokenizer;
    if (w->cfg->output || !one_screen()) s.bar = &p;
    if (!bad) bad = answer(w, &prompt, &s, e);
    progress_end(&p);
    if (!bad) {
        json_t *out = answer_json(w, &s);
        add_line(lines, out);
        if (!w->cfg->output) putchar('\n');
        json_object_update(result, out);
        json_decref(out);
    }
    tokens_free(&prompt);
    mem_free(s.ids);
    return bad;
}

/* ---- a conversation ---- */

static int chat_turn(Writer *w, json_t *messages, Err *e) {
    Tokens prompt = {0};
    Stream s = stream_new(w->cfg);
    s.tokenizer = w->tokenizer;
    int bad = encode_messages(w, messages, NULL, &prompt, e);
    if (!bad) bad = answer(w, &prompt, &s, e);
    if (!bad) {
        json_t *out = answer_json(w, &s);
        json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "assistant", "content",
                                                  json_object_get(out, "text")));
        json_decref(out);
        putchar('\n');
    }
    tokens_free(&prompt);
    mem_free(s.ids);
    return bad;
}

static int converse(Writer *w, Err *e) {
    json_t *messages = json_array();
    char line[1 << 16];
    int bad = need_tokenizer(w, e);
    fprintf(stderr, "Type a message and Enter; an empty line or Ctrl-D ends.\n");
    while (!bad) {
        fprintf(stderr, "> ");
        if (!fgets(line, sizeof line, stdin)) break;
        line[strcspn(line, "\n")] = 0;
        if (!*line) break;
        json_t *content = json_string(line);
        if (!content)
            bad = err_set(e, "the message is not UTF-8");
        else
            json_array_append_new(messages,
                                  json_pack("{s:s, s:o}", "role", "user", "content", content));
        if (!bad) bad = chat_turn(w, messages, e);
    }
    json_decref(messages);
    return bad;
}

/* ---- the verbs ---- */

static int open_writer(Writer *w, const Config *cfg, Err *e) {
    *w = (Writer){.cfg = cfg};
    TRY(session_open(&w->s, cfg, USE_AS_IS, e));
    if (side_files_has(cfg->base_model, "tokenizer.json"))
        TRY(tokenizer_open_model(&w->tokenizer, cfg->base_model, e));
    return read_stops(w, e);
}

static void close_writer(Writer *w) {
    if (w->chat) chat_close(w->chat);
    if (w->tokenizer) tokenizer_close(w->tokenizer);
    session_close(&w->s);
}

int verb_generate(const Config *cfg, json_t *result, Err *e) {
    Writer w;
    Buf lines = {0};
    if (!cfg->prompt && !cfg->prompts) {
        err_set(e, "generate needs --prompt TEXT or --prompts FILE.jsonl");
        return CONFIG_REFUSED;
    }
    TRY(output_check(cfg, OUTPUT_FILE, e));
    int bad = open_writer(&w, cfg, e);
    if (!bad)
        bad =
            cfg->prompt ? answer_prompt(&w, result, &lines, e) : answer_file(&w, &lines, result, e);
    if (!bad && cfg->output)
        bad = files_write_whole(cfg->output, lines.p ? lines.p : "", lines.n, e);
    if (!bad && !cfg->output && cfg->prompts) fwrite(lines.p, 1, lines.n, stdout);
    buf_free(&lines);
    close_writer(&w);
    return bad;
}

int verb_chat(const Config *cfg, json_t *result, Err *e) {
    Writer w;
    (void)result;
    int bad = open_writer(&w, cfg, e);
    if (!bad) bad = converse(&w, e);
    close_writer(&w);
    return bad;
}
