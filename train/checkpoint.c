/* checkpoint.c - see checkpoint.h. */
#include "checkpoint.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/h5.h"

#define STATE_FORMAT 2

uint64_t hash_bytes(uint64_t h, const void *p, size_t n) {
    const unsigned char *b = p;
    if (!h) h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3ull;
    return h;
}

int64_t checkpoint_base_hash(const Model *m) {
    enum { FIRST = 4096 };
    uint64_t h = weights_hash(m->weights);
    if (h) return (int64_t)h;
    for (int i = 0; i < weights_count(m->weights); i++) {
        const WeightView *v = weights_at(m->weights, i);
        h = hash_bytes(h, v->name, strlen(v->name) + 1);
        h = hash_bytes(h, v->stored, strlen(v->stored) + 1);
        h = hash_bytes(h, v->dim, sizeof *v->dim * (size_t)v->n_dim);
        h = hash_bytes(h, v->data, (size_t)(v->bytes < FIRST ? v->bytes : FIRST));
    }
    return (int64_t)h;
}

int learned_write(const char *dir, Session *s, DType save_dtype, Err *e) {
    TRY(files_make_dirs(dir, e));
    if (s->has_adapter) return adapter_write(dir, s->model, &s->params, &s->plan, &s->adapter, e);
    return model_write_merged(dir, s->model, save_dtype, NULL, e);
}

/* All that learns by name, role, size and scale: two runs with the same text train the same. */
static void list_tensors(const Session *s, Buf *out) {
    for (int i = 0; i < s->params.n; i++) {
        const Param *p = &s->params.param[i];
        float scale = p->role == PARAM_WHOLE ? 1 : s->plan.learn[p->site].scale;
        buf_printf(out, "%s %d %d %" PRId64 " %a\n", p->tensor->name, (int)p->role, p->learns,
                   tensor_numel(p->tensor), (double)scale);
    }
}

/* The numbers that make a run what it is, as state.h5 and the user know them. */
static const struct {
    const char *key;
    size_t at; /* in RunState */
    const char *name;
    bool telling; /* the user set this number; otherwise a hash */
} identity[] = {
    {"seed", offsetof(RunState, seed), "seed", true},
    {"rows_per_step", offsetof(RunState, rows_per_step),
     "micro_batch_size x gradient_accumulation_steps =", true},
    {"shuffle", offsetof(RunState, shuffle), "shuffle", true},
    {"packed_to", offsetof(RunState, packed_to), "sample_packing (to so many tokens; 0: not)",
     true},
    {"data_hash", offsetof(RunState, data_hash), "the training data", false},
    {"base_hash", offsetof(RunState, base_hash), "base_model", false},
};

static int64_t identity_of(const RunState *r, size_t i) {
    return *(const int64_t *)((const char *)r + identity[i].at);
}

static int write_identity(HdfFile *f, const RunState *r, Err *e) {
    for (size_t i = 0; i < COUNT_OF(identity); i++)
        TRY(h5_write_i64(f, "/", identity[i].key, identity_of(r, i), e));
    return h5_write_text(f, "/", "compute", r->compute, e);
}

static const char *const moment_name[OPTIMIZER_MOMENTS] = {"/moment1", "/moment2"};

/* Moments that are not all float32 are kept as the bytes they are; *n: how many. */
static HdfType moment_type(const Optimizer *o, const Session *s, int64_t *n) {
    *n = (int64_t)optimizer_moment_bytes(o->rule, &s->params);
    if (o->rule->bytes) return HDF_U8;
    *n /= 4;
    return HDF_F32;
}

static int write_arrays(HdfFile *f, const Session *s, const Optimizer *o, const RunState *r,
                        Err *e) {
    int64_t n = s->params.numel, k = s->params.n;
    TRY(h5_write(f, "/weights", HDF_F32, 1, &n, s->params.weight, e));
    HdfType type = moment_type(o, s, &n);
    for (int i = 0; i < o->rule->n_moments; i++)
        TRY(h5_write(f, moment_name[i], type, 1, &n, o->moment[i], e));
    return h5_write(f, "/first_hash", HDF_I64, 1, &k, r->first_hash, e);
}

static int write_state(const char *path, const Session *s, const Optimizer *o, const RunState *r,
                       Err *e) {
    HdfFile *f;
    Buf names = {0};
    TRY(h5_create(&f, path, e));
    list_tensors(s, &names);
    int bad =
        write_arrays(f, s, o, r, e) || h5_write_i64(f, "/", "format", STATE_FORMAT, e) ||
        h5_write_text(f, "/", "optimizer", o->rule->name, e) ||
        h5_write_text(f, "/", "tensors", names.p ? names.p : "", e) ||
        h5_write_i64(f, "/", "step", r->step, e) || h5_write_i64(f, "/", "tokens", r->tokens, e) ||
        h5_write_i64(f, "/", "supervised_tokens", r->supervised, e) || write_identity(f, r, e);
    buf_free(&names);
    if (bad) {
        h5_close(f);
        return -1;
    }
    return h5_commit(f, e);
}

/* ---- directories ---- */

static void checkpoint_name(char out[64], int64_t step) {
    snprintf(out, 64, "checkpoint-%" PRId64, step);
}

/* -1: not a name that we give. */
static int64_t checkpoint_step(const char *name) {
    int64_t step;
    char ours[64];
    if (sscanf(name, "checkpoint-%" SCNd64, &step) != 1) return -1;
    checkpoint_name(ours, step);
    return strcmp(name, ours) ? -1 : step;
}

static char *checkpoint_path(const char *output_dir, int64_t step) {
    char name[64];
    checkpoint_name(name, step);
    return files_join(output_dir, name);
}

/* How many checkpoints there are, the newest and the oldest step. */
static int scan(const char *output_dir, int64_t *newest, int64_t *oldest) {
    int n = 0;
    DIR *d = opendir(output_dir);
    *newest = -1, *oldest = -1;
    for (struct dirent *f; d && (f = readdir(d));) {
        int64_t step = checkpoint_step(f->d_name);
        if (step < 0) continue;
        n++;
        if (step > *newest) *newest = step;
        if (*oldest < 0 || step < *oldest) *oldest = step;
    }
    if (d) closedir(d);
    return n;
}

static int drop(const char *output_dir, int64_t step, Err *e) {
    char *path = checkpoint_path(output_dir, step);
    int bad = files_remove(path, e);
    mem_free(path);
    return bad;
}

static int drop_old(const char *output_dir, int64_t limit, Err *e) {
    int64_t newest, oldest;
    while (limit > 0 && scan(output_dir, &newest, &oldest) > limit)
        TRY(drop(output_dir, oldest, e));
    return 0;
}

/* The newest goes first: should this be cut short, what is left are still steps of one run. */
int checkpoint_drop_later(const char *output_dir, int64_t step, int *n, Err *e) {
    int64_t newest, oldest;
    for (*n = 0; scan(output_dir, &newest, &oldest) && newest > step; ++*n)
        TRY(drop(output_dir, newest, e));
    return 0;
}

bool checkpoint_exists(const char *output_dir, int64_t step) {
    char *path = checkpoint_path(output_dir, step);
    bool exists = files_is_dir(path);
    mem_free(path);
    return exists;
}

int checkpoint_write(const char *output_dir, Session *s, const Optimizer *o, const RunState *r,
                     DType save_dtype, int64_t limit, Err *e) {
    char *path = checkpoint_path(output_dir, r->step);
    DirOut d;
    int bad = files_dir_begin(&d, path, e);
    mem_free(path);
    TRY(bad);
    char *state = files_join(d.temp, "state.h5");
    bad = learned_write(d.temp, s, save_dtype, e) || write_state(state, s, o, r, e);
    mem_free(state);
    if (bad) {
        files_dir_abort(&d);
        return -1;
    }
    TRY(files_dir_commit(&d, e));
    return drop_old(output_dir, limit, e);
}

int checkpoint_find(char **path, const char *output_dir, const char *which, Err *e) {
    int64_t newest, oldest;
    *path = NULL;
    if (strcmp(which, "auto")) {
        if (!files_is_dir(which))
            return err_set(e, "resume_from_checkpoint: %s is not a checkpoint directory", which);
        *path = mem_copy_text(which);
        return 0;
    }
    if (scan(output_dir, &newest, &oldest)) *path = checkpoint_path(output_dir, newest);
    return 0;
}

/* ---- reading ---- */

static int check_format(HdfFile *f, const char *path, Err *e) {
    int64_t format;
    TRY(h5_read_i64(f, "/", "format", &format, e));
    if (format == STATE_FORMAT) return 0;
    return err_set(e, "%s: state format %ld; this version reads %d", path, (long)format,
                   STATE_FORMAT);
}

static int check_text(HdfFile *f, const char *path, const char *key, const char *want, Err *e) {
    Buf found = {0};
    int bad = h5_read_text(f, "/", key, &found, e);
    if (!bad && strcmp(found.p ? found.p : "", want))
        bad = err_set(e, "%s: the checkpoint was made with %s %s, this config says %s", path, key,
                      found.p ? found.p : "", want);
    buf_free(&found);
    return bad;
}

static int check_tensors(HdfFile *f, const char *path, const Session *s, Err *e) {
    Buf want = {0}, found = {0};
    list_tensors(s, &want);
    int bad = h5_read_text(f, "/", "tensors", &found, e);
    if (!bad && strcmp(found.p ? found.p : "", want.p ? want.p : ""))
        bad = err_set(e,
                      "%s: the checkpoint trained other tensors than this config, or with another "
                      "rank or scale; resume with the config it was made with",
                      path);
    buf_free(&want);
    buf_free(&found);
    return bad;
}

static int check_identity(HdfFile *f, const char *path, const RunState *r, Err *e) {
    for (size_t i = 0; i < COUNT_OF(identity); i++) {
        int64_t found, want = identity_of(r, i);
        TRY(h5_read_i64(f, "/", identity[i].key, &found, e));
        if (found == want) continue;
        if (identity[i].telling)
            return err_set(e, "%s: the checkpoint was made with %s %ld, this config says %ld", path,
                           identity[i].name, (long)found, (long)want);
        return err_set(e, "%s: %s is not what the checkpoint was made with", path,
                       identity[i].name);
    }
    return 0;
}

static int check_same_run(HdfFile *f, const char *path, const Session *s, const Optimizer *o,
                          const RunState *r, Err *e) {
    TRY(check_format(f, path, e));
    TRY(check_tensors(f, path, s, e));
    TRY(check_text(f, path, "optimizer", o->rule->name, e));
    TRY(check_text(f, path, "compute", r->compute, e));
    return check_identity(f, path, r, e);
}

static int read_state(HdfFile *f, const char *path, Session *s, Optimizer *o, RunState *r, Err *e) {
    int64_t n = s->params.numel, k = s->params.n;
    TRY(check_same_run(f, path, s, o, r, e));
    TRY(h5_read(f, "/weights", HDF_F32, 1, &n, s->params.weight, e));
    HdfType type = moment_type(o, s, &n);
    for (int i = 0; i < o->rule->n_moments; i++)
        TRY(h5_read(f, moment_name[i], type, 1, &n, o->moment[i], e));
    TRY(h5_read(f, "/first_hash", HDF_I64, 1, &k, r->first_hash, e));
    TRY(h5_read_i64(f, "/", "step", &r->step, e));
    TRY(h5_read_i64(f, "/", "tokens", &r->tokens, e));
    return h5_read_i64(f, "/", "supervised_tokens", &r->supervised, e);
}

int checkpoint_read(const char *path, Session *s, Optimizer *o, RunState *r, Err *e) {
    HdfFile *f;
    char *state = files_join(path, "state.h5");
    int bad = h5_open(&f, state, e);
    if (!bad) {
        bad = read_state(f, state, s, o, r, e);
        h5_close(f);
    }
    mem_free(state);
    return bad;
}
