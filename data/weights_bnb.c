/* weights_bnb.c - see weights_bnb.h. */
#include "weights_bnb.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/quant/codebook.h"
#include "json.h"

static const char STATE[] = ".quant_state.bitsandbytes__";
enum { NAME_MAX_BYTES = 512, BLOCK_MAX = 1 << 16 };

static WeightView *beside(Weights *w, const char *name, const char *what) {
    char full[NAME_MAX_BYTES + 64];
    snprintf(full, sizeof full, "%.*s%s", NAME_MAX_BYTES, name, what);
    return weights_find(w, full);
}

/* The format bounds this by the file's size; only a tensor without values may have any dims. */
static int64_t numel_of(const WeightView *v) {
    int64_t n = 1;
    for (int i = 0; i < v->n_dim; i++)
        if (!v->dim[i]) return 0;
    for (int i = 0; i < v->n_dim; i++) n *= v->dim[i];
    return n;
}

/* A tensor beside the codes, of a type and of so many values (0: any). */
static int take(Weights *w, const WeightView *codes, const char *what, const char *stored,
                int64_t n, const void *out, Err *e) {
    WeightView *v = beside(w, codes->name, what);
    if (!v)
        return err_set(e, "%s: tensor %s%s is missing beside its codes", codes->file, codes->name,
                       what);
    if (strcmp(v->stored, stored) || (n && numel_of(v) != n))
        return err_set(e, "%s: tensor %s is not %ld values of type %s, as its codes ask for",
                       v->file, v->name, (long)n, stored);
    v->read = true;
    *(const void **)(uintptr_t)out = v->data;
    return 0;
}

typedef struct State {
    int64_t block, nested_block;
    double offset;
    int n_dim;
    int64_t dim[WEIGHT_DIMS];
} State;

static int read_shape(State *s, const json_t *json, const WeightView *v, Err *e) {
    const json_t *shape = NULL;
    int64_t n = 1;
    TRY(json_get_array(json, "shape", &shape, v->name, e));
    s->n_dim = (int)json_array_size(shape);
    bool good = s->n_dim >= 2 && s->n_dim <= WEIGHT_DIMS;
    for (int i = 0; i < s->n_dim && good; i++) {
        s->dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
        good = s->dim[i] > 0 && !__builtin_mul_overflow(n, s->dim[i], &n);
    }
    if (good && n / 2 + n % 2 == v->bytes) return 0;
    return err_set(e, "%s: tensor %s has %ld bytes of codes, which is not what its shape asks for",
                   v->file, v->name, (long)v->bytes);
}

static int read_state(State *s, const WeightView *state, const WeightView *v, Err *e) {
    json_t *json;
    const char *type = NULL;
    *s = (State){.block = NF4_BLOCK, .nested_block = 256};
    TRY(json_read_text(&json, state->data, (size_t)state->bytes, state->name, e));
    int bad =
        json_get_text(json, "quant_type", &type, state->name, e) ||
        json_get_int(json, "blocksize", 1, BLOCK_MAX, &s->block, state->name, e) ||
        json_get_int(json, "nested_blocksize", 1, BLOCK_MAX, &s->nested_block, state->name, e) ||
        json_get_real(json, "nested_offset", &s->offset, state->name, e) ||
        read_shape(s, json, v, e);
    if (!bad && (!type || strcmp(type, "nf4")))
        bad = err_set(e,
                      "%s: tensor %s is quantised as %s; of bitsandbytes' 4-bit types nf4 can "
                      "be read",
                      v->file, v->name, type ? type : "(unknown)");
    if (!bad && s->block % NF4_BLOCK)
        bad = err_set(e, "%s: tensor %s has blocks of %ld values; multiples of 64 can be read",
                      v->file, v->name, (long)s->block);
    json_decref(json);
    return bad ? -1 : 0;
}

/* What the codes stand for: ours are bitsandbytes' to the bit, older versions' to rounding. */
static int check_map(Weights *w, const WeightView *v, Err *e) {
    const float *map = NULL;
    TRY(take(w, v, ".quant_map", "F32", 16, &map, e));
    for (int i = 0; i < 16; i++) {
        if (fabsf(map[i] - NF4_VALUE[i]) <= 1e-6f) continue;
        return err_set(e,
                       "%s: code %d of tensor %s stands for %g in its quant_map, for %g in nf4; "
                       "only nf4 as bitsandbytes writes it can be read",
                       v->file, i, v->name, (double)map[i], (double)NF4_VALUE[i]);
    }
    return 0;
}

static int take_scales(Weights *w, const WeightView *v, Bnb *b, const State *s, Err *e) {
    int64_t n = 1;
    for (int i = 0; i < s->n_dim; i++) n *= s->dim[i];
    n = (n + s->block - 1) / s->block;
    TRY(check_map(w, v, e));
    if (!beside(w, v->name, ".nested_absmax"))
        return take(w, v, ".absmax", "F32", n, &b->absmax, e);
    TRY(take(w, v, ".absmax", "U8", n, &b->nested, e));
    TRY(take(w, v, ".nested_quant_map", "F32", 256, &b->nested_map, e));
    return take(w, v, ".nested_absmax", "F32", (n + s->nested_block - 1) / s->nested_block,
                &b->nested_absmax, e);
}

static int recognise_4bit(Weights *w, WeightView *state, Err *e) {
    size_t n = strlen(state->name);
    const char *mark = strstr(state->name, STATE);
    char name[NAME_MAX_BYTES];
    if (n >= sizeof name) return 0;
    snprintf(name, sizeof name, "%.*s", (int)(mark - state->name), state->name);
    WeightView *v = weights_find(w, name);
    if (!v || strcmp(v->stored, "U8"))
        return err_set(e, "%s: tensor %s describes codes of type U8, and there are none",
                       state->file, state->name);
    Bnb *b = weights_keep(w, mem_alloc(sizeof *b));
    State s;
    TRY(read_state(&s, state, v, e));
    *b = (Bnb){.block = s.block, .nested_block = s.nested_block, .offset = (float)s.offset};
    TRY(take_scales(w, v, b, &s, e));
    state->read = true;
    v->bnb = b;
    v->dtype = s.dim[s.n_dim - 1] % NF4_BLOCK ? DT_nf4_flat : DT_nf4;
    v->n_dim = s.n_dim;
    memcpy(v->dim, s.dim, sizeof s.dim);
    return 0;
}

/* Only rows one after the other (0) are what they look like: the others (col32, col_turing,
 * col_ampere) hold the codes in the order of a GPU's tiles. */
static int check_layout(const WeightView *v, WeightView *format, Err *e) {
    if (!format) return 0;
    format->read = true;
    bool known = !strcmp(format->stored, "U8") && format->bytes == 1;
    if (known && !*(const uint8_t *)format->data) return 0;
    return err_set(e,
                   "%s: tensor %s has its codes in the order of a GPU's tiles (%s); only those "
                   "in rows (0) can be read: save it again with a newer bitsandbytes",
                   v->file, v->name, format->name);
}

/* X.weight as I8 with X.SCB: the largest magnitudes of its rows. */
static int recognise_8bit(Weights *w, WeightView *scb, Err *e) {
    char name[NAME_MAX_BYTES];
    size_t n = strlen(scb->name) - 3;
    if (n + 16 >= sizeof name) return 0;
    snprintf(name, sizeof name, "%.*sweight", (int)n, scb->name);
    WeightView *v = weights_find(w, name), *format = beside(w, name, "_format");
    if (!v || strcmp(v->stored, "I8") || v->n_dim != 2 || v->dim[0] < 1 || v->dim[1] < 1 ||
        strcmp(scb->stored, "F32") || numel_of(scb) != v->dim[0])
        return err_set(e, "%s: tensor %s are no scales of 8-bit codes beside it", scb->file,
                       scb->name);
    Bnb *b = weights_keep(w, mem_alloc(sizeof *b));
    *b = (Bnb){.block = v->dim[1], .absmax = scb->data};
    scb->read = true;
    TRY(check_layout(v, format, e));
    v->bnb = b;
    v->dtype = DT_int8;
    return 0;
}

int64_t bnb_nonfinite(const WeightView *v) {
    int64_t n = (numel_of(v) + v->bnb->block - 1) / v->bnb->block;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(bnb_absmax(v->bnb, i))) return i;
    return -1;
}

int bnb_recognise(Weights *w, Err *e) {
    for (int i = 0; i < weights_count(w); i++) {
        WeightView *v = weights_at(w, i);
        if (strstr(v->name, STATE)) TRY(recognise_4bit(w, v, e));
        if (text_ends_with(v->name, ".SCB")) TRY(recognise_8bit(w, v, e));
    }
    return 0;
}
