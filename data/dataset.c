/* dataset.c - what a model gives to its rows, reading them, keeping them, ordering them. See
 * dataset.h; what a row means is in the rooms. */
#include "dataset.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "dataset_room.h"
#include "gguf.h"
#include "jsonl.h"
#include "side_files.h"

/* Streams of random numbers: what one draws never shifts what another does. */
static const uint64_t STREAM_ORDER = 0x6f72646572ull << 24, STREAM_SPLIT = 0x73706c6974ull << 24;

int32_t sample_supervised(const Sample *s) {
    int32_t n = 0;
    for (int32_t i = 1; i < s->n; i++) n += s->labels[i] != LABEL_IGNORE;
    return n;
}

/* ---- what the model gives ---- */

/* What a pipe gave for the look at its first row would be missing from the rows. */
static int check_twice(const char *path, Err *e) {
    struct stat about;
    if (stat(path, &about) || S_ISREG(about.st_mode) || S_ISDIR(about.st_mode)) return 0;
    return err_set(e,
                   "%s is not a regular file, and rows whose type is auto are read more than once; "
                   "write them to a file, or say their type",
                   path);
}

/* What this entry's rows need; auto asks its first row. */
static int needs_of(const DatasetSpec *spec, RoomNeeds *needs, Err *e) {
    Jsonl j;
    json_t *first = NULL;
    bool peek = !spec->type || strcmp(spec->type, "auto") == 0;
    if (peek) {
        TRY(check_twice(spec->path, e));
        int rc = jsonl_open(&j, spec->path, e);
        if (rc == 0) rc = jsonl_next(&j, &first, e);
        jsonl_close(&j);
        TRY(rc);
        if (!first) return 0; /* an empty file needs nothing */
    }
    const DatasetRoom *room = dataset_room_find(spec->type, first, e);
    json_decref(first);
    if (!room) return err_prefix(e, "%.300s", spec->path);
    if (room->needs > *needs) *needs = room->needs;
    return 0;
}

/* A field of config.json, or of the text model inside it. */
static const json_t *config_field(const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);
    return value && !json_is_null(value)
               ? value
               : json_object_get(json_object_get(config, "text_config"), key);
}

/* eos_token of tokenizer_config.json (a text, or an object with content), else eos_token_id of
 * config.json (an id, or a list whose first counts). */
static int32_t find_eos(const DatasetContext *ctx, const json_t *tokenizer_config,
                        const json_t *config) {
    const json_t *token = json_object_get(tokenizer_config, "eos_token");
    const json_t *id = config_field(config, "eos_token_id");
    if (json_is_object(token)) token = json_object_get(token, "content");
    int32_t found =
        json_is_string(token) ? tokenizer_find(ctx->tokenizer, json_string_value(token)) : -1;
    if (found >= 0) return found;
    if (json_is_array(id)) id = json_array_get(id, 0);
    int64_t value = json_is_integer(id) ? json_integer_value(id) : -1;
    return value >= 0 && value < INT32_MAX ? (int32_t)value : -1;
}

static int open_tokenizer(DatasetContext *ctx, const char *dir, const json_t *config, Err *e) {
    json_t *tokenizer_config;
    TRY(tokenizer_open_model(&ctx->tokenizer, dir, e));
    TRY(side_files_json(dir, "tokenizer_config.json", &tokenizer_config, e));
    ctx->eos_id = find_eos(ctx, tokenizer_config, config);
    json_decref(tokenizer_config);
    return 0;
}

/* vocab_size as config.json says; as many as embeddings where a GGUF file has no config.json. */
static int find_vocab(const char *model_dir, const json_t *config, int32_t *out, Err *e) {
    int64_t n = json_integer_value(config_field(config, "vocab_size"));
    if (model_dir && gguf_claims(model_dir)) {
        Gguf *g;
        TRY(gguf_open(&g, model_dir, e));
        const GgufEntry *embed = gguf_find_entry(g, "token_embd.weight");
        n = embed ? embed->dim[0] : 0;
        gguf_close(g);
    }
    if (n > 0 && n < INT32_MAX) *out = (int32_t)n;
    return 0;
}

int dataset_open(DatasetContext *ctx, const char *model_dir, const char *which, Thinking thinking,
                 const DatasetSpec *specs, int n_specs, Err *e) {
    static const char *const assistant[] = {"assistant"};
    *ctx = (DatasetContext){.eos_id = -1,
                            .sequence_len = 2048,
                            .excess_length_strategy = "drop",
                            .roles_to_train = assistant,
                            .n_roles_to_train = 1,
                            .train_on_eos = "turn"};
    RoomNeeds needs = NOTHING;
    for (int i = 0; i < n_specs; i++) TRY(needs_of(&specs[i], &needs, e));
    if (needs > NOTHING && !model_dir) {
        return err_set(
            e, "these datasets need a tokenizer; set base_model to a directory that has one");
    }
    json_t *config = NULL;
    if (needs > NOTHING) TRY(side_files_check(model_dir, e));
    if (model_dir) TRY(side_files_json(model_dir, "config.json", &config, e));
    int rc = find_vocab(model_dir, config, &ctx->vocab_size, e);
    if (rc == 0 && needs >= A_TOKENIZER) rc = open_tokenizer(ctx, model_dir, config, e);
    if (rc == 0 && needs >= A_CHAT) rc = chat_open(&ctx->chat, model_dir, which, thinking, e);
    json_decref(config);
    return rc;
}

void dataset_close(DatasetContext *ctx) {
    if (ctx->chat) chat_close(ctx->chat);
    if (ctx->tokenizer) tokenizer_close(ctx->tokenizer);
    ctx->chat = NULL;
    ctx->tokenizer = NULL;
}

/* ---- rows one by one ---- */

typedef struct Reading {
    const DatasetContext *ctx;
    const DatasetSpec *spec;
    DatasetCounts *counts;
    DatasetRow row;
    const DatasetRoom *room;   /* of the file; NULL before its first row */
    int64_t rows;              /* of the file, so far */
    int64_t done, total, told; /* bytes of all files, for the progress */
    DatasetTake take;
    void *user;
} Reading;

static void empty_row(DatasetRow *row) {
    row->text.n = row->tokens.n = 0;
    row->n_parts = 0;
    row->empty = false;
}

/* How often row i of a file is taken: whole copies for all, and the fraction spread evenly. */
static int32_t copies_of(double weight, int64_t i) {
    return (int32_t)(floor((double)(i + 1) * weight) - floor((double)i * weight));
}

static int check_ids(const DatasetContext *ctx, const Sample *s, Err *e) {
    for (int32_t i = 0; ctx->vocab_size && i < s->n; i++) {
        if (s->ids[i] < ctx->vocab_size) continue;
        return err_set(
            e, "token id %d is not below the model's vocab_size %d: tokenizer and model do not fit",
            s->ids[i], ctx->vocab_size);
    }
    return 0;
}

/* Decides whether the row is kept, and at what length. */
static int fit_row(Reading *r, bool *keep, Err *e) {
    const DatasetContext *ctx = r->ctx;
    DatasetRow *row = &r->row;
    size_t n = row->tokens.n;
    DatasetCounts *counts = r->counts;
    *keep = false;
    if (row->empty || n == 0) {
        counts->dropped_empty++;
        return 0;
    }
    if (n > INT32_MAX) return err_set(e, "a row of %zu tokens", n);
    if (!ctx->keep_all && n > (size_t)ctx->sequence_len) {
        if (strcmp(ctx->excess_length_strategy, "raise") == 0) {
            return err_set(
                e,
                "the row has %zu tokens, above sequence_len %lld (excess_length_strategy: raise)",
                n, (long long)ctx->sequence_len);
        }
        if (strcmp(ctx->excess_length_strategy, "drop") == 0) {
            counts->dropped_long++;
            return 0;
        }
        counts->truncated++;
        n = (size_t)ctx->sequence_len;
    }
    row->sample = (Sample){row->tokens.id, row->labels, (int32_t)n};
    TRY(check_ids(ctx, &row->sample, e));
    *keep = ctx->keep_all || sample_supervised(&row->sample) > 0;
    counts->dropped_unsupervised += !*keep;
    return 0;
}

static int read_row(Reading *r, const json_t *object, Err *e) {
    bool keep;
    r->row.copies = copies_of(r->spec->weight, r->rows++);
    r->counts->rows++;
    if (!r->room) r->room = dataset_room_find(r->spec->type, object, e);
    if (!r->room) return -1;
    if (r->row.copies == 0) return 0;
    empty_row(&r->row);
    TRY(r->room->read(r->ctx, object, &r->row, e));
    TRY(fit_row(r, &keep, e));
    if (!keep) return 0;
    r->counts->samples += r->row.copies;
    r->counts->tokens += (int64_t)r->row.copies * r->row.sample.n;
    r->counts->supervised += (int64_t)r->row.copies * sample_supervised(&r->row.sample);
    return r->take(r->user, &r->row, e);
}

static void tell_progress(Reading *r, int64_t done) {
    enum { STEP = 1 << 18 }; /* bytes between two calls */
    if (!r->ctx->progress || (done < r->told + STEP && done != r->total)) return;
    r->told = done;
    r->ctx->progress(r->ctx->progress_user, done, r->total);
}

static int read_file(Reading *r, Err *e) {
    Jsonl j;
    int rc = jsonl_open(&j, r->spec->path, e);
    r->row.path = r->spec->path;
    r->room = NULL;
    r->rows = 0;
    while (rc == 0) {
        json_t *object;
        rc = jsonl_next(&j, &object, e);
        if (rc != 0 || !object) break;
        r->row.line = j.line;
        rc = read_row(r, object, e);
        if (rc != 0) err_prefix(e, "%.300s:%lld", r->spec->path, (long long)j.line);
        json_decref(object);
        tell_progress(r, r->done + j.done);
    }
    r->done += j.done;
    jsonl_close(&j);
    return rc;
}

static int64_t bytes_of(const DatasetSpec *specs, int n) {
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        struct stat about;
        if (stat(specs[i].path, &about) == 0) total += about.st_size;
    }
    return total;
}

int dataset_read(const DatasetContext *ctx, const DatasetSpec *specs, int n_specs, DatasetTake take,
                 void *user, DatasetCounts *counts, Err *e) {
    Reading r = {.ctx = ctx,
                 .counts = counts,
                 .take = take,
                 .user = user,
                 .total = bytes_of(specs, n_specs)};
    int rc = 0;
    *counts = (DatasetCounts){0};
    for (int i = 0; i < n_specs && rc == 0; i++) {
        r.spec = &specs[i];
        r.row.spec = i;
        rc = read_file(&r, e);
    }
    tokens_free(&r.row.tokens);
    buf_free(&r.row.text);
    mem_free(r.row.labels);
    mem_free(r.row.parts);
    return rc;
}

/* ---- all of them ---- */

typedef struct Loading {
    Dataset *set;
    int64_t cap;
} Loading;

static void append(Loading *l, Sample sample, SampleSource source) {
    Dataset *d = l->set;
    if (d->n == l->cap) {
        int64_t cap = l->cap ? l->cap * 2 : 256;
        d->samples =
            mem_grow(d->samples, sizeof sample * (size_t)l->cap, sizeof sample * (size_t)cap);
        d->source =
            mem_grow(d->source, sizeof source * (size_t)l->cap, sizeof source * (size_t)cap);
        l->cap = cap;
    }
    d->samples[d->n] = sample;
    d->source[d->n++] = source;
}

static int keep_row(void *user, const DatasetRow *row, Err *e) {
    Loading *l = user;
    size_t bytes = sizeof(int32_t) * (size_t)row->sample.n;
    (void)e;
    Sample own = {.ids = mem_alloc(2 * bytes), .n = row->sample.n};
    own.labels = own.ids + own.n;
    memcpy(own.ids, row->sample.ids, bytes);
    memcpy(own.labels, row->sample.labels, bytes);
    SampleSource source = {.spec = row->spec, .line = row->line};
    for (int32_t i = 0; i < row->copies; i++) {
        source.copy = i > 0;
        append(l, own, source);
    }
    return 0;
}

int dataset_load(Dataset *out, const DatasetSpec *specs, int n_specs, const DatasetContext *ctx,
                 Err *e) {
    *out = (Dataset){0};
    Loading l = {.set = out};
    TRY(dataset_read(ctx, specs, n_specs, keep_row, &l, &out->counts, e));
    if (out->n) return 0;
    const DatasetCounts *c = &out->counts;
    if (!c->rows)
        return err_set(e, "%s%s: no row is there; expected one JSON object a line", specs[0].path,
                       n_specs > 1 ? " and the other datasets" : "");
    return err_set(e,
                   "the datasets hold no sample: of %lld rows %lld are empty, %lld above "
                   "sequence_len %lld and %lld have nothing supervised%s",
                   (long long)c->rows, (long long)c->dropped_empty, (long long)c->dropped_long,
                   (long long)ctx->sequence_len, (long long)c->dropped_unsupervised,
                   c->dropped_long ? "; raise sequence_len, or set excess_length_strategy: truncate"
                                   : "");
}

void dataset_free(Dataset *d) {
    for (int64_t i = 0; i < d->n; i++) {
        if (!d->source[i].copy) mem_free(d->samples[i].ids);
    }
    mem_free(d->samples);
    mem_free(d->source);
    *d = (Dataset){0};
}

/* ---- order ---- */

static void shuffle_order(uint64_t seed, uint64_t stream, int64_t n, int64_t *order) {
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)(rng_at(seed, stream, (uint64_t)i) % (uint64_t)(i + 1));
        int64_t kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

void dataset_order(uint64_t seed, int64_t epoch, int64_t n, bool shuffle, int64_t *order) {
    for (int64_t i = 0; i < n; i++) order[i] = i;
    if (shuffle) shuffle_order(seed, STREAM_ORDER + (uint64_t)epoch, n, order);
}

int64_t dataset_split(Dataset *d, double val_set_size, uint64_t seed) {
    int64_t rows = 0;
    for (int64_t i = 0; i < d->n; i++) rows += !d->source[i].copy;
    /* 7% of 100 rows is 7.000000000000001: rounding up has to forgive that */
    double wanted = val_set_size < 1 ? ceil(val_set_size * (double)rows - 1e-9) : val_set_size;
    int64_t held = wanted < (double)rows ? (int64_t)wanted : rows;
    int64_t *order = mem_alloc(sizeof *order * (size_t)rows);
    bool *is_out = mem_alloc((size_t)rows);
    for (int64_t i = 0; i < rows; i++) order[i] = i;
    shuffle_order(seed, STREAM_SPLIT, rows, order);
    for (int64_t i = 0; i < held; i++) is_out[order[i]] = true;

    Sample *samples = mem_alloc(sizeof *samples * (size_t)d->n);
    SampleSource *source = mem_alloc(sizeof *source * (size_t)d->n);
    int64_t n = 0;
    for (int pass = 0; pass < 2; pass++) { /* what stays, then what is held out */
        for (int64_t i = 0, row = -1; i < d->n; i++) {
            row += !d->source[i].copy; /* copies follow their row */
            if (is_out[row] != pass || (pass && d->source[i].copy)) continue;
            samples[n] = d->samples[i];
            source[n++] = d->source[i];
        }
    }
    mem_free(d->samples);
    mem_free(d->source);
    mem_free(order);
    mem_free(is_out);
    d->samples = samples;
    d->source = source;
    d->n = n;
    return held;
}
