/* safetensors.h - the safetensors file format: 8 bytes of header length (little-endian), a JSON
 * header {name: {dtype, shape, data_offsets}}, then the tensors' bytes without gap. Source: the
 * format section of the safetensors documentation. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H
#include "weights.h"

/* Bits per value of a type by its safetensors name; 0: unknown. */
int safetensors_bits(const char *stored);

/* Not empty, not endless, without control characters: fit to be put into a one-line message. */
bool safetensors_name_is_plain(const char *text);

/* One tensor of a parsed header; [from, to) are bytes of the file. */
typedef struct SafetensorsTensor {
    const char *name, *stored; /* live as long as the header */
    DType dtype;               /* DT_COUNT: none of ours */
    int n_dim;
    int64_t dim[WEIGHT_DIMS];
    int64_t from, to;
} SafetensorsTensor;
typedef struct SafetensorsHeader {
    SafetensorsTensor *tensor; /* in order of their bytes */
    int n;
    void *json; /* owns the names */
} SafetensorsHeader;
/* Parses and checks the header of a whole file in memory; file names it in messages. A type that
 * is unknown is no error (its size is then not checked). On failure nothing is left to free. */
int safetensors_parse(SafetensorsHeader *h, const void *bytes, size_t n, const char *file, Err *e);
void safetensors_free(SafetensorsHeader *h);

/* What to write: either data, or fill, which produces n_values values from first_value on into
 * dst (in the stored type; -1 with Err stops the writing). Big tensors need never be whole. */
typedef int (*SafetensorsFill)(void *ctx, int64_t first_value, int64_t n_values, void *dst, Err *e);
typedef struct SafetensorsEntry {
    const char *name;
    DType dtype;        /* DT_COUNT: as stored says */
    const char *stored; /* looked at only with DT_COUNT */
    int n_dim;
    int64_t dim[WEIGHT_DIMS];
    const void *data;
    SafetensorsFill fill;
    void *ctx;
} SafetensorsEntry;
int64_t safetensors_entry_bytes(const SafetensorsEntry *entry);

/* Writes one file atomically, tensors in the given order. metadata: n_metadata (key, value) pairs
 * beside the "format": "pt" that readers ask for; NULL, 0: none. */
int safetensors_write(const char *path, const SafetensorsEntry *entries, int n,
                      const char *const (*metadata)[2], int n_metadata, Err *e);

/* The number of files that hold the entries, in order, none above max_bytes unless a single tensor
 * is; shard[i] (n long) becomes the file of entry i. */
int safetensors_plan(const SafetensorsEntry *entries, int n, int64_t max_bytes, int *shard);
/* A Hugging Face checkpoint's weights into dir: model.safetensors where they fit in one file of
 * max_bytes, else model-0000i-of-0000n.safetensors with model.safetensors.index.json. */
#define SAFETENSORS_SHARD_BYTES 5000000000ll
int safetensors_write_model(const char *dir, const SafetensorsEntry *entries, int n,
                            int64_t max_bytes, Err *e);
/* The same in files that have names already: entry i goes into file[i]. */
int safetensors_write_files(const char *dir, const SafetensorsEntry *entries,
                            const char *const *file, int n, Err *e);
#endif
