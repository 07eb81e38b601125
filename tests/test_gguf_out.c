/* test_gguf_out.c - models and adapters as GGUF: what llama.cpp's converter would have written
 * (tests/golden/gguf/moe.json, by make_facts.py), merged weights against PEFT's, and adapters by
 * what they add to a base file. */
#include "trial.h"
#include "data/gguf.h"
#include "data/gguf_writer.h"
#include "model/adapter.h"
#include "model/gguf_out.h"

/* A golden model in a folder of its own, with a tokenizer. */
static const char *copied(const char *model, const char *name) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    static const char *const beside_it[] = {"tokenizer.json", "tokenizer_config.json",
                                            "chat_template.jinja"};
    const char *from = beside(beside("tests/golden/models", model), "model"), *to = in(name);
    ok(files_make_dirs(to, &err));
    for (size_t i = 0; i < COUNT_OF(files); i++)
        ok(files_copy(beside(from, files[i]), beside(to, files[i]), &err));
    for (size_t i = 0; i < COUNT_OF(beside_it) && !strcmp(model, "moe"); i++)
        ok(files_copy(beside("tests/golden/gguf/moe", beside_it[i]), beside(to, beside_it[i]),
                      &err));
    return to;
}

static Gguf *opened(const char *path) {
    Gguf *g;
    ok(gguf_open(&g, path, &err));
    return g;
}

static const GgufEntry *entry_of(const Gguf *g, const char *name) {
    const GgufEntry *t = gguf_find_entry(g, name);
    if (!t) fail_msg("%s lacks %s", g->file, name);
    return t;
}

static const float *floats_of(const Gguf *g, const GgufEntry *t) {
    assert_int_equal(t->dtype, DT_f32);
    return gguf_entry_data(g, t);
}

/* A model of a golden one's shape, with or without an adapter, as a file. */
static const char *written(const char *shape, const char *model, const char *adapter,
                           const char *type, const char *name) {
    GgufNotes notes;
    Settings s = settings("base_model", model, "lora_model_dir", adapter, NULL);
    if (!adapter) s.word[2] = NULL;
    Trial *t = trial(shape, USE_AS_IS, &s);
    ok(model_write_gguf(in(name), t->s.model, gguf_find_dtype(type), &notes, &err));
    end(t);
    return in(name);
}

/* ---- llama.cpp's own conversion ---- */

static void same_number(const char *key, const GgufValue *v, int64_t i, const json_t *want) {
    double is = v->type == GGUF_F32 ? gguf_real_at(v, i) : (double)gguf_int_at(v, i),
           should = json_is_boolean(want) ? json_is_true(want) : json_number_value(want);
    if (is != should) fail_msg("%s: %g, not %g", key, is, should);
}

static void same_text(const char *key, const char *is, size_t n, const json_t *want) {
    if (n != json_string_length(want) || memcmp(is, json_string_value(want), n))
        fail_msg("%s: \"%.*s\", not \"%s\"", key, (int)n, is, json_string_value(want));
}

static void same_key(const Gguf *g, const char *key, const json_t *want) {
    const GgufValue *v = gguf_find(g, key);
    if (!v) fail_msg("%s is missing", key);
    const char *at = v->at, *text = NULL;
    size_t n = 0;
    assert_int_equal(v->array, json_is_array(want));
    if (v->array) assert_int_equal(v->n, json_array_size(want));
    if (!v->array && json_is_string(want)) {
        ok(gguf_get_text(g, key, &text, &n, &err));
        same_text(key, text, n, want);
        return;
    }
    for (int64_t i = 0; i < v->n; i++) {
        const json_t *each = v->array ? json_array_get(want, (size_t)i) : want;
        if (json_is_string(each)) {
            assert_true(gguf_take_text(v, &at, &text, &n));
            same_text(key, text, n, each);
        } else {
            same_number(key, v, i, each);
        }
    }
}

static uint64_t fnv(const unsigned char *p, int64_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void same_tensor(const Gguf *g, const char *name, const json_t *want) {
    const GgufEntry *t = entry_of(g, name);
    const json_t *dims = json_object_get(want, "dims");
    char hash[32];
    assert_string_equal(dtype_info[t->dtype].gguf,
                        json_string_value(json_object_get(want, "type")));
    assert_int_equal(t->n_dim, json_array_size(dims));
    for (int i = 0; i < t->n_dim; i++)
        assert_int_equal(t->dim[i], json_integer_value(json_array_get(dims, (size_t)i)));
    snprintf(hash, sizeof hash, "%016llx",
             (unsigned long long)fnv(gguf_entry_data(g, t), t->bytes));
    if (strcmp(hash, json_string_value(json_object_get(want, "fnv"))))
        fail_msg("%s has other values", name);
}

static void test_as_llama_converts(void **state) {
    (void)state;
    const char *model = copied("moe", "converted"), *kind, *key;
    json_t *facts, *want, *value;
    ok(json_read_file(&facts, "tests/golden/gguf/moe.json", &err));
    json_object_foreach(facts, kind, want) {
        Gguf *g = opened(written("moe", model, NULL, kind, "converted.gguf"));
        const json_t *tensors = json_object_get(want, "tensors");
        json_object_foreach(json_object_get(want, "keys"), key, value) same_key(g, key, value);
        json_object_foreach((json_t *)(uintptr_t)tensors, key, value) same_tensor(g, key, value);
        assert_int_equal(g->n_entries, json_object_size(tensors));
        gguf_close(g);
    }
    json_decref(facts);
}

/* ---- merged ---- */

/* Read as a base, the file gives PEFT's logits of the merged model. */
static void test_merged_is_pefts(void **state) {
    static const char *const models[] = {"moe", "dense"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        const char *folder = beside("tests/golden/models", models[i]);
        const char *path = written(models[i], beside(folder, "model"), beside(folder, "adapter"),
                                   "f32", "merged.gguf");
        Weights *peft;
        ok(weights_open(&peft, beside(folder, "merged.safetensors"), &err));
        const WeightView *v = weights_find(peft, "logits");
        Logits want = {mem_alloc((size_t)v->bytes), v->bytes / 4};
        memcpy(want.p, v->data, (size_t)v->bytes);
        Settings s = settings("base_model", path, NULL);
        near_logits(logits_from(models[i], &s), want, 3e-5, models[i]);
        weights_close(peft);
    }
}

/* Norms around 1, and a scale that llama.cpp can run; layer types: NULL as the golden model's, else
 * this one everywhere. */
static void check_gemma3(const char *type) {
    const char *model = copied("gemma3", "gemma3"), *config = beside(model, "config.json");
    json_t *c;
    ok(json_read_file(&c, config, &err));
    json_object_set(c, "query_pre_attn_scalar", json_object_get(c, "head_dim"));
    json_t *types = json_array();
    json_int_t n = json_integer_value(json_object_get(c, "num_hidden_layers"));
    for (json_int_t i = 0; i < n && type; i++) json_array_append_new(types, json_string(type));
    if (type) json_object_set(c, "layer_types", types);
    char *text = json_dumps(c, JSON_INDENT(1));
    ok(files_write_whole(config, text, strlen(text), &err));
    Settings hf = settings("base_model", model, NULL), as_gguf = hf;
    as_gguf.word[1] = written("gemma3", model, NULL, "f32", "gemma3.gguf");
    near_logits(logits_from("gemma3", &as_gguf), logits_from("gemma3", &hf), 1e-5,
                type ? type : "gemma3");
    mem_free(text);
    json_decref(types);
    json_decref(c);
}

static void test_gemma3(void **state) {
    (void)state;
    check_gemma3(NULL);
    check_gemma3("sliding_attention");
    check_gemma3("full_attention");
}

/* ---- adapters ---- */

static const char *lora_written(const char *shape, const char *model, const char *adapter,
                                const char *base, int want, const char *name) {
    Settings s = settings("base_model", model, "lora_model_dir", adapter, NULL);
    Trial *t = trial(shape, USE_AS_IS, &s);
    AdapterOut how = {.form = "gguf-lora", .beside = base};
    int bad =
        adapter_export(in(name), &how, t->s.model, &t->s.params, &t->s.plan, &t->s.adapter, &err);
    assert_int_equal(bad, want);
    end(t);
    return in(name);
}

/* sum over j of b[o][j] a[j][i], of expert e of a pair. */
static double product(const float *a, const float *b, int64_t R, int64_t O, int64_t I, int64_t e,
                      int64_t o, int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < R; j++)
        sum += (double)b[(e * O + o) * R + j] * (double)a[(e * R + j) * I + i];
    return sum;
}

/* base + what the pair adds is the merged file's tensor: at its rows from `row` on, times `by` (per
 * expert or column) where llama.cpp multiplies the base's product only, or its input. */
typedef struct Check {
    const char *name, *merged;
    int64_t row;
    const float *by_expert;             /* down: the base's per_expert_scale */
    const float *scale_now, *scale_was; /* a router whose scale learned */
} Check;

static void check_pair(const Gguf *base, const Gguf *merged, const Gguf *lora, const Check *c) {
    char name[128];
    snprintf(name, sizeof name, "%s.lora_a", c->name);
    const GgufEntry *ta = entry_of(lora, name), *w = entry_of(base, c->name),
                    *m = entry_of(merged, c->merged);
    snprintf(name, sizeof name, "%s.lora_b", c->name);
    const GgufEntry *tb = entry_of(lora, name);
    const float *a = floats_of(lora, ta), *b = floats_of(lora, tb), *was = floats_of(base, w),
                *now = floats_of(merged, m);
    int k = w->n_dim - 2;
    int64_t E = k ? w->dim[0] : 1, O = w->dim[k], I = w->dim[k + 1], R = ta->dim[k],
            rows = m->dim[k];
    assert_int_equal(ta->n_dim, w->n_dim);
    assert_int_equal(tb->n_dim, w->n_dim);
    assert_true(ta->dim[k + 1] == I && tb->dim[k] == O && tb->dim[k + 1] == R);
    for (int64_t e = 0; e < E; e++) {
        for (int64_t x = 0; x < O * I; x++) {
            int64_t o = x / I, i = x % I;
            double add = product(a, b, R, O, I, e, o, i), want;
            if (c->by_expert) add /= (double)c->by_expert[e];
            want = (double)now[(e * rows + c->row + o) * I + i];
            if (c->scale_now) want *= (double)c->scale_now[i] / (double)c->scale_was[i];
            double is = (double)was[(e * O + o) * I + i] + add;
            if (fabs(is - want) > 3e-6)
                fail_msg("%s: expert %ld, row %ld, column %ld: %.9g, merged %.9g", c->name, (long)e,
                         (long)o, (long)i, is, want);
        }
    }
}

static const float *values_named(const Gguf *g, const char *name) {
    return floats_of(g, entry_of(g, name));
}

/* A router also by its scale. */
static bool differs(const Gguf *a, const Gguf *b, const char *name) {
    const GgufEntry *x = entry_of(a, name), *y = entry_of(b, name);
    char scale[128];
    if (memcmp(gguf_entry_data(a, x), gguf_entry_data(b, y), (size_t)x->bytes)) return true;
    const char *router = strstr(name, "ffn_gate_inp.weight");
    if (!router) return false;
    snprintf(scale, sizeof scale, "%.*sffn_gate_inp.scale", (int)(router - name), name);
    return differs(a, b, scale);
}

/* All tensors of a merged file that are not the base's have their pair in the adapter. */
static void check_all_pairs(const Gguf *base, const Gguf *merged, const Gguf *lora) {
    int pairs = 0;
    for (int i = 0; i < merged->n_entries; i++) {
        const GgufEntry *m = &merged->entry[i];
        char layer[32] = "", name[128];
        if (!differs(base, merged, m->name) || strstr(m->name, "ffn_gate_inp.scale")) continue;
        Check c = {m->name, m->name, 0, NULL, NULL, NULL};
        sscanf(m->name, "blk.%3[0-9]", layer);
        if (strstr(m->name, "ffn_down_exps")) {
            snprintf(name, sizeof name, "blk.%s.ffn_down_exps.scale", layer);
            c.by_expert = values_named(base, name);
        }
        if (strstr(m->name, "ffn_gate_inp.weight")) {
            snprintf(name, sizeof name, "blk.%s.ffn_gate_inp.scale", layer);
            c.scale_now = values_named(merged, name), c.scale_was = values_named(base, name);
        }
        check_pair(base, merged, lora, &c);
        pairs++;
    }
    assert_true(pairs > 0);
    assert_int_equal(lora->n_entries, 2 * pairs);
}

static void check_adapter(const char *shape, const char *model, const char *adapter) {
    const char *base = written(shape, model, NULL, "f32", "base.gguf");
    Gguf *b = opened(base), *m = opened(written(shape, model, adapter, "f32", "whole.gguf")),
         *l = opened(lora_written(shape, model, adapter, base, 0, "lora.gguf"));
    const char *text;
    size_t n;
    double alpha = -1;
    ok(gguf_get_text(l, "general.type", &text, &n, &err));
    assert_true(n == 7 && !memcmp(text, "adapter", 7));
    ok(gguf_get_text(l, "adapter.type", &text, &n, &err));
    assert_true(n == 4 && !memcmp(text, "lora", 4));
    ok(gguf_get_real(l, "adapter.lora.alpha", &alpha, &err));
    assert_true(alpha == 0);
    check_all_pairs(b, m, l);
    gguf_close(b);
    gguf_close(m);
    gguf_close(l);
}

static void test_lora_adds_what_merging_does(void **state) {
    static const char *const models[] = {"moe", "dense"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        const char *folder = beside("tests/golden/models", models[i]);
        check_adapter(models[i], beside(folder, "model"), beside(folder, "adapter"));
    }
}

/* Routers that were trained whole, their scale too, are adapters of rank E. */
static void test_whole_routers(void **state) {
    static const char *const trained[] = {"lora", "full", "full,scale", "lora,scale", "scale"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(trained); i++) {
        const char *dir = in(beside("router", trained[i]));
        Settings s = settings("router.train", trained[i], "lora_r", "3", "lora_alpha", "5",
                              "learning_rate", "0.05", "max_steps", "3", "output_dir", dir, NULL);
        train("moe", &s);
        check_adapter("moe", "tests/golden/models/moe/model", dir);
    }
}

/* A file as some converters make them: gate and up of the experts apart. */
static const char *split_base(const Gguf *from, const char *name) {
    GgufOut g = {0};
    gguf_add_text(&g, "general.architecture", "gemma4", 6);
    for (int i = 0; i < from->n_entries; i++) {
        const GgufEntry *t = &from->entry[i];
        char layer[32];
        GgufOutEntry out = {.dtype = t->dtype, .n_dim = t->n_dim, .data = gguf_entry_data(from, t)};
        memcpy(out.dim, t->dim, sizeof out.dim);
        snprintf(out.name, sizeof out.name, "%s", t->name);
        bool both = strstr(t->name, "ffn_gate_up_exps") != NULL;
        if (both) out.dim[1] /= 2, sscanf(t->name, "blk.%3[0-9]", layer);
        if (both) snprintf(out.name, sizeof out.name, "blk.%s.ffn_gate_exps.weight", layer);
        gguf_add_entry(&g, &out);
        if (both) snprintf(out.name, sizeof out.name, "blk.%s.ffn_up_exps.weight", layer);
        if (both) gguf_add_entry(&g, &out);
    }
    ok(gguf_write(in(name), &g, &err));
    gguf_file_free(&g);
    return in(name);
}

/* The rows that the fused pair has for gate, then for up. */
static void test_split_experts(void **state) {
    (void)state;
    const char *folder = "tests/golden/models/moe", *model = beside(folder, "model"),
               *adapter = beside(folder, "adapter");
    Gguf *base = opened(written("moe", model, NULL, "f32", "fused.gguf"));
    Gguf *fused =
        opened(lora_written("moe", model, adapter, in("fused.gguf"), 0, "fused-lora.gguf"));
    Gguf *split = opened(
        lora_written("moe", model, adapter, split_base(base, "split.gguf"), 0, "split-lora.gguf"));
    static const char *const half[] = {"ffn_gate_exps", "ffn_up_exps"};
    for (int layer = 0; layer < 4; layer++) {
        char name[128];
        snprintf(name, sizeof name, "blk.%d.ffn_gate_up_exps.weight.lora_b", layer);
        const GgufEntry *both = entry_of(fused, name);
        int64_t E = both->dim[0], F = both->dim[1] / 2, R = both->dim[2];
        for (int64_t h = 0; h < 2; h++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight.lora_b", layer, half[h]);
            const GgufEntry *b = entry_of(split, name);
            assert_true(b->dim[0] == E && b->dim[1] == F && b->dim[2] == R);
            for (int64_t e = 0; e < E; e++)
                assert_memory_equal(floats_of(split, b) + e * F * R,
                                    floats_of(fused, both) + (2 * e + h) * F * R,
                                    (size_t)(F * R) * 4);
            snprintf(name, sizeof name, "blk.%d.%s.weight.lora_a", layer, half[h]);
            const GgufEntry *a = entry_of(split, name);
            snprintf(name, sizeof name, "blk.%d.ffn_gate_up_exps.weight.lora_a", layer);
            assert_memory_equal(floats_of(split, a), values_named(fused, name), (size_t)a->bytes);
        }
    }
    assert_int_equal(split->n_entries, fused->n_entries + 2 * 4);
    gguf_close(base);
    gguf_close(fused);
    gguf_close(split);
}

/* ---- refused ---- */

static void says(const char *part) {
    if (!strstr(err.text, part)) fail_msg("'%s' does not say '%s'", err.text, part);
}

static void test_what_llama_cannot_run_is_refused(void **state) {
    (void)state;
    static const char *const models[][2] = {{"ple", "keys and values"},
                                            {"gemma3", "query_pre_attn_scalar"}};
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        GgufNotes notes;
        Trial *t = trial(models[i][0], USE_AS_IS, NULL);
        assert_int_equal(model_write_gguf(in("refused.gguf"), t->s.model, DT_f32, &notes, &err),
                         -1);
        says(models[i][1]);
        says("--format merged");
        assert_false(files_exists(in("refused.gguf")));
        end(t);
    }
}

static void test_what_no_adapter_can_say_is_refused(void **state) {
    (void)state;
    const char *dir = in("per-expert"), *model = "tests/golden/models/moe/model",
               *base = written("moe", model, NULL, "f32", "moe.gguf"),
               *adapter = "tests/golden/models/moe/adapter";
    Settings s = settings("router.train", "per_expert_scale", "learning_rate", "0.05", "max_steps",
                          "2", "output_dir", dir, NULL);
    train("moe", &s);
    lora_written("moe", model, dir, base, -1, "refused.gguf");
    says("router.per_expert_scale");
    says("--format gguf");
    lora_written("moe", model, adapter, in("no.gguf"), -1, "refused.gguf");
    says("no.gguf");
    lora_written("moe", model, adapter,
                 written("dense", "tests/golden/models/dense/model", NULL, "f32", "other.gguf"), -1,
                 "refused.gguf");
    says("another shape");
    GgufOut g = {0};
    gguf_add_text(&g, "general.architecture", "llama", 5);
    ok(gguf_write(in("llama.gguf"), &g, &err));
    gguf_file_free(&g);
    lora_written("moe", model, adapter, in("llama.gguf"), -1, "refused.gguf");
    says("architecture \"llama\"");
    assert_false(files_exists(in("refused.gguf")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_llama_converts),
        cmocka_unit_test(test_merged_is_pefts),
        cmocka_unit_test(test_gemma3),
        cmocka_unit_test(test_lora_adds_what_merging_does),
        cmocka_unit_test(test_whole_routers),
        cmocka_unit_test(test_split_experts),
        cmocka_unit_test(test_what_llama_cannot_run_is_refused),
        cmocka_unit_test(test_what_no_adapter_can_say_is_refused),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
