/* sample_view.c - see sample_view.h. */
#include "sample_view.h"
#include <string.h>
#include <utf8proc.h>

enum { ROLE_COLUMN = 12 };

/* Text of a token that is safe on any terminal. */
static void show_text(Buf *out, const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t k =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
        if (k < 1) {
            buf_printf(out, "<0x%02X>", (unsigned char)text[i]);
            k = 1;
        } else if (c == ' ') {
            buf_add_text(out, "·");
        } else if (c == '\n') {
            buf_add_text(out, "↵");
        } else if (c == '\t') {
            buf_add_text(out, "⇥");
        } else if (c < 0x20 || (c >= 0x7f && c < 0xa0)) {
            buf_printf(out, "\\x%02x", (unsigned)c);
        } else {
            buf_add(out, text + i, (size_t)k);
        }
        i += (size_t)k;
    }
}

/* The bytes token i stands for, as far as it begins where no token before it did; else its piece.
 */
static void show_token(Buf *out, const DatasetRow *row, const Tokenizer *tok, int32_t i) {
    const Tokens *t = &row->tokens;
    bool again = i > 0 && t->from[i] == t->from[i - 1] && t->to[i] == t->to[i - 1];
    const char *piece = tok ? tokenizer_piece(tok, t->id[i]) : NULL;
    if (t->to[i] > t->from[i] && !again) {
        show_text(out, row->text.p + t->from[i], t->to[i] - t->from[i]);
    } else if (piece) {
        show_text(out, piece, strlen(piece));
    } else {
        buf_printf(out, "%d", t->id[i]);
    }
}

static const char *role_at(const DatasetRow *row, int32_t i) {
    const Tokens *t = &row->tokens;
    for (int k = 0; k < row->n_parts; k++) {
        if (t->from[i] >= row->parts[k].from && t->to[i] <= row->parts[k].to &&
            t->to[i] > t->from[i]) {
            return row->parts[k].role;
        }
    }
    return "";
}

static bool ends_line(const DatasetRow *row, int32_t i) {
    const Tokens *t = &row->tokens;
    return t->to[i] > t->from[i] && row->text.p[t->to[i] - 1] == '\n';
}

void sample_view(const DatasetRow *row, const Tokenizer *tok, bool colour, Buf *out) {
    const Sample *s = &row->sample;
    buf_printf(out, "%s:%lld  %d tokens, %d supervised", row->path, (long long)row->line, s->n,
               sample_supervised(s));
    const char *role = NULL;
    for (int32_t i = 0; i < s->n; i++) {
        const char *now = role_at(row, i);
        bool fresh = i == 0 || strcmp(role, now) != 0;
        bool learned = s->labels[i] != LABEL_IGNORE;
        if (fresh) {
            buf_printf(out, "\n  %-*.*s", ROLE_COLUMN, ROLE_COLUMN - 1, now);
        } else if (ends_line(row, i - 1)) {
            buf_printf(out, "\n  %*s", ROLE_COLUMN, "");
        } else if (!learned || colour) {
            buf_add_text(out, colour                             ? "\033[2m|\033[0m"
                              : s->labels[i - 1] != LABEL_IGNORE ? ""
                                                                 : "|");
        }
        role = now;
        buf_add_text(out, colour ? learned ? "\033[1;32m" : "\033[2m" : learned ? "[" : "");
        show_token(out, row, tok, i);
        buf_add_text(out, colour ? "\033[0m" : learned ? "]" : "");
    }
    buf_add_text(out, "\n");
}
