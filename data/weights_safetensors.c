/* weights_safetensors.c - Hugging Face checkpoints: model.safetensors, or the shards that
 * model.safetensors.index.json names; also a single file, as adapters are. As Transformers does,
 * model.safetensors is taken first where a directory has both. */
#include <string.h>
#include "files.h"
#include "json.h"
#include "safetensors.h"

static const char SINGLE[] = "model.safetensors", INDEX[] = "model.safetensors.index.json";

static bool has_file(const char *dir, const char *name) {
    char *path = files_join(dir, name);
    bool found = files_exists(path);
    mem_free(path);
    return found;
}

static bool claims(const char *path) {
    if (files_is_dir(path)) return has_file(path, SINGLE) || has_file(path, INDEX);
    return files_exists(path) && text_ends_with(path, ".safetensors");
}

static void add_tensor(Weights *w, const SafetensorsTensor *t, const char *data, const char *file) {
    WeightView v = {.name = weights_keep_text(w, t->name),
                    .dtype = t->dtype,
                    .stored = weights_keep_text(w, t->stored),
                    .n_dim = t->n_dim,
                    .bytes = t->to - t->from,
                    .data = data + t->from,
                    .file = file};
    memcpy(v.dim, t->dim, sizeof v.dim);
    int bits = safetensors_bits(t->stored);
    weights_add(w, &v, bits > 8 ? (size_t)bits / 8 : 1);
}

static int open_file(Weights *w, const char *path, Err *e) {
    SafetensorsHeader h;
    const void *data;
    size_t n;
    TRY(weights_map_file(w, path, &data, &n, e));
    TRY(safetensors_parse(&h, data, n, path, e));
    const char *file = weights_keep_text(w, path);
    for (int i = 0; i < h.n; i++) add_tensor(w, &h.tensor[i], data, file);
    safetensors_free(&h);
    return 0;
}

/* A shard must lie in the directory itself: an index is not to name files elsewhere. */
static int check_map(const char *index, const json_t *map, Err *e) {
    const char *tensor;
    json_t *value;
    if (json_object_size(map) == 0)
        return err_set(e, "%s: has no \"weight_map\" naming tensors and their files", index);
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
        const char *shard = json_string_value(value);
        if (!safetensors_name_is_plain(tensor))
            return err_set(e, "%s: a tensor's name is empty, too long or not plain text", index);
        if (!shard || !safetensors_name_is_plain(shard) ||
            strlen(shard) != json_string_length(value) || strchr(shard, '/') ||
            !text_ends_with(shard, ".safetensors"))
            return err_set(e,
                           "%s: the file of tensor %s is not the name of a .safetensors file "
                           "beside it",
                           index, tensor);
    }
    return 0;
}

/* Opens each shard once, in the order of the index. */
static int open_shards(Weights *w, const char *dir, const char *index, json_t *map, Err *e) {
    json_t *seen = json_object(), *value;
    const char *tensor;
    int bad = 0;
    json_object_foreach(map, tensor, value) {
        const char *shard = json_string_value(value);
        if (json_object_get(seen, shard)) continue;
        json_object_set_new(seen, shard, json_true());
        char *path = files_join(dir, shard);
        bad = files_exists(path) ? open_file(w, path, e)
                                 : err_set(e,
                                           "%s: names the shard %s, which is not there; fetch "
                                           "it too",
                                           index, path);
        mem_free(path);
        if (bad) break;
    }
    json_decref(seen);
    return bad;
}

/* The shard a tensor of the index is really in, by one table instead of a search for each. */
static json_t *files_of_views(Weights *w) {
    json_t *table = json_object();
    for (int i = 0; i < weights_count(w); i++) {
        const WeightView *v = weights_at(w, i);
        const char *slash = strrchr(v->file, '/');
        json_t *files = json_object_get(table, v->name);
        if (!files) json_object_set_new(table, v->name, files = json_object());
        json_object_set_new(files, slash ? slash + 1 : v->file, json_true());
    }
    return table;
}

static int check_shards(Weights *w, const char *index, json_t *map, Err *e) {
    json_t *table = files_of_views(w), *value;
    const char *tensor;
    int bad = 0;
    json_object_foreach(map, tensor, value) {
        const char *shard = json_string_value(value);
        if (json_object_get(json_object_get(table, tensor), shard)) continue;
        bad = err_set(e, "%s: says that tensor %s is in %s, which lacks it", index, tensor, shard);
        break;
    }
    json_decref(table);
    return bad;
}

static int open_sharded(Weights *w, const char *dir, Err *e) {
    char *index = files_join(dir, INDEX);
    json_t *root = NULL;
    int bad = json_read_file(&root, index, e);
    json_t *map = json_object_get(root, "weight_map");
    if (!bad) bad = check_map(index, map, e);
    if (!bad) bad = open_shards(w, dir, index, map, e);
    if (!bad) bad = check_shards(w, index, map, e);
    json_decref(root);
    mem_free(index);
    return bad;
}

static int open_path(Weights *w, const char *path, Err *e) {
    if (!files_is_dir(path)) return open_file(w, path, e);
    if (!has_file(path, SINGLE)) return open_sharded(w, path, e);
    char *single = files_join(path, SINGLE);
    int bad = open_file(w, single, e);
    mem_free(single);
    return bad;
}

const WeightFormat weight_format_safetensors = {
    .name = "safetensors",
    .looked_for = "model.safetensors, model.safetensors.index.json, or a file NAME.safetensors",
    .claims = claims,
    .open = open_path,
};
