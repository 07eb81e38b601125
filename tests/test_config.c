/* test_config.c - YAML scalars and structure, the key table, and what a Config refuses. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "data/yaml.h"
#include "train/args.h"
#include "train/config_help.h"
#include "train/config_table.h"

/* ---- YAML ---- */

static void assert_yaml(const char *text, const char *json) {
    Yaml y;
    Err e = {{0}};
    if (yaml_read_text(&y, text, strlen(text), "t.yaml", &e) != 0) fail_msg("%s: %s", text, e.text);
    char *got = json_dumps(y.root, JSON_ENCODE_ANY | JSON_COMPACT);
    assert_string_equal(got, json);
    free(got);
    yaml_close(&y);
}

static void assert_yaml_refused(const char *text, const char *part) {
    Yaml y;
    Err e = {{0}};
    if (yaml_read_text(&y, text, strlen(text), "t.yaml", &e) == 0)
        fail_msg("accepted: %.200s", text);
    if (!strstr(e.text, part)) fail_msg("\"%s\" lacks \"%s\"", e.text, part);
    yaml_close(&y);
}

static void test_yaml_scalars(void **state) {
    (void)state;
    assert_yaml("[1e-5, 1E+2, .5, 1., -2.5e3, 1_000.5]",
                "[1.0000000000000001e-5,100.0,0.5,1.0,-2500.0,1000.5]");
    assert_yaml("[0, -7, +7, 0x1f, -0o17, 017, 1_000, 9223372036854775807]",
                "[0,-7,7,31,-15,17,1000,9223372036854775807]");
    assert_yaml("[9223372036854775808, 1e999, .inf, .nan, 0x, 1-2, e5, 1e, '', 1:30]",
                "[\"9223372036854775808\",\"1e999\",\".inf\",\".nan\",\"0x\",\"1-2\",\"e5\",\"1e\","
                "\"\",\"1:30\"]");
    assert_yaml("[true, False, yes, NO, on, Off, y, n]",
                "[true,false,true,false,true,false,\"y\",\"n\"]");
    assert_yaml("[~, null, Null, ]", "[null,null,null]");
    assert_yaml("['1', \"true\", !!str 5, ! 6]", "[\"1\",\"true\",\"5\",\"6\"]");
    assert_yaml("a:\nb: |\n  x\n  y\n", "{\"a\":null,\"b\":\"x\\ny\\n\"}");
    assert_yaml("", "null");
    assert_yaml("# nothing\n", "null");
}

static void test_yaml_anchors(void **state) {
    (void)state;
    assert_yaml("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x",
                "{\"a\":{\"p\":1,\"q\":2},\"b\":{\"q\":3,\"p\":1},\"c\":{\"p\":1,\"q\":2}}");
    assert_yaml("a: &x {p: 1}\nb: &y {p: 2, q: 2}\nc: {<<: [*x, *y]}",
                "{\"a\":{\"p\":1},\"b\":{\"p\":2,\"q\":2},\"c\":{\"p\":1,\"q\":2}}");
    assert_yaml_refused("a: &x [*x]", "t.yaml:1: *x names no anchor");
    assert_yaml_refused("a: 1\nb: {<<: 3}", "t.yaml:2: << merges");
}

static void test_yaml_refuses(void **state) {
    (void)state;
    assert_yaml_refused("a: 1\nb: 2\na: 3\n", "t.yaml:3: the key \"a\"");
    assert_yaml_refused("{[a]: 1}", "a key that is not a text");
    assert_yaml_refused("a: !!int 3", "the tag");
    assert_yaml_refused("a: !x {}", "the tag");
    assert_yaml_refused("a: 1\n---\nb: 2\n", "a second document");
    assert_yaml_refused("a: b: c", "t.yaml:1: not valid YAML");
    assert_yaml_refused("a: \xff", "UTF-8");
    assert_yaml_refused("a: [1, 2", "not valid YAML");

    Buf deep = {0};
    for (int i = 0; i < 100000; i++) buf_add_text(&deep, "[");
    assert_yaml_refused(deep.p, "nested deeper");
    deep.n = 0;
    buf_add_text(&deep, "a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 20; i++) {
        buf_printf(&deep, "a%d: &a%d [", i, i);
        for (int k = 0; k < 9; k++) buf_printf(&deep, "%s*a%d", k ? ", " : "", i - 1);
        buf_add_text(&deep, "]\n");
    }
    assert_yaml_refused(deep.p, "aliases counted in full");
    buf_free(&deep);
}

static void test_yaml_written_text_reads_back(void **state) {
    (void)state;
    static const char *const texts[] = {"plain",
                                        "a/b-c.jsonl",
                                        "",
                                        "true",
                                        "1e-5",
                                        "~",
                                        "- x",
                                        "a: b",
                                        "#c",
                                        "\"q\" \\",
                                        "tab\tline\nbell\x07\x7f",
                                        "é日\xf0\x9f\x98\x80",
                                        "\xc2\x85\xe2\x80\xa8\xef\xbb\xbf",
                                        "\xef\xbf\xbe",
                                        " x ",
                                        "*a",
                                        "&a",
                                        "!t",
                                        "%d",
                                        "@x",
                                        "'"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        Buf out = {0};
        Yaml y;
        Err e;
        yaml_write_text(&out, texts[i]);
        assert_int_equal(yaml_read_text(&y, out.p, out.n, "t.yaml", &e), 0);
        assert_true(json_is_string(y.root));
        assert_string_equal(json_string_value(y.root), texts[i]);
        yaml_close(&y);
        buf_free(&out);
    }
}

/* ---- loading ---- */

typedef struct Loaded {
    Config cfg;
    Err e;
    int rc;
} Loaded;

/* yaml NULL: no file. words: the command line behind the verb, split at spaces. */
static Loaded load(const char *yaml, const char *words) {
    Loaded l = {.rc = 0};
    char path[] = P_tmpdir "/moesmith_config_XXXXXX";
    char *argv[64] = {"moesmith", "train"}, *copy = mem_copy_text(words), *rest = copy;
    int argc = 2;
    if (yaml) {
        int fd = mkstemp(path);
        assert_true(fd >= 0 && write(fd, yaml, strlen(yaml)) == (ssize_t)strlen(yaml));
        close(fd);
        argv[argc++] = path;
    }
    for (char *word; (word = strtok_r(rest, " ", &rest));) argv[argc++] = word;
    Args a;
    l.rc = args_parse(&a, argc, argv, &l.e);
    if (l.rc == 0) l.rc = config_load(&l.cfg, a.config_path, a.flags, a.n_flags, &l.e);
    args_free(&a);
    if (yaml) unlink(path);
    mem_free(copy);
    return l;
}

static Loaded load_good(const char *yaml, const char *words) {
    Loaded l = load(yaml, words);
    if (l.rc != 0) fail_msg("%s | %s: %s", yaml ? yaml : "", words, l.e.text);
    return l;
}

static void assert_refused(const char *yaml, const char *words, const char *part,
                           const char *part2) {
    Loaded l = load(yaml, words);
    if (l.rc == 0) fail_msg("accepted: %s | %s", yaml ? yaml : "", words);
    if (!strstr(l.e.text, part) || !strstr(l.e.text, part2)) {
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", l.e.text, part, part2);
    }
    config_free(&l.cfg);
}

static void test_defaults(void **state) {
    (void)state;
    Loaded l = load_good(NULL, "");
    const Config *c = &l.cfg;
    assert_string_equal(c->adapter, "lora");
    assert_int_equal(c->lora_r, 8);
    assert_true(c->lora_alpha == 8 && c->lora_dropout == 0 && c->learning_rate == 2e-4);
    assert_true(c->adam_epsilon == 1e-8 && c->max_grad_norm == 1);
    assert_int_equal(c->lora_target_modules.n, 1);
    assert_string_equal(c->lora_target_modules.p[0], "all-linear");
    assert_int_equal(c->lora_target_parameters.n, 2);
    assert_int_equal(c->router_train.n, 0);
    assert_int_equal(c->router_lora_r, 8);
    assert_true(c->router_learning_rate == 2e-4);
    assert_int_equal(c->sequence_len, 2048);
    assert_int_equal(c->max_steps, 0);
    assert_int_equal(c->seed, 42);
    assert_true(c->shuffle && c->gradient_checkpointing && !c->train_on_inputs);
    assert_int_equal(c->enable_thinking, THINKING_UNSET);
    assert_null(c->base_model);
    assert_false(config_given(c, "lora_r"));
    config_free(&l.cfg);
    l = load_good(NULL, "--lora_r 16"); /* alpha does not follow the rank; the routers' rank does */
    assert_true(l.cfg.lora_alpha == 8 && l.cfg.router_lora_r == 16);
    config_free(&l.cfg);
}

static void test_file_and_flags(void **state) {
    (void)state;
    Loaded l = load_good(
        "model_name_or_path: m\nlora_rank: 4\nlearning_rate: 1e-5\nrouter:\n  train: [lora]\n"
        "datasets:\n  - path: a.jsonl\n    type: text\n    weight: 0.5\n  - b.jsonl\n"
        "lora_target: q_proj, v_proj\nenable_thinking: false\nnum_train_epochs: 3.0\n",
        "--router.train lora,scale --learning_rate=2e-5 --overwrite --datasets.1.type tokens "
        "--shuffle false --lora_target_parameters=");
    const Config *c = &l.cfg;
    assert_string_equal(c->base_model, "m");
    assert_true(c->learning_rate == 2e-5 && c->lora_r == 4 && c->num_epochs == 3);
    assert_int_equal(c->router_train.n, 2);
    assert_string_equal(c->router_train.p[1], "scale");
    assert_int_equal(c->datasets.n, 2);
    assert_true(c->datasets.p[0].weight == 0.5 && c->datasets.p[1].weight == 1);
    assert_string_equal(c->datasets.p[1].type, "tokens");
    assert_int_equal(c->lora_target_modules.n, 2);
    assert_string_equal(c->lora_target_modules.p[1], "v_proj");
    assert_int_equal(c->lora_target_parameters.n, 0);
    assert_true(c->overwrite && !c->shuffle);
    assert_int_equal(c->enable_thinking, THINKING_OFF);
    assert_true(config_given(c, "lora_r") && !config_given(c, "lora_alpha"));
    config_free(&l.cfg);

    l = load_good(NULL, "--datasets.0.type text --datasets a.jsonl,b.jsonl --overwrite --json");
    assert_int_equal(l.cfg.datasets.n, 2);
    assert_string_equal(l.cfg.datasets.p[0].type, "text");
    assert_null(l.cfg.datasets.p[1].type);
    assert_true(l.cfg.overwrite && l.cfg.json);
    config_free(&l.cfg);
}

static void test_other_trainers_words(void **state) {
    (void)state;
    Loaded l = load_good(
        "optim: adamw_torch\nlr_scheduler_type: constant_with_warmup\nlora_target_linear: true\n"
        "load_in_4bit: false\nwandb_project: x\nflash_attention: true\nbf16: auto\n"
        "lora_target_modules: [q_proj, router.proj]\nresume_from_checkpoint: true\n",
        "");
    assert_string_equal(l.cfg.optimizer, "adamw");
    assert_string_equal(l.cfg.lr_scheduler, "constant");
    assert_string_equal(l.cfg.resume_from_checkpoint, "auto");
    assert_int_equal(l.cfg.lora_target_modules.n, 1); /* named, so the switch does not count */
    assert_string_equal(l.cfg.router_train.p[0], "lora");
    assert_int_equal(l.cfg.warnings.n, 3);
    config_free(&l.cfg);
}

static void test_refusals_name_line_and_key(void **state) {
    (void)state;
    assert_refused("a_key: 1\n", "", "moesmith_config", ":1: unknown key \"a_key\"");
    assert_refused("seed: 1\n\nlora_rnk: 3\n", "", ":3: unknown key \"lora_rnk\"",
                   "\"lora_rank\" (lora_r)");
    assert_refused("router:\n  trian: []\n", "", ":2: unknown key \"router.trian\"",
                   "\"router.train\"");
    assert_refused("batch_size: 8\n", "", "batch_size", "\"micro_batch_size\"");
    assert_refused("epochs: 8\n", "", "epochs", "\"num_epochs\"");
    assert_refused("seed: 1\nlora_r: x\n", "", ":2: lora_r is \"x\"", "whole number from 1");
    assert_refused("lora_r: 0\n", "", "lora_r is 0", "from 1");
    assert_refused("lora_r: 1.5\n", "", "lora_r is 1.5", "whole number");
    assert_refused("lora_r: 8\nlora_rank: 8\n", "", ":2: lora_r is set twice", "lora_rank");
    assert_refused("max_steps: -1\n", "", "max_steps is -1", "at least 1");
    assert_refused("num_epochs: 0\n", "", "num_epochs is 0", "from 1");
    assert_refused("learning_rate: .inf\n", "", "learning_rate is \".inf\"", "number");
    assert_refused("base_model: 5\n", "", "base_model is 5", "quotes");
    assert_refused("optimizer: lion\n", "", "optimizer is \"lion\"", "adamw, sgd");
    assert_refused("lora_target_modules: [q_proj, zz]\n", "", "\"zz\"", "all-linear");
    assert_refused("datasets: [{path: a, typ: x}]\n", "", "\"typ\"", "weight");
    assert_refused("datasets: [{path: a, type: alpaca}]\n", "", "type alpaca", "in this version");
    assert_refused("datasets: [{path: a, type: bogus}]\n", "", "\"bogus\"", "chat_template");
    assert_refused("datasets: [{path: a, split: test}]\n", "", "split", "train");
    assert_refused("datasets: [{type: text}]\n", "", "datasets.0", "path");
    assert_refused("- a\n", "", "the whole file", "KEY: VALUE");
    assert_refused("router.layers: [last:2, 3]\n", "", "router.layers", "last:2");
    assert_refused(NULL, "--lora_r", "--lora_r", "needs a value");
    assert_refused(NULL, "--lora_r x", "command line", "lora_r is \"x\"");
    assert_refused(NULL, "--nope 3", "command line", "\"nope\"");
    assert_refused(NULL, "a.yaml b.yaml", "b.yaml", "too many");
    assert_refused(NULL, "-x", "-x", "--key value");
    assert_refused(NULL, "--datasets.3.type text", "datasets.3", "no entry");
}

static void test_clashes_name_both_keys(void **state) {
    (void)state;
    assert_refused(NULL, "--lora_dropout 0.1 --lora_target_parameters experts.down_proj",
                   "lora_dropout", "lora_target_parameters");
    assert_refused(NULL, "--use_dora", "use_dora", "lora_target_parameters");
    assert_refused(NULL, "--adapter none --lora_model_dir x", "adapter", "lora_model_dir");
    assert_refused(NULL, "--trainable all", "trainable", "adapter");
    assert_refused(NULL, "--adapter none --router.train lora", "router.train", "adapter");
    assert_refused(NULL, "--adapter none --base_quantization nf4", "adapter", "base_quantization");
    assert_refused(NULL, "--router.train lora,full", "lora", "full");
    assert_refused(NULL, "--val_set_size 0.1 --test_datasets t.jsonl", "val_set_size",
                   "test_datasets");
    assert_refused(NULL, "--val_set_size 1.5", "val_set_size", "whole");
    assert_refused(NULL, "--resume_from_checkpoint auto --overwrite", "resume_from_checkpoint",
                   "overwrite");
    assert_refused(NULL, "--warmup_steps 2 --warmup_ratio 0.1", "warmup_steps", "warmup_ratio");
    assert_refused(NULL, "--eval_steps 2 --evals_per_epoch 1", "eval_steps", "evals_per_epoch");
    assert_refused(NULL, "--lora_target_modules= --lora_target_parameters=", "lora_target_modules",
                   "router.train");
    Loaded l = load_good(NULL, "--lora_dropout 0.1 --lora_target_parameters=");
    config_free(&l.cfg);
    l = load_good(NULL, "--lora_dropout 0.1"); /* the model may have no experts */
    config_free(&l.cfg);
    l = load_good(NULL, "--lora_dropout 0.1 --lora_target_parameters []");
    assert_int_equal(l.cfg.lora_target_parameters.n, 0);
    config_free(&l.cfg);
}

static void test_adapter_beside_a_gguf_file(void **state) {
    (void)state;
    assert_refused(NULL, "--format gguf-lora --base_model m", "gguf-lora", "base_gguf");
    Loaded l = load_good(NULL, "--format gguf-lora --base_model m.gguf");
    config_free(&l.cfg);
    l = load_good(NULL, "--format gguf-lora --base_model m --base_gguf b.gguf");
    config_free(&l.cfg);
}

static void test_not_yet(void **state) {
    (void)state;
    assert_refused(NULL, "--device cuda", "device: cuda", "not available");
    assert_refused(NULL, "--use_dora --lora_target_parameters=", "use_dora", "not available");
    assert_refused(NULL, "--router.train bias", "router.train: [bias]", "not available");
    assert_refused(NULL, "--router.aux_loss_coef 0.1", "router.aux_loss_coef: 0.1",
                   "not available");
    assert_refused(NULL, "--router.balance sequence", "router.balance", "not available");
    assert_refused(NULL, "--experts.select hot", "experts.select", "not available");
    assert_refused(NULL, "--lr_scheduler wsd", "lr_scheduler", "not available");
    Loaded l = load_good(NULL, "--router.aux_loss_coef 0 --use_dora false");
    config_free(&l.cfg);
}

static void test_base_quantization(void **state) {
    (void)state;
    static const char *const nf4[] = {"load_in_4bit: true\n", "adapter: qlora\n",
                                      "base_quantization: nf4\n"};
    for (size_t i = 0; i < COUNT_OF(nf4); i++) {
        Loaded l = load_good(nf4[i], "");
        assert_string_equal(l.cfg.base_quantization, "nf4");
        assert_string_equal(l.cfg.adapter, "lora");
        config_free(&l.cfg);
    }
    Loaded l = load_good("base_quantization: {experts: tq4, embeddings: int8}\n", "");
    assert_string_equal(l.cfg.base_quantization, "none");
    assert_string_equal(l.cfg.base_quantization_experts, "tq4");
    assert_string_equal(l.cfg.base_quantization_embeddings, "int8");
    assert_null(l.cfg.base_quantization_dense);
    config_free(&l.cfg);
    assert_refused(NULL, "--adapter none --base_quantization.experts nf4", "adapter",
                   "base_quantization");
}

/* Words of other trainers beside each other, and beside the key they stand for. */
static void test_switches_that_clash(void **state) {
    (void)state;
    static const char *const clash[][2] = {
        {"load_in_4bit: true\nload_in_8bit: true\n", "load_in_4bit: true and load_in_8bit: true"},
        {"load_in_8bit: true\nload_in_4bit: true\n", "load_in_8bit: true and load_in_4bit: true"},
        {"adapter: qlora\nload_in_8bit: true\n", "adapter: qlora and load_in_8bit: true"},
        {"load_in_8bit: true\nbase_quantization: nf4\n",
         ":1: load_in_8bit: true and base_quantization: nf4"},
        {"base_quantization: int8\nload_in_4bit: true\n",
         ":2: load_in_4bit: true and base_quantization: int8"},
        {"base_quantization: none\nload_in_4bit: true\n", "base_quantization: none"},
    };
    for (size_t i = 0; i < COUNT_OF(clash); i++)
        assert_refused(clash[i][0], "", clash[i][1], "exclude each other; leave one out");
    assert_refused(NULL, "--load_in_4bit --load_in_8bit", "command line: load_in_4bit",
                   "leave one out");
    static const char *const fine[][3] = {
        {"load_in_4bit: true\nload_in_8bit: false\n", "", "nf4"},
        {"load_in_4bit: true\nadapter: qlora\n", "", "nf4"},
        {"load_in_4bit: true\nbase_quantization: tq4\n", "", "tq4"},
        {"load_in_4bit: true\nbase_quantization:\n", "", "nf4"},
        {"load_in_8bit: true\nbase_quantization: int8\n", "", "int8"},
        {"adapter: qlora\nbase_quantization: int8\n", "", "int8"},
        {"load_in_4bit: true\n", "--load_in_8bit", "int8"}, /* flags win */
        {"load_in_4bit: true\n", "--base_quantization none", "none"},
    };
    for (size_t i = 0; i < COUNT_OF(fine); i++) {
        Loaded l = load_good(fine[i][0], fine[i][1]);
        assert_string_equal(l.cfg.base_quantization, fine[i][2]);
        config_free(&l.cfg);
    }
}

static void test_changes(void **state) {
    (void)state;
    Buf yaml = {0}, text = {0};
    Loaded was = load_good("learning_rate: 2e-4\nmax_steps: 4\noutput_dir: a\n", "");
    config_write_yaml(&was.cfg, &yaml);
    Loaded same = load_good(yaml.p, "--save_steps 3 --output_dir b"), now;
    config_write_changes(&was.cfg, &same.cfg, &text);
    assert_int_equal(text.n, 0);
    now = load_good(yaml.p, "--learning_rate 0.001 --router.learning_rate 0.1 --max_grad_norm 2");
    config_write_changes(&same.cfg, &now.cfg, &text);
    assert_string_equal(text.p, "router.learning_rate 0.1 (0.0002 before), learning_rate 0.001 "
                                "(0.0002 before), max_grad_norm 2 (1 before)");
    config_free(&was.cfg);
    config_free(&same.cfg);
    config_free(&now.cfg);
    buf_free(&yaml);
    buf_free(&text);
}

/* ---- the table ---- */

/* config.yaml, read again, gives the same Config, and so the same config.yaml. */
static void test_written_yaml_reads_back(void **state) {
    (void)state;
    static const char *const cases[] = {
        "",
        "--base_model a/b --datasets x.jsonl,y.jsonl --datasets.0.weight 2.5 --datasets.1.type "
        "text --output_dir o",
        "--adapter none --trainable *.proj,lm_head --learning_rate 1e-7 --prompt 1e5 "
        "--enable_thinking",
        "--lora_model_dir d --lora_r 4 --router.learning_rate 0.001 --adam_beta2 "
        "0.95000000000000007",
        "--lora_target_modules router.proj --lora_target_parameters= --router.layers 0,2 "
        "--layers_to_transform last:2",
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Loaded a = load_good(NULL, cases[i]);
        Buf first = {0}, second = {0};
        config_write_yaml(&a.cfg, &first);
        Loaded b = load_good(first.p, "");
        config_write_yaml(&b.cfg, &second);
        assert_string_equal(first.p, second.p);
        assert_true(a.cfg.adam_beta2 == b.cfg.adam_beta2 && a.cfg.lora_r == b.cfg.lora_r);
        assert_int_equal(a.cfg.lora_target_modules.n, b.cfg.lora_target_modules.n);
        assert_int_equal(
            config_given(&a.cfg, "lora_model_dir") && !config_given(&a.cfg, "lora_alpha"),
            config_given(&b.cfg, "lora_model_dir") && !config_given(&b.cfg, "lora_alpha"));
        buf_free(&first);
        buf_free(&second);
        config_free(&a.cfg);
        config_free(&b.cfg);
    }
}

static void test_table_is_sound(void **state) {
    (void)state;
    for (int i = 0; i < CONFIG_KEYS; i++) {
        const KeyInfo *key = &config_keys[i];
        assert_ptr_equal(config_key_find(key->name), key); /* no name or alias stands twice */
        for (const char *at = key->aliases; *at;) {
            char alias[64] = "";
            size_t n = strcspn(at, " ");
            memcpy(alias, at, n);
            assert_ptr_equal(config_key_find(alias), key);
            assert_null(config_key_ignored(alias));
            at += n + (at[n] == ' ');
        }
        if (key->kind == KIND_INT || key->kind == KIND_REAL) config_interval(key->values);
        if (key->kind == KIND_CHOICE) assert_true(*key->values);
    }
    for (int i = 0; i < config_n_meanings; i++)
        assert_non_null(config_key_find(config_meanings[i].key));
}

static void test_help_names_every_key(void **state) {
    (void)state;
    Buf out = {0};
    config_help(&out);
    for (int i = 0; i < CONFIG_KEYS; i++) {
        char line[100];
        snprintf(line, sizeof line, "\n  %s ", config_keys[i].name);
        if (!strstr(out.p, line)) fail_msg("--help lacks %s", config_keys[i].name);
    }
    for (char *line = out.p, *end; (end = strchr(line, '\n')); line = end + 1)
        assert_true(end - line <= 100);
    buf_free(&out);
}

static void test_require(void **state) {
    (void)state;
    Loaded l = load_good(NULL, "--datasets a.jsonl");
    assert_int_equal(config_require(&l.cfg, "datasets", &l.e), 0);
    assert_int_equal(config_require(&l.cfg, "base_model", &l.e), -1);
    assert_non_null(strstr(l.e.text, "--base_model"));
    config_free(&l.cfg);
}

static void test_word_distance(void **state) {
    (void)state;
    assert_int_equal(config_word_distance("lora_r", "lora_r"), 0);
    assert_int_equal(config_word_distance("lora_rnk", "lora_rank"), 1);
    assert_int_equal(config_word_distance("trian", "train"), 1);
    assert_int_equal(config_word_distance("", "abc"), 3);
    assert_int_equal(config_word_distance("kitten", "sitting"), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yaml_scalars),
        cmocka_unit_test(test_yaml_anchors),
        cmocka_unit_test(test_yaml_refuses),
        cmocka_unit_test(test_yaml_written_text_reads_back),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_file_and_flags),
        cmocka_unit_test(test_other_trainers_words),
        cmocka_unit_test(test_refusals_name_line_and_key),
        cmocka_unit_test(test_clashes_name_both_keys),
        cmocka_unit_test(test_adapter_beside_a_gguf_file),
        cmocka_unit_test(test_not_yet),
        cmocka_unit_test(test_base_quantization),
        cmocka_unit_test(test_switches_that_clash),
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_written_yaml_reads_back),
        cmocka_unit_test(test_table_is_sound),
        cmocka_unit_test(test_help_names_every_key),
        cmocka_unit_test(test_require),
        cmocka_unit_test(test_word_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
