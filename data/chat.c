/* chat.c - finding a chat template, and rendering messages with it as Transformers does. */
#include "chat.h"
#include <stdio.h>
#include <string.h>
#include "files.h"
#include "jinja.h"
#include "json.h"
#include "side_files.h"

struct Chat {
    Jinja *plain, *with_tools; /* with_tools: one made for tools, or NULL */
    json_t *tokens;            /* bos_token, eos_token, ... as texts */
    Thinking thinking;
};

const char *chat_token(const Chat *c, const char *name) {
    return json_string_value(json_object_get(c->tokens, name));
}

/* A token is a text, or an object that holds it as "content". What is there already stays. */
static void take_tokens(json_t *tokens, const json_t *config) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)config, key, value) {
        size_t n = strlen(key);
        json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
        bool is_token = n > 6 && strcmp(key + n - 6, "_token") == 0 && json_is_string(text);
        if (is_token && !json_object_get(tokens, key)) json_object_set(tokens, key, text);
    }
}

/* source, unless reading it failed, is compiled and freed. */
static int compile_source(Jinja **out, int failed, Buf *source, const char *label, Err *e) {
    if (!failed) failed = jinja_compile(out, source->p ? source->p : "", source->n, label, e);
    buf_free(source);
    return failed;
}

static int compile_file(Jinja **out, const char *path, Err *e) {
    Buf source = {0};
    return compile_source(out, files_read(path, &source, e), &source, path, e);
}

static int compile_text(Jinja **out, const json_t *text, const char *dir, const char *name,
                        Err *e) {
    char label[512];
    if (!json_is_string(text))
        return err_set(e,
                       "%s/tokenizer_config.json: chat_template is neither a text nor a list "
                       "of objects with name and template; give chat_template: FILE.jinja",
                       dir);
    snprintf(label, sizeof label, "%s of %s/tokenizer_config.json", name, dir);
    return jinja_compile(out, json_string_value(text), json_string_length(text), label, e);
}

/* "chat_template" is one template, or a list of them by name, of which two are known. */
static int compile_config(Chat *c, const json_t *given, const char *dir, Err *e) {
    size_t i;
    json_t *entry;
    if (!json_is_array(given)) return compile_text(&c->plain, given, dir, "chat_template", e);
    json_array_foreach(given, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        bool tools = name && strcmp(name, "tool_use") == 0;
        Jinja **to = tools ? &c->with_tools : &c->plain;
        if (!name || (!tools && strcmp(name, "default") != 0) || *to) continue;
        TRY(compile_text(to, json_object_get(entry, "template"), dir, name, e));
    }
    if (c->plain) return 0;
    return err_set(e,
                   "%s/tokenizer_config.json lists chat templates, but none named 'default'; "
                   "give chat_template: FILE.jinja",
                   dir);
}

/* A file of the model where there is one; else *out stays NULL. */
static int compile_optional(Jinja **out, const char *dir, const char *name, Err *e) {
    Buf source = {0};
    if (!side_files_has(dir, name)) return 0;
    char *label = side_files_label(dir, name);
    int failed = side_files_read(dir, name, &source, e);
    failed = compile_source(out, failed, &source, label, e);
    mem_free(label);
    return failed;
}

static int compile_own(Chat *c, const char *dir, const json_t *config, Err *e) {
    const json_t *given = json_object_get(config, "chat_template");
    TRY(compile_optional(&c->plain, dir, "chat_template.jinja", e));
    if (c->plain)
        return compile_optional(&c->with_tools, dir, "additional_chat_templates/tool_use.jinja", e);
    if (given && !json_is_null(given)) return compile_config(c, given, dir, e);
    return err_set(e,
                   "%s has neither chat_template.jinja nor a chat_template in "
                   "tokenizer_config.json; give chat_template: FILE.jinja, or a name such as "
                   "gemma4, chatml or plain",
                   dir);
}

static int compile_named(Chat *c, const char *name, Err *e) {
    static const char *const DIRS[] = {MOESMITH_SOURCE_DIR, MOESMITH_DATADIR};
    size_t n = strlen(name);
    if (strchr(name, '/') || (n > 6 && strcmp(name + n - 6, ".jinja") == 0))
        return compile_file(&c->plain, name, e);
    for (size_t i = 0; i < COUNT_OF(DIRS); i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/configs/templates/%s.jinja", DIRS[i], name);
        if (files_exists(path)) return compile_file(&c->plain, path, e);
    }
    return err_set(e,
                   "chat_template: '%s' is not in configs/templates/; give 'auto', a path to a "
                   ".jinja file, or gemma4, chatml or plain",
                   name);
}

static int open_parts(Chat *c, const char *dir, const char *which, json_t **config, json_t **map,
                      Err *e) {
    bool automatic = strcmp(which, "auto") == 0;
    CHECK(dir || !automatic, "chat_open without a directory wants a template by name");
    if (dir) {
        TRY(side_files_json(dir, "tokenizer_config.json", config, e));
        TRY(side_files_json(dir, "special_tokens_map.json", map, e));
        take_tokens(c->tokens, *config);
        take_tokens(c->tokens, json_object_get(*config, "extra_special_tokens"));
        take_tokens(c->tokens, *map);
    }
    return automatic ? compile_own(c, dir, *config, e) : compile_named(c, which, e);
}

int chat_open(Chat **out, const char *model_dir, const char *which, Thinking thinking, Err *e) {
    Chat *c = mem_alloc(sizeof *c);
    json_t *config = NULL, *map = NULL;
    c->tokens = json_object();
    c->thinking = thinking;
    int failed = open_parts(c, model_dir, which, &config, &map, e);
    json_decref(config);
    json_decref(map);
    if (failed) {
        chat_close(c);
        c = NULL;
    }
    *out = c;
    return failed;
}

void chat_close(Chat *c) {
    if (!c) return;
    jinja_free(c->plain);
    jinja_free(c->with_tools);
    json_decref(c->tokens);
    mem_free(c);
}

/* The names a message's reasoning goes by. As in Transformers, the first that is there becomes
 * reasoning_content, and thinking where that is missing. Returns a new reference. */
static json_t *alias_reasoning(json_t *message) {
    static const char *const NAMES[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *reasoning = NULL;
    for (size_t i = 0; i < COUNT_OF(NAMES) && !reasoning; i++) {
        reasoning = json_object_get(message, NAMES[i]);
        if (json_is_null(reasoning)) reasoning = NULL;
    }
    if (!reasoning) return json_incref(message);
    json_t *copy = json_object();
    if (!json_object_get(message, "thinking")) json_object_set(copy, "thinking", reasoning);
    json_object_update(copy, message);
    json_object_set(copy, "reasoning_content", reasoning);
    return copy;
}

static int check_messages(const json_t *messages, Err *e) {
    size_t i;
    json_t *m;
    if (!json_is_array(messages))
        return err_set(e, "messages: expected a list of messages, found %s", json_kind(messages));
    if (json_array_size(messages) == 0)
        return err_set(e, "messages: the list is empty; a conversation has at least one message");
    json_array_foreach(messages, i, m) {
        if (!json_is_object(m))
            return err_set(e, "messages[%zu]: expected an object with role and content, found %s",
                           i, json_kind(m));
        if (!json_is_string(json_object_get(m, "role")))
            return err_set(e, "messages[%zu].role: expected a text, found %s", i,
                           json_kind(json_object_get(m, "role")));
    }
    return 0;
}

static json_t *make_vars(const Chat *c, const json_t *messages, const json_t *tools,
                         bool generation_prompt) {
    json_t *vars = json_copy(c->tokens), *list = json_array(), *m;
    size_t i;
    json_array_foreach(messages, i, m) { json_array_append_new(list, alias_reasoning(m)); }
    json_object_set_new(vars, "messages", list);
    json_object_set_new(vars, "tools",
                        tools ? json_incref((json_t *)(uintptr_t)tools) : json_null());
    json_object_set_new(vars, "documents", json_null());
    json_object_set_new(vars, "add_generation_prompt", json_boolean(generation_prompt));
    if (c->thinking != THINKING_UNSET)
        json_object_set_new(vars, "enable_thinking", json_boolean(c->thinking == THINKING_ON));
    return vars;
}

int chat_render(const Chat *c, const json_t *messages, const json_t *tools, bool generation_prompt,
                Buf *out, Err *e) {
    TRY(check_messages(messages, e));
    if (tools && !json_is_array(tools) && !json_is_null(tools))
        return err_set(e, "tools: expected a list, found %s", json_kind(tools));
    bool has_tools = tools && !json_is_null(tools);
    json_t *vars = make_vars(c, messages, tools, generation_prompt);
    int failed = jinja_render(has_tools && c->with_tools ? c->with_tools : c->plain, vars, out, e);
    json_decref(vars);
    return failed;
}
