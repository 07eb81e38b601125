/* weights.h - one view over a checkpoint, whatever it is stored as. Files are mapped read-only and
 * nothing is copied (only a tensor that its file stores misaligned), so opening costs no memory
 * and untouched tensors are never read from disk. A format is one file weights_NAME.c and one line
 * in formats.def. */
#ifndef WEIGHTS_H
#define WEIGHTS_H
#include "../autograd/base.h"
#include "../autograd/dtype.h"

enum { WEIGHT_DIMS = 4 };

/* One tensor, row-major. data is aligned for its type and valid until weights_close. A type
 * without a DType (I64, F8_E4M3, ...) has dtype DT_COUNT and is told by stored alone. */
typedef struct WeightView {
    const char *name;
    DType dtype;
    const char *stored; /* the type as the file calls it: "BF16" */
    int n_dim;          /* 0: one value */
    int64_t dim[WEIGHT_DIMS];
    int64_t bytes;
    const void *data;
    const char *file;      /* for messages */
    const struct Bnb *bnb; /* not NULL: data are bitsandbytes' codes (weights_bnb.h), and dtype and
                            * dim say what they become */
    bool read; /* for the reader: set where a tensor is used, then look for those left over */
} WeightView;

typedef struct Weights Weights;

/* path: a Hugging Face directory (model.safetensors, or model.safetensors.index.json with its
 * shards), one .safetensors file (an adapter), a base.h5, or a GGUF file. Everything but the
 * numbers themselves is checked: afterwards every view lies inside its file and has the bytes its
 * shape asks for. */
int weights_open(Weights **out, const char *path, Err *e);
void weights_close(Weights *w);       /* NULL is fine */
bool weights_known(const char *path); /* whether path looks like something that can be opened */

int weights_count(const Weights *w);
WeightView *weights_at(Weights *w, int i);              /* in order of names (strcmp) */
WeightView *weights_find(Weights *w, const char *name); /* NULL: no such tensor */

/* The file that holds a view's data, and from which byte on; false: it is a copy in memory. */
bool weights_range(const Weights *w, const WeightView *v, const char **path, int64_t *offset);
/* Names all tensors and their values; 0: the format has no such hash. */
uint64_t weights_hash(const Weights *w);

/* For the formats: what an open function calls. Names and files are borrowed from weights_keep. */
typedef struct WeightFormat {
    const char *name;
    const char *looked_for;           /* for the message when no format claims a path */
    bool (*claims)(const char *path); /* is this path mine? Looks at names, opens nothing large */
    int (*open)(Weights *w, const char *path, Err *e);
} WeightFormat;
/* Maps a file for as long as w lives. */
int weights_map_file(Weights *w, const char *path, const void **data, size_t *bytes, Err *e);
const char *weights_keep_text(Weights *w, const char *text);
void *weights_keep(Weights *w, void *heap); /* freed with w */
void weights_set_hash(Weights *w, uint64_t hash);
/* Adds one view (name, file and stored kept by the caller's weights_keep_text); data that is not
 * aligned to align bytes is copied. */
void weights_add(Weights *w, const WeightView *view, size_t align);
/* After views were added or got other names: finding and walking go by names again. */
int weights_sort(Weights *w, Err *e);
#endif
