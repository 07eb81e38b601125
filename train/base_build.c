/* base_build.c - see base_build.h. A tensor is cut into pieces of whole panels (plain formats: of
 * values); threads take a piece each, pack it and write it where it belongs. What is summed up is
 * kept by piece and added in their order, so that the file is the same whoever did what. */
#include "base_build.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/amount.h"
#include "../autograd/weight.h"
#include "../data/base_writer.h"
#include "../data/files.h"
#include "progress.h"

static json_t *about_json(const BaseWords *words, const char *source_key) {
    return json_pack("{s:s, s:o}", "source", source_key, "words", base_words_json(words));
}

/* ---- reading what was made ---- */

static int open_index(BaseIndex *x, const char *path, Err *e) {
    const void *data;
    size_t n;
    TRY(base_index_open(x, path, &data, &n, e));
    files_unmap(data, n); /* the index holds no more of it */
    return 0;
}

static const json_t *about(const BaseIndex *x, const char *key) {
    return json_object_get(json_object_get(x->json, "about"), key);
}

int base_words_check(const BaseWords *asked, const char *path, Err *e) {
    BaseIndex x;
    int bad = 0;
    if (!base_words_any(asked)) return 0;
    TRY(open_index(&x, path, e));
    for (int k = 0; k < KIND_COUNT && !bad; k++) {
        const char *is = json_string_value(json_object_get(about(&x, "words"), kind_name[k]));
        if (asked->word[k] && (!is || strcmp(asked->word[k], is)))
            bad = err_set(e,
                          "base_quantization asks for %s as %s, %s was made with %s; leave "
                          "base_quantization out, or quantize the original anew",
                          kind_name[k], asked->word[k], path, is ? is : "none");
    }
    base_index_free(&x);
    return bad;
}

bool base_made_of(const char *path, const BaseWords *words, const char *source_key) {
    BaseIndex x;
    Err ignored;
    if (!files_exists(path) || open_index(&x, path, &ignored)) return false;
    json_t *said = about_json(words, source_key);
    bool same = json_equal(json_object_get(x.json, "about"), said);
    json_decref(said);
    base_index_free(&x);
    return same;
}

/* ---- pieces ---- */

enum { PIECE_VALUES = 1 << 18 };

/* One tensor on its way into the file. */
typedef struct Work {
    const BaseJob *job;
    BaseWriter *writer;
    int site;
    DType dtype;
    int n_dim;
    int64_t dim[3], numel, bytes;
    int64_t panels;       /* of a piece; 0: not packed */
    int64_t pieces, each; /* each: pieces of one matrix, or 0 */
    int64_t piece_bytes;  /* of a whole piece in the file */
    const void *ready;
} Work;

typedef struct Sums {
    uint64_t hash;
    double lost, whole;
} Sums;

static void cut(Work *w) {
    w->each = 0, w->panels = 0;
    if (w->ready || !dtype_is_packed(w->dtype)) {
        bool whole = !w->ready && w->dtype == DT_nf4_flat;
        w->piece_bytes = whole      ? w->bytes
                         : w->ready ? 1 << 20
                                    : dtype_bytes(w->dtype, PIECE_VALUES);
        w->pieces = (w->bytes + w->piece_bytes - 1) / w->piece_bytes;
        return;
    }
    int64_t rows = w->dim[w->n_dim - 2], cols = w->dim[w->n_dim - 1],
            matrices = w->numel / rows / cols;
    w->panels = PIECE_VALUES / (PANEL_ROWS * cols);
    if (w->panels < 1) w->panels = 1;
    w->each = (panel_count(rows) + w->panels - 1) / w->panels;
    w->pieces = matrices * w->each;
    w->piece_bytes = w->panels * panel_bytes(w->dtype, cols);
}

/* Room for a piece: its values, and its bytes. */
static int64_t piece_values(const Work *w) {
    if (w->ready) return 1;
    if (w->panels) return w->panels * PANEL_ROWS * w->dim[w->n_dim - 1];
    return w->dtype == DT_nf4_flat ? w->numel : PIECE_VALUES;
}

static int check_finite(const Work *w, const float *x, int64_t first, int64_t n, Err *e) {
    if (f32_all_finite(x, n)) return 0;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(x[i])) continue;
        const Model *m = w->job->model;
        err_set(e, "tensor %s holds %s at position %" PRId64 "; the checkpoint is damaged",
                m->site[w->site].name, isnan(x[i]) ? "NaN" : "infinity", first + i);
        return m->dir ? err_prefix(e, "%s", m->dir) : -1;
    }
    return 0;
}

/* Values into bytes of a plain format. */
static void round_plain(DType d, const float *x, int64_t n, void *dst, Sums *s) {
    float back[1024];
    dtype_info[d].from_f32(x, dst, n);
    for (int64_t at = 0; at < n; at += (int64_t)COUNT_OF(back)) {
        int64_t k = n - at < (int64_t)COUNT_OF(back) ? n - at : (int64_t)COUNT_OF(back);
        dtype_info[d].to_f32((const char *)dst + dtype_bytes(d, at), back, k);
        for (int64_t i = 0; i < k; i++) {
            double v = (double)x[at + i], lost = v - (double)back[i];
            s->lost += lost * lost;
            s->whole += v * v;
        }
    }
}

/* Piece i into bytes; *at and *n: where they belong and how many they are. */
static int make_piece(const Work *w, int64_t i, float *values, char *bytes, int64_t *at, int64_t *n,
                      Sums *s, Err *e) {
    int64_t first, count, row = 0, rows = 0, cols = w->dim[w->n_dim - 1];
    *at = i * w->piece_bytes;
    if (w->panels) {
        int64_t all = w->dim[w->n_dim - 2], e_matrix = i / w->each;
        row = i % w->each * w->panels * PANEL_ROWS;
        rows = all - row < w->panels * PANEL_ROWS ? all - row : w->panels * PANEL_ROWS;
        first = (e_matrix * all + row) * cols, count = rows * cols;
        *at = e_matrix * panel_count(all) * panel_bytes(w->dtype, cols) +
              row / PANEL_ROWS * panel_bytes(w->dtype, cols);
        *n = panel_count(rows) * panel_bytes(w->dtype, cols);
    } else {
        first = i * piece_values(w), count = piece_values(w);
        if (count > w->numel - first) count = w->numel - first;
        *n = w->bytes - *at < w->piece_bytes ? w->bytes - *at : w->piece_bytes;
    }
    TRY(w->job->source.values(w->job->source.ctx, w->site, first, count, values, e));
    TRY(check_finite(w, values, first, count, e));
    if (w->panels)
        weight_pack(w->dtype, values, rows, cols, bytes, &s->lost, &s->whole);
    else if (w->dtype == DT_nf4_flat)
        weight_pack_flat(values, count, bytes, &s->lost, &s->whole);
    else
        round_plain(w->dtype, values, count, bytes, s);
    return 0;
}

static int write_piece(const Work *w, int64_t i, float *values, char *bytes, Sums *s, Err *e) {
    int64_t at = i * w->piece_bytes, n;
    const char *from = bytes;
    if (w->ready) {
        from = (const char *)w->ready + at;
        n = w->bytes - at < w->piece_bytes ? w->bytes - at : w->piece_bytes;
    } else {
        TRY(make_piece(w, i, values, bytes, &at, &n, s, e));
    }
    s->hash = base_hash(from, (size_t)n, at);
    return base_writer_put(w->writer, w->site, at, from, (size_t)n, e);
}

/* ---- tensors ---- */

typedef struct Told {
    Progress bar;
    int64_t done; /* bytes of tensors that are complete */
} Told;

static int write_pieces(const Work *w, Sums *sums, Told *told, Err *e) {
    int bad = 0;
    int64_t done = 0;
#pragma omp parallel
    {
        float *values = mem_alloc((size_t)piece_values(w) * sizeof *values);
        char *bytes = mem_alloc(w->ready ? 1 : (size_t)w->piece_bytes);
        Err mine;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < w->pieces; i++) {
            int stop;
#pragma omp atomic read
            stop = bad;
            if (stop) continue;
            if (write_piece(w, i, values, bytes, &sums[i], &mine)) {
#pragma omp critical(base_build)
                if (!bad) {
                    *e = mine;
#pragma omp atomic write
                    bad = -1;
                }
            }
#pragma omp critical(base_build)
            progress_show(&told->bar, told->done + ++done * (w->bytes / w->pieces), "");
        }
        mem_free(values);
        mem_free(bytes);
    }
    return bad;
}

static int write_tensor(Work *w, Told *told, Err *e) {
    const BaseSource *src = &w->job->source;
    Sums all = {0};
    w->ready = NULL;
    if (src->ready) TRY(src->ready(src->ctx, w->site, w->dtype, &w->ready, e));
    cut(w);
    Sums *sums = mem_alloc(sizeof *sums * (size_t)w->pieces);
    int bad = write_pieces(w, sums, told, e);
    for (int64_t i = 0; i < w->pieces; i++) {
        all.hash += sums[i].hash;
        all.lost += sums[i].lost;
        all.whole += sums[i].whole;
    }
    mem_free(sums);
    if (src->done) src->done(src->ctx, w->site);
    return bad ? -1 : base_writer_done(w->writer, w->site, all.hash, all.lost, all.whole, e);
}

static int write_tensors(const BaseJob *job, BaseWriter *writer, const BaseTensor *tensor, Err *e) {
    Told told = {0};
    int kept = 0, bad = 0;
    int64_t total = 0;
    for (int i = 0; i < job->model->n_sites; i++) {
        bool has = base_writer_has(writer, i);
        total += tensor[i].bytes;
        kept += has;
        if (has) told.done += tensor[i].bytes;
    }
    if (base_writer_anew(writer))
        progress_say(NULL,
                     "begun anew: what a stopped run left of %s is of another format or model, or "
                     "hardly begun",
                     job->path);
    if (kept)
        progress_say(NULL, "going on with %s: %d of %d tensors are there", job->path, kept,
                     job->model->n_sites);
    progress_begin(&told.bar, job->doing, "bytes", told.done, total);
    for (int i = 0; i < job->model->n_sites && !bad; i++) {
        if (base_writer_has(writer, i)) continue;
        Work w = {.job = job,
                  .writer = writer,
                  .site = i,
                  .dtype = tensor[i].dtype,
                  .n_dim = tensor[i].n_dim,
                  .bytes = tensor[i].bytes,
                  .numel = 1};
        for (int k = 0; k < w.n_dim; k++) w.dim[k] = tensor[i].dim[k], w.numel *= w.dim[k];
        bad = write_tensor(&w, &told, e);
        told.done += w.bytes;
        progress_show(&told.bar, told.done, "");
    }
    progress_end(&told.bar);
    return bad;
}

/* ---- files ---- */

static BaseTensor *plan_tensors(const BaseJob *job) {
    BaseTensor *t = mem_alloc(sizeof *t * (size_t)job->model->n_sites);
    for (int i = 0; i < job->model->n_sites; i++) {
        const Site *s = &job->model->site[i];
        t[i].name = s->name;
        t[i].n_dim = site_dims(job->model, s, t[i].dim);
        t[i].dtype = base_format(&job->words, s, job->source.stored(job->source.ctx, i),
                                 t[i].dim[t[i].n_dim - 1]);
        t[i].bytes = base_tensor_bytes(t[i].dtype, t[i].n_dim, t[i].dim);
    }
    return t;
}

static int open_writer(BaseWriter **out, const BaseJob *job, const BaseTensor *tensor, bool *busy,
                       Err *e) {
    int n = job->files->n;
    BaseText *text = mem_alloc(sizeof *text * (size_t)n);
    for (int i = 0; i < n; i++) {
        const SideFile *f = &job->files->file[i];
        text[i] = (BaseText){f->name, f->text.p ? f->text.p : "", f->text.n};
    }
    json_t *said = about_json(&job->words, job->source_key);
    BasePlan plan = {tensor, text, job->model->n_sites, n, said};
    int bad = base_writer_open(out, job->path, &plan, busy, e);
    json_decref(said);
    mem_free(text);
    return bad;
}

static int verify_file(const char *path, Err *e) {
    Progress p;
    Err ignored;
    progress_begin(&p, "checking", "bytes", 0, 0);
    int bad = base_file_verify(path, progress_step, &p, e);
    progress_end(&p);
    if (bad) files_remove(path, &ignored);
    return bad;
}

int base_build(const BaseJob *job, bool *busy, Err *e) {
    BaseWriter *writer;
    BaseTensor *tensor = plan_tensors(job);
    int bad = open_writer(&writer, job, tensor, busy, e);
    if (!bad && !*busy) {
        bad = write_tensors(job, writer, tensor, e);
        if (bad)
            base_writer_abort(writer);
        else
            bad = base_writer_commit(writer, e);
    }
    mem_free(tensor);
    if (bad || *busy) return bad;
    return job->verify ? verify_file(job->path, e) : 0;
}

/* ---- the report ---- */

typedef struct KindSums {
    int64_t values, bytes;
    double lost, whole;
    Buf formats;
} KindSums;

/* Formats in the order they are met: "tq4", or "nf4_bf16, nf4_flat". */
static void add_format(Buf *formats, const char *name) {
    size_t n = strlen(name);
    for (const char *at = formats->p; at && (at = strstr(at, name)); at += n) {
        bool starts = at == formats->p || at[-1] == ' ';
        if (starts && (!at[n] || at[n] == ',')) return;
    }
    buf_printf(formats, "%s%s", formats->n ? ", " : "", name);
}

static void report_kind(const char *name, const KindSums *k, int64_t before, json_t *kinds) {
    double bits = (double)k->bytes * 8 / (double)k->values,
           error = k->whole > 0 ? k->lost / k->whole : 0;
    progress_say(NULL, "%-12s %-18s %10.3f %16.6f %12s %12s", name, k->formats.p, bits, error,
                 amount_bytes((double)before).text, amount_bytes((double)k->bytes).text);
    json_object_set_new(kinds, name,
                        json_pack("{s:s, s:f, s:f, s:I, s:I, s:I}", "format", k->formats.p,
                                  "bits_per_weight", bits, "relative_mse", error, "weights",
                                  (json_int_t)k->values, "bytes_before", (json_int_t)before,
                                  "bytes", (json_int_t)k->bytes));
}

int base_report(const char *path, const Model *m, const int64_t before[KIND_COUNT], json_t *result,
                Err *e) {
    KindSums sums[KIND_COUNT] = {{0}};
    BaseIndex x;
    TRY(open_index(&x, path, e));
    CHECK(x.n_tensors == m->n_sites, "%d tensors for %d sites", x.n_tensors, m->n_sites);
    for (int i = 0; i < m->n_sites; i++) {
        KindSums *k = &sums[m->site[i].row->kind];
        k->values += site_numel(m, &m->site[i]);
        k->bytes += x.tensor[i].bytes;
        k->lost += x.tensor[i].lost;
        k->whole += x.tensor[i].whole;
        add_format(&k->formats, dtype_info[x.tensor[i].dtype].name);
    }
    base_index_free(&x);
    progress_say(NULL, "%-12s %-18s %10s %16s %12s %12s", "", "format", "bits", "|W-W'|2/|W|2",
                 "before", "after");
    json_t *kinds = json_object();
    for (int k = 0; k < KIND_COUNT; k++) {
        if (sums[k].values) report_kind(kind_name[k], &sums[k], before[k], kinds);
        buf_free(&sums[k].formats);
    }
    json_object_set_new(result, "kinds", kinds);
    return 0;
}
