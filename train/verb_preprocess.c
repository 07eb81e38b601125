/* verb_preprocess.c - what becomes of the rows of datasets, before any model is loaded: counts and
 * lengths, the first samples to look at (--debug), and every sample as ids (--output). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../data/files.h"
#include "../data/side_files.h"
#include "progress.h"
#include "rows.h"
#include "sample_view.h"
#include "session.h"
#include "verbs.h"

enum { SHOWN = 5 }; /* samples of --debug */

typedef struct Preprocess {
    const Config *cfg;
    const DatasetContext *ctx;
    FileOut out; /* path NULL: nothing is written */
    Buf line;
    int32_t *length; /* of every sample */
    size_t n, cap;
    int shown;
    bool colour;
} Preprocess;

static void add_ids(Buf *out, const char *name, const int32_t *ids, int32_t n) {
    buf_printf(out, "\"%s\": [", name);
    for (int32_t i = 0; i < n; i++) buf_printf(out, i ? ", %d" : "%d", ids[i]);
    buf_add_text(out, "], ");
}

static int write_sample(Preprocess *p, const DatasetRow *row, Err *e) {
    Buf *line = &p->line;
    json_t *text = json_stringn(row->text.p ? row->text.p : "", row->text.n);
    char *shown = json_dumps(text, JSON_ENCODE_ANY);
    CHECK(shown, "a row's text that is not UTF-8");
    line->n = 0;
    buf_add_text(line, "{");
    add_ids(line, "input_ids", row->sample.ids, row->sample.n);
    add_ids(line, "labels", row->sample.labels, row->sample.n);
    buf_printf(line, "\"text\": %s}\n", shown);
    free(shown); /* jansson's, hence its allocator */
    json_decref(text);
    for (int32_t i = 0; i < row->copies; i++) TRY(files_write(&p->out, line->p, line->n, e));
    return 0;
}

/* Rows of ids are read without a tokenizer; to people its pieces say more than numbers. */
static int open_pieces(DatasetContext *ctx, const char *model_dir, Err *e) {
    if (ctx->tokenizer || !model_dir) return 0;
    if (!side_files_has(model_dir, "tokenizer.json")) return 0;
    return tokenizer_open_model(&ctx->tokenizer, model_dir, e);
}

static void show_legend(const Preprocess *p) {
    printf("Tokens that are learned are %s; · is a space, ↵ a line end, ⇥ a tab.\n\n",
           p->colour ? "\033[1;32mgreen\033[0m, the others dim" : "in [brackets]");
}

static void show_sample(Preprocess *p, const DatasetRow *row) {
    p->line.n = 0;
    sample_view(row, p->ctx->tokenizer, p->colour, &p->line);
    fwrite(p->line.p, 1, p->line.n, stdout);
    putchar('\n');
}

static int take_row(void *user, const DatasetRow *row, Err *e) {
    Preprocess *p = user;
    for (int32_t i = 0; i < row->copies; i++) {
        if (p->n == p->cap) {
            size_t cap = p->cap ? p->cap * 2 : 1024;
            p->length = mem_grow(p->length, p->cap * sizeof *p->length, cap * sizeof *p->length);
            p->cap = cap;
        }
        p->length[p->n++] = row->sample.n;
    }
    if (p->cfg->debug && p->shown++ < SHOWN) show_sample(p, row);
    return p->out.path ? write_sample(p, row, e) : 0;
}

static int by_length(const void *a, const void *b) {
    const int32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static int32_t percentile(const Preprocess *p, int percent) {
    return p->n ? p->length[(p->n - 1) * (size_t)percent / 100] : 0;
}

static void report(Preprocess *p, const DatasetCounts *c, json_t *result) {
    static const int percents[] = {50, 90, 99, 100};
    const struct {
        const char *key, *words;
        int64_t n;
    } rows[] = {
        {"rows", "rows read", c->rows},
        {"samples", "samples kept", c->samples},
        {"dropped_empty", "dropped: empty", c->dropped_empty},
        {"dropped_long", "dropped: above sequence_len", c->dropped_long},
        {"dropped_unsupervised", "dropped: nothing supervised", c->dropped_unsupervised},
        {"truncated", "truncated to sequence_len", c->truncated},
        {"tokens", "tokens", c->tokens},
        {"supervised_tokens", "supervised tokens", c->supervised},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        printf("%-30s %12lld\n", rows[i].words, (long long)rows[i].n);
        json_object_set_new(result, rows[i].key, json_integer(rows[i].n));
    }
    json_t *lengths = json_object();
    if (p->n) qsort(p->length, p->n, sizeof *p->length, by_length);
    for (size_t i = 0; i < COUNT_OF(percents); i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", percents[i]);
        printf("length, %3d%% of samples up to   %10d\n", percents[i], percentile(p, percents[i]));
        json_object_set_new(lengths, name, json_integer(percentile(p, percents[i])));
    }
    json_object_set_new(result, "lengths", lengths);
}

static void show_progress(void *user, int64_t done, int64_t total) {
    Progress *p = user;
    p->total = total;
    progress_show(p, done, "");
}

static int begin_output(Preprocess *p, Err *e) {
    TRY(output_check(p->cfg, OUTPUT_FILE, e));
    return p->cfg->output ? files_begin(&p->out, p->cfg->output, e) : 0;
}

static int read_rows(Preprocess *p, DatasetContext *ctx, json_t *result, Err *e) {
    Progress progress;
    DatasetCounts counts;
    TRY(begin_output(p, e));
    progress_begin(&progress, "tokenising", "bytes", 0, 0);
    ctx->progress = show_progress;
    ctx->progress_user = &progress;
    int rc = dataset_read(ctx, p->cfg->datasets.p, p->cfg->datasets.n, take_row, p, &counts, e);
    progress_end(&progress);
    if (rc == 0 && p->out.path) rc = files_commit(&p->out, e);
    if (rc == 0) report(p, &counts, result);
    return rc;
}

static bool wants_colour(void) {
    const char *no = getenv("NO_COLOR"), *terminal = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(no && *no) && terminal && strcmp(terminal, "dumb") != 0;
}

int verb_preprocess(const Config *cfg, json_t *result, Err *e) {
    DatasetContext ctx;
    Preprocess p = {.cfg = cfg, .ctx = &ctx, .colour = wants_colour()};
    int rc = rows_context(&ctx, cfg, &cfg->datasets, e);
    ctx.want_parts = cfg->debug;
    if (rc == 0 && cfg->debug) {
        show_legend(&p);
        rc = open_pieces(&ctx, cfg->base_model, e);
    }
    if (rc == 0) rc = read_rows(&p, &ctx, result, e);
    if (p.out.path) files_abort(&p.out);
    dataset_close(&ctx);
    buf_free(&p.line);
    mem_free(p.length);
    return rc;
}
