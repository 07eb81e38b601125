/* base_file.h - base.h5: a frozen base in one file, its weights as the kernels read them.
 *
 * It is an HDF5 file with a user block, and everything in it is an HDF5 dataset of bytes:
 *     0       the user block: a page of text that says where things are (base_block)
 *     4096    HDF5's own structures, then /index: JSON, with blanks up to its reserved size
 *     ...     /config (config.json) and /files/NAME (tokenizer, chat template, ...)
 *     ...     a tensor per dataset under its Hugging Face name, attributes dtype and shape,
 *             contiguous, at a multiple of 4096; those of a layer lie next to one another
 * The index repeats what HDF5 says of tensors and files, with their places and hashes. Reading goes
 * by the index alone: HDF5 is not asked to look at bytes that nobody has checked.
 *
 * Opening checks the user block to the byte, the file's size, the hash of everything from 4096 to
 * the end of the index, and that every tensor has the bytes its shape asks for. The index holds a
 * hash of every tensor and file: that of the metadata therefore names the whole content.
 * base_file_verify compares it with what is there. */
#ifndef BASE_FILE_H
#define BASE_FILE_H
#include <jansson.h>
#include "weights.h"

enum { BASE_FORMAT = 1, BASE_PAGE = 4096 };

/* A sum over pairs of words, each mixed with its place: parts of a tensor may be hashed in any
 * order and are added up. at: where bytes stand in the tensor, a multiple of 16. */
uint64_t base_hash(const void *bytes, size_t n, int64_t at);

typedef struct BaseTensor {
    const char *name;
    DType dtype;
    int n_dim;
    int64_t dim[WEIGHT_DIMS];
    int64_t offset, bytes; /* in the file */
    uint64_t hash;
    double lost, whole; /* sums of squares: of what quantising lost, of the original values */
} BaseTensor;
typedef struct BaseBlob {
    const char *name; /* "config.json", "tokenizer.json", ... */
    int64_t offset, bytes;
    uint64_t hash;
} BaseBlob;

/* What a file says of itself. */
typedef struct BaseIndex {
    BaseTensor *tensor; /* in order of their places */
    BaseBlob *file;     /* the first is config.json */
    int n_tensors, n_files;
    json_t *json;  /* owns the names; "about": what the writer said of settings and source */
    uint64_t hash; /* of the metadata, hence of the content */
} BaseIndex;
/* data: the whole file, n bytes; path names it in messages. Nothing is left to free on failure. */
int base_index_read(BaseIndex *out, const void *data, size_t n, const char *path, Err *e);
void base_index_free(BaseIndex *index);
/* The same of a file that is opened for it. *data, *n: its mapping, given back by files_unmap. */
int base_index_open(BaseIndex *out, const char *path, const void **data, size_t *n, Err *e);

/* Whether a path is named as base files are. */
bool base_file_claims(const char *path);
/* Whether what is there begins as one, whole, partial, damaged or of another version. */
bool base_file_begun(const char *path);
/* Reads all of it and compares every hash. step (may be NULL): bytes so far, of all. */
typedef void (*BaseStep)(void *ctx, int64_t done, int64_t total);
int base_file_verify(const char *path, BaseStep step, void *ctx, Err *e);

/* ---- for the writer ---- */

/* Bytes of a tensor in a base file; -1: no such tensor can be stored. */
int64_t base_tensor_bytes(DType d, int n_dim, const int64_t *dim);

/* The numbers of the user block, and its text: BASE_PAGE bytes. */
typedef struct BaseBlock {
    bool whole;                   /* false: still being written */
    int64_t bytes;                /* of the file */
    int64_t index_at, index_size; /* the index's place; the metadata ends where it does */
    uint64_t hash;                /* of the metadata; while not whole: of what is to be written */
} BaseBlock;
void base_block_write(const BaseBlock *b, char page[BASE_PAGE]);
/* -1: these are not the first bytes of a base file, whole or not, of n bytes. */
int base_block_read(BaseBlock *b, const void *data, size_t n);
/* Fills tensors and files from the JSON of an index, and checks them against a file of n bytes. */
int base_index_parse(BaseIndex *out, json_t *json, const BaseBlock *b, const char *path, Err *e);
#endif
