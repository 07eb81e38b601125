/* tokenizer_steps.c - normalizers and pre-tokenizers of a tokenizer.json, each said as one or a few
 * steps of tokenizer_text.h. A room of tokenizer_read.h. */
#include <string.h>
#include "tokenizer_read.h"
#include "tokenizer_utf8.h"

/* How GPT-2 cuts text into words; ByteLevel's own pattern. */
#define GPT2_WORDS                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

typedef int ReadPart(Steps *s, const json_t *part, const char *where, Err *e);
typedef struct PartKind {
    const char *type;
    ReadPart *read;
} PartKind;

static Step *add_step(Steps *s, int (*run)(const Step *, const Stage *, const Piece *, Stage *,
                                           Matcher *, Err *)) {
    Step *step = steps_add(s);
    step->run = run;
    return step;
}

static int add_prefix(Steps *s, Prefixing when, const char *text, size_t n) {
    Step *step = add_step(s, step_prefix);
    step->prefixing = when;
    buf_add(&step->content, text, n);
    return 0;
}

static int add_split(Steps *s, const char *regex, Behaviour behaviour, const char *where, Err *e) {
    Step *step = add_step(s, step_split);
    step->behaviour = behaviour;
    return pattern_set_regex(&step->pattern, regex, strlen(regex), where, e);
}

static int add_form(Steps *s, Form form) {
    add_step(s, step_unicode)->form = form;
    return 0;
}

static int read_nfc(Steps *s, const json_t *part, const char *where, Err *e) {
    (void)part, (void)where, (void)e;
    return add_form(s, FORM_NFC);
}

static int read_nfd(Steps *s, const json_t *part, const char *where, Err *e) {
    (void)part, (void)where, (void)e;
    return add_form(s, FORM_NFD);
}

static int read_nfkc(Steps *s, const json_t *part, const char *where, Err *e) {
    (void)part, (void)where, (void)e;
    return add_form(s, FORM_NFKC);
}

static int read_nfkd(Steps *s, const json_t *part, const char *where, Err *e) {
    (void)part, (void)where, (void)e;
    return add_form(s, FORM_NFKD);
}

static int read_lowercase(Steps *s, const json_t *part, const char *where, Err *e) {
    (void)part, (void)where, (void)e;
    add_step(s, step_lowercase);
    return 0;
}

static int read_replace(Steps *s, const json_t *part, const char *where, Err *e) {
    Step *step = add_step(s, step_replace);
    TRY(part_pattern(part, &step->pattern, where, e));
    return part_text(part, "content", &step->content, where, e);
}

static int read_prepend(Steps *s, const json_t *part, const char *where, Err *e) {
    Step *step = add_step(s, step_prefix);
    step->prefixing = PREFIX_ALWAYS;
    return part_text(part, "prepend", &step->content, where, e);
}

static int read_strip(Steps *s, const json_t *part, const char *where, Err *e) {
    Step *step = add_step(s, step_strip);
    step->left = step->right = true;
    TRY(json_get_bool(part, "strip_left", &step->left, where, e));
    return json_get_bool(part, "strip_right", &step->right, where, e);
}

static int read_behaviour(const json_t *part, Behaviour *out, const char *where, Err *e) {
    static const char *const names[] = {
        [ISOLATED] = "Isolated",
        [REMOVED] = "Removed",
        [MERGED_PREVIOUS] = "MergedWithPrevious",
        [MERGED_NEXT] = "MergedWithNext",
        [CONTIGUOUS] = "Contiguous",
    };
    const char *name = names[ISOLATED];
    TRY(json_get_text(part, "behavior", &name, where, e));
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0) return *out = (Behaviour)i, 0;
    return err_set(
        e,
        "%s: \"behavior\" is \"%.100s\", expected Isolated, Removed, MergedWithPrevious, "
        "MergedWithNext or Contiguous",
        where, name);
}

static int read_split(Steps *s, const json_t *part, const char *where, Err *e) {
    Step *step = add_step(s, step_split);
    TRY(read_behaviour(part, &step->behaviour, where, e));
    TRY(json_get_bool(part, "invert", &step->invert, where, e));
    return part_pattern(part, &step->pattern, where, e);
}

/* trim_offsets, which the reference keeps here too, has no effect in a pre-tokenizer. */
static int read_byte_level(Steps *s, const json_t *part, const char *where, Err *e) {
    bool prefix = true, words = true;
    TRY(json_get_bool(part, "add_prefix_space", &prefix, where, e));
    TRY(json_get_bool(part, "use_regex", &words, where, e));
    if (prefix) add_prefix(s, PREFIX_MISSING, " ", 1);
    if (words) TRY(add_split(s, GPT2_WORDS, ISOLATED, where, e));
    add_step(s, step_bytes);
    return 0;
}

/* "prepend_scheme", and the older "add_prefix_space": false. */
static int read_scheme(const json_t *part, Prefixing *out, bool *never, const char *where, Err *e) {
    const char *scheme = "always";
    bool prefix = true;
    TRY(json_get_text(part, "prepend_scheme", &scheme, where, e));
    TRY(json_get_bool(part, "add_prefix_space", &prefix, where, e));
    *never = !prefix || strcmp(scheme, "never") == 0;
    *out = strcmp(scheme, "first") == 0 ? PREFIX_MISSING_AT_START : PREFIX_MISSING;
    if (*never || *out == PREFIX_MISSING_AT_START || strcmp(scheme, "always") == 0) return 0;
    return err_set(e, "%s: \"prepend_scheme\" is \"%.100s\", expected always, first or never",
                   where, scheme);
}

static int read_metaspace(Steps *s, const json_t *part, const char *where, Err *e) {
    Buf mark = {0};
    bool split = true, never;
    Prefixing when;
    TRY(read_scheme(part, &when, &never, where, e));
    TRY(json_get_bool(part, "split", &split, where, e));
    TRY(part_text(part, "replacement", &mark, where, e));
    Step *spaces = add_step(s, step_replace);
    spaces->content = mark; /* owned by the step from here on */
    TRY(pattern_set_text(&spaces->pattern, " ", 1, where, e));
    if (!never) add_prefix(s, when, mark.p, mark.n);
    if (!split) return 0;
    Step *words = add_step(s, step_split);
    words->behaviour = MERGED_NEXT;
    return pattern_set_text(&words->pattern, mark.p, mark.n, where, e);
}

static int read_digits(Steps *s, const json_t *part, const char *where, Err *e) {
    bool each = false;
    TRY(json_get_bool(part, "individual_digits", &each, where, e));
    return add_split(s, "\\p{N}", each ? ISOLATED : CONTIGUOUS, where, e);
}

static int read_punctuation(Steps *s, const json_t *part, const char *where, Err *e) {
    Behaviour behaviour = ISOLATED;
    TRY(read_behaviour(part, &behaviour, where, e));
    return add_split(s, "[\\p{P}$+<=>^`|~]", behaviour, where, e);
}

static int read_whitespace_split(Steps *s, const json_t *part, const char *where, Err *e) {
    (void)part;
    return add_split(s, "\\s", REMOVED, where, e);
}

static const PartKind NORMALIZERS[] = {
    {"NFC", read_nfc},
    {"NFD", read_nfd},
    {"NFKC", read_nfkc},
    {"NFKD", read_nfkd},
    {"Replace", read_replace},
    {"Prepend", read_prepend},
    {"Lowercase", read_lowercase},
    {"Strip", read_strip},
    {0},
};

static const PartKind PRE_TOKENIZERS[] = {
    {"Split", read_split},
    {"ByteLevel", read_byte_level},
    {"Metaspace", read_metaspace},
    {"Digits", read_digits},
    {"Punctuation", read_punctuation},
    {"WhitespaceSplit", read_whitespace_split},
    {0},
};

static int refuse(const PartKind *kinds, const char *where, Err *e) {
    Buf list = {0};
    for (; kinds->type; kinds++) buf_printf(&list, "%s, ", kinds->type);
    err_set(e, "%s: is not supported; supported are %sand Sequence", where, list.p);
    buf_free(&list);
    return -1;
}

/* what: "normalizer" or "pre_tokenizer"; key: where a Sequence keeps its list. Nesting is bounded
 * by the JSON reader. */
static int read_part(Steps *s, const PartKind *kinds, const json_t *part, const char *what,
                     const char *key, const char *name, Err *e) {
    const char *type;
    TRY(part_type(part, &type, what, name, e));
    Where where = part_where(type, what, name);
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL, *each;
        size_t i;
        TRY(json_require(part, key, where.text, e));
        TRY(json_get_array(part, key, &list, where.text, e));
        json_array_foreach(list, i, each) TRY(read_part(s, kinds, each, what, key, name, e));
        return 0;
    }
    for (const PartKind *k = kinds; k->type; k++)
        if (strcmp(type, k->type) == 0) return k->read(s, part, where.text, e);
    return refuse(kinds, where.text, e);
}

int normalizer_read(Steps *s, const json_t *value, const char *name, Err *e) {
    return value ? read_part(s, NORMALIZERS, value, "normalizer", "normalizers", name, e) : 0;
}

int pre_tokenizer_read(Steps *s, const json_t *value, const char *name, Err *e) {
    if (!value) return 0;
    return read_part(s, PRE_TOKENIZERS, value, "pre_tokenizer", "pretokenizers", name, e);
}
