/* dataset_room.h - what a type of row has to provide, and what the rooms share. */
#ifndef DATASET_ROOM_H
#define DATASET_ROOM_H
#include <jansson.h>
#include "dataset.h"

typedef enum RoomNeeds { NOTHING, A_TOKENIZER, A_CHAT } RoomNeeds;

/* Fills row->tokens.id and row->labels (through row_add or row_label) and row->text; row comes
 * emptied. Errors need not name file and line. */
typedef int (*RoomRead)(const DatasetContext *ctx, const json_t *object, DatasetRow *row, Err *e);

typedef struct DatasetRoom {
    const char *name, *marks;
    RoomNeeds needs;
    RoomRead read; /* NULL: not in this version */
} DatasetRoom;

/* By name, or (type auto or NULL) by the keys of a file's first row. NULL with a sentence in e. */
const DatasetRoom *dataset_room_find(const char *type, const json_t *first, Err *e);

void row_add(DatasetRow *row, int32_t id, int32_t label);
/* Makes room for a label of every token there is and sets them all to LABEL_IGNORE. */
void row_ignore_all(DatasetRow *row);
/* Supervises token i. */
static inline void row_supervise(DatasetRow *row, size_t i) { row->labels[i] = row->tokens.id[i]; }
/* Adds the end-of-text token, supervised. */
int row_add_end_of_text(const DatasetContext *ctx, DatasetRow *row, Err *e);
/* Adds what a key of the object holds to row->text: a text, or an error. */
int row_add_field(const json_t *object, const char *key, DatasetRow *row, Err *e);

#define ROOM(name, marks, needs)                                                                   \
    int dataset_read_##name(const DatasetContext *ctx, const json_t *object, DatasetRow *row,      \
                            Err *e);
#define LATER(name, marks)
#include "datasets.def"
#undef ROOM
#undef LATER
#endif
