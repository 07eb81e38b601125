/* checkpoint.c - see checkpoint.h. */
#include "checkpoint.h"
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "../data/files.h"
#include "../data/h5.h"

#define STATE_FORMAT 1

uint64_t hash_bytes(uint64_t h, const void *p, size_t n) {
    const unsigned char *b = p;
    if (!h) h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3ull;
    return h;
}

int learned_write(const char *dir, Session *s, DType save_dtype, Err *e) {
    TRY(files_make_dirs(dir, e));
    if (s->has_adapter) return adapter_write(dir, s->model, &s->params, &s->plan, &s->adapter, e);
    return model_write_merged(dir, s->model, save_dtype, e);
}

/* The names and sizes of all that learns: two runs with the same text train the same tensors. */
static void list_tensors(const Session *s, Buf *out) {
    for (int i = 0; i < s->params.n; i++) {
        const Param *p = &s->params.param[i];
        buf_printf(out, "%s %d %" PRId64 "\n", p->tensor->name, (int)p->role,
                   tensor_numel(p->tensor));
    }
}

static const char *const moment_name[OPTIMIZER_MOMENTS] = {"/moment1", "/moment2"};

static int write_arrays(HdfFile *f, const Session *s, const Optimizer *o, const RunState *r,
                        Err *e) {
    int64_t n = s->params.numel, k = s->params.n;
    TRY(h5_write(f, "/weights", HDF_F32, 1, &n, s->params.weight, e));
    for (int i = 0; i < o->rule->n_moments; i++)
        TRY(h5_write(f, moment_name[i], HDF_F32, 1, &n, o->moment[i], e));
    return h5_write(f, "/first_hash", HDF_I64, 1, &k, r->first_hash, e);
}

static int write_state(const char *path, const Session *s, const Optimizer *o, const RunState *r,
                       Err *e) {
    HdfFile *f;
    Buf names = {0};
    TRY(h5_create(&f, path, e));
    list_tensors(s, &names);
    int bad = write_arrays(f, s, o, r, e) || h5_write_i64(f, "/", "format", STATE_FORMAT, e) ||
              h5_write_text(f, "/", "optimizer", o->rule->name, e) ||
              h5_write_text(f, "/", "tensors", names.p ? names.p : "", e) ||
              h5_write_i64(f, "/", "step", r->step, e) ||
              h5_write_i64(f, "/", "tokens", r->tokens, e) ||
              h5_write_i64(f, "/", "supervised_tokens", r->supervised, e) ||
              h5_write_i64(f, "/", "seed", (int64_t)r->seed, e) ||
              h5_write_i64(f, "/", "data_hash", (int64_t)r->data_hash, e);
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

static int check_same_run(HdfFile *f, const char *path, const Session *s, const Optimizer *o,
                          const RunState *r, Err *e) {
    Buf want = {0}, names = {0}, rule = {0};
    int64_t format = 0, seed = 0, hash = 0;
    list_tensors(s, &want);
    int bad = h5_read_i64(f, "/", "format", &format, e) ||
              h5_read_text(f, "/", "tensors", &names, e) ||
              h5_read_text(f, "/", "optimizer", &rule, e) ||
              h5_read_i64(f, "/", "seed", &seed, e) || h5_read_i64(f, "/", "data_hash", &hash, e);
    if (!bad && format != STATE_FORMAT)
        bad = err_set(e, "%s: state format %ld; this version reads %d", path, (long)format,
                      STATE_FORMAT);
    if (!bad && strcmp(names.p ? names.p : "", want.p ? want.p : ""))
        bad = err_set(e,
                      "%s: the checkpoint trained other tensors than this config; resume with the "
                      "config it was made with",
                      path);
    if (!bad && strcmp(rule.p ? rule.p : "", o->rule->name))
        bad = err_set(e, "%s: the checkpoint was made with optimizer %s, this config says %s", path,
                      rule.p, o->rule->name);
    if (!bad && (uint64_t)seed != r->seed)
        bad = err_set(e, "%s: the checkpoint was made with seed %ld, this config says %ld", path,
                      (long)seed, (long)r->seed);
    if (!bad && (uint64_t)hash != r->data_hash)
        bad = err_set(e, "%s: the training data is not what the checkpoint was made with", path);
    buf_free(&want), buf_free(&names), buf_free(&rule);
    return bad;
}

static int read_state(HdfFile *f, const char *path, Session *s, Optimizer *o, RunState *r, Err *e) {
    int64_t n = s->params.numel, k = s->params.n;
    TRY(check_same_run(f, path, s, o, r, e));
    TRY(h5_read(f, "/weights", HDF_F32, 1, &n, s->params.weight, e));
    for (int i = 0; i < o->rule->n_moments; i++)
        TRY(h5_read(f, moment_name[i], HDF_F32, 1, &n, o->moment[i], e));
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
