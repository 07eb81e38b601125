/* jsonl.c - see jsonl.h. */
#include "jsonl.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <utf8proc.h>
#include "files.h"
#include "json.h"

static int opened(Jsonl *j, const char *name, Err *e) {
    if (!j->file) return files_error(e, "open", name, errno);
    j->path = mem_copy_text(name);
    return 0;
}

int jsonl_open(Jsonl *j, const char *path, Err *e) {
    *j = (Jsonl){.file = fopen(path, "rb")};
    TRY(opened(j, path, e));
    struct stat about;
    if (fstat(fileno(j->file), &about) == 0 && S_ISREG(about.st_mode)) j->bytes = about.st_size;
    return 0;
}

int jsonl_open_text(Jsonl *j, const void *text, size_t n, const char *name, Err *e) {
    /* fmemopen takes no empty buffer; it does not write through one opened for reading */
    *j = (Jsonl){.file = n ? fmemopen((void *)text, n, "rb") : fopen("/dev/null", "rb"),
                 .bytes = (int64_t)n};
    return opened(j, name, e);
}

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!memchr(" \t\r\n", text[i], 4)) return false;
    }
    return true;
}

/* Where the text stops being UTF-8; n: it is all of it. */
static size_t first_not_utf8(const char *text, size_t n) {
    size_t at = 0;
    while (at < n) {
        utf8proc_int32_t c;
        utf8proc_ssize_t k =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &c);
        if (k < 1) break;
        at += (size_t)k;
    }
    return at;
}

static int parse_line(const Jsonl *j, const char *text, size_t n, json_t **row, Err *e) {
    char where[400];
    snprintf(where, sizeof where, "%.300s:%lld", j->path, (long long)j->line);
    if (j->line == 1 && text[strspn(text, " \t")] == '[')
        return err_set(e,
                       "%s: a JSON array begins here, expected one object a line; "
                       "jq -c '.[]' %.300s > FILE.jsonl makes such a file of it",
                       where, j->path);
    Err why;
    if (json_read_text(row, text, n, where, &why) != 0) {
        size_t bad = first_not_utf8(text, n);
        if (bad == n) return err_set(e, "%s; expected a whole JSON object in every line", why.text);
        return err_set(e, "%s: byte %zu of the line is not UTF-8 text", where, bad + 1);
    }
    if (json_is_object(*row)) return 0;
    err_set(e, "%s: the line is %s, expected an object in braces", where, json_kind(*row));
    json_decref(*row);
    *row = NULL;
    return -1;
}

int jsonl_next(Jsonl *j, json_t **row, Err *e) {
    *row = NULL;
    for (;;) {
        errno = 0;
        ssize_t length = getline(&j->text, &j->cap, j->file);
        if (length < 0) {
            if (!ferror(j->file)) return 0;
            return files_error(e, "read", j->path, errno);
        }
        const char *text = j->text;
        size_t n = (size_t)length;
        j->line++;
        j->done += length;
        if (j->line == 1 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, n -= 3;
        while (n && (text[n - 1] == '\n' || text[n - 1] == '\r')) n--;
        if (!is_blank(text, n)) return parse_line(j, text, n, row, e);
    }
}

void jsonl_close(Jsonl *j) {
    if (j->file) fclose(j->file);
    free(j->text);
    mem_free(j->path);
    *j = (Jsonl){0};
}
