/* dataset_room.c - the table of types, and what rooms share. See dataset_room.h. */
#include "dataset_room.h"
#include <stdio.h>
#include <string.h>
#include "json.h"

static const DatasetRoom rooms[] = {
#define ROOM(name, marks, needs) {#name, marks, needs, dataset_read_##name},
#define LATER(name, marks)       {#name, marks, NOTHING, NULL},
#include "datasets.def"
#undef ROOM
#undef LATER
};

static void list_types(Buf *out) {
    for (size_t i = 0; i < COUNT_OF(rooms); i++) {
        if (rooms[i].read) buf_printf(out, ", %s", rooms[i].name);
    }
}

static int refuse_type(const char *what, Err *e) {
    Buf types = {0};
    list_types(&types);
    err_set(e, "%s; the types are auto%s", what, types.p);
    buf_free(&types);
    return -1;
}

static const DatasetRoom *room_named(const char *name, Err *e) {
    char what[200];
    for (size_t i = 0; i < COUNT_OF(rooms); i++) {
        if (strcmp(rooms[i].name, name) != 0) continue;
        if (rooms[i].read) return &rooms[i];
        snprintf(what, sizeof what, "datasets of type %s cannot be read in this version", name);
        refuse_type(what, e);
        return NULL;
    }
    snprintf(what, sizeof what, "\"%.100s\" is no type of dataset", name);
    refuse_type(what, e);
    return NULL;
}

static bool has_marks(const json_t *object, const char *marks) {
    while (*marks) {
        char mark[32] = "";
        size_t n = strcspn(marks, " ");
        CHECK(n < sizeof mark, "a mark of %zu bytes", n);
        memcpy(mark, marks, n);
        if (!json_object_get(object, mark)) return false;
        marks += n + (marks[n] == ' ');
    }
    return true;
}

const DatasetRoom *dataset_room_find(const char *type, const json_t *first, Err *e) {
    if (type && strcmp(type, "auto") != 0) return room_named(type, e);
    for (size_t i = 0; i < COUNT_OF(rooms); i++) {
        if (has_marks(first, rooms[i].marks)) return room_named(rooms[i].name, e);
    }
    refuse_type(
        "the first row's keys (messages, input_ids, prompt and completion, text) fit no type", e);
    return NULL;
}

int dataset_type_check(const char *type, Err *e) {
    if (strcmp(type, "auto") == 0) return 0;
    return room_named(type, e) ? 0 : -1;
}

/* ---- what rooms share ---- */

static void grow_labels(DatasetRow *row, size_t n) {
    if (n <= row->labels_cap) return;
    size_t cap = row->labels_cap ? row->labels_cap * 2 : 1024;
    while (cap < n) cap *= 2;
    row->labels =
        mem_grow(row->labels, row->labels_cap * sizeof *row->labels, cap * sizeof *row->labels);
    row->labels_cap = cap;
}

/* Only ids: a token added here stands for no text, and Tokens.from and .to end before it. */
static void grow_ids(DatasetRow *row, size_t n) {
    Tokens *t = &row->tokens;
    if (n <= t->cap) return;
    size_t cap = t->cap ? t->cap * 2 : 1024;
    while (cap < n) cap *= 2;
    t->id = mem_grow(t->id, t->cap * sizeof *t->id, cap * sizeof *t->id);
    t->from = mem_grow(t->from, t->cap * sizeof *t->from, cap * sizeof *t->from);
    t->to = mem_grow(t->to, t->cap * sizeof *t->to, cap * sizeof *t->to);
    t->cap = cap;
}

void row_add(DatasetRow *row, int32_t id, int32_t label) {
    Tokens *t = &row->tokens;
    grow_ids(row, t->n + 1);
    grow_labels(row, t->n + 1);
    t->id[t->n] = id;
    t->from[t->n] = t->to[t->n] = row->text.n;
    row->labels[t->n++] = label;
}

void row_ignore_all(DatasetRow *row) {
    grow_labels(row, row->tokens.n);
    for (size_t i = 0; i < row->tokens.n; i++) row->labels[i] = LABEL_IGNORE;
}

int row_add_end_of_text(const DatasetContext *ctx, DatasetRow *row, Err *e) {
    if (ctx->eos_id < 0) {
        return err_set(
            e, "the model names no end-of-text token, which rows of this type end with; set "
               "eos_token in its tokenizer_config.json");
    }
    row_add(row, ctx->eos_id, ctx->eos_id);
    return 0;
}

int row_add_field(const json_t *object, const char *key, DatasetRow *row, Err *e) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value)) {
        return err_set(e, "\"%s\" is %s, expected a string", key, json_kind(value));
    }
    buf_add(&row->text, json_string_value(value), json_string_length(value));
    return 0;
}
