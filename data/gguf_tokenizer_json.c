/* gguf_tokenizer_json.c - a GGUF file's tokenizer as a tokenizer.json. A room of gguf_side.h.
 * What the parts are: Transformers' own tokenizer.json of Gemma, Llama and Qwen, and its
 * generate_merges (convert_slow_tokenizer.py) for merges made from scores. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "gguf_side.h"
#include "tokenizer_utf8.h"
#include "tokenizer_vocab.h"

/* ---- parts ---- */

#define SPACE_MARK "\xe2\x96\x81" /* U+2581 */
#define TO_MARKS                                                                                   \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SPACE_MARK "\"}"
#define FROM_MARKS                                                                                 \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" SPACE_MARK "\"},\"content\":\" \"},"        \
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define BYTES(words)                                                                               \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_"              \
    "regex\":" words "}"
#define SPLIT(regex)                                                                               \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTES("false") "]}"
/* Llama 3's words; digits: how many go together. */
#define WORDS(digits)                                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                 \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

/* tokenizer.ggml.pre of gpt2: how text is cut into words. */
static const struct {
    const char *pre, *normalizer, *pre_tokenizer;
    bool ignore_merges;
} word_kinds[] = {
    {"gpt-2", "null", BYTES("true"), false},
    {"llama-bpe", "null", SPLIT(WORDS("\\\\p{N}{1,3}")), true},
    {"llama3", "null", SPLIT(WORDS("\\\\p{N}{1,3}")), true},
    {"llama-v3", "null", SPLIT(WORDS("\\\\p{N}{1,3}")), true},
    {"qwen2", "{\"type\":\"NFC\"}", SPLIT(WORDS("\\\\p{N}")), false},
    {"deepseek-r1-qwen", "{\"type\":\"NFC\"}", SPLIT(WORDS("\\\\p{N}")), false},
};

/* What stands around the vocabulary and the merges. */
typedef struct Parts {
    const char *normalizer, *pre_tokenizer, *decoder;
    bool byte_fallback, ignore_merges;
    int (*merges)(const GgufVocab *v, const Gguf *g, Buf *out, Err *e);
} Parts;

static int listed_merges(const GgufVocab *v, const Gguf *g, Buf *out, Err *e);
static int scored_merges(const GgufVocab *v, const Gguf *g, Buf *out, Err *e);

static int marks_parts(const GgufVocab *v, const Gguf *g, Parts *p, Err *e) {
    (void)g, (void)e;
    p->normalizer = v->add_space_prefix ? "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":"
                                          "\"Prepend\",\"prepend\":\"" SPACE_MARK "\"}," TO_MARKS
                                          "]}"
                                        : TO_MARKS;
    p->pre_tokenizer = "null";
    p->decoder = v->add_space_prefix
                     ? "{\"type\":\"Sequence\",\"decoders\":[" FROM_MARKS
                       ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"
                     : "{\"type\":\"Sequence\",\"decoders\":[" FROM_MARKS "]}";
    p->byte_fallback = true;
    return 0;
}

static int gemma4_parts(const GgufVocab *v, const Gguf *g, Parts *p, Err *e) {
    p->merges = listed_merges;
    return marks_parts(v, g, p, e);
}

static int llama_parts(const GgufVocab *v, const Gguf *g, Parts *p, Err *e) {
    p->merges = scored_merges;
    return marks_parts(v, g, p, e);
}

static int gpt2_parts(const GgufVocab *v, const Gguf *g, Parts *p, Err *e) {
    const char *pre = "default";
    size_t n = strlen(pre);
    Buf known = {0};
    (void)v;
    TRY(gguf_get_text(g, "tokenizer.ggml.pre", &pre, &n, e));
    for (size_t i = 0; i < COUNT_OF(word_kinds); i++) {
        buf_printf(&known, "%s%s", i ? ", " : "", word_kinds[i].pre);
        if (strlen(word_kinds[i].pre) != n || memcmp(pre, word_kinds[i].pre, n)) continue;
        *p = (Parts){word_kinds[i].normalizer,
                     word_kinds[i].pre_tokenizer,
                     BYTES("true"),
                     false,
                     word_kinds[i].ignore_merges,
                     listed_merges};
    }
    if (!p->merges)
        err_set(e,
                "%s: tokenizer.ggml.pre is \"%s\", which says how text is cut into words; %s are "
                "known",
                g->file, gguf_word(pre, n).text, known.p);
    buf_free(&known);
    return p->merges ? 0 : -1;
}

/* ---- merges ---- */

static void add_pair(Buf *out, const char *left, size_t left_n, const char *right, size_t right_n) {
    if (out->p[out->n - 1] != '[') buf_add(out, ",\n", 2);
    buf_add(out, "[", 1);
    gguf_add_json(out, left, left_n);
    buf_add(out, ",", 1);
    gguf_add_json(out, right, right_n);
    buf_add(out, "]", 1);
}

/* "left right", apart at the first space behind the first byte. */
static int listed_merges(const GgufVocab *v, const Gguf *g, Buf *out, Err *e) {
    const GgufValue *list = NULL;
    const char *at, *text;
    size_t n;
    (void)v;
    TRY(gguf_get_array(g, "tokenizer.ggml.merges", GGUF_TEXTS, &list, e));
    if (!list) return err_set(e, "%s: its tokenizer has no tokenizer.ggml.merges", g->file);
    for (at = list->at; gguf_take_text(list, &at, &text, &n);) {
        const char *space = n > 1 ? memchr(text + 1, ' ', n - 1) : NULL;
        if (!space || utf8_check(text, n) < n)
            return err_set(e,
                           "%s: a merge of tokenizer.ggml.merges is not two pieces with a space "
                           "between, or not UTF-8",
                           g->file);
        size_t left = (size_t)(space - text);
        add_pair(out, text, left, space + 1, n - left - 1);
    }
    return 0;
}

/* Longer pieces are never put together; trying all their ways would take long. */
enum { MERGED_MOST = 512 };

/* A way to make a piece of two. */
typedef struct Way {
    double score; /* of the piece */
    int32_t piece, left, right;
    int32_t left_chars, right_chars;
} Way;
typedef struct Ways {
    Way *way;
    size_t n, cap;
} Ways;

/* The best pieces first; of one piece the ways with the longest left part first. */
static int by_score(const void *a, const void *b) {
    const Way *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left_chars != y->left_chars) return x->left_chars > y->left_chars ? -1 : 1;
    if (x->right_chars != y->right_chars) return x->right_chars > y->right_chars ? -1 : 1;
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

static void add_ways(Ways *w, const GgufVocab *v, const Vocab *normal, int32_t piece) {
    const char *text = v->text[piece];
    size_t n = v->length[piece];
    int32_t chars = 0, before = 0;
    double score = gguf_real_at(v->scores, piece);
    if (n > MERGED_MOST || score != score) return;
    for (size_t i = 0; i < n; i += (size_t)utf8_length(text[i])) chars++;
    for (size_t i = (size_t)utf8_length(text[0]); i < n; i += (size_t)utf8_length(text[i])) {
        int32_t left = vocab_find(normal, text, i), right = vocab_find(normal, text + i, n - i);
        before++;
        if (left < 0 || right < 0) continue;
        if (w->n == w->cap) {
            size_t cap = w->cap ? 2 * w->cap : 1024;
            w->way = mem_grow(w->way, w->cap * sizeof *w->way, cap * sizeof *w->way);
            w->cap = cap;
        }
        w->way[w->n++] = (Way){score, piece, left, right, before, chars - before};
    }
}

static int scored_merges(const GgufVocab *v, const Gguf *g, Buf *out, Err *e) {
    Vocab normal = {0}; /* the others are found whole, before anything is merged */
    Ways w = {0};
    int bad = v->scores ? 0 : err_set(e, "%s: its tokenizer has no tokenizer.ggml.scores", g->file);
    for (int64_t i = 0; i < v->n && !bad; i++)
        if (gguf_vocab_type(v, i) == GGUF_TOKEN_NORMAL)
            bad = vocab_add(&normal, v->text[i], v->length[i], i, g->file, e);
    for (int32_t i = 0; i < normal.n && !bad; i++)
        if (gguf_vocab_type(v, i) == GGUF_TOKEN_NORMAL) add_ways(&w, v, &normal, i);
    if (w.n) qsort(w.way, w.n, sizeof *w.way, by_score);
    for (size_t i = 0; i < w.n && !bad; i++) {
        int32_t left = w.way[i].left, right = w.way[i].right;
        add_pair(out, v->text[left], v->length[left], v->text[right], v->length[right]);
    }
    mem_free(w.way);
    vocab_free(&normal);
    return bad;
}

/* ---- the file ---- */

/* Tokens that are found whole: control tokens mean something, user-defined ones are just text. */
static void add_added(const GgufVocab *v, Buf *out) {
    const char *comma = "";
    for (int64_t id = 0; id < v->n; id++) {
        int type = gguf_vocab_type(v, id);
        bool special = type == GGUF_TOKEN_CONTROL || type == GGUF_TOKEN_UNKNOWN;
        if (!special && type != GGUF_TOKEN_USER_DEFINED) continue;
        buf_printf(out, "%s\n{\"id\":%" PRId64 ",\"content\":", comma, id);
        gguf_add_json(out, v->text[id], v->length[id]);
        buf_printf(out,
                   ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                   "\"special\":%s}",
                   special ? "true" : "false");
        comma = ",";
    }
}

/* What stands around every text. */
static void add_post_processor(const GgufVocab *v, Buf *out) {
    const int64_t around[2] = {v->add_bos ? v->bos : -1, v->add_eos ? v->eos : -1};
    const char *comma = "";
    if (around[0] < 0 && around[1] < 0) {
        buf_add_text(out, "null");
        return;
    }
    buf_add_text(out, "{\"type\":\"TemplateProcessing\",\"single\":[");
    for (int i = 0; i < 2; i++) {
        if (i) buf_add_text(out, "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}");
        if (around[i] < 0) continue;
        buf_add_text(out, i ? ",{\"SpecialToken\":{\"id\":" : "{\"SpecialToken\":{\"id\":");
        gguf_add_json(out, v->text[around[i]], v->length[around[i]]);
        buf_add_text(out, i ? ",\"type_id\":0}}" : ",\"type_id\":0}},");
    }
    buf_add_text(out, "],\"special_tokens\":{");
    for (int i = 0; i < 2; i++) {
        if (around[i] < 0 || (i && around[1] == around[0])) continue;
        const char *text = v->text[around[i]];
        size_t n = v->length[around[i]];
        buf_add_text(out, comma);
        gguf_add_json(out, text, n);
        buf_add_text(out, ":{\"id\":");
        gguf_add_json(out, text, n);
        buf_printf(out, ",\"ids\":[%" PRId64 "],\"tokens\":[", around[i]);
        gguf_add_json(out, text, n);
        buf_add_text(out, "]}");
        comma = ",";
    }
    buf_add_text(out, "}}");
}

static int add_model(const GgufVocab *v, const Gguf *g, const Parts *p, Buf *out, Err *e) {
    buf_add_text(out, "{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (v->unknown >= 0 && p->byte_fallback)
        gguf_add_json(out, v->text[v->unknown], v->length[v->unknown]);
    else
        buf_add_text(out, "null");
    buf_printf(out,
               ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":%s,"
               "\"byte_fallback\":%s,\"ignore_merges\":%s,\"vocab\":{",
               p->byte_fallback ? "true" : "false", p->byte_fallback ? "true" : "false",
               p->ignore_merges ? "true" : "false");
    for (int64_t id = 0; id < v->n; id++) {
        buf_add_text(out, id ? ",\n" : "\n");
        gguf_add_json(out, v->text[id], v->length[id]);
        buf_printf(out, ":%" PRId64, id);
    }
    buf_add_text(out, "},\"merges\":[");
    TRY(p->merges(v, g, out, e));
    buf_add_text(out, "]}");
    return 0;
}

static int find_parts(const GgufVocab *v, const Gguf *g, Parts *p, Err *e) {
    static const struct {
        const char *model;
        int (*parts)(const GgufVocab *v, const Gguf *g, Parts *p, Err *e);
    } models[] = {{"gemma4", gemma4_parts}, {"llama", llama_parts}, {"gpt2", gpt2_parts}};
    const char *model = "(absent)";
    size_t n = strlen(model);
    TRY(gguf_get_text(g, "tokenizer.ggml.model", &model, &n, e));
    for (size_t i = 0; i < COUNT_OF(models); i++)
        if (strlen(models[i].model) == n && !memcmp(model, models[i].model, n))
            return models[i].parts(v, g, p, e);
    return err_set(e, "%s: tokenizer.ggml.model is \"%s\"; gemma4, llama and gpt2 are known",
                   g->file, gguf_word(model, n).text);
}

static int write_file(const GgufVocab *v, const Gguf *g, Buf *out, Err *e) {
    Parts p = {0};
    TRY(find_parts(v, g, &p, e));
    buf_add_text(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,");
    buf_add_text(out, "\"added_tokens\":[");
    add_added(v, out);
    buf_printf(out,
               "],\n\"normalizer\":%s,\n\"pre_tokenizer\":%s,\n\"post_processor\":", p.normalizer,
               p.pre_tokenizer);
    add_post_processor(v, out);
    buf_printf(out, ",\n\"decoder\":%s,\n\"model\":", p.decoder);
    TRY(add_model(v, g, &p, out, e));
    buf_add_text(out, "}\n");
    return 0;
}

int gguf_tokenizer_json(const Gguf *g, Buf *out, Err *e) {
    GgufVocab v;
    int bad = gguf_vocab_read(&v, g, e);
    if (!bad) bad = write_file(&v, g, out, e);
    gguf_vocab_free(&v);
    return bad;
}
