/* sample_view.h - one sample as people want to look at it: its text, whose it is, token by token,
 * and what of it is learned. Spaces, line ends and control characters are made visible; in colour,
 * what is learned is green and the rest is dim; without, what is learned stands in [brackets]. */
#ifndef SAMPLE_VIEW_H
#define SAMPLE_VIEW_H
#include "../data/dataset.h"

/* tok: NULL where the sample came as ids without a tokenizer; numbers are shown then. */
void sample_view(const DatasetRow *row, const Tokenizer *tok, bool colour, Buf *out);
#endif
