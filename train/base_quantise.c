/* base_quantise.c - see base_quantise.h. A cache is known to be of a checkpoint by the names, sizes
 * and times of its files and by its config.json. */
#include "base_quantise.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "../autograd/weight.h"
#include "../data/base_file.h"
#include "../data/files.h"
#include "../data/weights_bnb.h"
#include "../model/bnb.h"
#include "progress.h"

/* ---- a checkpoint as a source of rows ---- */

typedef struct Checkpoint {
    const Model *model;
    Arena repacked; /* bitsandbytes' codes of the tensor at hand */
    Tensor *now;
} Checkpoint;

static WeightView *view_of(const Checkpoint *c, int site) {
    return weights_find(c->model->weights, c->model->site[site].name);
}

static DType stored(void *ctx, int site) { return view_of(ctx, site)->dtype; }

static int repack(Checkpoint *c, const WeightView *v, const void **data, Err *e) {
    void *own = arena_push(&c->repacked, (size_t)weight_bytes(v->dtype, v->n_dim, v->dim));
    int64_t bad = bnb_nonfinite(v);
    if (bad >= 0)
        return err_set(e,
                       "%s: tensor %s has a scale that is no number (block %" PRId64 "); the "
                       "checkpoint is damaged",
                       v->file, v->name, bad);
    bnb_repack(v, own);
    *data = own;
    return 0;
}

/* Blocks that are taken as they are. */
static int check_blocks(const Checkpoint *c, const WeightView *v, Err *e) {
    float open[4096];
    int64_t n = tensor_numel(c->now);
    for (int64_t at = 0; at < n; at += (int64_t)COUNT_OF(open)) {
        int64_t some = n - at < (int64_t)COUNT_OF(open) ? n - at : (int64_t)COUNT_OF(open);
        weight_values(c->now, at, some, open);
        for (int64_t i = 0; i < some; i++) {
            if (!isfinite(open[i]))
                return err_set(e,
                               "%s: tensor %s holds a value that is no number at position %" PRId64
                               "; the checkpoint is damaged",
                               v->file, v->name, at + i);
        }
    }
    return 0;
}

static int ready(void *ctx, int site, DType wanted, const void **bytes, Err *e) {
    Checkpoint *c = ctx;
    const WeightView *v = view_of(c, site);
    const Tensor *base = c->model->site[site].base;
    const void *data = v->data;
    bool blocks = dtype_in_blocks(v->dtype);
    if (v->bnb) TRY(repack(c, v, &data, e));
    c->now = tensor_over(&c->repacked, v->dtype, base->n_dim, base->dim, data);
    if (v->dtype != wanted || (!v->bnb && !blocks)) return 0;
    if (blocks) TRY(check_blocks(c, v, e));
    *bytes = data;
    return 0;
}

static int values(void *ctx, int site, int64_t first, int64_t n, float *dst, Err *e) {
    const Checkpoint *c = ctx;
    (void)site, (void)e;
    weight_values(c->now, first, n, dst);
    return 0;
}

static void done(void *ctx, int site) {
    Checkpoint *c = ctx;
    const WeightView *v = view_of(c, site);
    files_forget(v->data, (size_t)v->bytes);
    arena_close(&c->repacked); /* not only released: its pages go */
    Err ignored;
    CHECK(arena_open(&c->repacked, (size_t)64 << 30, &ignored) == 0, "%s", ignored.text);
}

/* ---- what it is ---- */

static void add_file(Buf *key, const char *path) {
    struct stat s;
    const char *slash = strrchr(path, '/');
    if (stat(path, &s)) return;
    buf_printf(key, "%s %" PRId64 " %" PRId64 ".%09ld\n", slash ? slash + 1 : path,
               (int64_t)s.st_size, (int64_t)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
}

static int source_key(char out[32], Weights *w, const char *dir, Err *e) {
    Buf key = {0};
    bool has = side_files_has(dir, "config.json"); /* of a GGUF file it is made of the file's own */
    int bad = has ? side_files_read(dir, "config.json", &key, e) : 0;
    const char *last = NULL;
    for (int i = 0; i < weights_count(w) && !bad; i++) {
        const char *file = weights_at(w, i)->file;
        bool seen = file == last;
        for (int k = 0; k < i && !seen; k++) seen = weights_at(w, k)->file == file;
        if (!seen) add_file(&key, file);
        last = file;
    }
    snprintf(out, 32, "%016" PRIx64, base_hash(key.p ? key.p : "", key.n, 0));
    buf_free(&key);
    return bad;
}

static void count_before(Quantised *q) {
    for (int i = 0; i < q->model->n_sites; i++) {
        const WeightView *v = weights_find(q->model->weights, q->model->site[i].name);
        q->before[q->model->site[i].row->kind] += v->bytes;
    }
}

/* ---- quantising ---- */

static void pause_a_little(void) {
    const struct timespec t = {0, 200000000};
    nanosleep(&t, NULL);
}

static int build(const Model *m, const BaseWords *words, const char *path, const char *key,
                 const SideFiles *files, bool *busy, Err *e) {
    Checkpoint c = {.model = m};
    TRY(arena_open(&c.repacked, (size_t)64 << 30, e));
    BaseJob job = {.model = m,
                   .words = *words,
                   .source = {&c, stored, values, ready, done},
                   .files = files,
                   .source_key = key,
                   .path = path,
                   .doing = "quantising",
                   .verify = true};
    int bad = base_build(&job, busy, e);
    arena_close(&c.repacked);
    return bad;
}

static int refuse_other(const char *path, Err *e) {
    return err_set(e,
                   "base_cache %s is a base of another format or model, or of weights that have "
                   "changed since, and would be replaced; name another file, remove it, or give "
                   "--overwrite",
                   path);
}

static int build_or_wait(Quantised *q, const BaseWords *words, const char *path, const char *key,
                         const SideFiles *files, IfThere there, Err *e) {
    bool busy = true, told = false, reuse = there != THERE_REPLACE;
    while (busy) {
        if (reuse && base_made_of(path, words, key)) return 0;
        if (there == THERE_KEEP && files_exists(path)) return refuse_other(path, e);
        TRY(build(q->model, words, path, key, files, &busy, e));
        if (busy && !told) progress_say(NULL, "another run is writing %s: waiting for it", path);
        told = reuse = true; /* what the other makes is as good */
        if (busy) pause_a_little();
    }
    q->made = true;
    return 0;
}

int base_quantise(Quantised *out, const char *dir, const BaseWords *words, const char *path,
                  IfThere there, Err *e) {
    char key[32];
    SideFiles files = {0};
    *out = (Quantised){0};
    TRY(model_open_checkpoint(&out->model, dir, e));
    count_before(out);
    int bad = source_key(key, out->model->weights, dir, e) ||
              model_side_files(out->model, dir, &files, e) ||
              build_or_wait(out, words, path, key, &files, there, e);
    side_files_free(&files);
    if (bad) quantised_close(out);
    return bad ? -1 : 0;
}

void quantised_close(Quantised *q) {
    model_close(q->model);
    *q = (Quantised){0};
}

/* ---- the cache ---- */

/* before: of the file's name. */
static char *cache_in(const char *dir, const char *before, const BaseWords *words) {
    Buf name = {0};
    buf_printf(&name, "%smoesmith-", before);
    base_words_text(words, &name);
    buf_add_text(&name, ".h5");
    char *path = files_join(dir, name.p);
    buf_free(&name);
    return path;
}

/* In a checkpoint's directory; beside a GGUF file, whose name it begins with. */
static char *cache_beside(const char *model, const BaseWords *words) {
    const char *slash = strrchr(model, '/');
    if (files_is_dir(model)) return cache_in(model, "", words);
    Buf before = {0};
    char *parent = files_parent(model);
    buf_printf(&before, "%s.", slash ? slash + 1 : model);
    char *path = cache_in(parent, before.p, words);
    buf_free(&before);
    mem_free(parent);
    return path;
}

static bool can_write_beside(const char *path) {
    char *parent = files_parent(path);
    bool can = access(parent, W_OK) == 0;
    mem_free(parent);
    return can;
}

/* base_cache (a file.h5, or a directory), else beside the model, else in output_dir. */
static int cache_path(char **path, const Config *cfg, const BaseWords *words, Err *e) {
    if (cfg->base_cache && base_file_claims(cfg->base_cache)) {
        if (files_exists(cfg->base_cache) && !base_file_begun(cfg->base_cache))
            return err_set(e,
                           "base_cache %s is no base made by quantize or init, and would be "
                           "replaced; name another file",
                           cfg->base_cache);
        *path = mem_copy_text(cfg->base_cache);
        return 0;
    }
    *path = cfg->base_cache ? cache_in(cfg->base_cache, "", words)
                            : cache_beside(cfg->base_model, words);
    if (cfg->base_cache) return files_make_dirs(cfg->base_cache, e);
    if (files_exists(*path) || can_write_beside(*path)) return 0;
    mem_free(*path);
    *path = NULL;
    if (!cfg->output_dir)
        return err_set(e,
                       "base_model %s cannot be written, so its quantised base has no place; "
                       "name one with base_cache, or quantize it into a file",
                       cfg->base_model);
    *path = cache_in(cfg->output_dir, "", words);
    return files_make_dirs(cfg->output_dir, e);
}

static int changes_anything(bool *changes, const char *dir, const BaseWords *words, Err *e) {
    Model *m;
    TRY(model_open_checkpoint(&m, dir, e));
    *changes = base_changes(words, m);
    model_close(m);
    return 0;
}

/* A file that base_cache names may be one that the user made; the name of any other says that it is
 * a cache, and of which format. */
static IfThere if_there(const Config *cfg) {
    bool named = cfg->base_cache && base_file_claims(cfg->base_cache);
    return named && !cfg->overwrite ? THERE_KEEP : THERE_REUSE;
}

static int make_cache(const char *path, const Config *cfg, const BaseWords *words, Err *e) {
    Quantised q;
    TRY(base_quantise(&q, cfg->base_model, words, path, if_there(cfg), e));
    if (q.made) progress_say(NULL, "wrote %s: later runs open it", path);
    quantised_close(&q);
    return 0;
}

int base_to_open(char **path, const Config *cfg, Err *e) {
    const BaseWords words = base_words(cfg);
    bool changes = false;
    *path = NULL;
    if (base_words_any(&words) && base_file_claims(cfg->base_model)) {
        if (base_words_check(&words, cfg->base_model, e)) return -1;
    } else if (base_words_any(&words)) {
        TRY(changes_anything(&changes, cfg->base_model, &words, e));
    }
    if (!changes) {
        *path = mem_copy_text(cfg->base_model);
        return 0;
    }
    if (cache_path(path, cfg, &words, e) || make_cache(*path, cfg, &words, e)) {
        mem_free(*path);
        *path = NULL;
        return -1;
    }
    return 0;
}
