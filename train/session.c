/* session.c - see session.h. */
#include "session.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include "../autograd/amount.h"
#include "../autograd/weight.h"
#include "../data/base_file.h"
#include "../data/files.h"
#include "base_format.h"
#include "base_quantise.h"
#include "progress.h"

enum { TAPE_NODES = 1 << 16 };

/* ---- what learns, from the config's words ---- */

static const struct {
    const char *word;
    unsigned bit;
} router_words[] = {{"lora", ROUTER_LORA},
                    {"full", ROUTER_FULL},
                    {"scale", ROUTER_SCALE},
                    {"per_expert_scale", ROUTER_EXPERT_SCALE}};

static unsigned router_bits_of(const TextList *words) {
    unsigned bits = 0;
    for (int i = 0; i < words->n; i++) {
        for (size_t k = 0; k < COUNT_OF(router_words); k++)
            bits |= strcmp(words->p[i], router_words[k].word) ? 0 : router_words[k].bit;
    }
    return bits;
}

/* "all", "last:N" or layer numbers, into one flag a layer. */
static int layers_of(bool *out, const char *key, const TextList *words, int n_layers, Err *e) {
    memset(out, 0, (size_t)n_layers);
    for (int i = 0; i < words->n; i++) {
        const char *w = words->p[i];
        int n, used = 0, first, count;
        if (!strcmp(w, "all"))
            first = 0, count = n_layers;
        else if (sscanf(w, "last:%d%n", &n, &used) == 1 && !w[used] && n >= 1 && n <= n_layers)
            first = n_layers - n, count = n;
        else if (sscanf(w, "%d%n", &n, &used) == 1 && !w[used] && n >= 0 && n < n_layers)
            first = n, count = 1;
        else
            return err_set(e, "%s: \"%s\" is not all, last:N or a layer number below %d", key, w,
                           n_layers);
        memset(out + first, 1, (size_t)count);
    }
    return 0;
}

static const char *const linear_suffixes[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                              "gate_proj", "up_proj", "down_proj"};

/* all-linear stands for the seven suffixes, whichever of them the model has. */
static int module_list(const TextList *words, const char **out) {
    int n = 0;
    for (int i = 0; i < words->n; i++) {
        if (strcmp(words->p[i], "all-linear")) {
            out[n++] = words->p[i];
            continue;
        }
        for (size_t k = 0; k < COUNT_OF(linear_suffixes); k++) out[n++] = linear_suffixes[k];
    }
    return n;
}

static bool model_has(const Model *m, const char *suffix) {
    for (int i = 0; i < m->n_sites; i++) {
        if (m->site[i].linear && site_matches(&m->site[i], suffix)) return true;
    }
    return false;
}

/* Drops what the defaults name but this model lacks; what the user named must exist. */
static int only_present(const Model *m, const char **list, int n, bool named_by_user) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (named_by_user || model_has(m, list[i])) list[kept++] = list[i];
    }
    return kept;
}

static int plan_adapter_new(Session *s, const Config *cfg, Err *e) {
    Model *m = s->model;
    bool *layers = mem_alloc((size_t)m->dims.n_layers * 2),
         *router_layers = layers + m->dims.n_layers;
    const char **modules =
        mem_alloc(sizeof *modules * (size_t)(cfg->lora_target_modules.n * 7 + 1));
    const char **parameters =
        mem_alloc(sizeof *parameters * (size_t)(cfg->lora_target_parameters.n + 1));
    bool expands = false;
    for (int i = 0; i < cfg->lora_target_modules.n; i++)
        expands |= !strcmp(cfg->lora_target_modules.p[i], "all-linear");
    int n_modules =
            only_present(m, modules, module_list(&cfg->lora_target_modules, modules), !expands),
        n_parameters = cfg->lora_target_parameters.n;
    for (int i = 0; i < n_parameters; i++) parameters[i] = cfg->lora_target_parameters.p[i];
    n_parameters =
        only_present(m, parameters, n_parameters, config_given(cfg, "lora_target_parameters"));
    AdapterSpec spec = {modules,
                        n_modules,
                        parameters,
                        n_parameters,
                        (int)cfg->lora_r,
                        (float)cfg->lora_alpha,
                        cfg->use_rslora,
                        router_bits_of(&cfg->router_train),
                        (int)cfg->router_lora_r,
                        layers,
                        router_layers};
    int bad =
        layers_of(layers, "layers_to_transform", &cfg->layers_to_transform, m->dims.n_layers, e);
    if (!bad)
        bad = layers_of(router_layers, "router.layers", &cfg->router_layers, m->dims.n_layers, e);
    if (!bad) bad = adapter_plan_new(&s->plan, &s->adapter, m, &spec, e);
    mem_free(layers);
    mem_free(modules);
    mem_free(parameters);
    return bad;
}

/* ---- keys beside an adapter directory ---- */

/* Which keys speak of a site, for a router's scales and projection alike. */
typedef struct Spoken {
    const char *names_key, *layers_key;
    const TextList *names, *layers;
    bool names_given, layers_given;
} Spoken;

static Spoken spoken_of(const Config *cfg, const Site *s) {
    bool router = s->row->kind == KIND_ROUTER, parameter = site_is_parameter(s);
    Spoken k = {router      ? "router.train"
                : parameter ? "lora_target_parameters"
                            : "lora_target_modules",
                router ? "router.layers" : "layers_to_transform",
                router      ? &cfg->router_train
                : parameter ? &cfg->lora_target_parameters
                            : &cfg->lora_target_modules,
                router ? &cfg->router_layers : &cfg->layers_to_transform,
                false,
                false};
    k.names_given = config_given(cfg, k.names_key);
    k.layers_given = config_given(cfg, k.layers_key);
    return k;
}

/* How a site learns, as ROUTER_ bits; linears that are no routers have lora at most. */
static unsigned bits_said(const TextList *names, const Site *s) {
    if (s->row->kind == KIND_ROUTER) return router_bits_of(names) & adapter_router_bits(s);
    for (int i = 0; i < names->n; i++) {
        bool all = !strcmp(names->p[i], "all-linear");
        if (!all && site_matches(s, names->p[i])) return ROUTER_LORA;
        for (size_t k = 0; all && k < COUNT_OF(linear_suffixes); k++) {
            if (site_matches(s, linear_suffixes[k])) return ROUTER_LORA;
        }
    }
    return 0;
}

static unsigned bits_learnt(const Session *s, int site) {
    const Learn *l = &s->plan.learn[site];
    const Site *x = &s->model->site[site];
    if (x->row->kind != KIND_ROUTER || l->rank) return l->rank ? ROUTER_LORA : 0;
    if (!l->full) return 0;
    if (x->linear) return s->adapter.router_summed ? ROUTER_LORA : ROUTER_FULL;
    return adapter_router_bits(x);
}

/* What the keys ask of a site against what the adapter does. A key that is not given asks for what
 * the adapter does: its names in any layer, its layers for each name. */
static int check_site(const Session *s, const Config *cfg, const bool *layers, int site, Err *e) {
    const Site *x = &s->model->site[site];
    Spoken k = spoken_of(cfg, x);
    unsigned does = bits_learnt(s, site), anywhere = 0;
    for (int i = 0; i < s->plan.n; i++)
        anywhere |= s->model->site[i].row == x->row ? bits_learnt(s, i) : 0;
    unsigned named = k.names_given ? bits_said(k.names, x) : anywhere;
    bool here = k.layers_given ? layers[x->layer] : !anywhere || does;
    if ((here ? named : 0) == does) return 0;
    return err_set(e,
                   "%s contradicts lora_model_dir %s at %s: leave the key out, the adapter says "
                   "what learns",
                   named != anywhere ? k.names_key : k.layers_key, s->adapter.dir, x->name);
}

static int check_sites(const Session *s, const Config *cfg, Err *e) {
    int L = s->model->dims.n_layers;
    bool *layers = mem_alloc((size_t)L * 2), *router_layers = layers + L;
    int bad = layers_of(layers, "layers_to_transform", &cfg->layers_to_transform, L, e);
    if (!bad) bad = layers_of(router_layers, "router.layers", &cfg->router_layers, L, e);
    for (int i = 0; i < s->plan.n && !bad; i++) {
        const Site *x = &s->model->site[i];
        bool router = x->row->kind == KIND_ROUTER;
        if (x->layer >= 0 && (x->linear || router))
            bad = check_site(s, cfg, router ? router_layers : layers, i, e);
    }
    mem_free(layers);
    return bad;
}

static int check_router_rank(const Session *s, const Config *cfg, Err *e) {
    for (int i = 0; i < s->plan.n; i++) {
        int rank = s->plan.learn[i].rank;
        if (s->model->site[i].row->kind != KIND_ROUTER || !rank || rank == cfg->router_lora_r)
            continue;
        return err_set(e,
                       "router.lora_r %ld contradicts lora_model_dir %s, whose routers' rank is "
                       "%d: leave router.lora_r out",
                       (long)cfg->router_lora_r, s->adapter.dir, rank);
    }
    return 0;
}

/* An adapter directory says what it adapts; keys that say otherwise are a contradiction. */
static int check_contradictions(const Session *s, const Config *cfg, Err *e) {
    const Adapter *a = &s->adapter;
    if (config_given(cfg, "lora_r") && cfg->lora_r != a->rank) {
        return err_set(
            e, "lora_r %ld contradicts lora_model_dir %s, whose rank is %d: leave lora_r out",
            (long)cfg->lora_r, a->dir, a->rank);
    }
    if (config_given(cfg, "lora_alpha") && (float)cfg->lora_alpha != a->alpha) {
        return err_set(e,
                       "lora_alpha %g contradicts lora_model_dir %s, whose lora_alpha is %g: leave "
                       "lora_alpha out",
                       cfg->lora_alpha, a->dir, (double)a->alpha);
    }
    if (config_given(cfg, "use_rslora") && cfg->use_rslora != a->rslora)
        return err_set(e, "use_rslora contradicts lora_model_dir %s: leave it out", a->dir);
    if (config_given(cfg, "router.lora_r")) TRY(check_router_rank(s, cfg, e));
    return check_sites(s, cfg, e);
}

/* Experts take no dropout. */
static int check_dropout(const Session *s, const Config *cfg, Err *e) {
    bool experts = false;
    for (int i = 0; i < s->plan.n; i++)
        experts |= s->plan.learn[i].rank && site_is_parameter(&s->model->site[i]);
    if (cfg->lora_dropout == 0 || !experts) return 0;
    if (cfg->lora_model_dir)
        err_set(e,
                "lora_dropout above 0 and the adapter %s exclude each other: it adapts experts "
                "(lora_target_parameters), which take no dropout; set lora_dropout: 0",
                cfg->lora_model_dir);
    else
        err_set(e, "lora_dropout above 0 and lora_target_parameters exclude each other: by default "
                   "it names this model's experts, which take no dropout; set lora_dropout: 0 or "
                   "lora_target_parameters: []");
    return CONFIG_REFUSED;
}

/* ---- opening ---- */

static int plan_from_adapter(Session *s, const Config *cfg, SessionUse use, Err *e) {
    TRY(adapter_plan_read(&s->plan, &s->adapter, s->model, cfg->lora_model_dir, cfg->lora_b_order,
                          e));
    if (use == USE_AS_IS) return 0;
    TRY(check_contradictions(s, cfg, e));
    if (s->adapter.router_summed)
        progress_say(
            NULL, "%s holds the routers' LoRA added to router.proj, which goes on learning whole",
            cfg->lora_model_dir);
    return check_dropout(s, cfg, e);
}

static int check_plain(const Session *s, const Config *cfg, Err *e) {
    for (int i = 0; i < s->model->n_sites; i++) {
        if (dtype_is_float(s->model->site[i].base->dtype)) continue;
        return err_set(e,
                       "adapter: none trains the weights themselves, and those of base_model %s "
                       "are quantised; set adapter: lora, or give the original",
                       cfg->base_model);
    }
    return 0;
}

static int plan_session(Session *s, const Config *cfg, SessionUse use, Err *e) {
    s->has_adapter = cfg->lora_model_dir != NULL;
    if (s->has_adapter) return plan_from_adapter(s, cfg, use, e);
    if (use == USE_AS_IS) {
        s->plan = plan_new(s->model);
        return 0;
    }
    bool full = !strcmp(cfg->adapter, "none");
    if (full && check_plain(s, cfg, e)) return CONFIG_REFUSED;
    if (full)
        return plan_full(&s->plan, s->model, (const char *const *)cfg->trainable.p,
                         cfg->trainable.n, e);
    s->has_adapter = true;
    TRY(plan_adapter_new(s, cfg, e));
    return check_dropout(s, cfg, e);
}

/* What the base would be kept in. */
static DType format_of_site(void *ctx, const Model *m, const Site *s) {
    const BaseWords *words = ctx;
    int64_t dim[3];
    int n = site_dims(m, s, dim);
    return base_format(words, s, base_stored(m, s), dim[n - 1]);
}

static int open_shapes(Session *s, const Config *cfg, Err *e) {
    BaseWords words = base_words(cfg);
    bool file = base_file_claims(cfg->base_model);
    if (file) TRY(base_words_check(&words, cfg->base_model, e));
    if (weights_known(cfg->base_model))
        TRY(model_open_checkpoint(&s->model, cfg->base_model, e));
    else
        TRY(model_open_shapes(&s->model, cfg->base_model, e));
    s->base_made = !file && base_changes(&words, s->model);
    if (!s->model->weights || s->base_made) model_bind_shapes(s->model, format_of_site, &words);
    return 0;
}

/* The model goes by the name it was given, wherever its weights come from. */
static int open_base(Session *s, const Config *cfg, Err *e) {
    char *path;
    TRY(base_to_open(&path, cfg, e));
    int bad = model_open(&s->model, path, e);
    s->base_made = strcmp(path, cfg->base_model) != 0;
    mem_free(path);
    if (bad) return -1;
    mem_free(s->model->dir);
    s->model->dir = mem_copy_text(cfg->base_model);
    return 0;
}

int session_fill(Session *s, const Config *cfg, Err *e) {
    if (s->params.weight) return 0;
    TRY(params_fill(&s->params, s->model, (uint64_t)cfg->seed, e));
    if (!cfg->lora_model_dir) return 0;
    return adapter_read(&s->params, &s->plan, &s->adapter, s->model, e);
}

static int open_parts(Session *s, const Config *cfg, SessionUse use, Err *e) {
    TRY(use == USE_SHAPES ? open_shapes(s, cfg, e) : open_base(s, cfg, e));
    const Buf *notes = &s->model->notes;
    if (notes->n) progress_say(NULL, "%.*s", (int)notes->n - 1, notes->p);
    int bad = plan_session(s, cfg, use, e);
    if (bad) return bad;
    TRY(params_open_shapes(&s->params, s->model, &s->plan, e));
    if (use == USE_TO_TRAIN || use == USE_AS_IS) TRY(session_fill(s, cfg, e));
    for (int i = 0; i < s->params.n && use == USE_AS_IS; i++)
        s->params.param[i].tensor->wants_grad = false;
    TRY(arena_open(&s->step, (size_t)256 << 30, e));
    s->tape = (Tape){.step = &s->step,
                     .compute = !strcmp(cfg->compute, "f32") ? COMPUTE_F32 : COMPUTE_BF16,
                     .cap = TAPE_NODES,
                     .node = mem_alloc(sizeof(Node) * TAPE_NODES)};
    s->model->recompute = cfg->gradient_checkpointing;
    s->memory = mem_total() - mem_total() / 20; /* the rest is for the system, and other files */
    return 0;
}

int session_open(Session *s, const Config *cfg, SessionUse use, Err *e) {
    *s = (Session){.resident_before = mem_resident(), .peak_before = mem_peak()};
    int bad = open_parts(s, cfg, use, e);
    if (bad) session_close(s);
    return bad;
}

int session_open_original(Session *s, const Config *cfg, Err *e) {
    Config original = *cfg; /* borrows what it points to */
    original.base_quantization = NULL;
    original.base_quantization_experts = original.base_quantization_attention = NULL;
    original.base_quantization_dense = original.base_quantization_embeddings = NULL;
    return session_open(s, &original, USE_AS_IS, e);
}

bool session_base_is_packed(const Session *s) {
    for (int i = 0; i < s->model->n_sites; i++)
        if (!dtype_is_float(s->model->site[i].base->dtype)) return true;
    return false;
}

void session_close(Session *s) {
    mem_free(s->tape.node);
    arena_close(&s->step);
    params_close(&s->params);
    plan_free(&s->plan);
    adapter_free(&s->adapter);
    model_close(s->model);
    *s = (Session){0};
}

AdapterOut session_adapter_out(const Config *cfg, bool keep) {
    return (AdapterOut){.form = cfg->format,
                        .keep = keep,
                        .beside = cfg->base_gguf ? cfg->base_gguf : cfg->base_model};
}

int session_write_adapter(Session *s, const Config *cfg, bool keep, const char *path, Err *e) {
    AdapterOut how = session_adapter_out(cfg, keep);
    int bad = adapter_export(path, &how, s->model, &s->params, &s->plan, &s->adapter, e);
    if (!bad && how.notes.n) progress_say(NULL, "%.*s", (int)how.notes.n - 1, how.notes.p);
    buf_free(&how.notes);
    return bad;
}

/* Whether path is a file of the checkpoint or adapter in dir; a base.h5 may stand beside them. */
static bool is_part_of(const char *path, const char *dir) {
    static const char *const part[] = {"*.safetensors", "*.json", "*.jinja", "*.model"};
    for (size_t i = 0; i < COUNT_OF(part); i++) {
        if (!fnmatch(part[i], path, 0)) return files_exists(path) && files_holds(dir, path);
    }
    return false;
}

int output_check_file(const Config *cfg, const char *key, const char *path, Err *e) {
    const char *const from[] = {cfg->base_model, cfg->lora_model_dir};
    for (size_t i = 0; i < COUNT_OF(from); i++) {
        if (from[i] && is_part_of(path, from[i]))
            return err_set(e, "%s %s is a file of the input %s; choose another", key, path,
                           from[i]);
    }
    return 0;
}

/* Whether something of this form can be made there. */
static int check_place(const char *path, OutputForm form, Err *e) {
    if (form == OUTPUT_FILE && text_ends_with(path, "/"))
        return err_set(e, "output %s names a directory, expected the name of a file", path);
    if (form == OUTPUT_FILE) TRY(files_check_regular(path, e));
    if (form == OUTPUT_DIR && files_exists(path) && !files_is_dir(path))
        return err_set(e, "cannot write directory %s: it is a file; choose another path", path);
    char *parent = files_parent(path);
    int bad = files_check_writable(parent, e);
    mem_free(parent);
    return bad;
}

int output_check(const Config *cfg, OutputForm form, Err *e) {
    if (!cfg->output) return 0;
    TRY(output_check_file(cfg, "output", cfg->output, e));
    const char *const inputs[] = {cfg->base_model, cfg->lora_model_dir, cfg->prompts,
                                  cfg->base_gguf, cfg->path};
    for (size_t i = 0; i < COUNT_OF(inputs); i++) {
        if (inputs[i] && files_holds(cfg->output, inputs[i]))
            return err_set(e, "output %s holds the input %s; choose another", cfg->output,
                           inputs[i]);
    }
    for (int i = 0; i < cfg->datasets.n; i++) {
        if (files_holds(cfg->output, cfg->datasets.p[i].path))
            return err_set(e, "output %s holds the input %s; choose another", cfg->output,
                           cfg->datasets.p[i].path);
    }
    if (!cfg->overwrite && !files_is_empty(cfg->output))
        return err_set(e, "output %s exists; choose another or give --overwrite", cfg->output);
    return check_place(cfg->output, form, e);
}

/* ---- telling ---- */

size_t session_dry_run(Session *s, const Batch *batch, int n, bool learns) {
    size_t mark = arena_mark(&s->step), was = s->step.peak;
    s->step.peak = mark;
    s->tape.dry = true;
    s->tape.paused += !learns;
    Tensor **loss = arena_push(&s->step, sizeof *loss * (size_t)n);
    model_losses(s->model, &s->tape, batch, n, 1, loss);
    if (learns) tape_backward_all(&s->tape, n, loss);
    tape_reset(&s->tape);
    s->tape.paused -= !learns;
    s->tape.dry = false;
    arena_release(&s->step, mark);
    size_t top = s->step.peak;
    s->step.peak = was > top ? was : top;
    return top;
}

/* One cell of the table of what learns: a kind's name, its tensors or its parameters. */
static void describe_cell(Buf *out, int line, const char *name, int tensors, int64_t values) {
    Amount n = amount_count(line == 1 ? tensors : (double)values);
    buf_printf(out, "%12s", line == 0 ? name : tensors ? n.text : line == 1 ? "frozen" : "-");
}

void session_describe(const Session *s, Buf *out) {
    int64_t values[KIND_COUNT] = {0}, all = 0, base = 0;
    int tensors[KIND_COUNT] = {0}, n = 0;
    for (int i = 0; i < s->params.n; i++) {
        const Param *p = &s->params.param[i];
        if (!p->learns) continue;
        Kind k = s->model->site[p->site].row->kind;
        tensors[k]++, n++;
        values[k] += tensor_numel(p->tensor), all += tensor_numel(p->tensor);
    }
    for (int i = 0; i < s->model->n_sites; i++) base += site_numel(s->model, &s->model->site[i]);
    static const char *const title[] = {"learns", "  tensors", "  parameters"};
    for (int line = 0; line < 3; line++) {
        buf_printf(out, "%-12s", title[line]);
        for (int k = 0; k < KIND_COUNT; k++) {
            if (!tensors[k] && k > KIND_ROUTER) continue;
            describe_cell(out, line, kind_name[k], tensors[k], values[k]);
        }
        describe_cell(out, line, "all", n, all);
        if (line == 2) buf_printf(out, "  beside %s of the base", amount_count((double)base).text);
        buf_add_text(out, "\n");
    }
}

static int check_base(const Session *s, Err *e) {
    Progress p;
    progress_break(); /* of the run's own bar */
    progress_begin(&p, "no number: checking the base", "values", 0, 0);
    int bad = model_check_finite(s->model, progress_step, &p, e);
    progress_end(&p);
    return bad;
}

int session_blame_nonfinite(const Session *s, const char *what, Err *e) {
    TRY(check_base(s, e));
    for (int i = 0; i < s->params.n; i++) {
        const Tensor *x = s->params.param[i].tensor;
        if (f32_all_finite(f32(x), tensor_numel(x))) continue;
        return err_set(e,
                       "%s: the trained values of %s are no numbers any more; lower learning_rate",
                       what, x->name);
    }
    return err_set(e,
                   "%s: the result is not a number although all weights are; lower learning_rate, "
                   "or use compute: f32",
                   what);
}
