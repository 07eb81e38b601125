/* adapter_names.c - see adapter_names.h. */
#include "adapter_names.h"
#include <string.h>

static const char *const role_suffix[] = {
    [PARAM_WHOLE] = "", [PARAM_LORA_A] = ".lora_A.weight", [PARAM_LORA_B] = ".lora_B.weight"};

/* A name after the model's prefix, which all of a layer's have. */
static const char *local_name(const Model *m, const char *name) {
    size_t n = strlen(m->prefix);
    CHECK(!strncmp(name, m->prefix, n), "%s does not start with %s", name, m->prefix);
    return name + n;
}

/* How many parameters of the same module are adapted after this one. */
static int wrapped_after(const Model *m, const Plan *plan, int site) {
    const Site *s = &m->site[site];
    size_t n = (size_t)(strrchr(s->name, '.') - s->name) + 1;
    int k = 0;
    for (int i = site + 1; i < m->n_sites; i++) {
        const Site *o = &m->site[i];
        k += o->layer == s->layer && site_is_parameter(o) && plan->learn[i].rank &&
             !strncmp(o->name, s->name, n);
    }
    return k;
}

char *adapter_tensor_name(const Model *m, const Plan *plan, const Adapter *a, int site,
                          ParamRole role) {
    const Site *s = &m->site[site];
    Buf name = {0};
    if (a->prefix)
        buf_add_text(&name, a->prefix);
    else
        buf_printf(&name, "base_model.model.%s", m->modules);
    if (role == PARAM_WHOLE) {
        buf_add_text(&name, local_name(m, s->name));
        return name.p;
    }
    char *module = site_module(s);
    if (site_is_parameter(s)) {
        *strrchr(module, '.') = 0;
        buf_add_text(&name, local_name(m, module));
        for (int k = wrapped_after(m, plan, site); k > 0; k--) buf_add_text(&name, ".base_layer");
    } else {
        buf_add_text(&name, local_name(m, module));
    }
    buf_add_text(&name, role_suffix[role]);
    mem_free(module);
    return name.p;
}
