/* jsonl.h - a file of JSON objects, one a line, read as a stream. Lines may end in CRLF, the first
 * may open with a byte order mark, blank lines are skipped (but counted). */
#ifndef JSONL_H
#define JSONL_H
#include <jansson.h>
#include <stdio.h>
#include "../autograd/base.h"

typedef struct Jsonl {
    FILE *file;
    char *path;
    char *text; /* the line last read; getline's, hence its allocator */
    size_t cap;
    int64_t line;        /* its number, from 1 */
    int64_t done, bytes; /* of the file: read so far, in all (0: not known) */
} Jsonl;

int jsonl_open(Jsonl *j, const char *path, Err *e);
/* The same over bytes in memory, which stay the caller's. */
int jsonl_open_text(Jsonl *j, const void *text, size_t n, const char *name, Err *e);
/* The next object (the caller's), or *row NULL at the end. A line that is no JSON object, or not
 * UTF-8, is an error that names file and line. */
int jsonl_next(Jsonl *j, json_t **row, Err *e);
void jsonl_close(Jsonl *j); /* harmless after a failed open */
#endif
