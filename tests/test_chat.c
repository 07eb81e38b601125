/* test_chat.c - conversations to text, and the mask. Spans are written into the text and compared:
 * [[answer||its end-of-turn token]]. Our own templates and made ones that rewrite turns have their
 * texts here; the oracle's published ones must keep what a mask promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "data/chat.h"
#include "data/files.h"
#include "data/json.h"

static Tokenizer *tok;
static char scratch[200];

static json_t *parse(const char *text) {
    json_error_t e;
    json_t *j = json_loads(text, 0, &e);
    if (!j) fail_msg("%s: %s", text, e.text);
    return j;
}

static const char *in_scratch(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static void write_scratch(const char *name, const char *text) {
    Err e;
    if (files_write_whole(in_scratch(name), text, strlen(text), &e) != 0) fail_msg("%s", e.text);
}

/* The rendered conversation with its spans marked, or "refused: " and the sentence. */
static void mark_spans(const Chat *c, const json_t *messages, const json_t *tools, const char *role,
                       Buf *out) {
    Buf text = {0};
    ChatSpan *spans;
    int n;
    size_t at = 0;
    Err e;
    if (chat_spans(c, messages, tools, role, tok, &text, &spans, &n, &e) != 0) {
        buf_printf(out, "refused: %s", e.text);
        return;
    }
    for (int i = 0; i < n; i++) {
        const ChatSpan *s = &spans[i];
        assert_true(at <= s->from && s->from <= s->to && s->to <= s->end_of_turn &&
                    s->end_of_turn <= text.n);
        buf_add(out, text.p + at, s->from - at);
        buf_add_text(out, "[[");
        buf_add(out, text.p + s->from, s->to - s->from);
        buf_add_text(out, "||");
        buf_add(out, text.p + s->to, s->end_of_turn - s->to);
        buf_add_text(out, "]]");
        at = s->end_of_turn;
    }
    buf_add(out, text.p + at, text.n - at);
    buf_free(&text);
    mem_free(spans);
}

/* want: the marked text, or with refuses a part of the sentence. */
static void check_spans(const char *template, Thinking thinking, const char *role,
                        const char *messages, const char *want, bool refuses) {
    Chat *c;
    Err e;
    Buf found = {0};
    json_t *j = parse(messages);
    if (chat_open(&c, "tests/golden/chat", template, thinking, &e) != 0) fail_msg("%s", e.text);
    mark_spans(c, j, NULL, role, &found);
    bool same = refuses ? strncmp(found.p, "refused: ", 9) == 0 && strstr(found.p, want)
                        : strcmp(found.p, want) == 0;
    if (!same) fail_msg("%s\n%s\nwanted %s\nfound  %s", template, messages, want, found.p);
    buf_free(&found);
    json_decref(j);
    chat_close(c);
}

#define USER(text)      "{\"role\": \"user\", \"content\": \"" text "\"}"
#define ASSISTANT(text) "{\"role\": \"assistant\", \"content\": \"" text "\"}"
#define SYSTEM(text)    "{\"role\": \"system\", \"content\": \"" text "\"}"

static void test_gemma4(void **state) {
    static const char TWO[] = "[" SYSTEM(" Be brief. ") "," USER("a") "," ASSISTANT(
        " b\\n") "," USER("c") "," ASSISTANT("d") "]";
    (void)state;
    check_spans("gemma4", THINKING_UNSET, "assistant", TWO,
                "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\na<turn|>\n<|turn>model\n"
                "[[b||<turn|>]]\n<|turn>user\nc<turn|>\n<|turn>model\n[[d||<turn|>]]\n",
                false);
    check_spans("gemma4", THINKING_ON, "user", TWO,
                "<bos><|turn>system\n<|think|>\nBe brief.<turn|>\n<|turn>user\n[[a||<turn|>]]\n"
                "<|turn>model\nb<turn|>\n<|turn>user\n[[c||<turn|>]]\n<|turn>model\nd<turn|>\n",
                false);
    /* Begins as the prompt's empty channel does; thought is dropped; two answers share a turn. */
    check_spans(
        "gemma4", THINKING_OFF, "assistant",
        "[" USER("a") "," ASSISTANT("<b>") "," ASSISTANT("<|channel>thought\\nhm<channel|>yes") "]",
        "<bos><|turn>user\na<turn|>\n<|turn>model\n[[<b>||<turn|>]]\n[[yes||<turn|>]]\n", false);
    check_spans("gemma4", THINKING_UNSET, "assistant", "[" USER("a") "," ASSISTANT("") "]",
                "<bos><|turn>user\na<turn|>\n<|turn>model\n[[||<turn|>]]\n", false);
    check_spans("gemma4", THINKING_UNSET, "assistant", "[{\"role\": \"tool\", \"content\": \"x\"}]",
                "takes no tool calls", true);
}

static void test_chatml(void **state) {
    (void)state;
    check_spans("chatml", THINKING_UNSET, "assistant",
                "[" USER("assistant") "," ASSISTANT("assistant\\n<|im_end|>") "," USER("x") "]",
                "<|im_start|>user\nassistant<|im_end|>\n<|im_start|>assistant\n"
                "[[assistant\n<|im_end|>||<|im_end|>]]\n<|im_start|>user\nx<|im_end|>\n",
                false);
    check_spans("chatml", THINKING_UNSET, "assistant",
                "[" USER("Qwerty uiopA") "," ASSISTANT("Qwerty uiopA") "," USER(
                    "Zxcvb nmkljB") "," ASSISTANT("Zxcvb nmkljB") "]",
                "<|im_start|>user\nQwerty uiopA<|im_end|>\n<|im_start|>assistant\n"
                "[[Qwerty uiopA||<|im_end|>]]\n<|im_start|>user\nZxcvb nmkljB<|im_end|>\n"
                "<|im_start|>assistant\n[[Zxcvb nmkljB||<|im_end|>]]\n",
                false);
    check_spans("chatml", THINKING_UNSET, "assistant", "[" ASSISTANT("first") "]",
                "<|im_start|>assistant\n[[first||<|im_end|>]]\n", false);
    check_spans("chatml", THINKING_UNSET, "assistant",
                "[" USER("\\u4e16") "," ASSISTANT("\\u4e16\\u754c") "]",
                "<|im_start|>user\n世<|im_end|>\n<|im_start|>assistant\n[[世界||<|im_end|>]]\n",
                false);
    check_spans("chatml", THINKING_UNSET, "assistant", "{}", "expected a list", true);
    check_spans("chatml", THINKING_UNSET, "assistant", "[]", "empty", true);
    check_spans("chatml", THINKING_UNSET, "assistant", "[{\"role\": 1}]", "messages[0].role", true);
}

static void test_plain(void **state) {
    (void)state;
    check_spans("plain", THINKING_UNSET, "assistant",
                "[" SYSTEM("Be brief.") "," USER("a") "," ASSISTANT("b\\n") "," USER(
                    "Assistant") "," ASSISTANT("") "]",
                "<bos>### System\nBe brief.\n### User\na\n### Assistant\n[[b\n||<eos>]]\n"
                "### User\nAssistant\n### Assistant\n[[||<eos>]]\n",
                false);
    check_spans("plain", THINKING_UNSET, "assistant", "[{\"role\": \"tool\", \"content\": \"x\"}]",
                "takes no tool calls", true);
}

/* Templates that do not only append. */
static void test_rewriting(void **state) {
    static const char TWO[] = "[" USER("a") "," ASSISTANT("b") "," USER("c") "," ASSISTANT("d") "]";
    (void)state;
    /* Reasoning is written in the last turn and dropped from those before. */
    write_scratch("last.jinja",
                  "{% for m in messages %}<|im_start|>{{ m.role }}\n"
                  "{% if loop.last and m.role == 'assistant' %}<think>\n{{ m.reasoning_content }}"
                  "</think>\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
                  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
    check_spans(in_scratch("last.jinja"), THINKING_UNSET, "assistant", TWO,
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b||<|im_end|>]]\n"
                "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
                "[[<think>\n</think>\nd||<|im_end|>]]\n",
                false);
    /* The system prompt moves to the last user turn; a turn has no header. */
    write_scratch(
        "moved.jinja",
        "{{ bos_token }}{% for m in messages if m.role != 'system' %}"
        "{% if m.role == 'user' %}[INST]{{ messages[0].content ~ ' ' if loop.revindex < 3 }}"
        "{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}");
    check_spans(
        in_scratch("moved.jinja"), THINKING_UNSET, "assistant",
        "[" SYSTEM("S") "," USER("a") "," ASSISTANT("b") "," USER("c") "," ASSISTANT("d") "]",
        "<bos>[INST]a[/INST][[b||</s>]][INST]S c[/INST][[d||</s>]]", false);
    /* A conversation that ends early is refused, so only the whole can be rendered. */
    write_scratch("whole.jinja",
                  "{% if messages|length < 4 %}{{ raise_exception('too short') }}{% endif %}"
                  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                  "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
    check_spans(in_scratch("whole.jinja"), THINKING_UNSET, "assistant", TWO,
                "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[[b||<|im_end|>]]\n"
                "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n[[d||<|im_end|>]]\n",
                false);
    /* No generation prompt, no special token. */
    write_scratch("plain.jinja",
                  "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
    check_spans(in_scratch("plain.jinja"), THINKING_UNSET, "assistant", TWO,
                "user: a\nassistant: [[b||]]\nuser: c\nassistant: [[d||]]\n", false);
    /* Answers before all questions: no turn has a place of its own to be sure of. */
    write_scratch("mixed.jinja", "{% for m in messages|sort(attribute='content') %}{{ m.content }} "
                                 "{% endfor %}{{ messages|map(attribute='content')|join }}");
    check_spans(in_scratch("mixed.jinja"), THINKING_UNSET, "assistant", TWO,
                "messages[1] (assistant): the chat template rewrites this turn", true);
    /* A role that is left out has no span. */
    write_scratch("silent.jinja", "{% for m in messages if m.role == 'user' %}{{ m.content }}</s>"
                                  "{% endfor %}");
    check_spans(in_scratch("silent.jinja"), THINKING_UNSET, "assistant", TWO, "a</s>c</s>", false);
}

static void test_opening(void **state) {
    json_t *messages = parse("[" USER("a") "]"), *tools = parse("[{}]");
    Buf out = {0};
    Chat *c;
    Err e;
    (void)state;
    write_scratch(
        "tokenizer_config.json",
        "{\"bos_token\": {\"content\": \"<bos>\"}, \"eos_token\": null, \"chat_template\": ["
        "{\"name\": \"default\", \"template\": \"{{ bos_token }}plain\"},"
        "{\"name\": \"tool_use\", \"template\": \"tools{{ eos_token }}\"}]}");
    write_scratch("special_tokens_map.json", "{\"bos_token\": \"other\", \"eos_token\": \"</s>\"}");
    assert_int_equal(chat_open(&c, scratch, "auto", THINKING_UNSET, &e), 0);
    assert_string_equal(chat_token(c, "eos_token"), "</s>");
    assert_null(chat_token(c, "pad_token"));
    assert_int_equal(chat_render(c, messages, NULL, false, &out, &e), 0);
    assert_int_equal(chat_render(c, messages, tools, false, &out, &e), 0);
    assert_string_equal(out.p, "<bos>plaintools</s>");
    chat_close(c);
    write_scratch("tokenizer_config.json", "{\"chat_template\": 5}");
    assert_int_equal(chat_open(&c, scratch, "auto", THINKING_UNSET, &e), -1);
    assert_non_null(strstr(e.text, "neither a text nor a list"));
    assert_int_equal(chat_open(&c, "tests/golden/chat", "auto", THINKING_UNSET, &e), -1);
    assert_non_null(strstr(e.text, "neither chat_template.jinja nor"));
    assert_int_equal(chat_open(&c, NULL, "nosuch", THINKING_UNSET, &e), -1);
    assert_non_null(strstr(e.text, "'nosuch' is not in configs/templates/"));
    assert_int_equal(chat_open(&c, NULL, "/nowhere/x.jinja", THINKING_UNSET, &e), -1);
    assert_non_null(strstr(e.text, "/nowhere/x.jinja"));
    buf_free(&out);
    json_decref(messages);
    json_decref(tools);
}

/* The oracle: published templates, each with what Transformers makes of the same conversations. */
static const char *const PUBLISHED[] = {"gemma2",  "gemma4",   "gemma4-interleaved",
                                        "gpt-oss", "llama3.1", "mistral-nemo",
                                        "qwen2.5", "qwen3"};

static const char *oracle(void) {
    const char *dir = getenv("MOESMITH_ORACLE");
    if (dir) return dir;
    return files_is_dir("../shared/oracle") ? "../shared/oracle" : NULL;
}

typedef void EachCase(const char *template, const Chat *c, const json_t *row, int *wrong);

static Thinking thinking_of(const json_t *row) {
    const json_t *on = json_object_get(row, "enable_thinking");
    return !on ? THINKING_UNSET : json_is_true(on) ? THINKING_ON : THINKING_OFF;
}

/* Every case of one template, with the chat opened as the case asks. */
static int for_cases(const char *name, EachCase *each, int *wrong) {
    char path[512], dir[512];
    Buf text = {0};
    Chat *chats[3];
    Err e;
    int rows = 0;
    snprintf(dir, sizeof dir, "%s/chat/%s/chat_template.jinja", oracle(), name);
    snprintf(path, sizeof path, "%s/chat/%s/tokens.json", oracle(), name);
    assert_int_equal(files_read(path, &text, &e), 0);
    write_scratch("special_tokens_map.json", text.p);
    write_scratch("tokenizer_config.json", "{}");
    buf_free(&text);
    for (int i = 0; i < 3; i++)
        if (chat_open(&chats[i], scratch, dir, (Thinking)i, &e) != 0) fail_msg("%s", e.text);
    snprintf(path, sizeof path, "%s/chat/%s/cases.jsonl", oracle(), name);
    assert_int_equal(files_read(path, &text, &e), 0);
    for (char *at = text.p, *next; (next = memchr(at, '\n', strlen(at))); at = next + 1, rows++) {
        json_t *row = json_loadb(at, (size_t)(next - at), 0, NULL);
        assert_non_null(row);
        each(name, chats[thinking_of(row)], row, wrong);
        json_decref(row);
    }
    for (int i = 0; i < 3; i++) chat_close(chats[i]);
    buf_free(&text);
    return rows;
}

static void for_published(EachCase *each) {
    int rows = 0, wrong = 0;
    if (!oracle()) {
        print_message("%zu published templates skipped: no oracle\n", COUNT_OF(PUBLISHED));
        skip();
    }
    setenv("SOURCE_DATE_EPOCH", "1795262400", 1);
    for (size_t i = 0; i < COUNT_OF(PUBLISHED); i++) rows += for_cases(PUBLISHED[i], each, &wrong);
    unsetenv("SOURCE_DATE_EPOCH");
    assert_true(rows > 8 * 50);
    assert_int_equal(wrong, 0);
}

static void check_text(const char *template, const Chat *c, const json_t *row, int *wrong) {
    const char *want = json_string_value(json_object_get(row, "text"));
    Buf out = {0};
    Err e = {{0}};
    int failed = chat_render(c, json_object_get(row, "messages"), json_object_get(row, "tools"),
                             json_is_true(json_object_get(row, "add_generation_prompt")), &out, &e);
    if (want ? failed || strcmp(out.p ? out.p : "", want) != 0 : !failed) {
        ++*wrong;
        print_error("%s, %s: wanted %s\nfound %s%s\n", template,
                    json_string_value(json_object_get(row, "name")), want ? want : "an error",
                    failed ? e.text : "", out.p ? out.p : "");
    }
    buf_free(&out);
}
static void test_published_texts(void **state) {
    (void)state;
    for_published(check_text);
}

static bool ends_with_trimmed(const char *p, size_t n, const char *content) {
    size_t from = strspn(content, " \n"), to = strlen(content);
    while (to > from && strchr(" \n", content[to - 1])) to--;
    while (n > 0 && strchr(" \n", p[n - 1])) n--;
    return n >= to - from && memcmp(p + n - (to - from), content + from, to - from) == 0;
}

/* What holds for any template: each assistant message has its span; it ends with what the message
 * says and then one special token; no header and no end of turn is inside a plain answer. */
static void check_mask(const char *template, const Chat *c, const json_t *row, int *wrong) {
    static const char *const HEADERS[] = {"<|im_start|>", "<start_of_turn>", "<|turn>", "[INST]",
                                          "<|start_header_id|>"};
    const json_t *messages = json_object_get(row, "messages");
    Buf text = {0};
    ChatSpan *spans;
    int n;
    size_t i, turns = 0;
    json_t *m;
    Err e;
    if (!json_object_get(row, "text")) return;
    if (chat_spans(c, messages, json_object_get(row, "tools"), "assistant", tok, &text, &spans, &n,
                   &e) != 0) {
        ++*wrong;
        print_error("%s: %s\n", template, e.text);
        return;
    }
    json_array_foreach(messages, i, m) {
        turns += strcmp(json_string_value(json_object_get(m, "role")), "assistant") == 0;
    }
    bool good = turns == (size_t)n;
    for (int k = 0; k < n; k++) {
        m = json_array_get(messages, (size_t)spans[k].message);
        const char *content = json_string_value(json_object_get(m, "content"));
        const char *said =
            strrchr(content, '>') && content[0] == '<' ? strrchr(content, '>') + 1 : content;
        size_t size = spans[k].to - spans[k].from;
        const char *answer = text.p + spans[k].from;
        Tokens t = {0};
        if (!json_object_get(m, "tool_calls")) good &= ends_with_trimmed(answer, size, said);
        for (size_t h = 0; h < COUNT_OF(HEADERS); h++)
            good &= !memmem(answer, size, HEADERS[h], strlen(HEADERS[h]));
        assert_int_equal(tokenizer_encode(tok, text.p + spans[k].to,
                                          spans[k].end_of_turn - spans[k].to, false, &t, &e),
                         0);
        good &= t.n == 1 && tokenizer_is_special(tok, t.id[0]);
        tokens_free(&t);
    }
    if (!good) {
        ++*wrong;
        print_error("%s, %s: %s\n", template, json_string_value(json_object_get(row, "name")),
                    text.p);
    }
    mem_free(spans);
    buf_free(&text);
}
static void test_published_masks(void **state) {
    (void)state;
    for_published(check_mask);
}

static int set_up(void **state) {
    Err e;
    (void)state;
    const char *temp = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/moesmith-chat-XXXXXX", temp ? temp : P_tmpdir);
    if (!mkdtemp(scratch)) return -1;
    if (tokenizer_open(&tok, "tests/golden/chat/tokenizer.json", &e) != 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int tear_down(void **state) {
    Err e;
    (void)state;
    tokenizer_close(tok);
    return files_remove(scratch, &e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemma4),          cmocka_unit_test(test_chatml),
        cmocka_unit_test(test_plain),           cmocka_unit_test(test_rewriting),
        cmocka_unit_test(test_opening),         cmocka_unit_test(test_published_texts),
        cmocka_unit_test(test_published_masks),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
