/* family_config.c - see family_config.h. */
#include "family_config.h"
#include <float.h>
#include <string.h>
#include "../data/json.h"

enum { MOST = 1 << 28 };

int config_int(const json_t *c, const char *key, int preset, int least, int *out, Err *e) {
    const json_t *v = json_object_get(c, key);
    *out = preset;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_integer(v))
        return err_set(e, "\"%s\" is %s, expected a whole number", key, json_kind(v));
    if (json_integer_value(v) < least || json_integer_value(v) > MOST)
        return err_set(e, "\"%s\" is %" JSON_INTEGER_FORMAT ", expected %d to %d; correct it", key,
                       json_integer_value(v), least, MOST);
    *out = (int)json_integer_value(v);
    return 0;
}

int config_float(const json_t *c, const char *key, float preset, float *out, Err *e) {
    const json_t *v = json_object_get(c, key);
    *out = preset;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_number(v)) return err_set(e, "\"%s\" is %s, expected a number", key, json_kind(v));
    double x = json_number_value(v);
    if (x < 0 || x > FLT_MAX)
        return err_set(e, "\"%s\" is %g, expected 0 or more; correct it", key, x);
    *out = (float)x;
    return 0;
}

bool config_bool(const json_t *c, const char *key, bool preset) {
    const json_t *v = json_object_get(c, key);
    return json_is_boolean(v) ? json_is_true(v) : preset;
}

int config_check_layer_types(const json_t *c, int n_layers, Err *e) {
    const json_t *types = json_object_get(c, "layer_types");
    if (json_is_array(types) && (int)json_array_size(types) != n_layers) {
        return err_set(e, "%zu layer_types for %d layers", json_array_size(types), n_layers);
    }
    return 0;
}

int config_is_full(const json_t *c, int i, bool preset, bool *full, Err *e) {
    const json_t *types = json_object_get(c, "layer_types");
    const char *type = json_string_value(json_array_get(types, (size_t)i));
    *full = type ? !strcmp(type, "full_attention") : preset;
    if (type && !*full && strcmp(type, "sliding_attention")) {
        return err_set(e, "layer_types[%d] is \"%s\" (sliding_attention, full_attention)", i, type);
    }
    return 0;
}

int config_check_heads(const Model *m, int i, Err *e) {
    const LayerDims *d = &m->layer[i].d;
    if (m->dims.n_heads % d->n_kv || d->head_dim % 2) {
        return err_set(e,
                       "layer %d has %d heads of size %d over %d key-value heads; the "
                       "heads must divide evenly and have even size",
                       i, m->dims.n_heads, d->head_dim, d->n_kv);
    }
    return 0;
}
