/* side_files.c - see side_files.h. */
#include "side_files.h"
#include <dirent.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include "base_file.h"
#include "files.h"
#include "gguf_side.h"
#include "json.h"

/* A second template that Transformers keeps in a directory of its own. */
static const char TEMPLATES[] = "additional_chat_templates";

static bool is_side_file(const char *name) {
    static const char *const patterns[] = {"generation_config.json",
                                           "tokenizer.json",
                                           "tokenizer.model",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.*",
                                           "merges.txt",
                                           "chat_template.*",
                                           "additional_chat_templates/*.jinja",
                                           "*processor_config.json",
                                           "LICENSE*",
                                           "NOTICE*"};
    for (const char *c = name; *c; c++)
        if (*c <= ' ' || *c > '~') return false;
    for (size_t i = 0; i < COUNT_OF(patterns); i++) {
        if (!fnmatch(patterns[i], name, FNM_PATHNAME)) return true;
    }
    return false;
}

/* ---- inside a base.h5 ---- */

typedef struct Inside {
    BaseIndex index;
    const char *path;
    const void *data;
    size_t n;
} Inside;

static int open_inside(Inside *in, const char *path, Err *e) {
    in->path = path;
    return base_index_open(&in->index, path, &in->data, &in->n, e);
}
static void close_inside(Inside *in) {
    base_index_free(&in->index);
    files_unmap(in->data, in->n);
}

static const BaseBlob *find_inside(const Inside *in, const char *name) {
    for (int i = 0; i < in->index.n_files; i++)
        if (!strcmp(in->index.file[i].name, name)) return &in->index.file[i];
    return NULL;
}

static int take_inside(const Inside *in, const BaseBlob *f, Buf *out, Err *e) {
    const char *at = (const char *)in->data + f->offset;
    if (base_hash(at, (size_t)f->bytes, 0) != f->hash)
        return err_set(e, "%s was altered or damaged: the hash of its %s is another; make it again",
                       in->path, f->name);
    buf_add(out, at, (size_t)f->bytes);
    return 0;
}

static int read_inside(const char *path, const char *name, Buf *out, Err *e) {
    Inside in;
    TRY(open_inside(&in, path, e));
    const BaseBlob *f = find_inside(&in, name);
    int bad = f ? take_inside(&in, f, out, e) : err_set(e, "%s holds no %s", path, name);
    close_inside(&in);
    return bad;
}

static bool has_inside(const char *path, const char *name) {
    Inside in;
    Err ignored;
    if (open_inside(&in, path, &ignored)) return false;
    bool has = find_inside(&in, name) != NULL;
    close_inside(&in);
    return has;
}

/* ---- out of a GGUF file ---- */

static bool has_gguf(const char *path, const char *name) {
    Gguf *g;
    Err ignored;
    if (gguf_open(&g, path, &ignored)) return false;
    bool has = gguf_side_has(g, name);
    gguf_close(g);
    return has;
}

static int read_gguf(const char *path, const char *name, Buf *out, Err *e) {
    Gguf *g;
    TRY(gguf_open(&g, path, e));
    int bad = gguf_side_write(g, name, out, e);
    gguf_close(g);
    return bad;
}

/* ---- one file ---- */

char *side_files_label(const char *model, const char *name) {
    if (!base_file_claims(model) && !gguf_claims(model)) return files_join(model, name);
    Buf label = {0};
    buf_printf(&label, "%s of %s", name, model);
    return label.p;
}

bool side_files_has(const char *model, const char *name) {
    if (base_file_claims(model)) return has_inside(model, name);
    if (gguf_claims(model)) return has_gguf(model, name);
    char *path = files_join(model, name);
    bool has = files_exists(path);
    mem_free(path);
    return has;
}

int side_files_check(const char *model, Err *e) {
    bool dir = files_is_dir(model) &&
               (side_files_has(model, "config.json") || side_files_has(model, "tokenizer.json"));
    if (dir || base_file_claims(model) || gguf_claims(model)) return 0;
    return err_set(e,
                   "base_model: %s is not a directory with config.json and safetensors files, "
                   "nor an .h5 made by quantize, nor a .gguf file",
                   model);
}

int side_files_read(const char *model, const char *name, Buf *out, Err *e) {
    if (base_file_claims(model)) return read_inside(model, name, out, e);
    if (gguf_claims(model)) return read_gguf(model, name, out, e);
    char *path = files_join(model, name);
    int bad = files_read(path, out, e);
    mem_free(path);
    return bad;
}

int side_files_json(const char *model, const char *name, json_t **out, Err *e) {
    Buf text = {0};
    *out = NULL;
    if (!side_files_has(model, name)) return 0;
    char *label = side_files_label(model, name);
    int bad = side_files_read(model, name, &text, e);
    if (!bad) bad = json_read_text(out, text.p ? text.p : "", text.n, label, e);
    mem_free(label);
    buf_free(&text);
    return bad;
}

/* ---- all files ---- */

static SideFile *add_file(SideFiles *files, const char *name) {
    size_t bytes = sizeof *files->file, n = (size_t)files->n++;
    files->file = mem_grow(files->file, n * bytes, (n + 1) * bytes);
    files->file[n].name = mem_copy_text(name);
    return &files->file[n];
}

static int gather_inside(SideFiles *out, const char *path, Err *e) {
    Inside in;
    TRY(open_inside(&in, path, e));
    int bad = 0;
    for (int i = 0; i < in.index.n_files && !bad; i++) {
        const BaseBlob *f = &in.index.file[i];
        if (i && !is_side_file(f->name))
            bad = err_set(e, "%s holds a file %s, which is none of a checkpoint's", path, f->name);
        else
            bad = take_inside(&in, f, &add_file(out, f->name)->text, e);
    }
    close_inside(&in);
    return bad;
}

static int gather_gguf(SideFiles *out, const char *path, Err *e) {
    Gguf *g;
    TRY(gguf_open(&g, path, e));
    int bad = 0;
    add_file(out, "config.json");
    for (size_t i = 0; gguf_side_name(i) && !bad; i++) {
        const char *name = gguf_side_name(i);
        if (gguf_side_has(g, name)) bad = gguf_side_write(g, name, &add_file(out, name)->text, e);
    }
    gguf_close(g);
    return bad;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const SideFile *)a)->name, ((const SideFile *)b)->name);
}

/* Those of dir/below, named below/NAME; "" is dir itself. */
static int gather_dir(SideFiles *out, const char *dir, const char *below, Err *e) {
    char *path = files_join(dir, *below ? below : ".");
    DIR *d = opendir(path);
    int bad = 0;
    for (struct dirent *f; d && !bad && (f = readdir(d));) {
        char *name = files_join(below, f->d_name), *from = files_join(dir, name);
        if (is_side_file(name) && !files_is_dir(from))
            bad = files_read(from, &add_file(out, name)->text, e);
        mem_free(name);
        mem_free(from);
    }
    if (d) closedir(d);
    mem_free(path);
    return bad;
}

int side_files_gather(SideFiles *out, const char *model, Err *e) {
    *out = (SideFiles){0};
    if (base_file_claims(model)) return gather_inside(out, model, e);
    if (gguf_claims(model)) return gather_gguf(out, model, e);
    bool whole = files_is_dir(model);
    char *dir = whole ? mem_copy_text(model) : files_parent(model),
         *config = whole ? files_join(model, "config.json") : mem_copy_text(model);
    int bad = files_read(config, &add_file(out, "config.json")->text, e);
    if (!bad) bad = gather_dir(out, dir, "", e) || gather_dir(out, dir, TEMPLATES, e) ? -1 : 0;
    if (out->n > 1) qsort(out->file + 1, (size_t)out->n - 1, sizeof *out->file, by_name);
    mem_free(dir);
    mem_free(config);
    return bad;
}

int side_files_write(const SideFiles *files, const char *dir, Err *e) {
    int bad = 0;
    for (int i = 0; i < files->n && !bad; i++) {
        const SideFile *f = &files->file[i];
        char *path = files_join(dir, f->name);
        bad = files_write_whole(path, f->text.p ? f->text.p : "", f->text.n, e);
        mem_free(path);
    }
    return bad;
}

void side_files_free(SideFiles *files) {
    for (int i = 0; i < files->n; i++) {
        mem_free(files->file[i].name);
        buf_free(&files->file[i].text);
    }
    mem_free(files->file);
    *files = (SideFiles){0};
}
