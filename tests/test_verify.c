/* test_verify.c - verify finds what is wrong with what was written, and names it: exports of every
 * form, damaged in every way that a layout can be got wrong, and byte by byte. */
#include "data/base_file.h"
#include "data/safetensors.h"
#include "train/verbs.h"
#include "trial.h"

#define MOE "tests/golden/models/moe"
enum { EXPERTS = 6, RANK = 3 }; /* of the golden model and its adapter */

static int run_settings(VerbFn verb, Settings s, json_t **result) {
    Flag flags[FLAGS];
    Config cfg;
    int n = 0;
    for (int i = 0; s.word[i]; i += 2)
        flags[n++] = (Flag){(char *)s.word[i], (char *)s.word[i + 1]};
    ok(config_load(&cfg, NULL, flags, n, &err));
    *result = json_object();
    int bad = verb(&cfg, *result, &err);
    config_free(&cfg);
    return bad;
}

static int run_verb(VerbFn verb, const char *format, const char *output) {
    json_t *result;
    int bad = run_settings(verb,
                           settings("lora_model_dir", MOE "/adapter", "format", format, "output",
                                    output, "base_model", MOE "/model", NULL),
                           &result);
    if (!bad && verb == verb_verify) {
        assert_int_equal(json_integer_value(json_object_get(result, "applied")), 38);
        assert_int_equal(json_integer_value(json_object_get(result, "planned")), 38);
    }
    json_decref(result);
    return bad;
}

/* ---- damage ---- */

/* An export's tensors, to be changed. */
typedef struct Open {
    char path[4096];
    SafetensorsEntry *entry;
    float **value;
    Weights *w;
    int n;
} Open;

static const char *file_of(const char *format) {
    return !strcmp(format, "mlx")      ? "adapters.safetensors"
           : !strcmp(format, "merged") ? "model.safetensors"
                                       : "adapter_model.safetensors";
}

static Open open_export(const char *dir, const char *format) {
    Open x = {.n = 0};
    snprintf(x.path, sizeof x.path, "%s/%s", dir, file_of(format));
    ok(weights_open(&x.w, x.path, &err));
    x.n = weights_count(x.w);
    x.entry = mem_alloc(sizeof *x.entry * (size_t)(x.n + 1));
    x.value = mem_alloc(sizeof *x.value * (size_t)x.n);
    for (int i = 0; i < x.n; i++) {
        const WeightView *v = weights_at(x.w, i);
        x.value[i] = mem_alloc((size_t)v->bytes);
        memcpy(x.value[i], v->data, (size_t)v->bytes);
        x.entry[i] = (SafetensorsEntry){
            .name = v->name, .dtype = v->dtype, .n_dim = v->n_dim, .data = x.value[i]};
        memcpy(x.entry[i].dim, v->dim, sizeof v->dim);
    }
    return x;
}

static void close_export(Open *x) {
    char *beside_it = mem_copy_text(x->path);
    ok(safetensors_write(beside_it, x->entry, x->n, NULL, 0, &err));
    for (int i = 0; i < weights_count(x->w); i++) mem_free(x->value[i]);
    mem_free(x->value);
    mem_free(x->entry);
    mem_free(beside_it);
    weights_close(x->w);
}

static int named(const Open *x, const char *name) {
    for (int i = 0; i < x->n; i++)
        if (!strcmp(x->entry[i].name, name)) return i;
    fail_msg("no tensor %s", name);
    return -1;
}

/* The ways; name is the tensor that is damaged. */
static void permute(Open *x, const char *name) { /* the rank fastest in B's columns */
    int i = named(x, name);
    int64_t n = x->entry[i].dim[1];
    float *v = x->value[i], row[EXPERTS * RANK];
    for (int64_t o = 0; o < x->entry[i].dim[0]; o++) {
        for (int k = 0; k < EXPERTS * RANK; k++)
            row[k % EXPERTS * RANK + k / EXPERTS] = v[o * n + k];
        memcpy(v + o * n, row, sizeof row);
    }
}

static void swap_values(float *a, float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float t = a[i];
        a[i] = b[i], b[i] = t;
    }
}

static int64_t numel(const SafetensorsEntry *x) { return safetensors_entry_bytes(x) / 4; }

static void swap_halves(Open *x, const char *name) { /* of the outputs of gate_up */
    int i = named(x, name);
    int64_t E = x->entry[i].n_dim == 3 ? x->entry[i].dim[0] : 1, n = numel(&x->entry[i]) / E;
    for (int64_t e = 0; e < E; e++)
        swap_values(x->value[i] + e * n, x->value[i] + e * n + n / 2, n / 2);
}

static void swap_up(Open *x, const char *name) { /* with the tensor of up */
    char other[256];
    const char *at = strstr(name, "gate_proj");
    snprintf(other, sizeof other, "%.*sup_proj%s", (int)(at - name), name,
             at + strlen("gate_proj"));
    int i = named(x, name), k = named(x, other);
    swap_values(x->value[i], x->value[k], numel(&x->entry[i]));
}

static void swap_experts(Open *x, const char *name) { /* the first two of a stack */
    int i = named(x, name);
    int64_t n = numel(&x->entry[i]) / EXPERTS;
    swap_values(x->value[i], x->value[i] + n, n);
}

static void swap_files(Open *x, const char *name) { /* of experts 0 and 1 */
    char other[256];
    const char *at = strstr(name, ".experts.0.");
    snprintf(other, sizeof other, "%.*s.experts.1.%s", (int)(at - name), name, at + 11);
    int i = named(x, name), k = named(x, other);
    swap_values(x->value[i], x->value[k], numel(&x->entry[i]));
}

static void double_it(Open *x, const char *name) { /* mis-scaled */
    int i = named(x, name);
    for (int64_t k = 0; k < numel(&x->entry[i]); k++) x->value[i][k] *= 2;
}

static void turn(Open *x, const char *name) { /* transposed, under the right shape */
    int i = named(x, name);
    int64_t rows = x->entry[i].dim[0], cols = x->entry[i].dim[1];
    float *was = mem_alloc(sizeof *was * (size_t)(rows * cols));
    memcpy(was, x->value[i], sizeof *was * (size_t)(rows * cols));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) x->value[i][c * rows + r] = was[r * cols + c];
    mem_free(was);
}

static void drop(Open *x, const char *name) {
    int i = named(x, name);
    x->entry[i] = x->entry[--x->n];
}

static void rename_it(Open *x, const char *name) { /* one missing, one too many */
    static const char other[] = "base_model.model.model.layers.0.more.lora_A.weight";
    x->entry[named(x, name)].name = other;
}

#define PEFT "base_model.model.model.layers."
static const struct {
    const char *format, *what;
    void (*damage)(Open *x, const char *name);
    const char *name;
} cases[] = {
    {"peft", "columns expert-major", permute, PEFT "1.experts.lora_B.weight"},
    {"peft", "gate and up swapped", swap_halves, PEFT "2.experts.base_layer.lora_B.weight"},
    {"peft", "experts swapped", swap_experts, PEFT "0.experts.lora_A.weight"},
    {"peft", "twice the scale", double_it, PEFT "3.self_attn.q_proj.lora_B.weight"},
    {"peft", "transposed", turn, PEFT "3.router.proj.lora_A.weight"},
    {"peft", "missing", drop, PEFT "1.experts.base_layer.lora_A.weight"},
    {"peft", "renamed", rename_it, PEFT "1.mlp.up_proj.lora_A.weight"},
    {"peft-per-expert", "gate and up swapped", swap_up, PEFT "2.experts.4.gate_proj.lora_B.weight"},
    {"peft-per-expert", "experts swapped", swap_files, PEFT "2.experts.0.down_proj.lora_A.weight"},
    {"peft-per-expert", "an expert missing", drop, PEFT "3.experts.5.up_proj.lora_B.weight"},
    {"peft-per-expert", "twice the scale", double_it, PEFT "3.experts.5.up_proj.lora_B.weight"},
    {"peft-per-expert", "transposed", turn, PEFT "3.experts.5.down_proj.lora_A.weight"},
    {"mlx", "gate and up swapped", swap_up, "model.layers.1.experts.switch_glu.gate_proj.lora_b"},
    {"mlx", "experts swapped", swap_experts, "model.layers.1.experts.switch_glu.down_proj.lora_b"},
    {"mlx", "transposed", turn, "model.layers.1.self_attn.o_proj.lora_a"},
    {"mlx", "missing", drop, "model.layers.1.router.proj.lora_b"},
    {"mlx", "twice the scale", double_it, "model.layers.0.mlp.up_proj.lora_b"},
    {"merged", "gate and up swapped", swap_halves, "model.layers.1.experts.gate_up_proj"},
    {"merged", "experts swapped", swap_experts, "model.layers.1.experts.down_proj"},
    {"merged", "transposed", turn, "model.layers.0.router.proj.weight"},
    {"merged", "missing", drop, "model.layers.0.experts.down_proj"},
    {"merged", "a frozen tensor", double_it, "model.layers.0.router.scale"},
};

static const char *exported(const char *format) {
    const char *dir = in(beside("whole", format));
    if (!files_exists(dir)) ok(run_verb(verb_export, format, dir));
    return dir;
}

/* A fresh copy of an export. */
static const char *copied(const char *format, const char *name) {
    static const char *const names[] = {"adapter_config.json", "moesmith.json", "config.json",
                                        NULL};
    const char *from = exported(format), *to = in(name);
    ok(files_remove(to, &err));
    ok(files_make_dirs(to, &err));
    for (int i = 0; names[i]; i++)
        if (files_exists(beside(from, names[i])))
            ok(files_copy(beside(from, names[i]), beside(to, names[i]), &err));
    ok(files_copy(beside(from, file_of(format)), beside(to, file_of(format)), &err));
    return to;
}

static void must_name(const char *format, const char *dir, const char *what, const char *name) {
    if (!run_verb(verb_verify, format, dir)) fail_msg("%s: %s was not seen", format, what);
    if (!strstr(err.text, name)) fail_msg("%s: %s: \"%s\" lacks %s", format, what, err.text, name);
}

static void test_whole_is_accepted(void **state) {
    (void)state;
    static const char *const formats[] = {"peft", "peft-per-expert", "mlx", "merged"};
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        ok(run_verb(verb_verify, formats[i], exported(formats[i])));
}

static void test_damage_is_named(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *dir = copied(cases[i].format, "damaged");
        Open x = open_export(dir, cases[i].format);
        cases[i].damage(&x, cases[i].name);
        close_export(&x);
        must_name(cases[i].format, dir, cases[i].what, cases[i].name);
    }
}

static void edit_config(const char *dir, const char *from, const char *to) {
    Buf text = {0}, edited = {0};
    const char *path = beside(dir, "adapter_config.json");
    ok(files_read(path, &text, &err));
    char *at = strstr(text.p, from);
    if (!at) fail_msg("%s lacks %s", path, from);
    buf_add(&edited, text.p, (size_t)(at - text.p));
    buf_add_text(&edited, to);
    buf_add_text(&edited, at + strlen(from));
    ok(files_write_whole(path, edited.p, edited.n, &err));
    buf_free(&text);
    buf_free(&edited);
}

static void test_scale_is_named(void **state) {
    (void)state;
    const char *dir = copied("peft", "scaled");
    edit_config(dir, "\"lora_alpha\": 5", "\"lora_alpha\": 6");
    must_name("peft", dir, "another alpha", "lora_B.weight");
    dir = copied("peft", "scaled");
    edit_config(dir, "\"use_rslora\": false", "\"use_rslora\": true");
    must_name("peft", dir, "rsLoRA", "lora_B.weight");
    dir = copied("peft-per-expert", "scaled");
    edit_config(dir, "\"lora_alpha\": 3", "\"lora_alpha\": 5");
    must_name("peft-per-expert", dir, "another alpha", "lora_B.weight");
    dir = copied("mlx", "scaled");
    edit_config(dir, "\"scale\": 1.0", "\"scale\": 2.0");
    must_name("mlx", dir, "another scale", "lora_b");
}

/* Any one byte of any tensor; that of a zero's sign alone changes nothing. */
static void test_any_byte_is_named(void **state) {
    (void)state;
    static const char *const formats[] = {"peft", "peft-per-expert", "mlx", "merged"};
    for (size_t f = 0; f < COUNT_OF(formats); f++) {
        for (uint64_t k = 0; k < 40; k++) {
            const char *dir = copied(formats[f], "flipped");
            Open x = open_export(dir, formats[f]);
            int i = (int)(rng_at(3, f, 2 * k) % (uint64_t)x.n);
            int64_t at =
                (int64_t)(rng_at(3, f, 2 * k + 1) % (uint64_t)safetensors_entry_bytes(&x.entry[i]));
            ((uint8_t *)x.value[i])[at] ^= (uint8_t)(1 << k % 8);
            char *name = mem_copy_text(x.entry[i].name);
            close_export(&x);
            must_name(formats[f], dir, "a flipped bit", name);
            mem_free(name);
        }
    }
}

/* ---- base.h5 ---- */

static void test_base_file(void **state) {
    (void)state;
    const char *path = in("base.h5");
    Flag flags[] = {
        {"base_model", MOE "/model"}, {"base_quantization", "nf4"}, {"output", (char *)path}};
    Config cfg;
    json_t *result = json_object();
    ok(config_load(&cfg, NULL, flags, 3, &err));
    ok(verb_quantize(&cfg, result, &err));
    ok(verb_verify(&cfg, result, &err));
    Buf bytes = {0};
    ok(files_read(path, &bytes, &err));
    BaseIndex index;
    const void *data;
    size_t n;
    ok(base_index_open(&index, path, &data, &n, &err));
    const BaseTensor *last = &index.tensor[index.n_tensors - 1];
    bytes.p[last->offset + last->bytes / 2] ^= 1; /* opening does not look there */
    char *name = mem_copy_text(last->name);
    base_index_free(&index);
    files_unmap(data, n);
    ok(files_write_whole(path, bytes.p, bytes.n, &err));
    Weights *w;
    ok(weights_open(&w, path, &err));
    weights_close(w);
    assert_int_equal(verb_verify(&cfg, result, &err), -1);
    if (!strstr(err.text, name)) fail_msg("\"%s\" lacks %s", err.text, name);
    mem_free(name);
    buf_free(&bytes);
    json_decref(result);
    config_free(&cfg);
}

/* ---- what a shape may say ---- */

/* A type that is none of ours has no size to hold a shape against. */
static void test_hostile_shapes(void **state) {
    (void)state;
    static const char *const shapes[] = {"[1099511627776, 20]", "[4611686018427387904, 8]",
                                         "[9223372036854775807, 9223372036854775807, 3]"};
    const char *dir = in("hostile");
    ok(files_make_dirs(dir, &err));
    ok(files_copy(MOE "/adapter/adapter_config.json", beside(dir, "adapter_config.json"), &err));
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        Buf b = {0}, header = {0};
        buf_printf(&header,
                   "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\": "
                   "{\"dtype\": \"XYZ\", \"shape\": %s, \"data_offsets\": [0, 0]}}",
                   shapes[i]);
        uint64_t n = header.n;
        buf_add(&b, (const char *)&n, sizeof n);
        buf_add(&b, header.p, header.n);
        ok(files_write_whole(beside(dir, "adapter_model.safetensors"), b.p, b.n, &err));
        assert_int_equal(run_verb(verb_verify, "peft", dir), -1);
        assert_non_null(strstr(err.text, "q_proj.lora_A.weight is stored as XYZ"));
        buf_free(&b);
        buf_free(&header);
    }
}

/* ---- one expert ---- */

static void works(VerbFn verb, Settings s) {
    json_t *result;
    ok(run_settings(verb, s, &result));
    json_decref(result);
}

/* A stack of one is a stack: its values do not lie as a linear's. */
static void test_one_expert(void **state) {
    (void)state;
    static const char *const made[] = {"peft", "peft-per-expert", "mlx"};
    const char *model = in("one-expert"), *adapter = in("one-adapter"), *shape = in("one.json");
    json_t *c;
    ok(json_read_file(&c, MOE "/model/config.json", &err));
    json_object_set_new(c, "num_experts", json_integer(1));
    json_object_set_new(c, "top_k_experts", json_integer(1));
    char *text = json_dumps(c, 0);
    ok(files_write_whole(shape, text, strlen(text), &err));
    mem_free(text);
    json_decref(c);
    works(verb_init, settings("base_model", shape, "output", model, NULL));
    Settings s = settings("base_model", model, "lora_r", "3", "learning_rate", "0.05", "max_steps",
                          "2", "output_dir", adapter, NULL);
    train("moe", &s);
    for (size_t i = 0; i < COUNT_OF(made); i++) {
        Settings x = settings("base_model", model, "lora_model_dir", adapter, "format", made[i],
                              "output", in(beside("one", made[i])), NULL);
        works(verb_export, x);
        works(verb_verify, x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_is_accepted), cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_scale_is_named),    cmocka_unit_test(test_any_byte_is_named),
        cmocka_unit_test(test_base_file),         cmocka_unit_test(test_one_expert),
        cmocka_unit_test(test_hostile_shapes),
    };
    return cmocka_run_group_tests(tests, trial_set_up, trial_tear_down);
}
