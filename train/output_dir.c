/* output_dir.c - see output_dir.h. */
#include "output_dir.h"
#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../data/files.h"
#include "checkpoint.h"
#include "session.h"

/* What a run writes and a later one would not surely replace: full training leaves model*, an
 * adapter leaves adapter_*. */
static const char *const written[] = {"metrics.jsonl",       "config.yaml",
                                      "config.json",         "checkpoint-*",
                                      "adapter_config.json", "adapter_model.safetensors",
                                      "moesmith.json",       "model.safetensors",
                                      "model-*.safetensors", "model.safetensors.index.json"};

static bool is_written(const char *name) {
    for (size_t i = 0; i < COUNT_OF(written); i++) {
        if (!fnmatch(written[i], name, 0)) return true;
    }
    return false;
}

int output_dir_clear(const char *dir, Err *e) {
    DIR *d = opendir(dir);
    int bad = 0;
    for (struct dirent *f; d && !bad && (f = readdir(d));) {
        if (!is_written(f->d_name)) continue;
        char *path = files_join(dir, f->d_name);
        bad = files_remove(path, e);
        mem_free(path);
    }
    if (d) closedir(d);
    return bad;
}

/* Whether path is dir, or lies in one of its checkpoints. */
static bool lies_in(const char *path, const char *dir) {
    static const char inside[] = "/checkpoint-";
    char *p = path ? realpath(path, NULL) : NULL, *d = p ? realpath(dir, NULL) : NULL;
    size_t n = d ? strlen(d) : 0;
    bool in = d && !strncmp(p, d, n) && (!p[n] || !strncmp(p + n, inside, sizeof inside - 1));
    free(p); /* the C library's */
    free(d);
    return in;
}

/* What the run starts from must outlive it. */
static int check_sources(const Config *cfg, Err *e) {
    const struct {
        const char *key, *path;
    } from[] = {{"base_model", cfg->base_model}, {"lora_model_dir", cfg->lora_model_dir}};
    for (size_t i = 0; i < COUNT_OF(from); i++) {
        if (lies_in(from[i].path, cfg->output_dir))
            return err_set(e,
                           "output_dir %s holds %s %s, which would be written over; choose another",
                           cfg->output_dir, from[i].key, from[i].path);
    }
    return 0;
}

/* The last files of a result: where they stand, a run came to its end. */
static bool holds_result(const char *dir) {
    static const char *const last[] = {"adapter_config.json", "config.json"};
    bool holds = false;
    for (size_t i = 0; i < COUNT_OF(last); i++) {
        char *path = files_join(dir, last[i]);
        holds |= files_exists(path);
        mem_free(path);
    }
    return holds;
}

static int check_resume(const Config *cfg, Err *e) {
    char *from;
    TRY(checkpoint_find(&from, cfg->output_dir, cfg->resume_from_checkpoint, e));
    bool none = !from;
    mem_free(from);
    if (!none || !holds_result(cfg->output_dir)) return 0;
    return err_set(e,
                   "output_dir %s holds a finished run and no checkpoint to go on from; choose "
                   "another, or give --overwrite instead of --resume_from_checkpoint to start anew",
                   cfg->output_dir);
}

int output_dir_lock(int *lock, const char *dir, Err *e) {
    bool busy;
    TRY(files_lock_dir(dir, lock, &busy, e));
    if (!busy) return 0;
    return err_set(e, "another run is writing output_dir %s; choose another, or wait for its end",
                   dir);
}

/* Told before any work is done; the run takes the lock once it makes the directory its own. */
static int check_free(const char *dir, Err *e) {
    int lock;
    if (!files_is_dir(dir)) return 0;
    TRY(output_dir_lock(&lock, dir, e));
    close(lock);
    return 0;
}

/* A resumed run may have written them already, when it began. */
static int check_gradients(const Config *cfg, Err *e) {
    const char *path = cfg->save_gradients;
    if (!path) return 0;
    TRY(output_check_file(cfg, "save_gradients", path, e));
    if (cfg->overwrite || cfg->resume_from_checkpoint || !files_exists(path)) return 0;
    return err_set(e, "save_gradients %s exists; choose another or give --overwrite", path);
}

int output_dir_check(const Config *cfg, Err *e) {
    TRY(files_check_writable(cfg->output_dir, e));
    TRY(check_free(cfg->output_dir, e));
    TRY(check_gradients(cfg, e));
    if (cfg->resume_from_checkpoint) {
        TRY(check_resume(cfg, e));
    } else if (!cfg->overwrite && !files_is_empty(cfg->output_dir)) {
        return err_set(e,
                       "output_dir %s is not empty; choose another, or give "
                       "--resume_from_checkpoint auto or --overwrite",
                       cfg->output_dir);
    }
    return check_sources(cfg, e);
}
