/* tool.c - what test_cli.sh cannot do in sh: damages weight files in ways that a real file may be
 * damaged, and looks into files that the program wrote.
 *
 *     tool drop|add|turn|nan|swap|experts3d|per-expert|major FROM TO [NAME]   edits safetensors
 *     tool bnb4|bnb8|open4|open8 FROM TO    as bitsandbytes stores it, and the values of that
 *     tool lie FROM TO          the header claims bytes that are not there
 *     tool whole FILE           fails unless FILE (.safetensors, .h5) is whole
 *     tool shape FILE.h5 NAME   prints "f32 62 96"
 *     tool json KEY             prints a value out of the last line of standard input
 *     tool metrics FILE         prints metrics.jsonl without what differs from run to run */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "autograd/quant/codebook.h"
#include "data/files.h"
#include "data/h5.h"
#include "data/json.h"
#include "data/safetensors.h"

static Err err;
static void ok(int rc) {
    if (rc == 0) return;
    fprintf(stderr, "tool: %s\n", err.text);
    exit(1);
}

/* ---- edits ---- */

/* The experts' lora_A is (E*R, I) and their lora_B (O, R*E). */
enum { EXPERTS = 6 }; /* of the golden model */

/* A copy of the tensors that an edit works on; their data may be replaced. */
typedef struct Edit {
    SafetensorsEntry *at;
    int n;
    const char *name; /* the tensor meant, where the edit is about one */
    Arena keep;       /* of new names and data */
} Edit;

static SafetensorsEntry *find(Edit *x, const char *name) {
    for (int i = 0; i < x->n; i++) {
        if (!strcmp(x->at[i].name, name)) return &x->at[i];
    }
    fprintf(stderr, "tool: no tensor %s\n", name);
    exit(1);
}

static void drop(Edit *x) {
    SafetensorsEntry *e = find(x, x->name);
    *e = x->at[--x->n];
}

static void add(Edit *x) {
    static const float value[2] = {1, 2};
    x->at[x->n++] =
        (SafetensorsEntry){.name = x->name, .dtype = DT_f32, .n_dim = 1, .dim = {2}, .data = value};
}

static void turn(Edit *x) { /* rows and columns change places */
    SafetensorsEntry *e = find(x, x->name);
    int64_t rows = e->dim[e->n_dim - 2];
    e->dim[e->n_dim - 2] = e->dim[e->n_dim - 1];
    e->dim[e->n_dim - 1] = rows;
}

static void *own(Edit *x, SafetensorsEntry *e) {
    void *copy = arena_push(&x->keep, (size_t)safetensors_entry_bytes(e));
    memcpy(copy, e->data, (size_t)safetensors_entry_bytes(e));
    e->data = copy;
    return copy;
}

static void nan_(Edit *x) {
    SafetensorsEntry *e = find(x, x->name);
    ((float *)own(x, e))[3] = NAN;
}

/* The B of an expert's A, or NULL for any other tensor. */
static SafetensorsEntry *partner(Edit *x, const SafetensorsEntry *a) {
    char name[512];
    if (!strstr(a->name, ".experts.")) return NULL;
    snprintf(name, sizeof name, "%s", a->name);
    char *role = strstr(name, "lora_A");
    if (!role) return NULL;
    role[5] = 'B';
    return find(x, name);
}

/* As PEFT before 0.19.1 wrote them: A (E*R, out) holds what B (out, R*E) did, B (in, R*E) what
 * A (E*R, in) did. */
static void swap(Edit *x) {
    for (int i = 0; i < x->n; i++) {
        SafetensorsEntry *a = &x->at[i], *b = partner(x, a);
        if (!b) continue;
        const float *from_a = a->data, *from_b = b->data;
        int64_t in = a->dim[1], out = b->dim[0], both = a->dim[0], rank = both / EXPERTS;
        float *to_a = arena_push(&x->keep, (size_t)(both * out) * sizeof *to_a),
              *to_b = arena_push(&x->keep, (size_t)(both * in) * sizeof *to_b);
        for (int64_t c = 0; c < both; c++) { /* column j*E + e of one is row e*R + j of the other */
            int64_t row = c % EXPERTS * rank + c / EXPERTS;
            for (int64_t o = 0; o < out; o++) to_a[row * out + o] = from_b[o * both + c];
            for (int64_t k = 0; k < in; k++) to_b[k * both + c] = from_a[row * in + k];
        }
        a->dim[1] = out, a->data = to_a;
        b->dim[0] = in, b->data = to_b;
    }
}

static void experts3d(Edit *x) { /* (E,R,I) and (E,O,R) */
    for (int i = 0; i < x->n; i++) {
        SafetensorsEntry *a = &x->at[i], *b = partner(x, a);
        if (!b) continue;
        int64_t rank = a->dim[0] / EXPERTS, in = a->dim[1], out = b->dim[0];
        a->n_dim = b->n_dim = 3;
        memcpy(a->dim, (int64_t[]){EXPERTS, rank, in}, 3 * sizeof in);
        memcpy(b->dim, (int64_t[]){EXPERTS, out, rank}, 3 * sizeof in);
    }
}

static void per_expert(Edit *x) { /* one adapter an expert: experts.0.down_proj.lora_A */
    for (int i = 0; i < x->n; i++) {
        const char *at = strstr(x->at[i].name, ".experts.");
        if (!at) continue;
        char *name = arena_push(&x->keep, 512);
        snprintf(name, 512, "%.*s.experts.0.%s.%s", (int)(at - x->at[i].name), x->at[i].name,
                 strstr(at, "base_layer") ? "up_proj" : "down_proj", strstr(at, "lora_"));
        x->at[i].name = name;
    }
}

static void major(Edit *x) { /* B's columns with the rank fastest */
    for (int i = 0; i < x->n; i++) {
        SafetensorsEntry *b = partner(x, &x->at[i]);
        if (!b) continue;
        const float *from = b->data;
        float *to = own(x, b);
        int64_t n = b->dim[1], rank = n / EXPERTS;
        for (int64_t o = 0; o < b->dim[0]; o++) {
            for (int64_t c = 0; c < n; c++)
                to[o * n + c % EXPERTS * rank + c / EXPERTS] = from[o * n + c];
        }
    }
}

/* ---- as bitsandbytes stores a checkpoint ---- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

/* What is quantised: linears, routers among them; not experts in one tensor, nor embeddings. */
static bool is_linear(const SafetensorsEntry *e) {
    return e->n_dim == 2 && ends_with(e->name, "proj.weight");
}

static void add_beside(Edit *x, const char *name, const char *stored, int64_t n, const void *data) {
    x->at[x->n++] = (SafetensorsEntry){.name = name,
                                       .dtype = DT_COUNT,
                                       .stored = stored,
                                       .n_dim = n > 0,
                                       .dim = {n},
                                       .data = data};
}

static const char *beside(Edit *x, const char *name, const char *what) {
    char *text = arena_push(&x->keep, 512);
    snprintf(text, 512, "%s%s", name, what);
    return text;
}

static float largest(const float *x, int64_t n) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

static unsigned nearest(float share) {
    unsigned best = 0;
    for (unsigned i = 1; i < 16; i++) {
        if (fabsf(share - NF4_VALUE[i]) < fabsf(share - NF4_VALUE[best])) best = i;
    }
    return best;
}

/* In blocks of 64 of the flattened tensor; the first of two codes is the high half of their byte.
 */
static void to_4bit(Edit *x, SafetensorsEntry *e, bool open) {
    int64_t rows = e->dim[0], cols = e->dim[1], n = rows * cols;
    float *value = own(x, e), *absmax = arena_push(&x->keep, (size_t)(n / 64 + 1) * 4);
    uint8_t *codes = arena_push_zero(&x->keep, (size_t)(n + 1) / 2);
    for (int64_t i = 0; i < n; i++) {
        if (i % 64 == 0) absmax[i / 64] = largest(value + i, n - i < 64 ? n - i : 64);
        unsigned code = nearest(value[i] / absmax[i / 64]);
        codes[i / 2] |= (uint8_t)(code << (i % 2 ? 0 : 4));
        value[i] = NF4_VALUE[code] * absmax[i / 64];
    }
    if (open) return;
    char *state = arena_push(&x->keep, 256);
    snprintf(state, 256,
             "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"float32\", "
             "\"shape\": [%ld, %ld]}",
             (long)rows, (long)cols);
    e->dtype = DT_COUNT, e->stored = "U8", e->data = codes;
    e->dim[0] = (n + 1) / 2, e->dim[1] = 1;
    add_beside(x, beside(x, e->name, ".absmax"), "F32", (n + 63) / 64, absmax);
    add_beside(x, beside(x, e->name, ".quant_map"), "F32", 16, NF4_VALUE);
    add_beside(x, beside(x, e->name, ".quant_state.bitsandbytes__nf4"), "U8",
               (int64_t)strlen(state), state);
}

/* Each row in steps of its largest magnitude / 127; weight_format 0: rows one after the other. */
static void to_8bit(Edit *x, SafetensorsEntry *e, bool open) {
    static const uint8_t format_row = 0;
    int64_t rows = e->dim[0], cols = e->dim[1];
    float *value = own(x, e), *most = arena_push(&x->keep, (size_t)rows * 4);
    int8_t *codes = arena_push(&x->keep, (size_t)(rows * cols));
    for (int64_t i = 0; i < rows * cols; i++) {
        int64_t r = i / cols;
        if (i % cols == 0) most[r] = largest(value + i, cols);
        codes[i] = (int8_t)lroundf(value[i] / most[r] * 127);
        value[i] = (float)codes[i] * (most[r] / 127);
    }
    if (open) return;
    e->dtype = DT_COUNT, e->stored = "I8", e->data = codes;
    char *scb = arena_push(&x->keep, 512);
    snprintf(scb, 512, "%.*sSCB", (int)(strlen(e->name) - strlen("weight")), e->name);
    add_beside(x, scb, "F32", rows, most);
    add_beside(x, beside(x, e->name, "_format"), "U8", 0, &format_row);
}

static void to_codes(Edit *x, void (*to)(Edit *, SafetensorsEntry *, bool), bool open) {
    for (int i = 0, n = x->n; i < n; i++) {
        if (is_linear(&x->at[i])) to(x, &x->at[i], open);
    }
}
static void bnb4(Edit *x) { to_codes(x, to_4bit, false); }
static void bnb8(Edit *x) { to_codes(x, to_8bit, false); }
static void open4(Edit *x) { to_codes(x, to_4bit, true); }
static void open8(Edit *x) { to_codes(x, to_8bit, true); }

/* ---- which edit ---- */

static const struct {
    const char *word;
    void (*edit)(Edit *x);
} edits[] = {{"drop", drop},   {"add", add},
             {"turn", turn},   {"nan", nan_},
             {"swap", swap},   {"experts3d", experts3d},
             {"major", major}, {"per-expert", per_expert},
             {"bnb4", bnb4},   {"bnb8", bnb8},
             {"open4", open4}, {"open8", open8}};

static void edit(void (*how)(Edit *), const char *from, const char *to, const char *name) {
    Weights *w;
    ok(weights_open(&w, from, &err));
    Edit x = {.n = weights_count(w), .name = name};
    ok(arena_open(&x.keep, (size_t)1 << 30, &err));
    x.at = arena_push(&x.keep, sizeof *x.at * (size_t)(4 * x.n + 1));
    for (int i = 0; i < x.n; i++) {
        const WeightView *v = weights_at(w, i);
        x.at[i] = (SafetensorsEntry){
            .name = v->name, .dtype = v->dtype, .n_dim = v->n_dim, .data = v->data};
        memcpy(x.at[i].dim, v->dim, sizeof v->dim);
    }
    how(&x);
    ok(safetensors_write(to, x.at, x.n, NULL, 0, &err));
    arena_close(&x.keep);
    weights_close(w);
}

/* The first tensor's end moves out of the file; the header keeps its length. */
static void lie(const char *from, const char *to) {
    Buf b = {0};
    ok(files_read(from, &b, &err));
    char *at = strstr(b.p + 8, "\"data_offsets\":[");
    char *last = at ? strchr(at, ']') : NULL;
    if (!last) exit(1);
    for (char *c = strchr(at, ',') + 1; c < last; c++) *c = '9';
    ok(files_write_whole(to, b.p, b.n, &err));
    buf_free(&b);
}

/* ---- looks ---- */

static void whole(const char *path) {
    if (ends_with(path, ".h5")) {
        HdfFile *f;
        ok(h5_open(&f, path, &err));
        h5_close(f);
        return;
    }
    Weights *w;
    ok(weights_open(&w, path, &err));
    weights_close(w);
}

static void shape(const char *path, const char *name) {
    static const char *const type_name[HDF_TYPES] = {"f32", "i32", "i64", "u8"};
    HdfFile *f;
    HdfType type;
    int n;
    int64_t dim[HDF_DIMS];
    ok(h5_open(&f, path, &err));
    ok(h5_shape(f, name, &type, &n, dim, &err));
    printf("%s", type_name[type]);
    for (int i = 0; i < n; i++) printf(" %ld", (long)dim[i]);
    printf("\n");
    h5_close(f);
}

static void json(const char *key) {
    static char line[1 << 20];
    json_t *value = NULL;
    while (fgets(line, sizeof line, stdin)) {
        json_decref(value);
        value = json_loads(line, 0, NULL);
    }
    const json_t *found = json_object_get(value, key);
    if (!found) exit(1);
    char *text = json_dumps(found, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    printf("%s\n", text);
    mem_free(text);
    json_decref(value);
}

static void metrics(const char *path) {
    static const char *const differ[] = {"tokens_per_second", "step_seconds", "peak_memory_bytes"};
    Buf all = {0};
    ok(files_read(path, &all, &err));
    buf_add(&all, "", 1);
    for (char *line = all.p, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *row = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (!row) exit(1);
        for (size_t i = 0; i < COUNT_OF(differ); i++) json_object_del(row, differ[i]);
        char *text = json_dumps(row, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
        printf("%s\n", text);
        mem_free(text);
        json_decref(row);
    }
    buf_free(&all);
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < COUNT_OF(edits) && argc > 3; i++) {
        if (strcmp(edits[i].word, verb)) continue;
        edit(edits[i].edit, argv[2], argv[3], argc > 4 ? argv[4] : "");
        return 0;
    }
    if (!strcmp(verb, "lie") && argc > 3)
        lie(argv[2], argv[3]);
    else if (!strcmp(verb, "whole") && argc > 2)
        whole(argv[2]);
    else if (!strcmp(verb, "shape") && argc > 3)
        shape(argv[2], argv[3]);
    else if (!strcmp(verb, "json") && argc > 2)
        json(argv[2]);
    else if (!strcmp(verb, "metrics") && argc > 2)
        metrics(argv[2]);
    else
        return fprintf(stderr, "tool: see tool.c\n"), 2;
    return 0;
}
