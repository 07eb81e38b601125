/* test_adapter_gguf.c - llama.cpp's adapters, in: what others wrote gives PEFT's logits, in any type
 * and whichever way the file has gate and up; what is no adapter of the model is refused by name.
 * golden/README.md tells where the files come from. */
#include "autograd/weight.h"
#include "data/gguf_writer.h"
#include "trial.h"

#define GOLDEN  "tests/golden/adapters"
#define BLOCKED "tests/golden/models/gguf-moe" /* all sizes are whole blocks */

static Settings with_adapter(const char *model, const char *batch, const char *adapter) {
    return settings("base_model", model, "datasets", batch, "lora_model_dir", adapter, NULL);
}

static Logits golden_logits(const char *adapter) {
    Settings s = with_adapter(GOLDEN "/model", GOLDEN "/batch.jsonl", adapter);
    if (!adapter) s.word[4] = NULL;
    return logits_from("moe", &s);
}

static Logits pefts(void) {
    Weights *w;
    ok(weights_open(&w, GOLDEN "/peft.safetensors", &err));
    const WeightView *v = weights_find(w, "logits");
    Logits y = {mem_alloc((size_t)v->bytes), v->bytes / 4};
    memcpy(y.p, v->data, (size_t)v->bytes);
    weights_close(w);
    return y;
}

static void test_others_agree(void **state) {
    (void)state;
    static const char *const files[] = {"lora.gguf", "apart.gguf"};
    for (size_t i = 0; i < COUNT_OF(files); i++)
        near_logits(golden_logits(beside(GOLDEN "/gguf", files[i])), pefts(), 2e-5, files[i]);
    Logits base = golden_logits(NULL), with = pefts();
    assert_true(farthest(&base, &with) > 0.1);
    mem_free(base.p);
    mem_free(with.p);
}

/* ---- a file that is changed ---- */

typedef struct Copy {
    Gguf *g;
    GgufOut out;
} Copy;

static Copy copy_of(const char *path) {
    Copy c = {0};
    ok(gguf_open(&c.g, path, &err));
    for (int i = 0; i < c.g->n_entries; i++) {
        const GgufEntry *t = &c.g->entry[i];
        GgufOutEntry x = {.dtype = t->dtype, .n_dim = t->n_dim, .data = gguf_entry_data(c.g, t)};
        memcpy(x.dim, t->dim, sizeof x.dim);
        snprintf(x.name, sizeof x.name, "%s", t->name);
        gguf_add_entry(&c.out, &x);
    }
    return c;
}

/* All keys but one, if that is not NULL. */
static void copy_keys(Copy *c, const char *without) {
    for (int i = 0; i < c->g->n_values; i++)
        if (!without || strcmp(c->g->value[i].key, without))
            gguf_add_copy(&c->out, &c->g->value[i]);
}

static const char *close_copy(Copy *c, const char *name) {
    ok(gguf_write(in(name), &c->out, &err));
    gguf_file_free(&c->out);
    gguf_close(c->g);
    return in(name);
}

static GgufOutEntry *named(Copy *c, const char *name) {
    for (int i = 0; i < c->out.n_entries; i++)
        if (!strcmp(c->out.entry[i].name, name)) return &c->out.entry[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* ---- types ---- */

static int fill_rounded(void *ctx, int64_t first, int64_t n, float *dst, Err *e) {
    const GgufOutEntry *t = ctx; /* as it was, float32; dtype: what it is rounded to */
    (void)e;
    memcpy(dst, (const float *)t->data + first, (size_t)n * sizeof *dst);
    if (t->dtype == DT_f32) return 0;
    void *stored = mem_alloc((size_t)dtype_bytes(t->dtype, n));
    dtype_info[t->dtype].from_f32(dst, stored, n);
    Tensor x = {.dtype = t->dtype, .n_dim = 1, .dim = {n}, .data = stored};
    weight_values(&x, 0, n, dst);
    mem_free(stored);
    return 0;
}

/* A in one type and B in another (blocks: where its rows are whole ones), as stored in these, or as
 * the float32 values that they stand for. */
static const char *in_types(const char *path, const DType type[2], bool stored, const char *name) {
    Copy c = copy_of(path);
    GgufOutEntry *was = mem_alloc(sizeof *was * (size_t)c.out.n_entries);
    for (int i = 0; i < c.out.n_entries; i++) {
        GgufOutEntry *x = &c.out.entry[i];
        DType d = type[text_ends_with(x->name, ".lora_b")];
        if (!dtype_takes_rows(d, x->dim[x->n_dim - 1])) d = DT_bf16;
        was[i] = *x;
        was[i].dtype = d;
        x->data = NULL, x->fill = fill_rounded, x->ctx = &was[i];
        if (stored) x->dtype = d;
    }
    copy_keys(&c, NULL);
    const char *to = close_copy(&c, name);
    mem_free(was);
    return to;
}

static void test_types(void **state) {
    (void)state;
    static const DType types[][2] = {
        {DT_f16, DT_f16}, {DT_bf16, DT_f32}, {DT_q8_0, DT_bf16}, {DT_q4_0, DT_f16}};
    Settings s = with_adapter(BLOCKED "/model.gguf", BLOCKED "/batch.jsonl", BLOCKED "/adapter");
    Trial *t = trial("moe", USE_AS_IS, &s);
    AdapterOut how = {.form = "gguf-lora", .beside = BLOCKED "/model.gguf"};
    ok(adapter_export(in("plain.gguf"), &how, t->s.model, &t->s.params, &t->s.plan, &t->s.adapter,
                      &err));
    end(t);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        s.word[5] = in_types(in("plain.gguf"), types[i], true, "typed.gguf");
        Logits a = logits_from("moe", &s);
        s.word[5] = in_types(in("plain.gguf"), types[i], false, "opened.gguf");
        same_logits(a, logits_from("moe", &s), true);
    }
}

/* ---- one half alone; keys that are values ---- */

static void drop(Copy *c, const char *name) { *named(c, name) = c->out.entry[--c->out.n_entries]; }

/* apart.gguf with nothing for gate in a layer is what zeros there say. */
static void test_half_alone(void **state) {
    (void)state;
    static const float none[2048];
    Copy c = copy_of(GOLDEN "/gguf/apart.gguf");
    drop(&c, "blk.0.ffn_gate_exps.weight.lora_a");
    drop(&c, "blk.0.ffn_gate_exps.weight.lora_b");
    copy_keys(&c, NULL);
    const char *alone = close_copy(&c, "alone.gguf");
    c = copy_of(GOLDEN "/gguf/apart.gguf");
    named(&c, "blk.0.ffn_gate_exps.weight.lora_b")->data = none;
    copy_keys(&c, NULL);
    near_logits(golden_logits(alone), golden_logits(close_copy(&c, "zeros.gguf")), 1e-5,
                "up without gate");
}

static void add_pair(Copy *c, const char *like, const char *as) {
    static const char *const end[] = {".lora_a", ".lora_b"};
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", like, end[i]);
        GgufOutEntry x = *named(c, name);
        snprintf(x.name, sizeof x.name, "%s%s", as, end[i]);
        gguf_add_entry(&c->out, &x);
    }
}

/* ---- refused ---- */

static void refuse(const char *path, const char *part, const char *more) {
    Settings s = with_adapter(GOLDEN "/model", GOLDEN "/batch.jsonl", path);
    Config cfg;
    Session session;
    load(&cfg, "moe", &s);
    int bad = session_open(&session, &cfg, USE_AS_IS, &err);
    config_free(&cfg);
    if (!bad) fail_msg("taken: %s %s", part, more);
    if (!strstr(err.text, part) || !strstr(err.text, more) || strchr(err.text, '\n'))
        fail_msg("\"%s\" does not say %s, %s", err.text, part, more);
}

static void test_keys_refused(void **state) {
    (void)state;
    static const struct {
        const char *key, *text; /* NULL: left out */
    } cases[] = {{"general.type", "model"},         {"general.type", NULL},
                 {"adapter.type", "lokr"},          {"adapter.type", NULL},
                 {"general.architecture", "llama"}, {"general.architecture", "gemma\n4"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Copy c = copy_of(GOLDEN "/gguf/lora.gguf");
        copy_keys(&c, cases[i].key);
        if (cases[i].text)
            gguf_add_text(&c.out, cases[i].key, cases[i].text, strlen(cases[i].text));
        refuse(close_copy(&c, "key.gguf"), cases[i].key, "key.gguf");
    }
    Copy c = copy_of(GOLDEN "/gguf/lora.gguf");
    copy_keys(&c, "adapter.lora.alpha");
    gguf_add_f32(&c.out, "adapter.lora.alpha", NAN);
    refuse(close_copy(&c, "alpha.gguf"), "adapter.lora.alpha", "finite");
    c = copy_of(GOLDEN "/gguf/lora.gguf");
    copy_keys(&c, NULL);
    gguf_add_u32s(&c.out, "adapter.alora.invocation_tokens", (uint32_t[]){1, 2}, 2);
    refuse(close_copy(&c, "alora.gguf"), "aLoRA", "alora.gguf");
    refuse(BLOCKED "/model.gguf", "general.type", "adapter");
    refuse(in("nowhere.gguf"), "nowhere.gguf", "");
}

static void test_tensors_refused(void **state) {
    (void)state;
    static const char q[] = "blk.0.attn_q.weight.lora_a", qb[] = "blk.0.attn_q.weight.lora_b";
    static const struct {
        const char *as;   /* a pair more, like attn_q's */
        const char *part; /* of the sentence */
    } more[] = {{"token_embd.weight", "embed_tokens"},
                {"blk.0.attn_norm.weight", "blk.0.attn_norm.weight.lora_a"},
                {"blk.9.attn_q.weight", "blk.9.attn_q.weight.lora_a"},
                {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_exps.weight.lora_a"}};
    for (size_t i = 0; i < COUNT_OF(more); i++) {
        Copy c = copy_of(GOLDEN "/gguf/lora.gguf");
        add_pair(&c, "blk.0.attn_q.weight", more[i].as);
        copy_keys(&c, NULL);
        refuse(close_copy(&c, "more.gguf"), more[i].part, "more.gguf");
    }
    Copy c = copy_of(GOLDEN "/gguf/lora.gguf");
    drop(&c, qb);
    copy_keys(&c, NULL);
    refuse(close_copy(&c, "missing.gguf"), qb, "missing");
    c = copy_of(GOLDEN "/gguf/lora.gguf");
    drop(&c, q);
    copy_keys(&c, NULL);
    refuse(close_copy(&c, "missing.gguf"), qb, "belongs to nothing");
    c = copy_of(GOLDEN "/gguf/lora.gguf");
    GgufOutEntry *b = named(&c, qb);
    int64_t rows = b->dim[0];
    b->dim[0] = b->dim[1], b->dim[1] = rows;
    copy_keys(&c, NULL);
    refuse(close_copy(&c, "shape.gguf"), qb, "has shape");
    static float numbers[64] = {NAN};
    c = copy_of(GOLDEN "/gguf/lora.gguf");
    named(&c, qb)->data = numbers;
    copy_keys(&c, NULL);
    refuse(close_copy(&c, "nan.gguf"), qb, "NaN");
}

/* Layer 1 uses its keys as values: an adapter of values has to be that of the keys. */
static void test_values_that_are_keys(void **state) {
    (void)state;
    static float one_off[512];
    Copy c = copy_of(GOLDEN "/gguf/lora.gguf");
    const GgufOutEntry *o = named(&c, "blk.1.attn_q.weight.lora_b");
    memcpy(one_off, o->data, (size_t)(o->dim[0] * o->dim[1]) * sizeof(float));
    one_off[5] += 1;
    for (int i = 0; i < 2; i++) { /* q's pair, cut to the rows of k */
        add_pair(&c, "blk.1.attn_q.weight", i ? "blk.1.attn_v.weight" : "blk.1.attn_k.weight");
        c.out.entry[c.out.n_entries - 1].dim[0] = 8;
    }
    copy_keys(&c, NULL);
    ok(gguf_write(in("keys.gguf"), &c.out, &err));
    Logits y = golden_logits(in("keys.gguf"));
    assert_true(y.n > 0);
    mem_free(y.p);
    named(&c, "blk.1.attn_v.weight.lora_b")->data = one_off;
    ok(gguf_write(in("values.gguf"), &c.out, &err));
    refuse(in("values.gguf"), "blk.1.attn_v.weight", "differ");
    drop(&c, "blk.1.attn_k.weight.lora_a");
    drop(&c, "blk.1.attn_k.weight.lora_b");
    refuse(close_copy(&c, "alone.gguf"), "blk.1.attn_v.weight", "values alone");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_others_agree),    cmocka_unit_test(test_types),
        cmocka_unit_test(test_half_alone),      cmocka_unit_test(test_keys_refused),
        cmocka_unit_test(test_tensors_refused), cmocka_unit_test(test_values_that_are_keys),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
