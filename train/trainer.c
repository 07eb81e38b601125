/* trainer.c - see trainer.h. The loop reads top to bottom in run(). */
#include "trainer.h"
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "../autograd/amount.h"
#include "../data/files.h"
#include "../model/stream.h"
#include "checkpoint.h"
#include "memory.h"
#include "metrics.h"
#include "output_dir.h"
#include "schedule.h"

enum { ROWS_PER_STEP_MAX = 1 << 24 };

typedef struct Trainer {
    const Config *cfg;
    Session *s;
    const TrainData *data;
    Optimizer optimizer;
    Schedule schedule;
    RunState run;
    RouteLoad load;
    Progress progress;
    Epochs epochs;
    int64_t total_steps;
    int lock; /* on output_dir; -1: none yet */
    char *metrics;
    DType save_dtype;
    MemoryPlan plan;
} Trainer;

/* What one optimiser step did. */
typedef struct StepResult {
    double loss, grad_norm, lr, seconds;
    int64_t tokens, supervised;
} StepResult;

/* ---- signals: the first asks for a checkpoint, a second one ends the process at once ---- */

static atomic_int signal_seen; /* two signals may meet two threads at once */
static void on_signal(int sig) {
    static const char note[] =
        "\nstopping after this step with a checkpoint; once more to stop at once\n";
    if (atomic_exchange(&signal_seen, sig)) _exit(128 + sig);
    ssize_t ignored = write(STDERR_FILENO, note, sizeof note - 1);
    (void)ignored;
}
static void catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal};
    signal_seen = 0;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

/* ---- one step ---- */

/* Forward and backward of n micro-batches at once; gradients add up in the ParamSet, losses in
 * *sum, as if one had come after the other. */
static void run_pass(Trainer *t, const StepRows *r, int64_t from, int n, float weight,
                     double *sum) {
    Session *s = t->s;
    size_t mark = arena_mark(&s->step);
    Batch *b = batches_of(&s->step, r, from, n);
    Tensor **loss = arena_push(&s->step, sizeof *loss * (size_t)n);
    s->model->dropout_step = (uint64_t)(t->run.step * t->cfg->gradient_accumulation_steps + from);
    model_losses(s->model, &s->tape, b, n, weight, loss);
    for (int i = 0; i < n; i++) *sum += (double)f32(loss[i])[0];
    tape_backward_all(&s->tape, n, loss);
    tape_reset(&s->tape);
    arena_release(&s->step, mark);
}

static int optimiser_step(Trainer *t, StepResult *r, Err *e) {
    const Config *cfg = t->cfg;
    double began = seconds_now();
    StepRows rows = epochs_step(&t->epochs, t->run.step);
    *r = (StepResult){.lr = cfg->learning_rate * schedule_factor(&t->schedule, t->run.step)};
    for (int64_t i = 0; i < rows.n_rows; i++)
        r->tokens += rows.row[i]->n, r->supervised += sample_supervised(rows.row[i]);
    params_zero_grad(&t->s->params);
    route_load_clear(&t->load);
    for (int64_t i = 0; i < rows.n_micro; i += t->s->together) {
        int64_t n = rows.n_micro - i < t->s->together ? rows.n_micro - i : t->s->together;
        run_pass(t, &rows, i, (int)n, 1 / (float)(r->supervised ? r->supervised : 1), &r->loss);
    }
    step_rows_free(&rows);
    r->grad_norm = params_grad_norm(&t->s->params);
    if (!isfinite(r->loss) || !isfinite(r->grad_norm)) {
        char what[64];
        snprintf(what, sizeof what, "step %ld", (long)t->run.step + 1);
        return session_blame_nonfinite(t->s, what, e);
    }
    if (t->run.step == 0 && cfg->save_gradients) {
        TRY(params_write_grads(cfg->save_gradients, t->s->model, &t->s->params, &t->s->plan,
                               t->s->has_adapter ? &t->s->adapter : NULL, e));
    }
    if (cfg->max_grad_norm > 0 && r->grad_norm > cfg->max_grad_norm)
        params_scale_grad(&t->s->params, (float)(cfg->max_grad_norm / (r->grad_norm + 1e-6)));
    optimizer_step(&t->optimizer, &t->s->params, t->run.step + 1, r->lr);
    t->run.step++;
    t->run.tokens += r->tokens, t->run.supervised += r->supervised;
    r->seconds = seconds_now() - began;
    return 0;
}

/* ---- telling ---- */

static int log_step(Trainer *t, const StepResult *r, const EvalResult *eval, Err *e) {
    json_t *line = json_pack(
        "{s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:f, s:I}", "step", (json_int_t)t->run.step,
        "epoch", epochs_at(&t->epochs, t->run.step), "loss", r->loss, "grad_norm", r->grad_norm,
        "learning_rate", r->lr, "tokens", (json_int_t)r->tokens, "supervised_tokens",
        (json_int_t)r->supervised, "tokens_per_second", (double)r->tokens / r->seconds,
        "step_seconds", r->seconds, "peak_memory_bytes", (json_int_t)mem_peak());
    if (t->load.n_experts) json_object_set_new(line, "routing", route_load_json(&t->load));
    if (eval) {
        json_object_set_new(line, "eval_loss", json_real(eval->loss));
        json_object_set_new(line, "eval_tokens", json_integer(eval->tokens));
    }
    return metrics_append(t->metrics, line, e);
}

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

/* Whether the run can be, asked before anything large has memory. */
static int check_memory(Trainer *t, Err *e) {
    Buf text = {0};
    t->plan = memory_plan(t->s, t->cfg, t->data);
    int bad = memory_check(&t->plan, e);
    memory_describe(&t->plan, &text);
    if (bad) progress_say(NULL, "%s", text.p);
    buf_free(&text);
    return bad;
}

/* What is about to run; a base that does not fit is made ready to stream. */
static int start(const Trainer *t, Err *e) {
    Session *s = t->s;
    Buf text = {0};
    session_describe(s, &text);
    progress_say(NULL, "%.*s", (int)text.n - 1, text.p);
    text.n = 0;
    memory_describe(&t->plan, &text);
    progress_say(NULL, "%s", text.p);
    buf_free(&text);
    progress_say(NULL, "data: %ld row%s to learn, %ld held out; %ld step%s of up to %ld %s%s",
                 (long)t->data->n_rows, plural(t->data->n_rows), (long)t->data->n_held_out,
                 (long)t->total_steps, plural(t->total_steps), (long)t->epochs.per_step,
                 t->cfg->sample_packing ? "packed row" : "row", plural(t->epochs.per_step));
    s->together = t->plan.together;
    return t->plan.room ? stream_open(&s->model->stream, s->model, t->plan.room, e) : 0;
}

/* While B is 0, as a fresh adapter begins, no gradient reaches A: it moves from step 2 on. */
static bool is_waiting(const Trainer *t, const Param *p) {
    return p->learns && p->role == PARAM_LORA_A && t->run.step == 1 && !t->cfg->lora_model_dir;
}

/* Tensors that hold the very values they began with: something meant to learn did not. */
static json_t *unmoved(const Trainer *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->s->params.n; i++) {
        const Param *p = &t->s->params.param[i];
        if (is_waiting(t, p)) continue;
        if (p->learns && hash_bytes(0, p->tensor->data, (size_t)tensor_bytes(p->tensor)) ==
                             t->run.first_hash[i]) {
            static const char *const role[] = {
                [PARAM_WHOLE] = "", [PARAM_LORA_A] = " (lora_A)", [PARAM_LORA_B] = " (lora_B)"};
            Buf name = {0};
            buf_printf(&name, "%s%s", p->tensor->name, role[p->role]);
            json_array_append_new(list, json_string(name.p));
            buf_free(&name);
        }
    }
    return list;
}

static void report_stream(Stream *s, json_t *result) {
    int64_t bytes;
    double waited;
    stream_told(s, &bytes, &waited);
    progress_say(NULL, "read %s of the base, and waited %s for it",
                 amount_bytes((double)bytes).text, amount_seconds(waited).text);
    json_object_set_new(result, "streamed_bytes", json_integer(bytes));
    json_object_set_new(result, "streaming_waited_seconds", json_real(waited));
}

static void report_unmoved(const Trainer *t, json_t *list) {
    size_t n = json_array_size(list);
    bool waits = false;
    for (int i = 0; i < t->s->params.n; i++) waits |= is_waiting(t, &t->s->params.param[i]);
    const char *but = waits ? ", lora_A aside: in a fresh adapter it moves from step 2 on" : "";
    if (!n) return progress_say(NULL, "every tensor that learns has moved%s", but);
    progress_say(NULL, "%zu tensor%s did not move%s%s:", n, plural((int64_t)n), but,
                 n > 8 ? " (the first 8)" : "");
    for (size_t i = 0; i < n && i < 8; i++)
        progress_say(NULL, "  %s", json_string_value(json_array_get(list, i)));
}

/* ---- the run ---- */

static int save(Trainer *t, Err *e) {
    return checkpoint_write(t->cfg->output_dir, t->s, &t->optimizer, &t->run, t->save_dtype,
                            t->cfg->save_total_limit, e);
}

static bool can_be_kept(const Trainer *t) {
    const ParamSet *ps = &t->s->params;
    return f32_all_finite(ps->weight, ps->numel) && optimizer_finite(&t->optimizer, ps);
}

/* The run fails between two steps, for a reason that stands in an Err already: what the steps so
 * far have learned is kept where that can be done (no older checkpoint goes for it), and it is told
 * from where one can go on. */
static void keep_last_step(Trainer *t) {
    Err lost;
    char *newest;
    const char *dir = t->cfg->output_dir;
    if (!t->run.step) return;
    if (can_be_kept(t) && !checkpoint_exists(dir, t->run.step))
        checkpoint_write(dir, t->s, &t->optimizer, &t->run, t->save_dtype, 0, &lost);
    if (checkpoint_find(&newest, dir, "auto", &lost) || !newest)
        progress_say(NULL, "nothing is kept: %s holds no checkpoint", dir);
    else
        progress_say(NULL, "kept: %s, from which --resume_from_checkpoint auto goes on", newest);
    mem_free(newest);
}

static bool every(int64_t steps, int64_t step) { return steps > 0 && step % steps == 0; }

static int run_eval(Trainer *t, EvalResult *out, Err *e) {
    TRY(evaluate(t->s, t->data->held_out, t->data->n_held_out, NULL, out, e));
    progress_say(&t->progress, "step %ld: held-out loss %.4f over %ld tokens", (long)t->run.step,
                 out->loss, (long)out->tokens);
    return 0;
}

static int write_config(const Config *cfg, Err *e) {
    Buf yaml = {0};
    char *path = files_join(cfg->output_dir, "config.yaml");
    config_write_yaml(cfg, &yaml);
    int bad = files_write_whole(path, yaml.p, yaml.n, e);
    mem_free(path);
    buf_free(&yaml);
    return bad;
}

static int run(Trainer *t, json_t *result, Err *e) {
    const Config *cfg = t->cfg;
    int64_t eval_steps = cfg->eval_steps, n = cfg->evals_per_epoch;
    if (n) eval_steps = (epochs_steps(&t->epochs, 0) + n - 1) / n;
    int64_t before = t->run.tokens;
    double began = seconds_now();
    if (t->run.step >= t->total_steps)
        progress_say(NULL, "step %ld of %ld is done already: nothing is left to train",
                     (long)t->run.step, (long)t->total_steps);
    progress_begin(&t->progress, "training", "steps", t->run.step, t->total_steps);
    while (t->run.step < t->total_steps) {
        StepResult r;
        EvalResult eval;
        char note[96];
        TRY(optimiser_step(t, &r, e));
        if (before == t->run.tokens - r.tokens) TRY(write_config(cfg, e)); /* after the first */
        bool last = t->run.step == t->total_steps,
             evals = t->data->n_held_out && (last || every(eval_steps, t->run.step));
        snprintf(note, sizeof note, "loss %.4f, %.0f tokens/s", r.loss,
                 (double)(t->run.tokens - before) / (seconds_now() - began));
        progress_show(&t->progress, t->run.step, note);
        if (evals) TRY(run_eval(t, &eval, e));
        if (evals || last || every(cfg->logging_steps, t->run.step))
            TRY(log_step(t, &r, evals ? &eval : NULL, e));
        if (evals) json_object_set_new(result, "eval_loss", json_real(eval.loss));
        json_object_set_new(result, "loss", json_real(r.loss));
        if (signal_seen && !last) {
            TRY(save(t, e));
            progress_end(&t->progress);
            progress_say(
                NULL,
                "stopped by a signal after step %ld; go on with --resume_from_checkpoint auto",
                (long)t->run.step);
            return 128 + signal_seen;
        }
        if (every(cfg->save_steps, t->run.step)) TRY(save(t, e));
    }
    progress_end(&t->progress);
    TRY(learned_write(cfg->output_dir, t->s, t->save_dtype, e));
    progress_say(NULL, "wrote %s", cfg->output_dir);
    return 0;
}

/* What the checkpoint lets differ, against the config.yaml that its run wrote. */
static void tell_changes(const Config *cfg, const char *from) {
    Config was;
    Err ignored;
    Buf text = {0};
    char *dir = files_parent(from), *path = files_join(dir, "config.yaml");
    if (!config_load(&was, path, NULL, 0, &ignored)) config_write_changes(&was, cfg, &text);
    if (text.n) progress_say(NULL, "from here on: %s", text.p);
    config_free(&was);
    mem_free(path);
    mem_free(dir);
    buf_free(&text);
}

static int resume(Trainer *t, const char *from, Err *e) {
    int n;
    TRY(checkpoint_read(from, t->s, &t->optimizer, &t->run, e));
    progress_say(NULL, "resumed from %s at step %ld", from, (long)t->run.step);
    tell_changes(t->cfg, from);
    TRY(checkpoint_drop_later(t->cfg->output_dir, t->run.step, &n, e));
    if (n) progress_say(NULL, "removed the checkpoints of later steps (%d)", n);
    return 0;
}

static int prepare_output(Trainer *t, Err *e) {
    const Config *cfg = t->cfg;
    char *from = NULL;
    TRY(files_make_dirs(cfg->output_dir, e));
    TRY(output_dir_lock(&t->lock, cfg->output_dir, e));
    if (cfg->overwrite) TRY(output_dir_clear(cfg->output_dir, e));
    if (cfg->resume_from_checkpoint) {
        TRY(checkpoint_find(&from, cfg->output_dir, cfg->resume_from_checkpoint, e));
        if (!from) progress_say(NULL, "no checkpoint in %s: from the beginning", cfg->output_dir);
    }
    int bad = from ? resume(t, from, e) : 0;
    mem_free(from);
    if (!bad) bad = metrics_resume(t->metrics, t->run.step, e);
    return bad;
}

static int64_t hash_data(const TrainData *d) {
    uint64_t h = 0;
    for (int64_t i = 0; i < d->n_rows; i++) {
        h = hash_bytes(h, d->rows[i].ids, sizeof(int32_t) * (size_t)d->rows[i].n);
        h = hash_bytes(h, d->rows[i].labels, sizeof(int32_t) * (size_t)d->rows[i].n);
    }
    return (int64_t)h;
}

static void plan_steps(Trainer *t) {
    const Config *cfg = t->cfg;
    epochs_open(&t->epochs, cfg, t->data->rows, t->data->n_rows);
    t->total_steps = epochs_total_steps(&t->epochs);
    t->schedule.warmup = cfg->warmup_ratio > 0
                             ? (int64_t)ceil(cfg->warmup_ratio * (double)t->total_steps)
                             : cfg->warmup_steps;
    t->schedule.total = t->total_steps;
    t->schedule.floor = cfg->min_lr_ratio;
}

/* Learning rates that differ: every B under LoRA+, the routers under router.learning_rate. */
static void set_lr_ratios(Trainer *t) {
    const Config *cfg = t->cfg;
    for (int i = 0; i < t->s->params.n; i++) {
        const Param *p = &t->s->params.param[i];
        bool router = t->s->model->site[p->site].row->kind == KIND_ROUTER &&
                      config_given(cfg, "router.learning_rate");
        if (router && cfg->learning_rate > 0)
            t->optimizer.lr_ratio[i] *= cfg->router_learning_rate / cfg->learning_rate;
        if (p->role == PARAM_LORA_B) t->optimizer.lr_ratio[i] *= cfg->lora_plus_ratio;
    }
}

static int open_trainer(Trainer *t, Err *e) {
    const Config *cfg = t->cfg;
    OptimizerSettings set = {cfg->weight_decay, cfg->adam_beta1, cfg->adam_beta2,
                             cfg->adam_epsilon};
    const ParamSet *ps = &t->s->params;
    t->s->model->dropout = (float)cfg->lora_dropout;
    TRY(check_memory(t, e));
    TRY(session_fill(t->s, cfg, e));
    plan_steps(t);
    t->load = route_load_new(t->s->model);
    t->metrics = files_join(cfg->output_dir, "metrics.jsonl");
    t->run = (RunState){.first_hash = mem_alloc(sizeof(uint64_t) * (size_t)(ps->n + 1)),
                        .seed = cfg->seed,
                        .rows_per_step = t->epochs.per_step,
                        .shuffle = cfg->shuffle,
                        .packed_to = t->epochs.room,
                        .data_hash = hash_data(t->data),
                        .base_hash = checkpoint_base_hash(t->s->model),
                        .compute = cfg->compute};
    t->save_dtype = dtype_find(cfg->save_dtype);
    for (int i = 0; i < ps->n; i++)
        t->run.first_hash[i] =
            hash_bytes(0, ps->param[i].tensor->data, (size_t)tensor_bytes(ps->param[i].tensor));
    CHECK(!schedule_find(&t->schedule, cfg->lr_scheduler), "lr_scheduler %s", cfg->lr_scheduler);
    const OptimizerRule *rule = optimizer_find(cfg->optimizer);
    CHECK(rule, "optimizer %s", cfg->optimizer);
    TRY(optimizer_open(&t->optimizer, rule, &set, ps, e));
    set_lr_ratios(t);
    t->s->model->dropout_seed = (uint64_t)cfg->seed;
    t->s->model->on_route = route_load_add;
    t->s->model->on_route_ctx = &t->load;
    return prepare_output(t, e);
}

int trainer_check_sizes(const Config *cfg, int64_t longest, Err *e) {
    if (cfg->micro_batch_size * cfg->gradient_accumulation_steps > ROWS_PER_STEP_MAX)
        return err_set(
            e, "micro_batch_size %ld x gradient_accumulation_steps %ld is more than %d rows a step",
            (long)cfg->micro_batch_size, (long)cfg->gradient_accumulation_steps, ROWS_PER_STEP_MAX);
    if (cfg->micro_batch_size * longest > INT32_MAX)
        return err_set(e,
                       "micro_batch_size %ld x rows of %ld tokens is more than %ld tokens at once; "
                       "lower micro_batch_size, and raise gradient_accumulation_steps",
                       (long)cfg->micro_batch_size, (long)longest, (long)INT32_MAX);
    return 0;
}

int trainer_check_rows(const Config *cfg, const TrainData *data, Err *e) {
    int64_t longest = cfg->sample_packing ? cfg->sequence_len : 0;
    if (!data->n_rows) return err_set(e, "datasets: no row is left to train on");
    for (int64_t i = 0; i < data->n_rows; i++) longest = max64(longest, data->rows[i].n);
    return trainer_check_sizes(cfg, longest, e);
}

int trainer_run(const Config *cfg, Session *s, const TrainData *data, json_t *result, Err *e) {
    Trainer t = {.cfg = cfg, .s = s, .data = data, .lock = -1};
    TRY(trainer_check_rows(cfg, data, e));
    int status = open_trainer(&t, e);
    if (!status) {
        status = start(&t, e);
        catch_signals();
        if (!status) status = run(&t, result, e);
        if (status < 0) keep_last_step(&t);
    }
    if (!status) {
        json_t *still = unmoved(&t);
        if (s->model->stream) report_stream(s->model->stream, result);
        report_unmoved(&t, still);
        json_object_set_new(result, "unmoved", still);
        json_object_set_new(result, "steps", json_integer(t.run.step));
        json_object_set_new(result, "tokens", json_integer(t.run.tokens));
        json_object_set_new(result, "output_dir", json_string(cfg->output_dir));
        json_object_set_new(result, "peak_memory_bytes", json_integer((json_int_t)mem_peak()));
    }
    if (t.lock >= 0) close(t.lock);
    optimizer_close(&t.optimizer);
    route_load_free(&t.load);
    mem_free(t.run.first_hash);
    epochs_close(&t.epochs);
    mem_free(t.metrics);
    return status;
}
