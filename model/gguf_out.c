/* gguf_out.c - see gguf_out.h. */
#include "gguf_out.h"
#include <stdio.h>
#include <string.h>
#include "merge.h"

GgufName gguf_site_name(const Site *s) {
    GgufName name;
    int n = s->layer < 0
                ? snprintf(name.text, sizeof name.text, "%s", s->row->gguf)
                : snprintf(name.text, sizeof name.text, "blk.%d.%s", s->layer, s->row->gguf);
    CHECK(n < (int)sizeof name.text, "the name of %s is too long", s->name);
    return name;
}

/* One site and its model: what a fill needs. */
typedef struct Source {
    const Model *m;
    const Site *s;
    bool sixteen_bits; /* is what the values are rounded to */
} Source;

/* Files hold the whole weight of a norm. */
static int fill_site(void *ctx, int64_t first, int64_t n, float *dst, Err *e) {
    const Source *src = ctx;
    float plus = src->s->row->kind == KIND_NORMS ? src->m->dims.norm.plus : 0;
    (void)e;
    if (src->sixteen_bits)
        site_values_to_round(src->s, first, n, dst);
    else
        site_values(src->s, first, n, dst);
    for (int64_t i = 0; i < n && plus != 0; i++) dst[i] += plus;
    return 0;
}

static bool has_four_bits(DType d) { return d == DT_q4_0 || d == DT_mxfp4_gguf; }

/* What a site is written as: see gguf_out.h. */
static DType site_dtype(const Site *s, int64_t cols, DType asked, GgufNotes *notes) {
    if (!(s->row->flags & ROW_MAPPED)) return DT_f32;
    DType d = asked;
    if (d == DT_COUNT) d = s->base->dtype;
    if (has_four_bits(asked) && s->row->kind == KIND_EMBEDDINGS) d = DT_q8_0;
    if (gguf_can_hold(d, cols)) return d;
    notes->as_bf16++;
    return DT_bf16;
}

/* Did not learn, and is stored as it is to be written. */
static bool is_to_be_copied(const Site *s, DType asked) {
    DType d = s->base->dtype;
    return s->row->flags & ROW_MAPPED && (asked == DT_COUNT || asked == d) && *dtype_info[d].gguf &&
           !site_changed(s);
}

static void add_site(GgufOut *g, Source *src, DType asked, GgufNotes *notes) {
    const Site *s = src->s;
    GgufOutEntry t = {.fill = fill_site, .ctx = src};
    memcpy(t.name, gguf_site_name(s).text, sizeof t.name);
    t.n_dim = site_dims(src->m, s, t.dim);
    if (is_to_be_copied(s, asked))
        t.dtype = s->base->dtype, t.data = s->base->data;
    else
        t.dtype = site_dtype(s, t.dim[t.n_dim - 1], asked, notes);
    src->sixteen_bits = t.dtype == DT_bf16 || t.dtype == DT_f16;
    gguf_add_entry(g, &t);
}

/* Of the format that most weights have, by llama.cpp's numbers of whole files; for display. */
static uint32_t file_type(DType d) {
    static const struct {
        DType dtype;
        uint32_t number;
    } known[] = {{DT_f32, 0},  {DT_f16, 1},  {DT_bf16, 32},
                 {DT_q8_0, 7}, {DT_q4_0, 2}, {DT_mxfp4_gguf, 38}};
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (known[i].dtype == d) return known[i].number;
    return 0;
}

static DType largest_dtype(const GgufOut *g) {
    int64_t most = -1;
    DType d = DT_f32;
    for (int i = 0; i < g->n_entries; i++) {
        int64_t n = 1;
        for (int k = 0; k < g->entry[i].n_dim; k++) n *= g->entry[i].dim[k];
        if (n > most) most = n, d = g->entry[i].dtype;
    }
    return d;
}

static void add_general(GgufOut *g, const Model *m) {
    const char *dir = m->dir;
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') end--;
    size_t from = end;
    while (from > 0 && dir[from - 1] != '/') from--;
    gguf_add_text(g, "general.name", dir + from, end - from);
    gguf_add_u32(g, "general.file_type", file_type(largest_dtype(g)));
    gguf_add_u32(g, "general.quantization_version", 2);
}

static int collect(GgufOut *g, const Model *m, Source *src, DType dtype, GgufNotes *notes, Err *e) {
    const GgufForm *form = m->family->gguf;
    gguf_add_text(g, "general.architecture", form->architecture, strlen(form->architecture));
    gguf_add_text(g, "general.type", "model", strlen("model"));
    TRY(form->keys(g, m, e));
    for (int i = 0; i < m->n_sites; i++) {
        src[i] = (Source){.m = m, .s = &m->site[i]};
        add_site(g, &src[i], dtype, notes);
    }
    add_general(g, m);
    return gguf_add_tokenizer(g, m->dir, form->merging, m->dims.vocab, &notes->tokenizer, e);
}

int model_write_gguf(const char *path, Model *m, DType dtype, GgufNotes *notes, Err *e) {
    GgufOut g = {0};
    *notes = (GgufNotes){0};
    if (!m->family->gguf)
        return err_set(e,
                       "export --format gguf: models of the family %s cannot be written as GGUF; "
                       "export --format merged",
                       m->family->name);
    Source *src = mem_alloc(sizeof *src * (size_t)m->n_sites);
    int bad = collect(&g, m, src, dtype, notes, e);
    if (!bad) bad = gguf_write(path, &g, e);
    mem_free(src);
    gguf_file_free(&g);
    return bad;
}
