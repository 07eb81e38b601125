/* stream.h - a base that is larger than memory. It stays mapped; a thread of its own reads the
 * layers that are needed next, and drops those needed last, so that page cache and all else stay
 * below a limit. A page fault would fetch the same bytes ten times slower.
 *
 * A place is what is read and dropped as a whole: a layer, or the head behind the last one. A pass
 * goes up through the places and, where there is a backward pass, down again. Tables of which only
 * single rows are read (embeddings) are no place: their rows are asked for one by one. */
#ifndef STREAM_H
#define STREAM_H
#include "model.h"

/* Bytes of the places: what streaming can save; and what has to fit at once: the two neighbours
 * that are largest together. */
size_t stream_bytes(const Model *m);
size_t stream_least(const Model *m);

/* From now on at most room bytes of the model's places are in memory (but always the place in
 * use). */
int stream_open(Stream **out, const Model *m, size_t room, Err *e);
void stream_close(Stream *s); /* NULL is fine */
/* So far: bytes read, and seconds that computing waited for them. */
void stream_told(Stream *s, int64_t *bytes, double *waited);

/* For families; s may be NULL: nothing is streamed. A pass begins, with a backward pass to come or
 * without; these rows of a table will be read; layer i (n_layers: the head) is about to be used,
 * on the way up or (back) down, and is there when the call returns. */
void stream_begin(Stream *s, bool comes_back);
void stream_rows(Stream *s, const Tensor *table, const Tensor *ids);
void stream_enter(Stream *s, int i, bool back);
#endif
