/* test_adapter_convert.c - adapters of every form, in and out: what PEFT (new and old) and mlx-lm
 * answer with their own adapters, round trips byte by byte, what a form cannot carry, and merged
 * weights against float64. golden/README.md tells where the adapters come from. */
#include "data/safetensors.h"
#include "trial.h"
#include "train/verbs.h"

#define GOLDEN "tests/golden/adapters"
#define MOE    "tests/golden/models/moe"

/* A verb with flags, key and value by turns; its sentence, or NULL. */
static const char *refusal(VerbFn verb, const Settings *s) {
    Config cfg;
    Flag flags[FLAGS];
    int n = 0;
    for (int i = 0; s->word[i]; i += 2)
        flags[n++] = (Flag){(char *)s->word[i], (char *)s->word[i + 1]};
    json_t *result = json_object();
    int bad = config_load(&cfg, NULL, flags, n, &err);
    if (!bad) bad = verb(&cfg, result, &err);
    json_decref(result);
    config_free(&cfg);
    return bad ? err.text : NULL;
}
static void done(VerbFn verb, Settings s) {
    const char *why = refusal(verb, &s);
    if (why) fail_msg("%s", why);
}
static void refused(VerbFn verb, Settings s, const char *part) {
    const char *why = refusal(verb, &s);
    if (!why || !strstr(why, part)) fail_msg("\"%s\" does not say %s", why ? why : "done", part);
}

static Settings with_adapter(const char *base, const char *adapter) {
    return settings("base_model", beside(base, "model"), "datasets", beside(base, "batch.jsonl"),
                    "lora_model_dir", adapter, NULL);
}

/* The model as the GGUF file that a gguf-lora is for. */
static const char *base_gguf(const char *base) {
    const char *path = in(!strcmp(base, MOE) ? "moe.gguf" : "golden.gguf");
    if (!files_exists(path))
        done(verb_export, settings("base_model", beside(base, "model"), "format", "gguf",
                                   "gguf_type", "f32", "output", path, NULL));
    return path;
}

static const char *convert(const char *base, const char *from, const char *format) {
    static int n;
    char name[32];
    bool file = !strcmp(format, "gguf-lora");
    snprintf(name, sizeof name, "convert-%d%s", n++, file ? ".gguf" : "");
    const char *to = in(name);
    done(verb_convert,
         settings("base_model", beside(base, "model"), "lora_model_dir", from, "format", format,
                  "base_gguf", base_gguf(base), "output", to, NULL));
    return to;
}

/* ---- what others answer ---- */

static Logits golden_logits(const char *path) {
    Weights *w;
    Logits y = {0};
    ok(weights_open(&w, path, &err));
    const WeightView *v = weights_find(w, "logits");
    assert_non_null(v);
    y.n = v->bytes / 4;
    y.p = mem_alloc((size_t)v->bytes);
    memcpy(y.p, v->data, (size_t)v->bytes);
    weights_close(w);
    return y;
}

static Logits logits_with(const char *base, const char *adapter, const char *order) {
    Settings s = with_adapter(base, adapter);
    if (!adapter) s.word[4] = NULL;
    if (order) s.word[6] = "lora_b_order", s.word[7] = order;
    return logits_from("moe", &s);
}

static void test_others_agree(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"peft", "peft.safetensors"},
                                           {"peft-old", "peft-old.safetensors"},
                                           {"per-expert", "peft.safetensors"},
                                           {"mlx", "mlx.safetensors"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        Logits want = golden_logits(beside(GOLDEN, cases[i][1])),
               base = logits_with(GOLDEN, NULL, NULL);
        assert_true(farthest(&want, &base) > 0.1);
        mem_free(base.p);
        near_logits(logits_with(GOLDEN, beside(GOLDEN, cases[i][0]), NULL), want, 2e-5,
                    cases[i][0]);
    }
}

/* ---- bytes ---- */

/* Units in the last place between two floats of one sign. */
static int64_t ulps_apart(float x, float y) {
    return llabs((int64_t)f32_to_bits(x) - (int64_t)f32_to_bits(y));
}

/* Of down_proj's experts, whose B llama.cpp's form has times a scale. */
static bool is_scaled_there(const char *name) {
    return strstr(name, "experts.lora_B") ||
           (strstr(name, "experts") &&
            (strstr(name, "down_proj.lora_B") || strstr(name, "down_proj.lora_b")));
}

static void nearly_same_tensors(const char *a, const char *b, int64_t ulps_of_scaled) {
    Weights *x, *y;
    ok(weights_open(&x, a, &err));
    ok(weights_open(&y, b, &err));
    if (weights_count(x) != weights_count(y))
        fail_msg("%s has %d tensors, %s %d", a, weights_count(x), b, weights_count(y));
    for (int i = 0; i < weights_count(x); i++) {
        const WeightView *v = weights_at(x, i), *u = weights_find(y, v->name);
        int64_t ulps = is_scaled_there(v->name) ? ulps_of_scaled : 0, apart = 0;
        if (!u || v->n_dim != u->n_dim || memcmp(v->dim, u->dim, sizeof v->dim) ||
            v->bytes != u->bytes)
            fail_msg("%s: tensor %s is another in %s", a, v->name, b);
        for (int64_t k = 0; k < v->bytes / 4; k++)
            apart =
                max64(apart, ulps_apart(((const float *)v->data)[k], ((const float *)u->data)[k]));
        if (apart > ulps)
            fail_msg("%s: tensor %s is %ld units away in %s", a, v->name, (long)apart, b);
    }
    weights_close(x);
    weights_close(y);
}

static void same_tensors(const char *a, const char *b) { nearly_same_tensors(a, b, 0); }

static const struct {
    const char *name, *file; /* NULL: is itself one */
} formats[] = {{"peft", "adapter_model.safetensors"},
               {"peft-per-expert", "adapter_model.safetensors"},
               {"mlx", "adapters.safetensors"},
               {"gguf-lora", NULL}};

/* With its scale in B, whatever it had. */
static const char *folded(const char *base, const char *adapter) {
    const char *to = in("folded-0");
    if (files_exists(to)) to = in("folded-1");
    done(verb_export, settings("base_model", beside(base, "model"), "lora_model_dir", adapter,
                               "format", "peft-per-expert", "output", to, NULL));
    return beside(to, "adapter_model.safetensors");
}

/* What llama.cpp's form makes of a scale (it has one alpha, whatever the ranks) and of down_proj's B
 * (times a scale an expert): A and s B are the same, but for one rounding of the latter. */
static void same_but_folded(const char *base, const char *first, const char *back) {
    const char *a = folded(base, first), *b = folded(base, back);
    nearly_same_tensors(a, b, 2);
    ok(files_remove(in("folded-0"), &err));
    ok(files_remove(in("folded-1"), &err));
}

/* From a to b and back. */
static void round_trip(const char *base, const char *adapter) {
    for (size_t a = 0; a < COUNT_OF(formats); a++) {
        const char *first = convert(base, adapter, formats[a].name);
        for (size_t b = 0; b < COUNT_OF(formats); b++) {
            const char *there = convert(base, first, formats[b].name),
                       *back = convert(base, there, formats[a].name);
            if (!formats[a].file) {
                if (!files_equal(first, back)) fail_msg("%s and %s differ", first, back);
            } else if (!formats[b].file) {
                same_but_folded(base, first, back);
            } else {
                same_tensors(beside(first, formats[a].file), beside(back, formats[a].file));
                same_file(first, back, "adapter_config.json");
            }
        }
    }
}

static void test_round_trips(void **state) {
    (void)state;
    round_trip(MOE, MOE "/adapter");
    static const char *const adapters[] = {"peft", "peft-old", "per-expert", "mlx"};
    for (size_t i = 0; i < COUNT_OF(adapters); i++) round_trip(GOLDEN, beside(GOLDEN, adapters[i]));
}

static void test_bytes_of_others(void **state) {
    (void)state;
    const char *file = "adapter_model.safetensors";
    const char *experts = convert(GOLDEN, GOLDEN "/peft", "peft-per-expert"),
               *fused = convert(GOLDEN, GOLDEN "/per-expert", "peft"),
               *mlx = convert(GOLDEN, GOLDEN "/mlx", "mlx");
    same_tensors(beside(experts, file), GOLDEN "/per-expert/adapter_model.safetensors");
    same_tensors(beside(fused, file), GOLDEN "/peft/adapter_model.safetensors");
    same_tensors(beside(mlx, "adapters.safetensors"), GOLDEN "/mlx/adapters.safetensors");
    same_tensors(beside(convert(MOE, MOE "/adapter", "peft"), file),
                 MOE "/adapter/adapter_model.safetensors");
}

/* ---- layouts that look alike ---- */

/* A copy of an adapter whose tensors keep() lets through; edit may change their values. */
typedef struct Copy {
    SafetensorsEntry entry[64];
    float *own[64];
    int n;
} Copy;
typedef bool (*Keep)(const WeightView *v);
typedef void (*EditValues)(const WeightView *v, float *values);

static const char *copy_adapter(const char *from, const char *name, Keep keep, EditValues edit,
                                json_t *config) {
    const char *to = in(name);
    Copy c = {.n = 0};
    Weights *w;
    ok(files_make_dirs(to, &err));
    ok(weights_open(&w, beside(from, "adapter_model.safetensors"), &err));
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        if (keep && !keep(v)) continue;
        c.own[c.n] = mem_alloc((size_t)v->bytes);
        memcpy(c.own[c.n], v->data, (size_t)v->bytes);
        if (edit) edit(v, c.own[c.n]);
        c.entry[c.n] = (SafetensorsEntry){
            .name = v->name, .dtype = v->dtype, .n_dim = v->n_dim, .data = c.own[c.n]};
        memcpy(c.entry[c.n++].dim, v->dim, sizeof v->dim);
    }
    ok(safetensors_write(beside(to, "adapter_model.safetensors"), c.entry, c.n, NULL, 0, &err));
    for (int i = 0; i < c.n; i++) mem_free(c.own[i]);
    weights_close(w);
    char *text = json_dumps(config, 0);
    ok(files_write_whole(beside(to, "adapter_config.json"), text, strlen(text), &err));
    mem_free(text);
    json_decref(config);
    return to;
}

static json_t *config_of(const char *dir) {
    json_t *config;
    ok(json_read_file(&config, beside(dir, "adapter_config.json"), &err));
    return config;
}

enum { EXPERTS = 5, RANK = 3 };
static void make_major(const WeightView *v, float *values) {
    if (!strstr(v->name, "experts") || !strstr(v->name, "lora_B")) return;
    const float *from = v->data;
    for (int64_t o = 0; o < v->dim[0]; o++)
        for (int e = 0; e < EXPERTS; e++)
            for (int j = 0; j < RANK; j++)
                values[o * v->dim[1] + e * RANK + j] = from[o * v->dim[1] + j * EXPERTS + e];
}

static void test_expert_major(void **state) {
    (void)state;
    const char *major =
        copy_adapter(GOLDEN "/peft", "major", NULL, make_major, config_of(GOLDEN "/peft"));
    near_logits(logits_with(GOLDEN, major, "expert_major"),
                golden_logits(GOLDEN "/peft.safetensors"), 2e-5, "expert-major");
    near_logits(logits_with(GOLDEN, major, "expert-major"),
                golden_logits(GOLDEN "/peft.safetensors"), 2e-5, "expert-major, other word");
    Logits wrong = logits_with(GOLDEN, major, "expert_fastest"),
           right = golden_logits(GOLDEN "/peft.safetensors");
    assert_true(farthest(&wrong, &right) > 0.01);
    mem_free(wrong.p);
    mem_free(right.p);
    refused(verb_convert,
            settings("base_model", GOLDEN "/model", "lora_model_dir", GOLDEN "/mlx", "format",
                     "peft", "lora_b_order", "expert_major", "output", in("none"), NULL),
            "lora_b_order");
}

static bool is_gate_up(const WeightView *v) { return strstr(v->name, "experts.base_layer"); }
static json_t *gate_up_config(const char *dir, const char *version) {
    json_t *config = config_of(dir);
    json_object_set_new(config, "target_modules", json_array());
    json_object_set_new(config, "target_parameters", json_pack("[s]", "experts.gate_up_proj"));
    json_object_del(config, "peft_version");
    if (version) json_object_set_new(config, "peft_version", json_string(version));
    return config;
}

/* With 2F == D the shapes of gate_up tell nothing; alone in an adapter nothing else does. */
static const char *square_adapter(const char *from, const char *name, const char *version) {
    const char *dir = copy_adapter(from, name, is_gate_up, NULL, gate_up_config(from, version));
    /* alone, gate_up carries the plain name */
    Weights *w;
    SafetensorsEntry entry[8];
    char names[8][160];
    ok(weights_open(&w, beside(dir, "adapter_model.safetensors"), &err));
    int n = weights_count(w);
    for (int i = 0; i < n; i++) {
        const WeightView *v = weights_at(w, i);
        const char *at = strstr(v->name, ".base_layer");
        snprintf(names[i], sizeof names[i], "%.*s%s", (int)(at - v->name), v->name,
                 at + strlen(".base_layer"));
        entry[i] = (SafetensorsEntry){
            .name = names[i], .dtype = v->dtype, .n_dim = v->n_dim, .data = v->data};
        memcpy(entry[i].dim, v->dim, sizeof v->dim);
    }
    ok(safetensors_write(beside(dir, "alone.safetensors"), entry, n, NULL, 0, &err));
    weights_close(w);
    ok(files_copy(beside(dir, "alone.safetensors"), beside(dir, "adapter_model.safetensors"),
                  &err));
    return dir;
}

static void test_orientation(void **state) {
    (void)state;
    const char *to = in("none");
    refused(verb_convert,
            settings("base_model", GOLDEN "/model", "format", "peft", "output", to,
                     "lora_model_dir", square_adapter(GOLDEN "/peft", "square", NULL), NULL),
            "peft_version");
    const char *now = square_adapter(GOLDEN "/peft", "square-new", "0.19.1"),
               *old = square_adapter(GOLDEN "/peft-old", "square-old", "0.19.0"),
               *mixed = square_adapter(GOLDEN "/peft-old", "square-mixed", "0.19.1");
    /* the old file read as a new one is another adapter: only the version tells */
    Logits a = logits_with(GOLDEN, old, NULL), b = logits_with(GOLDEN, mixed, NULL);
    assert_true(farthest(&a, &b) > 1e-3);
    mem_free(a.p);
    mem_free(b.p);
    /* turned by hand: the new form of the same adapter */
    same_tensors(beside(convert(GOLDEN, now, "peft"), "adapter_model.safetensors"),
                 beside(now, "adapter_model.safetensors"));
}

/* ---- what a form cannot carry ---- */

static void test_folded_and_refused(void **state) {
    (void)state;
    static const struct {
        const char *train;
        bool folds;
    } cases[] = {{"full", true},
                 {"scale", true},
                 {"full,scale", true},
                 {"lora,scale", true},
                 {"per_expert_scale", false},
                 {"full,scale,per_expert_scale", false}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *run = in(beside("router", cases[i].train));
        Settings s = settings("lora_r", "3", "lora_alpha", "5", "router.train", cases[i].train,
                              "learning_rate", "0.05", "max_steps", "2", "output_dir", run, NULL);
        train("moe", &s);
        for (size_t f = 1; f < COUNT_OF(formats); f++) {
            const char *to = beside(in(formats[f].name), beside(cases[i].train, "x.gguf"));
            ok(files_make_dirs(beside(in(formats[f].name), cases[i].train), &err));
            Settings out =
                settings("base_model", MOE "/model", "lora_model_dir", run, "format",
                         formats[f].name, "base_gguf", base_gguf(MOE), "output", to, NULL);
            if (!cases[i].folds) {
                refused(verb_export, out, "per_expert_scale");
                assert_false(files_exists(to));
                continue;
            }
            done(verb_export, out);
            near_logits(logits_with(MOE, to, NULL), logits_with(MOE, run, NULL), 5e-5,
                        beside(formats[f].name, cases[i].train));
            done(verb_verify, out);
        }
    }
}

/* ---- merged ---- */

/* W + s * B A of PEFT's fused files in float64, for one tensor; was: W. */
typedef struct Exact {
    double *sum, *was;
    int64_t n;
} Exact;

static const float *adapter_tensor(Weights *w, const char *module, const char *end) {
    char name[256];
    snprintf(name, sizeof name, "base_model.model.%s.lora_%s.weight", module, end);
    const WeightView *v = weights_find(w, name);
    return v ? v->data : NULL;
}

static Exact exact_of(const WeightView *base, Weights *adapter, int E, int R, double s) {
    Exact x = {.n = base->bytes / 4};
    x.sum = mem_alloc(sizeof *x.sum * (size_t)x.n);
    x.was = mem_alloc(sizeof *x.was * (size_t)x.n);
    for (int64_t i = 0; i < x.n; i++) x.sum[i] = x.was[i] = (double)((const float *)base->data)[i];
    char module[200];
    snprintf(module, sizeof module, "%s", base->name);
    bool stack = base->n_dim == 3;
    char *cut = strstr(module, stack ? "gate_up_proj" : ".weight");
    if (stack && cut) memcpy(cut, "base_layer", 11);
    if (stack && !cut) *strrchr(module, '.') = 0;
    if (!stack && cut) *cut = 0;
    const float *a = adapter_tensor(adapter, module, "A"),
                *b = adapter_tensor(adapter, module, "B");
    if (!a || base->n_dim < 2) return x;
    int64_t experts = stack ? E : 1, O = base->dim[stack], I = base->dim[stack + 1];
    for (int64_t e = 0; e < experts; e++)
        for (int64_t o = 0; o < O; o++)
            for (int64_t j = 0; j < R; j++)
                for (int64_t i = 0; i < I; i++)
                    x.sum[(e * O + o) * I + i] += s * (double)b[o * R * experts + j * experts + e] *
                                                  (double)a[(e * R + j) * I + i];
    return x;
}

/* Whether a stored value is the nearest that its type has: its neighbours are no nearer. */
static bool nearest(DType d, const void *stored, double exact) {
    uint32_t bits = 0;
    size_t size = (size_t)dtype_bytes(d, 1);
    memcpy(&bits, stored, size);
    float is;
    dtype_info[d].to_f32(&bits, &is, 1);
    for (int k = -1; k <= 1; k += 2) {
        uint32_t other = bits + (uint32_t)k;
        float next;
        dtype_info[d].to_f32(&other, &next, 1);
        if (isfinite(next) && fabs((double)next - exact) < fabs((double)is - exact) * (1 - 1e-9))
            return false;
    }
    return true;
}

static void check_merged(const char *dtype, double scale) {
    const char *to = in(beside("merged", dtype));
    done(verb_export, settings("base_model", MOE "/model", "lora_model_dir", MOE "/adapter",
                               "format", "merged", "save_dtype", dtype, "output", to, NULL));
    Weights *base, *adapter, *merged;
    ok(weights_open(&base, MOE "/model", &err));
    ok(weights_open(&adapter, MOE "/adapter/adapter_model.safetensors", &err));
    ok(weights_open(&merged, to, &err));
    int changed = 0;
    for (int i = 0; i < weights_count(base); i++) {
        const WeightView *b = weights_at(base, i), *m = weights_find(merged, b->name);
        Exact x = exact_of(b, adapter, 6, 3, scale);
        changed += memcmp(x.sum, x.was, sizeof *x.sum * (size_t)x.n) != 0;
        assert_int_equal(m->dtype, dtype_find(dtype));
        for (int64_t k = 0; k < x.n; k++) {
            if (!nearest(m->dtype, (const char *)m->data + dtype_bytes(m->dtype, k), x.sum[k]))
                fail_msg("%s: value %ld is not the nearest to %.17g", m->name, (long)k, x.sum[k]);
        }
        mem_free(x.sum);
        mem_free(x.was);
    }
    assert_int_equal(changed, 38);
    weights_close(base);
    weights_close(adapter);
    weights_close(merged);
}

static void test_merged_is_nearest(void **state) {
    (void)state;
    double s = (double)(float)(5.0 / 3.0);
    check_merged("f32", s);
    check_merged("bf16", s);
    check_merged("f16", s);
}

/* A base in bfloat16 and two files of odd names, that has a tensor nobody reads. */
static const char *sharded_base(void) {
    const char *plain = in("bf16"), *to = in("sharded");
    done(verb_export, settings("base_model", MOE "/model", "format", "merged", "save_dtype", "bf16",
                               "output", plain, NULL));
    ok(files_make_dirs(to, &err));
    Weights *w;
    ok(weights_open(&w, plain, &err));
    int n = weights_count(w);
    SafetensorsEntry *entry = mem_alloc(sizeof *entry * (size_t)(n + 1));
    const char **file = mem_alloc(sizeof *file * (size_t)(n + 1));
    for (int i = 0; i < n; i++) {
        const WeightView *v = weights_at(w, i);
        entry[i] = (SafetensorsEntry){
            .name = v->name, .dtype = v->dtype, .n_dim = v->n_dim, .data = v->data};
        memcpy(entry[i].dim, v->dim, sizeof v->dim);
        file[i] = i % 3 ? "model-a.safetensors" : "model-b.safetensors";
    }
    static const int64_t tower[] = {1, 2, 3};
    entry[n] = (SafetensorsEntry){.name = "model.vision_tower.x",
                                  .dtype = DT_COUNT,
                                  .stored = "I64",
                                  .n_dim = 1,
                                  .dim = {3},
                                  .data = tower};
    file[n] = "model-b.safetensors";
    ok(safetensors_write_files(to, entry, file, n + 1, &err));
    ok(files_copy(beside(plain, "config.json"), beside(to, "config.json"), &err));
    ok(files_write_whole(beside(to, "tokenizer.json"), "{}", 2, &err));
    mem_free(entry);
    mem_free(file);
    weights_close(w);
    return to;
}

static void test_merged_keeps_the_rest(void **state) {
    (void)state;
    const char *base = sharded_base(), *to = in("sharded-merged");
    Settings s = settings("base_model", base, "lora_model_dir", MOE "/adapter", "format", "merged",
                          "output", to, NULL);
    done(verb_export, s);
    done(verb_verify, s);
    same_file(base, to, "model.safetensors.index.json");
    same_file(base, to, "config.json");
    same_file(base, to, "tokenizer.json");
    Weights *x, *y;
    ok(weights_open(&x, base, &err));
    ok(weights_open(&y, to, &err));
    assert_int_equal(weights_count(x), weights_count(y));
    int same = 0;
    for (int i = 0; i < weights_count(x); i++) {
        const WeightView *a = weights_at(x, i), *b = weights_at(y, i);
        assert_string_equal(a->name, b->name);
        assert_string_equal(a->stored, b->stored);
        same += !memcmp(a->data, b->data, (size_t)a->bytes);
    }
    assert_int_equal(weights_count(x) - same,
                     38); /* all that the adapter adapts, and nothing else */
    weights_close(x);
    weights_close(y);
}

/* What the report counts, counted again. */
static void test_rounding_report(void **state) {
    (void)state;
    Trial *t = trial("moe", USE_AS_IS, &(Settings){{"lora_model_dir", MOE "/adapter"}});
    const char *dir = in("reported");
    MergeReport r = {0};
    ok(files_make_dirs(dir, &err));
    ok(model_write_merged(dir, t->s.model, DT_bf16, &r, &err));
    end(t);
    Weights *base, *adapter;
    ok(weights_open(&base, MOE "/model", &err));
    ok(weights_open(&adapter, MOE "/adapter/adapter_model.safetensors", &err));
    int64_t meant = 0, unchanged = 0, all[2] = {0};
    for (int k = 0; k < KIND_COUNT; k++) all[0] += r.of[k].meant, all[1] += r.of[k].unchanged;
    for (int i = 0; i < weights_count(base); i++) {
        Exact x = exact_of(weights_at(base, i), adapter, 6, 3, (double)(float)(5.0 / 3.0));
        for (int64_t k = 0; k < x.n; k++) {
            uint16_t was = f32_to_bf16((float)x.was[k]);
            meant += x.sum[k] != x.was[k];
            unchanged += x.sum[k] != x.was[k] && nearest(DT_bf16, &was, x.sum[k]);
        }
        mem_free(x.sum);
        mem_free(x.was);
    }
    assert_int_equal(all[0], meant);
    assert_int_equal(all[1], unchanged);
    assert_true(unchanged > 0 && unchanged < meant / 10);
    weights_close(base);
    weights_close(adapter);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_others_agree),      cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_bytes_of_others),   cmocka_unit_test(test_expert_major),
        cmocka_unit_test(test_orientation),       cmocka_unit_test(test_folded_and_refused),
        cmocka_unit_test(test_merged_is_nearest), cmocka_unit_test(test_merged_keeps_the_rest),
        cmocka_unit_test(test_rounding_report),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
