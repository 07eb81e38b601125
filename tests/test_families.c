/* test_families.c - what families read out of a config.json, in the words of old and new
 * checkpoints, and what they refuse; the names of a multimodal Gemma 3 checkpoint. (That the
 * numbers are then used rightly is test_reference's.) */
#include "trial.h"
#include "data/safetensors.h"
#include "model/merge.h"

/* config.json with these members, its shapes; NULL where it is refused. */
static Model *shapes_of(const char *members) {
    Model *m;
    Buf b = {0};
    buf_printf(&b, "{\"model_type\": \"gemma3_text\"%s%s}", *members ? ", " : "", members);
    ok(files_write_whole(in("config.json"), b.p, b.n, &err));
    buf_free(&b);
    return model_open_shapes(&m, in("config.json"), &err) ? NULL : m;
}

/* window 0: full; theta and factor of its rotation. */
typedef struct Expected {
    int window;
    float theta, factor;
} Expected;

static void check_layers(const char *members, int n, const Expected *want) {
    Model *m = shapes_of(members);
    if (!m) fail_msg("%s", err.text);
    assert_int_equal(m->dims.n_layers, n);
    for (int i = 0; i < n; i++) {
        const LayerDims *d = &m->layer[i].d;
        bool same = d->window == want[i].window && d->rope.theta == want[i].theta &&
                    d->rope.factor == want[i].factor;
        if (!same)
            fail_msg("%s: layer %d has window %d, theta %g, factor %g", members, i, d->window,
                     (double)d->rope.theta, (double)d->rope.factor);
    }
    model_close(m);
}

/* Presets: those of configuration_gemma3.py. */
static void test_gemma3_reads(void **state) {
    (void)state;
    static const Expected local = {512, 1e4f, 1}, full = {0, 1e6f, 1};
    const Expected preset[] = {local, local, local, local, local, full, local},
                   every2[] = {{7, 9e3f, 1}, {0, 5e5f, 8}, {7, 9e3f, 1}, {0, 5e5f, 8}},
                   listed[] = {{0, 3e5f, 2}, {4096, 2e3f, 1}};
    check_layers("\"num_hidden_layers\": 7, \"sliding_window\": 512", 7, preset);
    check_layers("\"num_hidden_layers\": 4, \"sliding_window\": 7, \"sliding_window_pattern\": 2, "
                 "\"rope_theta\": 5e5, \"rope_local_base_freq\": 9e3, "
                 "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 8.0}",
                 4, every2);
    check_layers("\"num_hidden_layers\": 2, \"layer_types\": [\"full_attention\", "
                 "\"sliding_attention\"], \"rope_parameters\": {\"full_attention\": "
                 "{\"rope_type\": \"linear\", \"factor\": 2.0, \"rope_theta\": 3e5}, "
                 "\"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": 2e3}}",
                 2, listed);
    Model *m = shapes_of("\"query_pre_attn_scalar\": 64");
    assert_non_null(m);
    const int found[] = {m->dims.n_layers,
                         m->dims.width,
                         m->dims.n_heads,
                         m->layer[0].d.n_kv,
                         m->layer[0].d.head_dim,
                         m->dims.vocab,
                         m->layer[0].d.window,
                         m->layer[5].d.window,
                         m->dims.tied,
                         m->dims.norm.plus == 1,
                         m->dims.attention_scale == 0.125f};
    static const int want[] = {26, 2304, 8, 4, 256, 262208, 4096, 0, 1, 1, 1};
    assert_memory_equal(found, want, sizeof want);
    model_close(m);
}

static void test_gemma3_refuses(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\"use_bidirectional_attention\": true", "use_bidirectional_attention"},
        {"\"attention_bias\": true", "attention_bias"},
        {"\"attn_logit_softcapping\": 50.0", "attn_logit_softcapping"},
        {"\"hidden_activation\": \"silu\"", "hidden_activation \"silu\""},
        {"\"query_pre_attn_scalar\": 0", "query_pre_attn_scalar"},
        {"\"num_attention_heads\": 6", "6 heads of size 256 over 4"},
        {"\"head_dim\": 7", "heads of size 7"},
        {"\"sliding_window_pattern\": 0", "sliding_window_pattern"},
        {"\"layer_types\": [\"full_attention\"]", "1 layer_types for 26 layers"},
        {"\"num_hidden_layers\": 1, \"layer_types\": [\"chunked_attention\"]",
         "layer_types[0] is \"chunked_attention\""},
        {"\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 8.0}", "rope_type \"yarn\""},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}", "factor 0"},
        {"\"rope_local_base_freq\": -1", "\"rope_local_base_freq\" is -1, expected 0 or more"},
        {"\"rope_local_base_freq\": 0", "rope_theta 0"},
        {"\"rms_norm_eps\": 1e300", "\"rms_norm_eps\" is 1e+300"},
        {"\"hidden_size\": -20", "\"hidden_size\" is -20, expected 1 to"},
        {"\"hidden_size\": 99999999999", "config.json: \"hidden_size\" is 99999999999"},
        {"\"vocab_size\": \"many\"", "\"vocab_size\" is a string, expected a whole number"},
        {"\"rope_parameters\": {\"full_attention\": {\"rope_theta\": \"x\"}}", "\"rope_theta\""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        if (shapes_of(cases[i][0])) fail_msg("accepted: %s", cases[i][0]);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("'%s' does not say '%s'", err.text, cases[i][1]);
    }
}

/* The golden model under the names of published multimodal files: a tower beside, and the head
 * stored a second time. */
static void write_multimodal(const char *dir) {
    Weights *w;
    json_t *text, *config;
    const char *from = "tests/golden/models/gemma3/model";
    ok(weights_open(&w, from, &err));
    int n = weights_count(w), k = 0;
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)(n + 2));
    char **name = mem_alloc(sizeof *name * (size_t)n);
    for (int i = 0; i < n; i++, k++) {
        const WeightView *v = weights_at(w, i);
        Buf b = {0};
        buf_printf(&b, "language_model.%s", v->name);
        name[i] = b.p;
        entry[k] =
            (SafetensorsEntry){.name = b.p, .dtype = v->dtype, .n_dim = v->n_dim, .data = v->data};
        memcpy(entry[k].dim, v->dim, sizeof v->dim);
        if (!strcmp(v->name, "model.embed_tokens.weight")) {
            entry[n] = entry[k];
            entry[n].name = "language_model.lm_head.weight";
        }
    }
    entry[n + 1] = entry[0];
    entry[n + 1].name = "vision_tower.vision_model.post_layernorm.weight";
    ok(files_make_dirs(dir, &err));
    ok(safetensors_write_model(dir, entry, n + 2, SAFETENSORS_SHARD_BYTES, &err));
    for (int i = 0; i < n; i++) mem_free(name[i]);
    mem_free(name);
    mem_free(entry);
    weights_close(w);
    ok(json_read_file(&text, beside(from, "config.json"), &err));
    config = json_pack("{s:s, s:o}", "model_type", "gemma3", "text_config", text);
    char *words = json_dumps(config, 0);
    ok(files_write_whole(beside(dir, "config.json"), words, strlen(words), &err));
    mem_free(words);
    json_decref(config);
}

/* The same logits; an adapter named as Transformers names the loaded modules; merged under the
 * file's own names, head and tower included. */
static void test_gemma3_multimodal(void **state) {
    (void)state;
    const char *dir = in("multimodal"), *run = in("run"), *merged = in("merged");
    write_multimodal(dir);
    Settings same = settings("base_model", dir, NULL);
    same_logits(logits_from("gemma3", NULL), logits_from("gemma3", &same), true);
    Settings learn = settings("base_model", dir, "max_steps", "2", "output_dir", run,
                              "learning_rate", "0.1", NULL);
    train("gemma3", &learn);
    Weights *w;
    ok(weights_open(&w, beside(run, "adapter_model.safetensors"), &err));
    for (int i = 0; i < weights_count(w); i++)
        assert_ptr_equal(
            strstr(weights_at(w, i)->name, "base_model.model.model.language_model.layers."),
            weights_at(w, i)->name);
    weights_close(w);
    Settings adapted = settings("base_model", dir, "lora_model_dir", run, NULL);
    Trial *t = trial("gemma3", USE_AS_IS, &adapted);
    ok(files_make_dirs(merged, &err));
    ok(model_write_merged(merged, t->s.model, DT_COUNT, NULL, &err));
    end(t);
    Settings whole = settings("base_model", merged, NULL);
    near_logits(logits_from("gemma3", &adapted), logits_from("gemma3", &whole), 1e-4, "merged");
    Weights *a;
    ok(weights_open(&a, merged, &err));
    ok(weights_open(&w, dir, &err));
    assert_int_equal(weights_count(a), weights_count(w));
    for (int i = 0; i < weights_count(w); i++)
        assert_non_null(weights_find(a, weights_at(w, i)->name));
    weights_close(a);
    weights_close(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemma3_reads),
        cmocka_unit_test(test_gemma3_refuses),
        cmocka_unit_test(test_gemma3_multimodal),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
