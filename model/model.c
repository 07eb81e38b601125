/* model.c - opens a checkpoint and binds every tensor to the field its family's name table says. */
#include "model.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/weight.h"
#include "../data/base_file.h"
#include "../data/files.h"
#include "../data/json.h"
#include "bnb.h"
#include "gguf_base.h"
#include "stream.h"

const char *const kind_name[KIND_COUNT] = {"attention", "dense",      "experts",
                                           "router",    "embeddings", "norms"};

#define FAMILY(name) extern const Family family_##name;
#include "families.def"
#undef FAMILY
static const Family *const families[] = {
#define FAMILY(name) &family_##name,
#include "families.def"
#undef FAMILY
};

/* ---- shapes ---- */

static int64_t dim_value(const Model *m, int layer, DimSym sym) {
    static const LayerDims none = {0};
    const Dims *d = &m->dims;
    const LayerDims *l = layer >= 0 ? &m->layer[layer].d : &none;
    const int64_t value[] = {
        [DIM_NONE] = 0,
        [DIM_ONE] = 1,
        [DIM_D] = d->width,
        [DIM_Q] = (int64_t)d->n_heads * l->head_dim,
        [DIM_KV] = (int64_t)l->n_kv * l->head_dim,
        [DIM_HEAD] = l->head_dim,
        [DIM_DENSE] = l->dense_width,
        [DIM_E] = d->n_experts,
        [DIM_F] = d->expert_width,
        [DIM_2F] = 2 * (int64_t)d->expert_width,
        [DIM_V] = d->vocab,
        [DIM_PLE] = d->ple_width,
        [DIM_PLE_ALL] = (int64_t)d->ple_width * d->n_layers,
        [DIM_PLE_V] = d->ple_vocab,
    };
    return value[sym];
}

static bool row_applies(const Model *m, int layer, When when) {
    const LayerDims *l = layer >= 0 ? &m->layer[layer].d : NULL;
    bool own = l && l->kv_from == layer;
    const bool has[] = {
        [HAS_ALWAYS] = true,
        [HAS_OWN_KV] = own,
        [HAS_OWN_V] = own && !l->k_eq_v,
        [HAS_EXPERTS] = m->dims.n_experts > 0,
        [HAS_PLE] = m->dims.ple_width > 0,
        [HAS_HEAD] = !m->dims.tied,
    };
    return has[when];
}

int site_dims(const Model *m, const Site *s, int64_t dim[3]) {
    int n = 0;
    while (n < 3 && s->row->dim[n] != DIM_NONE) {
        dim[n] = dim_value(m, s->layer, s->row->dim[n]);
        n++;
    }
    return n;
}

int64_t site_numel(const Model *m, const Site *s) {
    int64_t dim[3], n = 1;
    int k = site_dims(m, s, dim);
    for (int i = 0; i < k; i++) n *= dim[i];
    return n;
}

/* ---- the list of tensors ---- */

static void add_sites(Model *m, const TensorRow *rows, int layer, void *fields) {
    for (const TensorRow *r = rows; r->hf; r++) {
        if (!row_applies(m, layer, r->when)) continue;
        Site *s = &m->site[m->n_sites++];
        char *at = (char *)fields + r->at;
        Buf name = {0};
        buf_add_text(&name, m->prefix);
        if (layer >= 0) buf_printf(&name, "layers.%d.", layer);
        buf_add_text(&name, r->hf);
        if (!strcmp(r->hf, "lm_head.weight")) buf_free(&name), buf_add_text(&name, r->hf);
        *s = (Site){r,
                    layer,
                    name.p,
                    r->flags & ROW_LINEAR ? &((Linear *)at)->w : (Tensor **)at,
                    r->flags & ROW_LINEAR ? (Linear *)at : NULL,
                    NULL};
        if (s->linear) s->linear->site = m->n_sites - 1;
    }
}

static int count_rows(const TensorRow *rows) {
    int n = 0;
    while (rows[n].hf) n++;
    return n;
}

static void list_sites(Model *m) {
    int most =
        count_rows(m->family->model_rows) + m->dims.n_layers * count_rows(m->family->layer_rows);
    m->site = mem_alloc(sizeof *m->site * (size_t)most);
    add_sites(m, m->family->model_rows, -1, m);
    for (int i = 0; i < m->dims.n_layers; i++) add_sites(m, m->family->layer_rows, i, &m->layer[i]);
}

/* ---- config.json ---- */

DType model_stated_dtype(const Model *m) {
    static const struct {
        const char *word;
        DType dtype;
    } known[] = {{"bfloat16", DT_bf16}, {"float16", DT_f16}};
    const json_t *text = json_object_get(m->config, "text_config");
    const char *said = NULL, *const keys[] = {"dtype", "torch_dtype"};
    for (size_t i = 0; i < COUNT_OF(keys) && !said; i++) {
        said = json_string_value(json_object_get(text, keys[i]));
        if (!said) said = json_string_value(json_object_get(m->config, keys[i]));
    }
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        if (said && !strcmp(said, known[i].word)) return known[i].dtype;
    }
    return DT_f32;
}

/* The text decoder's part of a config.json: under text_config in multimodal checkpoints. */
static const json_t *text_config(const json_t *config) {
    const json_t *text = json_object_get(config, "text_config");
    return json_is_object(text) ? text : config;
}

static const Family *family_of(const json_t *text) {
    for (size_t i = 0; i < COUNT_OF(families); i++) {
        if (families[i]->knows(text)) return families[i];
    }
    return NULL;
}

bool model_knows(const json_t *config) { return family_of(text_config(config)) != NULL; }

/* m->config is there; path is what sentences call it. */
static int read_config(Model *m, const char *path, Err *e) {
    const json_t *c = text_config(m->config);
    m->family = family_of(c);
    if (!m->family) {
        const char *type = json_string_value(json_object_get(c, "model_type"));
        Buf known = {0};
        for (size_t i = 0; i < COUNT_OF(families); i++)
            buf_printf(&known, "%s%s", i ? ", " : "", families[i]->name);
        err_set(e, "%s: model_type \"%s\" is no family this version knows (%s)", path,
                type ? type : "(absent)", known.p);
        buf_free(&known);
        return -1;
    }
    int64_t layers = m->family->n_layers;
    TRY(json_get_int(c, "num_hidden_layers", 1, 1000, &layers, path, e));
    m->dims.n_layers = (int)layers;
    m->layer = mem_alloc(sizeof *m->layer * (size_t)layers);
    return m->family->dims(m, c, e) ? err_prefix(e, "%s", path) : 0;
}

/* ---- binding ---- */

static void shape_text(Buf *b, const int64_t *dim, int n) {
    buf_add_text(b, "[");
    for (int i = 0; i < n; i++) buf_printf(b, "%s%" PRId64, i ? ", " : "", dim[i]);
    buf_add_text(b, "]");
}

/* A tensor with the shape its row asks for; [1] may be stored without dimensions. */
static int check_view(const Model *m, const Site *s, const WeightView *v, Err *e) {
    int64_t want[3];
    int n = site_dims(m, s, want);
    bool same = v->n_dim == n || (v->n_dim == 0 && n == 1 && want[0] == 1);
    for (int i = 0; i < v->n_dim && same; i++) same = v->dim[i] == want[i];
    if (!same) {
        Buf b = {0};
        shape_text(&b, v->dim, v->n_dim);
        buf_add_text(&b, ", config.json asks for ");
        shape_text(&b, want, n);
        err_set(e, "%s: tensor %s has shape %s", v->file, v->name, b.p);
        buf_free(&b);
        return -1;
    }
    if (!dtype_is_weight(v->dtype) || (dtype_is_packed(v->dtype) && n < 2)) {
        return err_set(
            e,
            "%s: tensor %s is stored as %s; F32, F16, BF16 and codes of bitsandbytes can be read",
            v->file, v->name, v->stored);
    }
    return 0;
}

/* Where the weight lies as the kernels read it. Codes of what is opened now cannot be left. */
static const void *stored_data(Model *m, const Site *s, const WeightView *v) {
    if (!v->bnb) return v->data;
    if (m->leave_codes && s->row->flags & ROW_MAPPED) return NULL;
    void *own = arena_push(&m->keep, (size_t)weight_bytes(v->dtype, v->n_dim, v->dim));
    bnb_repack(v, own);
    return own;
}

static int bind_site(Model *m, Site *s, Err *e) {
    WeightView *v = weights_find(m->weights, s->name);
    if (!v) return err_set(e, "%s: tensor %s is missing", m->dir, s->name);
    TRY(check_view(m, s, v, e));
    v->read = true;
    int64_t dim[3];
    int n = site_dims(m, s, dim);
    s->base = tensor_over(&m->keep, v->dtype, n, dim, stored_data(m, s, v));
    *s->slot = s->base;
    if (!(s->row->flags & ROW_MAPPED)) {
        *s->slot = tensor_new(&m->keep, DT_f32, n, dim);
        weight_values(s->base, 0, tensor_numel(s->base), f32(*s->slot));
    }
    s->base->name = (*s->slot)->name = s->name;
    return 0;
}

/* Of multimodal checkpoints (Gemma 4, Gemma 3), and of those with text alone. */
static int find_prefix(Model *m, Err *e) {
    static const struct {
        const char *file, *modules;
    } known[] = {{"model.language_model.", "model.language_model."},
                 {"language_model.model.", "model.language_model."},
                 {"model.", "model."}};
    const char *first = m->family->model_rows[0].hf;
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", known[i].file, first);
        if (weights_find(m->weights, name)) {
            m->prefix = known[i].file;
            m->modules = known[i].modules;
            return 0;
        }
    }
    return err_set(e,
                   "%s: tensor model.%s is missing (model.language_model.%s and "
                   "language_model.model.%s were looked for too)",
                   m->dir, first, first, first);
}

static bool starts_with(const char *s, const char *start) {
    return !strncmp(s, start, strlen(start));
}

/* Keys and values that a layer would have, were it not lent them: published files carry them. */
static bool is_dead_kv(const Model *m, const char *name) {
    int layer, used = 0;
    if (!starts_with(name, m->prefix)) return false;
    if (sscanf(name + strlen(m->prefix), "layers.%d.self_attn.%n", &layer, &used) != 1 || !used)
        return false;
    const char *rest = name + strlen(m->prefix) + used;
    bool kv = !strcmp(rest, "k_proj.weight") || !strcmp(rest, "v_proj.weight") ||
              !strcmp(rest, "k_norm.weight");
    return kv && layer >= 0 && layer < m->dims.n_layers && m->layer[layer].d.kv_from != layer;
}

bool model_names_head(const char *name) {
    return !strcmp(name, "lm_head.weight") || !strcmp(name, "language_model.lm_head.weight");
}

static bool is_same_head(const Model *m, const WeightView *v) {
    const Tensor *embed = m->embed.w;
    return model_names_head(v->name) && v->dtype == embed->dtype &&
           v->bytes == tensor_bytes(embed) && !memcmp(v->data, embed->data, (size_t)v->bytes);
}

/* Why a tensor that no row names may be left alone; NULL: it may not. */
static const char *why_ignored(const Model *m, const WeightView *v) {
    const char *name = starts_with(v->name, "model.") ? v->name + 6 : v->name;
    for (const char *const *p = m->family->ignored; *p; p++) {
        if (starts_with(name, *p)) return "of other modalities";
    }
    if (is_dead_kv(m, v->name)) return "of layers that read another layer's keys and values";
    if (m->dims.tied && is_same_head(m, v)) return "a copy of the embedding";
    return NULL;
}

/* Every tensor of the checkpoint was read, or is one the family leaves alone: those are counted. */
static int check_unread(Model *m, Err *e) {
    const char *why[8] = {0}, *example[8] = {0};
    int count[8] = {0};
    for (int i = 0; i < weights_count(m->weights); i++) {
        const WeightView *v = weights_at(m->weights, i);
        if (v->read) continue;
        const char *reason = why_ignored(m, v);
        if (!reason) {
            return err_set(e,
                           "%s: tensor %s is not part of a %s model with this config.json; nothing "
                           "would read it",
                           v->file, v->name, m->family->name);
        }
        int k = 0;
        while (why[k] && why[k] != reason) k++;
        why[k] = reason, example[k] = v->name, count[k]++;
    }
    for (int k = 0; why[k]; k++)
        buf_printf(&m->notes, "skipped %d tensors %s (%s%s)\n", count[k], why[k], example[k],
                   count[k] > 1 ? ", ..." : "");
    return 0;
}

/* The config of a GGUF file, by the family that has the architecture's name. */
static int config_of_gguf(Model *m, const Gguf *g, Err *e) {
    const char *arch = "(absent)";
    size_t n = strlen(arch);
    TRY(gguf_get_text(g, "general.architecture", &arch, &n, e));
    for (size_t i = 0; i < COUNT_OF(families); i++) {
        bool named = strlen(families[i]->name) == n && !memcmp(arch, families[i]->name, n);
        if (!named || !families[i]->config_from_gguf) continue;
        m->config = json_object();
        TRY(families[i]->config_from_gguf(m->config, g, e));
        return read_config(m, g->file, e);
    }
    return err_set(e, "%s: general.architecture \"%s\" is none that this version reads from GGUF",
                   g->file, gguf_word(arch, n).text);
}

static int open_gguf_config(Model *m, const char *path, Err *e) {
    Gguf *g;
    TRY(gguf_open(&g, path, e));
    int bad = config_of_gguf(m, g, e);
    gguf_close(g);
    return bad ? -1 : 0;
}

static int open_config(Model *m, const char *model, Err *e) {
    if (gguf_claims(model)) return open_gguf_config(m, model, e);
    char *label = side_files_label(model, "config.json");
    Buf text = {0};
    int bad = side_files_read(model, "config.json", &text, e) ||
              json_read_text(&m->config, text.p ? text.p : "", text.n, label, e) ||
              read_config(m, label, e);
    buf_free(&text);
    mem_free(label);
    return bad ? -1 : 0;
}

static int open_parts(Model *m, Err *e) {
    TRY(open_config(m, m->dir, e));
    TRY(weights_open(&m->weights, m->dir, e));
    if (gguf_claims(m->dir)) TRY(gguf_base_rename(m, e));
    TRY(find_prefix(m, e));
    list_sites(m);
    for (int i = 0; i < m->n_sites; i++) TRY(bind_site(m, &m->site[i], e));
    if (m->dims.tied) m->head = m->embed;
    return check_unread(m, e);
}

static int open_model(Model **out, const char *dir, bool leave_codes, Err *e) {
    Model *m = mem_alloc(sizeof *m);
    m->dir = mem_copy_text(dir);
    m->leave_codes = leave_codes;
    int bad = arena_open(&m->keep, (size_t)64 << 30, e);
    if (!bad) bad = side_files_check(dir, e);
    if (!bad) bad = open_parts(m, e);
    if (bad) {
        model_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

int model_open(Model **out, const char *dir, Err *e) { return open_model(out, dir, false, e); }
int model_open_checkpoint(Model **out, const char *dir, Err *e) {
    return open_model(out, dir, true, e);
}

int model_open_shapes(Model **out, const char *config_path, Err *e) {
    Model *m = mem_alloc(sizeof *m);
    bool whole =
        files_is_dir(config_path) || base_file_claims(config_path) || gguf_claims(config_path);
    int bad = arena_open(&m->keep, (size_t)1 << 30, e);
    if (!bad && whole) bad = open_config(m, config_path, e);
    if (!bad && !whole)
        bad = json_read_file(&m->config, config_path, e) || read_config(m, config_path, e);
    if (bad) {
        model_close(m);
        return -1;
    }
    m->prefix = json_object_get(m->config, "text_config") ? "model.language_model." : "model.";
    m->modules = m->prefix;
    list_sites(m);
    *out = m;
    return 0;
}

void model_bind_shapes(Model *m, DType (*format)(void *ctx, const Model *, const Site *),
                       void *ctx) {
    for (int i = 0; i < m->n_sites; i++) {
        Site *s = &m->site[i];
        int64_t dim[3];
        int n = site_dims(m, s, dim);
        s->base = tensor_over(&m->keep, format(ctx, m, s), n, dim, NULL);
        if (s->row->flags & ROW_MAPPED)
            *s->slot = s->base;
        else if (!*s->slot)
            *s->slot = tensor_new(&m->keep, DT_f32, n, dim);
        s->base->name = (*s->slot)->name = s->name;
    }
    if (m->dims.tied) m->head = m->embed;
}

int model_side_files(const Model *m, const char *dir, SideFiles *out, Err *e) {
    TRY(side_files_gather(out, dir, e));
    if (!gguf_claims(dir)) return 0;
    char *text = json_dumps(m->config, JSON_INDENT(2));
    CHECK(text, "a config that was read before is none now");
    buf_printf(&out->file[0].text, "%s\n", text);
    mem_free(text);
    return 0;
}

void model_close(Model *m) {
    if (!m) return;
    stream_close(m->stream);
    for (int i = 0; i < m->n_sites; i++) mem_free(m->site[i].name);
    mem_free(m->site);
    mem_free(m->layer);
    mem_free(m->dir);
    buf_free(&m->notes);
    json_decref(m->config);
    weights_close(m->weights);
    arena_close(&m->keep);
    mem_free(m);
}

/* The first row of a tensor that holds a value which is no number; -1: none. Rows are looked at as
 * stored: turning them back would lose no such value. */
static int64_t bad_row(const Tensor *w) {
    int64_t cols = tensor_cols(w), rows = tensor_numel(w) / cols, first = rows;
#pragma omp parallel if (rows > 1)
    {
        float *row = mem_alloc((size_t)cols * sizeof *row);
#pragma omp for schedule(static) reduction(min : first)
        for (int64_t r = 0; r < rows; r++) {
            weight_open(w, r, 0, cols, row);
            if (!f32_all_finite(row, cols) && r < first) first = r;
        }
        mem_free(row);
    }
    return first < rows ? first : -1;
}

static int blame_row(const Model *m, const Site *s, int64_t row, Err *e) {
    int64_t cols = tensor_cols(s->base), at = 0;
    float *x = mem_alloc((size_t)cols * sizeof *x);
    weight_row(s->base, row, x);
    while (at + 1 < cols && isfinite(x[at])) at++;
    err_set(e, "%s: tensor %s holds %s at position %" PRId64 "; the checkpoint is damaged", m->dir,
            s->name, isinf(x[at]) ? "infinity" : "NaN", row * cols + at);
    mem_free(x);
    return -1;
}

int model_check_finite(const Model *m, ModelStep step, void *ctx, Err *e) {
    int64_t done = 0, total = 0;
    for (int i = 0; i < m->n_sites; i++) total += tensor_numel(m->site[i].base);
    for (int i = 0; i < m->n_sites; i++) {
        const Site *s = &m->site[i];
        int64_t row = bad_row(s->base);
        if (row >= 0) return blame_row(m, s, row, e);
        done += tensor_numel(s->base);
        if (step) step(ctx, done, total);
    }
    return 0;
}

/* ---- running ---- */

/* Where the masks' streams begin: far from all others drawn from the same seed. */
static const uint64_t STREAM_DROPOUT = 0x64726f70ull << 32;

/* What the adapter reads: the product's input, after dropout while training. */
static Lora lora_of(Model *m, Tape *t, const Linear *l, Tensor *x) {
    if (!l->a) return (Lora){0};
    uint64_t stream = STREAM_DROPOUT + m->dropout_step * (uint64_t)m->n_sites + (uint64_t)l->site;
    Tensor *seen = m->dropout > 0 ? dropout(t, x, m->dropout, m->dropout_seed, stream) : x;
    return (Lora){seen, l->a, l->b, l->s};
}

Tensor *linear_forward(Model *m, Tape *t, const Linear *l, Tensor *x) {
    return linear(t, x, l->w, lora_of(m, t, l, x));
}

Tensor *router_forward(Model *m, Tape *t, const Linear *l, Tensor *x) {
    Compute was = t->compute;
    t->compute = COMPUTE_F32;
    Tensor *y = linear_forward(m, t, l, x);
    t->compute = was;
    return y;
}

Tensor *experts_forward(Model *m, Tape *t, const Linear *l, Tensor *x, Dispatch d) {
    (void)m;
    return grouped(t, x, l->w, d, l->a ? (Lora){x, l->a, l->b, l->s} : (Lora){0});
}

Tensor *model_hidden(Model *m, Tape *t, const Batch *b, Cache *cache) {
    Tensor *h;
    m->family->hidden(m, t, b, 1, cache, &h);
    return h;
}

int64_t batch_supervised(const Batch *b) {
    int64_t n = 0;
    for (int i = 0; i < b->n_rows; i++) {
        for (int32_t j = b->at[i] + 1; j < b->at[i + 1]; j++) n += b->labels[j] >= 0;
    }
    return n;
}

static Tensor *loss_of(Model *m, Tape *t, const Batch *b, Tensor *h, float s) {
    Tensor *labels = tensor_1d(t->step, DT_i32, batch_tokens(b));
    for (int i = 0; i < b->n_rows && !t->dry;
         i++) { /* the output at j is held against token j + 1 */
        for (int32_t j = b->at[i]; j < b->at[i + 1]; j++)
            i32(labels)[j] = j + 1 < b->at[i + 1] ? b->labels[j + 1] : -1;
    }
    return head_loss(t, h, m->head.w, labels, m->dims.softcap, s);
}

void model_losses(Model *m, Tape *t, const Batch *b, int n, float s, Tensor **loss) {
    Tensor **h = arena_push(t->step, sizeof *h * (size_t)n);
    m->family->hidden(m, t, b, n, NULL, h);
    if (!t->dry) stream_enter(m->stream, m->dims.n_layers, false);
    for (int i = n - 1; i >= 0; i--) loss[i] = loss_of(m, t, &b[i], h[i], s);
}

Tensor *model_loss(Model *m, Tape *t, const Batch *b, float s) {
    Tensor *loss;
    model_losses(m, t, b, 1, s, &loss);
    return loss;
}

Tensor *model_logits(Model *m, Tape *t, Tensor *hidden, int64_t from, int64_t n) {
    if (!t->dry) stream_enter(m->stream, m->dims.n_layers, false);
    int64_t D = tensor_cols(hidden);
    Tensor *h = tensor_over(t->step, DT_f32, 2, (int64_t[]){n, D}, f32(hidden) + from * D);
    Tensor *y = linear(t, h, m->head.w, (Lora){0});
    return m->dims.softcap > 0 ? softcap(t, y, m->dims.softcap) : y;
}

double cache_bytes(const Model *m, int64_t capacity) {
    double n = 0;
    for (int i = 0; i < m->dims.n_layers; i++) {
        const LayerDims *d = &m->layer[i].d;
        if (d->kv_from == i) n += 2.0 * sizeof(float) * d->n_kv * d->head_dim;
    }
    return n * (double)capacity;
}

Cache *cache_new(const Model *m, Arena *a, int64_t capacity) {
    int L = m->dims.n_layers;
    Cache *c = arena_push_zero(a, sizeof *c);
    c->k = arena_push_zero(a, sizeof *c->k * (size_t)L);
    c->v = arena_push_zero(a, sizeof *c->v * (size_t)L);
    c->capacity = capacity;
    for (int i = 0; i < L; i++) {
        const LayerDims *d = &m->layer[i].d;
        if (d->kv_from != i) continue;
        c->k[i] = tensor_2d(a, DT_f32, capacity, (int64_t)d->n_kv * d->head_dim);
        c->v[i] = tensor_2d(a, DT_f32, capacity, (int64_t)d->n_kv * d->head_dim);
    }
    return c;
}
