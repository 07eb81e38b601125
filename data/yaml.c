/* yaml.c - see yaml.h. libyaml gives events; the tree is built from them by recursion that
 * YAML_DEPTH_MAX bounds. */
#include "yaml.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>
#include "files.h"

enum { LINE_PARTS = 4, LINE_PATH = LINE_PARTS * (YAML_KEY_MAX + 1) + 1 };

/* A finished node that aliases may name. size counts the nodes a copy would have. */
typedef struct Anchor {
    char *name;
    json_t *value;
    int size;
} Anchor;

typedef struct Builder {
    yaml_parser_t parser;
    const char *name;
    json_t *lines;
    Anchor *anchors;
    int n_anchors;
    int nodes; /* so far, with what aliases stand for */
    Err *e;
} Builder;

/* Where a node stands: its dotted path, as long as that is short enough to be remembered. */
typedef struct Place {
    char path[LINE_PATH];
    int parts, depth;
} Place;

/* ---- scalars ---- */

static bool word_is_one_of(const char *word, const char *const *words) {
    for (; *words; words++) {
        if (strcmp(word, *words) == 0) return true;
    }
    return false;
}

/* Copies a number without the underscores YAML 1.1 allows between digits; false where it is too
 * long or has bytes no number has. */
static bool number_text(const char *text, size_t n, char *out, size_t cap) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '_' && i > 0 && i + 1 < n) continue;
        if (k + 1 >= cap || !strchr("0123456789+-.eExXoabcdfABCDF", text[i]) || !text[i])
            return false;
        out[k++] = text[i];
    }
    out[k] = 0;
    return k > 0;
}

static json_t *scalar_int(const char *number) {
    const char *digits = number + (*number == '-' || *number == '+');
    int base = 10;
    const char *legal = "0123456789";
    if (digits[0] == '0' && digits[1] == 'x') {
        base = 16, legal = "0123456789abcdefABCDEF", digits += 2;
    } else if (digits[0] == '0' && digits[1] == 'o') {
        base = 8, legal = "01234567", digits += 2;
    }
    if (!*digits || digits[strspn(digits, legal)]) return NULL;
    errno = 0;
    long long value = strtoll(digits, NULL, base);
    if (errno) return NULL;
    return json_integer(*number == '-' ? -value : value);
}

static json_t *scalar_real(const char *number) {
    const char *p = number + (*number == '-' || *number == '+');
    size_t whole = strspn(p, "0123456789"), part = 0;
    p += whole;
    bool dot = *p == '.';
    if (dot) part = strspn(++p, "0123456789"), p += part;
    if (whole + part == 0) return NULL;
    bool power = *p == 'e' || *p == 'E';
    if (power) {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t digits = strspn(p, "0123456789");
        if (digits == 0) return NULL;
        p += digits;
    }
    if (*p || !(dot || power)) return NULL;
    double value = strtod(number, NULL);
    return isfinite(value) ? json_real(value) : NULL;
}

json_t *yaml_scalar(const char *text, size_t n) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", "yes", "Yes",
                                        "YES",  "on",   "On",   "ON",  NULL};
    static const char *const falses[] = {"false", "False", "FALSE", "no",  "No",
                                         "NO",    "off",   "Off",   "OFF", NULL};
    char word[8] = "";
    if (n < sizeof word) {
        if (n) memcpy(word, text, n);
        if (memchr(word, 0, n)) return json_stringn(text, n);
        if (word_is_one_of(word, nulls)) return json_null();
        if (word_is_one_of(word, trues)) return json_true();
        if (word_is_one_of(word, falses)) return json_false();
    }
    char number[64];
    json_t *value = NULL;
    if (number_text(text, n, number, sizeof number)) {
        value = scalar_int(number);
        if (!value) value = scalar_real(number);
    }
    return value ? value : json_stringn(text, n);
}

/* ---- building ---- */

static int line_of(yaml_mark_t mark) { return (int)mark.line + 1; }

static int parser_fault(Builder *b) {
    const yaml_parser_t *p = &b->parser;
    if (p->error == YAML_MEMORY_ERROR) return err_set(b->e, "%s: out of memory", b->name);
    if (p->error == YAML_READER_ERROR)
        return err_set(b->e, "%s: byte %zu: %s", b->name, p->problem_offset, p->problem);
    return err_set(b->e, "%s:%d: not valid YAML: %s%s%s", b->name, line_of(p->problem_mark),
                   p->problem ? p->problem : "?", p->context ? ", " : "",
                   p->context ? p->context : "");
}

static int next_event(Builder *b, yaml_event_t *event) {
    return yaml_parser_parse(&b->parser, event) ? 0 : parser_fault(b);
}

static int count_nodes(Builder *b, int more, int line) {
    if (more > YAML_NODES_MAX - b->nodes) {
        return err_set(b->e, "%s:%d: more than %d values (aliases counted in full)", b->name, line,
                       YAML_NODES_MAX);
    }
    b->nodes += more;
    return 0;
}

static Place place_inside(const Place *outer, const char *part) {
    Place inner = {.parts = outer->parts + 1, .depth = outer->depth + 1};
    if (inner.parts <= LINE_PARTS) {
        snprintf(inner.path, sizeof inner.path, "%.*s%s%.*s", (LINE_PARTS - 1) * (YAML_KEY_MAX + 1),
                 outer->path, outer->parts ? "." : "", YAML_KEY_MAX, part);
    }
    return inner;
}

static void note_line(Builder *b, const Place *at, int line) {
    if (at->parts <= LINE_PARTS) json_object_set_new(b->lines, at->path, json_integer(line));
}

/* Aliases to it work from here on, so a node can never hold itself. */
static void anchor_add(Builder *b, const char *name, json_t *value, int size) {
    size_t bytes = sizeof *b->anchors;
    b->anchors =
        mem_grow(b->anchors, bytes * (size_t)b->n_anchors, bytes * (size_t)(b->n_anchors + 1));
    b->anchors[b->n_anchors++] = (Anchor){mem_copy_text(name), json_incref(value), size};
}

static int build_alias(Builder *b, const char *name, int line, json_t **out) {
    for (int i = b->n_anchors - 1; i >= 0; i--) { /* the last of a name counts */
        if (strcmp(b->anchors[i].name, name) != 0) continue;
        TRY(count_nodes(b, b->anchors[i].size, line));
        *out = json_incref(b->anchors[i].value);
        return 0;
    }
    return err_set(b->e, "%s:%d: *%.64s names no anchor before it", b->name, line, name);
}

static int build_scalar(Builder *b, const yaml_event_t *event, json_t **out) {
    const char *text = (const char *)event->data.scalar.value,
               *tag = (const char *)event->data.scalar.tag;
    size_t n = event->data.scalar.length;
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (tag && strcmp(tag, "tag:yaml.org,2002:str") == 0) {
        plain = false;
    } else if (tag && strcmp(tag, "!") != 0) {
        return err_set(b->e, "%s:%d: the tag %.64s is not supported; leave it out", b->name,
                       line_of(event->start_mark), tag);
    } else if (tag) {
        plain = false;
    }
    *out = plain ? yaml_scalar(text, n) : json_stringn(text, n);
    CHECK(*out, "libyaml gave a scalar that is not UTF-8");
    return 0;
}

static int build_node(Builder *b, yaml_event_t *event, const Place *at, json_t **out);

static int build_next(Builder *b, const Place *at, json_t **out) {
    yaml_event_t event;
    TRY(next_event(b, &event));
    int rc = build_node(b, &event, at, out);
    yaml_event_delete(&event);
    return rc;
}

static int build_list(Builder *b, const Place *at, json_t *list) {
    for (size_t i = 0;; i++) {
        yaml_event_t event;
        TRY(next_event(b, &event));
        bool end = event.type == YAML_SEQUENCE_END_EVENT;
        json_t *value = NULL;
        int rc = 0;
        if (!end) {
            char part[24];
            snprintf(part, sizeof part, "%zu", i);
            Place inner = place_inside(at, part);
            rc = build_node(b, &event, &inner, &value);
        }
        yaml_event_delete(&event);
        if (end || rc != 0) return rc;
        json_array_append_new(list, value);
    }
}

/* The key of a mapping, or *key NULL at its end. */
static int build_key(Builder *b, char **key, int *line) {
    yaml_event_t event;
    TRY(next_event(b, &event));
    int rc = 0;
    *key = NULL;
    *line = line_of(event.start_mark);
    if (event.type == YAML_SCALAR_EVENT) {
        const char *text = (const char *)event.data.scalar.value;
        if (event.data.scalar.length > YAML_KEY_MAX || strlen(text) != event.data.scalar.length) {
            rc = err_set(b->e, "%s:%d: a key longer than %d bytes or with U+0000", b->name, *line,
                         YAML_KEY_MAX);
        } else {
            *key = mem_copy_text(text);
        }
    } else if (event.type != YAML_MAPPING_END_EVENT) {
        rc = err_set(b->e, "%s:%d: a key that is not a text", b->name, *line);
    }
    yaml_event_delete(&event);
    return rc;
}

/* Merge keys: what the mapping itself says wins, then the first of the merged ones. */
static int merge_into(Builder *b, json_t *object, const json_t *merged, int line) {
    size_t n = json_is_array(merged) ? json_array_size(merged) : 1;
    for (size_t i = 0; i < n; i++) {
        json_t *from = json_is_array(merged) ? json_array_get(merged, i) : (json_t *)merged;
        if (!json_is_object(from)) {
            return err_set(b->e, "%s:%d: << merges a mapping or a list of mappings", b->name, line);
        }
        json_object_update_missing(object, from);
    }
    return 0;
}

static int build_pair(Builder *b, const Place *at, json_t *object, json_t **merged, const char *key,
                      int line) {
    bool merge = strcmp(key, "<<") == 0;
    Place inner = place_inside(at, key);
    json_t *value = NULL;
    if (merge ? *merged != NULL : json_object_get(object, key) != NULL) {
        return err_set(b->e, "%s:%d: the key \"%s\" stands here a second time", b->name, line, key);
    }
    TRY(build_next(b, &inner, &value));
    if (merge) {
        *merged = value;
        return 0;
    }
    note_line(b, &inner, line);
    json_object_set_new(object, key, value);
    return 0;
}

static int build_object(Builder *b, const Place *at, json_t *object) {
    json_t *merged = NULL;
    int merge_line = 0, rc = 0;
    while (rc == 0) {
        char *key;
        int line;
        rc = build_key(b, &key, &line);
        if (rc != 0 || !key) break;
        if (strcmp(key, "<<") == 0) merge_line = line;
        rc = build_pair(b, at, object, &merged, key, line);
        mem_free(key);
    }
    if (rc == 0 && merged) rc = merge_into(b, object, merged, merge_line);
    json_decref(merged);
    return rc;
}

static int build_collection(Builder *b, yaml_event_t *event, const Place *at, json_t **out) {
    bool list = event->type == YAML_SEQUENCE_START_EVENT;
    const char *tag =
        (const char *)(list ? event->data.sequence_start.tag : event->data.mapping_start.tag);
    int line = line_of(event->start_mark);
    if (tag) {
        return err_set(b->e, "%s:%d: the tag %.64s is not supported; leave it out", b->name, line,
                       tag);
    }
    if (at->depth >= YAML_DEPTH_MAX) {
        return err_set(b->e, "%s:%d: nested deeper than %d levels", b->name, line, YAML_DEPTH_MAX);
    }
    json_t *value = list ? json_array() : json_object();
    if ((list ? build_list(b, at, value) : build_object(b, at, value)) != 0) {
        json_decref(value);
        return -1;
    }
    *out = value;
    return 0;
}

static int build_node(Builder *b, yaml_event_t *event, const Place *at, json_t **out) {
    int before = b->nodes, line = line_of(event->start_mark);
    const char *anchor = NULL;
    note_line(b, at, line);
    if (event->type == YAML_ALIAS_EVENT) {
        return build_alias(b, (const char *)event->data.alias.anchor, line, out);
    }
    TRY(count_nodes(b, 1, line));
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = (const char *)event->data.scalar.anchor;
        TRY(build_scalar(b, event, out));
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = (const char *)event->data.sequence_start.anchor;
        TRY(build_collection(b, event, at, out));
    } else {
        CHECK(event->type == YAML_MAPPING_START_EVENT, "libyaml gave event %d for a node",
              event->type);
        anchor = (const char *)event->data.mapping_start.anchor;
        TRY(build_collection(b, event, at, out));
    }
    if (anchor) anchor_add(b, anchor, *out, b->nodes - before);
    return 0;
}

static int build_document(Builder *b, json_t **root) {
    static const Place top = {.path = ""};
    yaml_event_t event;
    do { /* stream start, document start, and then the first node or the end of it all */
        TRY(next_event(b, &event));
        if (event.type == YAML_STREAM_START_EVENT || event.type == YAML_DOCUMENT_START_EVENT) {
            yaml_event_delete(&event);
            continue;
        }
        break;
    } while (true);
    if (event.type == YAML_STREAM_END_EVENT) {
        *root = json_null();
        yaml_event_delete(&event);
        return 0;
    }
    int rc = build_node(b, &event, &top, root);
    yaml_event_delete(&event);
    if (rc != 0) return rc;
    TRY(next_event(b, &event)); /* document end */
    yaml_event_delete(&event);
    TRY(next_event(b, &event));
    bool more = event.type != YAML_STREAM_END_EVENT;
    int line = line_of(event.start_mark);
    yaml_event_delete(&event);
    return more ? err_set(b->e, "%s:%d: a second document; expected one", b->name, line) : 0;
}

int yaml_read_text(Yaml *out, const char *text, size_t n, const char *name, Err *e) {
    *out = (Yaml){.lines = json_object()};
    if (n > YAML_BYTES_MAX) {
        return err_set(e, "%s: more than %d bytes, which no config needs", name, YAML_BYTES_MAX);
    }
    Builder b = {.name = name, .lines = out->lines, .e = e};
    CHECK(yaml_parser_initialize(&b.parser), "libyaml has no memory");
    yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, n);
    int rc = build_document(&b, &out->root);
    for (int i = 0; i < b.n_anchors; i++) {
        mem_free(b.anchors[i].name);
        json_decref(b.anchors[i].value);
    }
    mem_free(b.anchors);
    yaml_parser_delete(&b.parser);
    if (rc != 0) { /* what follows a whole node may be bad */
        json_decref(out->root);
        out->root = NULL;
    }
    return rc;
}

int yaml_read_file(Yaml *out, const char *path, Err *e) {
    *out = (Yaml){0};
    FILE *f = fopen(path, "rb");
    if (!f) return files_error(e, "open", path, errno);
    size_t room = YAML_BYTES_MAX + 1; /* one more than is legal, so that too much is seen */
    char *text = mem_alloc(room);
    size_t n = fread(text, 1, room, f);
    int rc =
        ferror(f) ? files_error(e, "read", path, errno) : yaml_read_text(out, text, n, path, e);
    fclose(f);
    mem_free(text);
    return rc;
}

int yaml_line(const Yaml *y, const char *path) {
    return (int)json_integer_value(json_object_get(y->lines, path));
}

void yaml_close(Yaml *y) {
    json_decref(y->root);
    json_decref(y->lines);
    *y = (Yaml){0};
}

/* ---- writing ---- */

/* Plain where it cannot be mistaken: a word of harmless bytes that reads as a text. */
static bool may_be_plain(const char *text) {
    static const char safe[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+";
    if (!*text || text[strspn(text, safe)] || strchr("-+", *text)) return false;
    json_t *value = yaml_scalar(text, strlen(text));
    bool plain = json_is_string(value);
    json_decref(value);
    return plain;
}

void yaml_write_text(Buf *out, const char *text) {
    if (may_be_plain(text)) {
        buf_add_text(out, text);
        return;
    }
    buf_add_text(out, "\"");
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '"' || *p == '\\') {
            buf_printf(out, "\\%c", *p);
        } else if (*p < 0x20 || *p == 0x7f) {
            buf_printf(out, "\\x%02x", *p);
        } else if (*p == 0xc2 && p[1] < 0xa0) { /* U+0080 to U+009F are not printable in YAML */
            buf_printf(out, "\\x%02x", *++p);
        } else if (p[0] == 0xef && p[1] == 0xbb && p[2] == 0xbf) { /* nor a byte order mark */
            buf_add_text(out, "\\uFEFF");
            p += 2;
        } else if (p[0] == 0xef && p[1] == 0xbf && p[2] >= 0xbe) { /* nor U+FFFE, U+FFFF */
            buf_printf(out, "\\uFFF%c", p[2] == 0xbe ? 'E' : 'F');
            p += 2;
        } else if (p[0] == 0xe2 && p[1] == 0x80 &&
                   (p[2] == 0xa8 || p[2] == 0xa9)) { /* line breaks */
            buf_add_text(out, p[2] == 0xa8 ? "\\L" : "\\P");
            p += 2;
        } else {
            buf_add(out, p, 1);
        }
    }
    buf_add_text(out, "\"");
}
