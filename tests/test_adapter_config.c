/* test_adapter_config.c - what adapter_config.json may say in PEFT's words: numbers by patterns, and
 * switches that make another product of A and B. golden/README.md tells where the adapter comes
 * from. */
#include "trial.h"

#define GOLDEN "tests/golden/adapters"

static Logits logits_with(const char *adapter) {
    Settings s = settings("base_model", GOLDEN "/model", "datasets", GOLDEN "/batch.jsonl",
                          "lora_model_dir", adapter, NULL);
    return logits_from("moe", &s);
}

/* The golden adapter with a key of its config changed. */
static const char *with_key(const char *name, const char *key, json_t *value) {
    const char *to = in(name);
    json_t *config;
    ok(files_make_dirs(to, &err));
    ok(files_copy(GOLDEN "/peft/adapter_model.safetensors", beside(to, "adapter_model.safetensors"),
                  &err));
    ok(json_read_file(&config, GOLDEN "/peft/adapter_config.json", &err));
    json_object_set_new(config, key, value);
    char *text = json_dumps(config, 0);
    ok(files_write_whole(beside(to, "adapter_config.json"), text, strlen(text), &err));
    mem_free(text);
    json_decref(config);
    return to;
}

static void refused(const char *adapter, const char *part) {
    Settings s = settings("base_model", GOLDEN "/model", "lora_model_dir", adapter, NULL);
    Config cfg;
    Session session;
    load(&cfg, "moe", &s);
    assert_int_equal(session_open(&session, &cfg, USE_AS_IS, &err), -1);
    config_free(&cfg);
    if (!strstr(err.text, part)) fail_msg("\"%s\" does not say %s", err.text, part);
}

static const char *with_alpha(const char *name, const char *pattern) {
    return with_key(name, "alpha_pattern", json_pack("{s:i}", pattern, 99));
}

/* Keys are regular expressions, matched against a module's name or its end. */
static void test_patterns_are_expressions(void **state) {
    (void)state;
    static const char *const same[] = {"layers\\.0\\..*q_proj", ".*\\.0\\.self_attn\\.q_proj",
                                       "^model\\.layers\\.0\\.self_attn\\.q_proj",
                                       "layers.[0].(self_attn|mlp).q_proj"};
    static const char *const none[] = {"q_pro", "^layers\\.0\\..*q_proj", "ayers\\.0\\..*q_proj",
                                       "layers\\.0\\..*q_pro"};
    const char *named = with_alpha("named", "layers.0.self_attn.q_proj");
    for (size_t i = 0; i < COUNT_OF(same); i++)
        same_logits(logits_with(named), logits_with(with_alpha("same", same[i])), true);
    for (size_t i = 0; i < COUNT_OF(none); i++)
        same_logits(logits_with(GOLDEN "/peft"), logits_with(with_alpha("none", none[i])), true);
    same_logits(logits_with(GOLDEN "/peft"), logits_with(named), false);
    refused(with_alpha("broken", "q_proj("), "regular expression");
}

/* What PEFT would add otherwise than as A times B is refused by the key's name. */
static void test_other_products_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *key, *value;
    } cases[] = {{"alora_invocation_tokens", "[5, 6]"},
                 {"layer_replication", "[[0, 2], [1, 3]]"},
                 {"use_qalora", "true"},
                 {"use_dora", "true"},
                 {"arrow_config", "{\"top_k\": 3}"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        json_t *value = json_loads(cases[i].value, JSON_DECODE_ANY, NULL);
        refused(with_key("other", cases[i].key, value), cases[i].key);
    }
}

/* Ends of names, or one expression for whole names; what is excluded has no tensors in a file. */
static void test_exclude_modules(void **state) {
    (void)state;
    static const struct {
        const char *value;
        bool excludes;
    } cases[] = {{"[\"layers.0.self_attn.q_proj\"]", true},
                 {"\".*layers\\\\.0\\\\.self_attn\\\\.q_proj\"", true},
                 {"[\"elf_attn.q_proj\", \"q_pro\"]", false},
                 {"\"self_attn\\\\.q_proj|.*vision.*\"", false}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        json_t *value = json_loads(cases[i].value, JSON_DECODE_ANY, NULL);
        assert_non_null(value);
        const char *adapter = with_key("exclude", "exclude_modules", value);
        if (cases[i].excludes)
            refused(adapter, "layers.0.self_attn.q_proj.lora_A");
        else
            same_logits(logits_with(GOLDEN "/peft"), logits_with(adapter), true);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns_are_expressions),
        cmocka_unit_test(test_other_products_are_refused),
        cmocka_unit_test(test_exclude_modules),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
