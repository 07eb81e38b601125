/* tokenizer_post.c - see tokenizer_post.h. Only what a single text gets is read; a template for
 * pairs of texts has no use here. ByteLevel adds no tokens: it trims spaces off offsets, and ours
 * say which bytes a token came from, spaces included. */
#include <string.h>
#include "tokenizer_post.h"
#include "tokenizer_read.h"

typedef struct Reading {
    PostProcessor *out;
    const char *where;
} Reading;

static void ids_add(Ids *ids, int64_t id, bool in_front) {
    ids->at = mem_grow(ids->at, ids->n * sizeof *ids->at, (ids->n + 1) * sizeof *ids->at);
    size_t at = in_front ? 0 : ids->n;
    memmove(ids->at + at + 1, ids->at + at, (ids->n - at) * sizeof *ids->at);
    ids->at[at] = (int32_t)id;
    ids->n++;
}

static int check_id(const Reading *r, const json_t *value, int64_t *out, Err *e) {
    if (!json_is_integer(value))
        return err_set(e, "%s: the id of a special token is %s, expected a whole number", r->where,
                       json_kind(value));
    *out = json_integer_value(value);
    if (*out >= 0 && *out < VOCAB_ID_LIMIT) return 0;
    return err_set(e, "%s: a special token has id %lld, expected 0 to %d", r->where,
                   (long long)*out, VOCAB_ID_LIMIT - 1);
}

/* The ids of {"SpecialToken": {"id": name}}, from the table "special_tokens". */
static int template_ids(const Reading *r, const json_t *part, const json_t *special, Ids *to,
                        Err *e) {
    const char *key = NULL;
    const json_t *ids = NULL, *each;
    size_t i;
    TRY(json_get_text(special, "id", &key, r->where, e));
    const json_t *table = json_object_get(part, "special_tokens");
    const json_t *entry = key ? json_object_get(table, key) : NULL;
    if (!entry)
        return err_set(e, "%s: the template uses \"%.100s\", which \"special_tokens\" lacks",
                       r->where, key ? key : "");
    TRY(json_require(entry, "ids", r->where, e));
    TRY(json_get_array(entry, "ids", &ids, r->where, e));
    json_array_foreach(ids, i, each) {
        int64_t id = 0;
        TRY(check_id(r, each, &id, e));
        ids_add(to, id, false);
    }
    return 0;
}

static int read_template(const Reading *r, const json_t *part, Err *e) {
    const json_t *single = NULL, *each;
    Ids here[2] = {{0}}; /* before and behind the text */
    int texts = 0, rc = json_require(part, "single", r->where, e);
    size_t i;
    if (rc == 0) rc = json_get_array(part, "single", &single, r->where, e);
    json_array_foreach(single, i, each) {
        const json_t *special = json_object_get(each, "SpecialToken");
        if (rc == 0 && special) rc = template_ids(r, part, special, &here[texts > 0], e);
        if (!special && json_object_get(each, "Sequence")) texts++;
    }
    if (rc == 0 && texts != 1)
        rc = err_set(e, "%s: \"single\" holds the text %d times, expected once", r->where, texts);
    for (size_t k = here[0].n; rc == 0 && k-- > 0;) ids_add(&r->out->before, here[0].at[k], true);
    for (size_t k = 0; rc == 0 && k < here[1].n; k++)
        ids_add(&r->out->behind, here[1].at[k], false);
    mem_free(here[0].at);
    mem_free(here[1].at);
    return rc;
}

static int read_byte_level(const Reading *r, const json_t *part, Err *e) {
    (void)r, (void)part, (void)e;
    return 0;
}

/* "cls": [text, id] goes in front, "sep": [text, id] behind. */
static int read_cls_sep(const Reading *r, const json_t *part, Err *e) {
    int64_t cls = 0, sep = 0;
    TRY(check_id(r, json_array_get(json_object_get(part, "cls"), 1), &cls, e));
    TRY(check_id(r, json_array_get(json_object_get(part, "sep"), 1), &sep, e));
    ids_add(&r->out->before, cls, true);
    ids_add(&r->out->behind, sep, false);
    return 0;
}

static const struct {
    const char *type;
    int (*read)(const Reading *r, const json_t *part, Err *e);
} POST_PROCESSORS[] = {
    {"TemplateProcessing", read_template},
    {"ByteLevel", read_byte_level},
    {"BertProcessing", read_cls_sep},
    {"RobertaProcessing", read_cls_sep},
};

int post_processor_read(PostProcessor *p, const json_t *value, const char *name, Err *e) {
    const char *type;
    if (!value) return 0;
    TRY(part_type(value, &type, "post_processor", name, e));
    Where where = part_where(type, "post_processor", name);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL, *each;
        size_t i;
        TRY(json_require(value, "processors", where.text, e));
        TRY(json_get_array(value, "processors", &list, where.text, e));
        json_array_foreach(list, i, each) TRY(post_processor_read(p, each, name, e));
        return 0;
    }
    Reading r = {p, where.text};
    for (size_t i = 0; i < COUNT_OF(POST_PROCESSORS); i++)
        if (strcmp(type, POST_PROCESSORS[i].type) == 0)
            return POST_PROCESSORS[i].read(&r, value, e);
    return err_set(e,
                   "%s: is not supported; supported are TemplateProcessing, ByteLevel, "
                   "BertProcessing, RobertaProcessing and Sequence",
                   where.text);
}

void post_processor_free(PostProcessor *p) {
    mem_free(p->before.at);
    mem_free(p->behind.at);
    *p = (PostProcessor){0};
}
