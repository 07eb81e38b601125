/* test_verify_gguf.c - verify finds what is wrong with a GGUF file that was written, a whole model's
 * or an adapter's, and names it: experts, halves, transposes, scales, bits of every format, keys,
 * tokenizer. */
#include "autograd/weight.h"
#include "data/gguf_writer.h"
#include "train/verbs.h"
#include "trial.h"

#define MOE     "tests/golden/models/moe"
#define BLOCKED "tests/golden/models/gguf-moe" /* all sizes are whole blocks */
#define PLE     "tests/golden/models/gguf-ple" /* float32 */

/* What is exported, and how. */
typedef struct Export {
    const char *name, *model, *adapter, *format, *type;
} Export;
static const Export lora = {"lora", NULL, MOE "/adapter", "gguf-lora", NULL},
                    plain = {"plain", NULL, MOE "/adapter", "gguf", "f32"},
                    half = {"half", NULL, MOE "/adapter", "gguf", "bf16"},
                    f16 = {"f16", BLOCKED "/model.gguf", BLOCKED "/adapter", "gguf", "f16"},
                    q8_0 = {"q8_0", BLOCKED "/model.gguf", BLOCKED "/adapter", "gguf", "q8_0"},
                    q4_0 = {"q4_0", BLOCKED "/model.gguf", BLOCKED "/adapter", "gguf", "q4_0"},
                    mxfp4 = {"mxfp4", BLOCKED "/model.gguf", BLOCKED "/adapter", "gguf", "mxfp4"},
                    stored = {"stored", BLOCKED "/model.gguf", BLOCKED "/adapter", "gguf", NULL};
static const Export *const all[] = {&lora, &plain, &half, &f16, &q8_0, &q4_0, &mxfp4, &stored};

/* The golden model with a tokenizer and a chat template. */
static const char *moe_model(void) {
    static const char *const files[] = {MOE "/model/config.json", MOE "/model/model.safetensors",
                                        "tests/golden/gguf/moe/tokenizer.json",
                                        "tests/golden/gguf/moe/tokenizer_config.json",
                                        "tests/golden/gguf/moe/chat_template.jinja"};
    const char *to = in("model");
    if (files_exists(to)) return to;
    ok(files_make_dirs(to, &err));
    for (size_t i = 0; i < COUNT_OF(files); i++)
        ok(files_copy(files[i], beside(to, strrchr(files[i], '/') + 1), &err));
    return to;
}

static int run_verb(VerbFn verb, const Export *x, const char *adapter, const char *output) {
    Flag flags[FLAGS] = {{"base_model", (char *)(x->model ? x->model : moe_model())},
                         {"format", (char *)x->format},
                         {"output", (char *)output}};
    Config cfg;
    int n = 3;
    if (adapter) flags[n++] = (Flag){"lora_model_dir", (char *)adapter};
    if (x->type) flags[n++] = (Flag){"gguf_type", (char *)x->type};
    if (!strcmp(x->format, "gguf-lora")) flags[n++] = (Flag){"base_gguf", (char *)in("base.gguf")};
    ok(config_load(&cfg, NULL, flags, n, &err));
    json_t *result = json_object();
    int bad = verb(&cfg, result, &err);
    if (!bad && verb == verb_verify) {
        int64_t applied = json_integer_value(json_object_get(result, "applied"));
        assert_true(applied > 10);
        assert_int_equal(json_integer_value(json_object_get(result, "planned")), applied);
    }
    json_decref(result);
    config_free(&cfg);
    return bad;
}

static const char *exported(const Export *x) {
    char name[64];
    if (!strcmp(x->format, "gguf-lora") && !files_exists(in("base.gguf")))
        ok(run_verb(verb_export, &(Export){.format = "gguf", .type = "f32"}, NULL,
                    in("base.gguf")));
    snprintf(name, sizeof name, "%s.gguf", x->name);
    if (!files_exists(in(name))) ok(run_verb(verb_export, x, x->adapter, in(name)));
    return in(name);
}

/* ---- a file that is changed ---- */

typedef struct Open {
    Gguf *g;
    GgufOut out;
    uint8_t **own; /* per tensor: its bytes */
    bool *without; /* per value */
} Open;

static Open open_export(const Export *x) {
    Open o = {0};
    ok(gguf_open(&o.g, exported(x), &err));
    o.own = mem_alloc(sizeof *o.own * (size_t)o.g->n_entries);
    o.without = mem_alloc(sizeof *o.without * (size_t)o.g->n_values);
    for (int i = 0; i < o.g->n_entries; i++) {
        const GgufEntry *t = &o.g->entry[i];
        GgufOutEntry y = {.dtype = t->dtype, .n_dim = t->n_dim};
        o.own[i] = mem_alloc((size_t)t->bytes);
        memcpy(o.own[i], gguf_entry_data(o.g, t), (size_t)t->bytes);
        memcpy(y.dim, t->dim, sizeof y.dim);
        snprintf(y.name, sizeof y.name, "%s", t->name);
        y.data = o.own[i];
        gguf_add_entry(&o.out, &y);
    }
    return o;
}

static const char *close_export(Open *o) {
    const char *path = in("damaged.gguf");
    for (int i = 0; i < o->g->n_values; i++)
        if (!o->without[i]) gguf_add_copy(&o->out, &o->g->value[i]);
    ok(gguf_write(path, &o->out, &err));
    for (int i = 0; i < o->g->n_entries; i++) mem_free(o->own[i]);
    mem_free(o->own);
    mem_free(o->without);
    gguf_file_free(&o->out);
    gguf_close(o->g);
    return path;
}

static int named(const Open *o, const char *name) {
    for (int i = 0; i < o->out.n_entries; i++)
        if (!strcmp(o->out.entry[i].name, name)) return i;
    fail_msg("no tensor %s", name);
    return -1;
}

static void swap_bytes(uint8_t *a, uint8_t *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint8_t t = a[i];
        a[i] = b[i], b[i] = t;
    }
}

static void must_name(const Export *x, const char *path, const char *what, const char *name) {
    if (!run_verb(verb_verify, x, x->adapter, path)) fail_msg("%s: %s was not seen", x->name, what);
    if (!strstr(err.text, name)) fail_msg("%s: %s: \"%s\" lacks %s", x->name, what, err.text, name);
    assert_null(strchr(err.text, '\n'));
}

/* ---- tensors ---- */

static void swap_experts(Open *o, int i) { /* the first two */
    int64_t each = o->g->entry[i].bytes / o->g->entry[i].dim[0];
    swap_bytes(o->own[i], o->own[i] + each, each);
}
static void swap_halves(Open *o, int i) { /* gate and up of every expert */
    int64_t E = o->g->entry[i].dim[0], each = o->g->entry[i].bytes / E;
    for (int64_t e = 0; e < E; e++)
        swap_bytes(o->own[i] + e * each, o->own[i] + e * each + each / 2, each / 2);
}
static void double_it(Open *o, int i) { /* float32 */
    float *x = (float *)o->own[i];
    for (int64_t k = 0; k < o->g->entry[i].bytes / 4; k++) x[k] *= 2;
}
static void turn(Open *o, int i) { /* transposed, under the right shape */
    const GgufEntry *t = &o->g->entry[i];
    const float *from = gguf_entry_data(o->g, t);
    float *to = (float *)o->own[i];
    int64_t rows = t->dim[t->n_dim - 2], cols = t->dim[t->n_dim - 1];
    for (int64_t k = 0; k < t->bytes / 4; k++) {
        int64_t in_matrix = k % (rows * cols), r = in_matrix / cols, c = in_matrix % cols;
        to[k - in_matrix + c * rows + r] = from[k];
    }
}
static void drop(Open *o, int i) { o->out.entry[i] = o->out.entry[--o->out.n_entries]; }
static void rename_it(Open *o, int i) {
    snprintf(o->out.entry[i].name, sizeof o->out.entry[i].name, "blk.0.more.weight.lora_a");
}
static void swap_rows(Open *o, int i) { /* the first two: of one expert, one output */
    const GgufEntry *t = &o->g->entry[i];
    int64_t row = dtype_bytes(t->dtype, t->dim[t->n_dim - 1]);
    swap_bytes(o->own[i], o->own[i] + row, row);
}
/* What the base has there: the adapter's part is lost. */
static void take_base(Open *o, int i) {
    const GgufEntry *t = &o->g->entry[i];
    Gguf *base;
    ok(gguf_open(&base, in("base-of.gguf"), &err));
    const GgufEntry *b = gguf_find_entry(base, t->name);
    assert_int_equal(b->dtype, t->dtype);
    memcpy(o->own[i], gguf_entry_data(base, b), (size_t)b->bytes);
    gguf_close(base);
}
/* An expert's B as in memory: without the scale that llama.cpp's own product has. */
static void unscale(Open *o, int i) {
    Gguf *base;
    char name[64];
    snprintf(name, sizeof name, "%.*sscale",
             (int)(strstr(o->g->entry[i].name, "weight") - o->g->entry[i].name),
             o->g->entry[i].name);
    ok(gguf_open(&base, in("base.gguf"), &err));
    const float *by = gguf_entry_data(base, gguf_find_entry(base, name));
    int64_t each = o->g->entry[i].bytes / 4 / o->g->entry[i].dim[0];
    for (int64_t k = 0; k < each; k++) ((float *)o->own[i])[each + k] /= by[1];
    gguf_close(base);
}

static const struct {
    const Export *of;
    const char *what;
    void (*damage)(Open *o, int i);
    const char *name;
} cases[] = {
    {&lora, "experts swapped", swap_experts, "blk.1.ffn_gate_up_exps.weight.lora_a"},
    {&lora, "experts swapped", swap_experts, "blk.2.ffn_down_exps.weight.lora_b"},
    {&lora, "gate and up swapped", swap_halves, "blk.1.ffn_gate_up_exps.weight.lora_b"},
    {&lora, "transposed", turn, "blk.3.ffn_down_exps.weight.lora_a"},
    {&lora, "transposed", turn, "blk.0.attn_output.weight.lora_b"},
    {&lora, "twice the scale", double_it, "blk.0.ffn_up.weight.lora_b"},
    {&lora, "no scale of its expert", unscale, "blk.2.ffn_down_exps.weight.lora_b"},
    {&lora, "missing", drop, "blk.3.ffn_gate_inp.weight.lora_b"},
    {&lora, "missing", drop, "blk.1.attn_q.weight.lora_a"},
    {&lora, "renamed", rename_it, "blk.1.attn_k.weight.lora_a"},
    {&plain, "experts swapped", swap_experts, "blk.1.ffn_down_exps.weight"},
    {&plain, "gate and up swapped", swap_halves, "blk.2.ffn_gate_up_exps.weight"},
    {&plain, "transposed", turn, "blk.3.ffn_gate_inp.weight"},
    {&plain, "missing", drop, "blk.0.ffn_down_exps.weight"},
    {&plain, "a frozen tensor", double_it, "blk.0.ffn_gate_inp.scale"},
    {&plain, "a frozen tensor", double_it, "blk.0.attn_norm.weight"},
    {&plain, "renamed", rename_it, "output_norm.weight"},
    {&plain, "rotary numbers", double_it, "rope_freqs.weight"},
    {&half, "experts swapped", swap_experts, "blk.1.ffn_down_exps.weight"},
    {&half, "rows swapped", swap_rows, "blk.1.attn_q.weight"},
    {&q8_0, "experts swapped", swap_experts, "blk.1.ffn_down_exps.weight"},
    {&q8_0, "gate and up swapped", swap_halves, "blk.2.ffn_gate_up_exps.weight"},
    {&q8_0, "rows swapped", swap_rows, "token_embd.weight"},
    {&q8_0, "the base's", take_base, "blk.1.attn_v.weight"},
    {&q4_0, "experts swapped", swap_experts, "blk.0.ffn_gate_up_exps.weight"},
    {&q4_0, "gate and up swapped", swap_halves, "blk.2.ffn_gate_up_exps.weight"},
    {&q4_0, "the base's", take_base, "blk.2.ffn_down_exps.weight"},
    {&mxfp4, "experts swapped", swap_experts, "blk.1.ffn_down_exps.weight"},
    {&mxfp4, "rows swapped", swap_rows, "blk.0.ffn_gate.weight"},
    {&mxfp4, "the base's", take_base, "blk.1.ffn_gate_up_exps.weight"},
};

static void test_whole_is_accepted(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(all); i++)
        ok(run_verb(verb_verify, all[i], all[i]->adapter, exported(all[i])));
}

static void test_damage_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const Export *x = cases[i].of;
        if (cases[i].damage == take_base) {
            ok(files_remove(in("base-of.gguf"), &err));
            ok(run_verb(verb_export, x, NULL, in("base-of.gguf")));
        }
        Open o = open_export(x);
        cases[i].damage(&o, named(&o, cases[i].name));
        must_name(x, close_export(&o), cases[i].what, cases[i].name);
    }
}

/* Whether two tensors' bytes stand for other values. */
static bool means_other(const GgufEntry *t, const void *a, const void *b) {
    Tensor x = {.dtype = t->dtype, .n_dim = t->n_dim}, y = x;
    memcpy(x.dim, t->dim, sizeof x.dim);
    y = x;
    x.data = (void *)(uintptr_t)a, y.data = (void *)(uintptr_t)b;
    int64_t n = tensor_numel(&x);
    float *p = mem_alloc(sizeof *p * (size_t)n), *q = mem_alloc(sizeof *q * (size_t)n);
    weight_values(&x, 0, n, p);
    weight_values(&y, 0, n, q);
    bool other = false;
    for (int64_t i = 0; i < n; i++) other |= !(p[i] == q[i]);
    mem_free(p);
    mem_free(q);
    return other;
}

/* Any bit of any tensor, in every format. */
static void test_any_bit_is_named(void **state) {
    (void)state;
    for (size_t f = 0; f < COUNT_OF(all); f++) {
        for (uint64_t k = 0; k < 40; k++) {
            Open o = open_export(all[f]);
            int i = (int)(rng_at(5, f, 2 * k) % (uint64_t)o.out.n_entries);
            const GgufEntry *t = &o.g->entry[i];
            int64_t at = (int64_t)(rng_at(5, f, 2 * k + 1) % (uint64_t)t->bytes);
            char name[64];
            snprintf(name, sizeof name, "%s", t->name);
            o.own[i][at] ^= (uint8_t)(1 << k % 8);
            bool other = means_other(t, gguf_entry_data(o.g, t), o.own[i]);
            const char *path = close_export(&o);
            if (other) must_name(all[f], path, "a flipped bit", name);
        }
    }
}

/* ---- keys ---- */

static int value_named(const Open *o, const char *key) {
    for (int i = 0; i < o->g->n_values; i++)
        if (!strcmp(o->g->value[i].key, key)) return i;
    fail_msg("no key %s", key);
    return -1;
}

/* Left out, or with another number. */
static void test_keys_are_named(void **state) {
    (void)state;
    static const struct {
        const Export *of;
        const char *key;
        double add;       /* 0: left out */
        const char *name; /* in the sentence, if not the key */
    } keys[] = {{&plain, "gemma4.rope.freq_base", 1, NULL},
                {&plain, "gemma4.rope.freq_base_swa", 0, NULL},
                {&plain, "gemma4.attention.layer_norm_rms_epsilon", 1e-6, NULL},
                {&plain, "gemma4.attention.value_length", 1, NULL},
                {&plain, "gemma4.attention.sliding_window", 1, NULL},
                {&plain, "gemma4.attention.sliding_window_pattern", 0, NULL},
                {&plain, "gemma4.final_logit_softcapping", 0, NULL},
                {&plain, "gemma4.expert_used_count", 1, NULL},
                {&plain, "gemma4.context_length", 1, NULL},
                {&plain, "general.architecture", 0, NULL},
                {&plain, "tokenizer.ggml.tokens", 0, NULL},
                {&plain, "tokenizer.ggml.eos_token_id", 1, "eos_token"},
                {&plain, "tokenizer.ggml.merges", 0, "token"},
                {&plain, "tokenizer.chat_template", 0, NULL},
                {&lora, "adapter.lora.alpha", 5, "lora_b"},
                {&lora, "general.type", 0, NULL},
                {&lora, "adapter.type", 0, NULL}};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        Open o = open_export(keys[i].of);
        int k = value_named(&o, keys[i].key);
        const GgufValue *v = &o.g->value[k];
        o.without[k] = true;
        if (keys[i].add != 0 && v->type == GGUF_F32)
            gguf_add_f32(&o.out, keys[i].key, (float)(gguf_real_at(v, 0) + keys[i].add));
        else if (keys[i].add != 0)
            gguf_add_u32(&o.out, keys[i].key, (uint32_t)(gguf_int_at(v, 0) + (int64_t)keys[i].add));
        must_name(keys[i].of, close_export(&o), keys[i].key,
                  keys[i].name ? keys[i].name : keys[i].key);
    }
}

static void test_texts_are_compared(void **state) {
    (void)state;
    static const char other[] = "{% for m in messages %}{{ m['content'] }}<turn|>\n{% endfor %}";
    Open o = open_export(&plain);
    o.without[value_named(&o, "tokenizer.chat_template")] = true;
    gguf_add_text(&o.out, "tokenizer.chat_template", other, strlen(other));
    must_name(&plain, close_export(&o), "another template", "tokenizer.chat_template");
    o = open_export(&plain);
    int k = value_named(&o, "tokenizer.ggml.tokens");
    const GgufValue *v = &o.g->value[k];
    const char *at = v->at, *text;
    size_t n;
    o.without[k] = true;
    gguf_add_texts(&o.out, v->key, (size_t)v->n);
    for (int64_t i = 0; i < v->n; i++) {
        gguf_take_text(v, &at, &text, &n);
        gguf_add_next(&o.out, i == 20 ? "zz" : text, i == 20 ? 2 : n);
    }
    must_name(&plain, close_export(&o), "another piece", "tokenizer");
}

/* A directory out of a GGUF file whose weights are plain: its config.json is none of the file's. */
static void test_merged_out_of_gguf(void **state) {
    (void)state;
    static const Export x = {"ple", PLE "/model.gguf", PLE "/adapter", "merged", NULL};
    const char *dir = in("merged"), *config = beside(dir, "config.json");
    ok(run_verb(verb_export, &x, x.adapter, dir));
    ok(run_verb(verb_verify, &x, x.adapter, dir));
    ok(files_write_whole(config, "{}", 2, &err));
    assert_int_equal(run_verb(verb_verify, &x, x.adapter, dir), -1);
    assert_non_null(strstr(err.text, "config.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_is_accepted),  cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_any_bit_is_named),   cmocka_unit_test(test_keys_are_named),
        cmocka_unit_test(test_texts_are_compared), cmocka_unit_test(test_merged_out_of_gguf),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
