/* h5.h - the little of HDF5 this program needs: typed arrays and attributes under slash-separated
 * names, written beside and renamed in. HDF5's own printing is off; its reason ends up in Err. */
#ifndef H5_H
#define H5_H
#include "../autograd/base.h"

typedef enum HdfType { HDF_F32, HDF_I32, HDF_I64, HDF_U8, HDF_TYPES } HdfType;
enum { HDF_DIMS = 4 };

typedef struct HdfFile HdfFile;

/* A new file appears under path only with h5_commit; h5_close without it leaves nothing behind. */
int h5_create(HdfFile **out, const char *path, Err *e);
int h5_commit(HdfFile *f, Err *e); /* f is closed either way */
int h5_open(HdfFile **out, const char *path, Err *e);
void h5_close(HdfFile *f); /* NULL is fine */

/* A whole array ("/layer.3/experts": groups are made as needed; dims may be 0). Reading checks type
 * and shape against what is expected and names what differs. */
int h5_write(HdfFile *f, const char *name, HdfType type, int n_dim, const int64_t *dim,
             const void *data, Err *e);
int h5_read(HdfFile *f, const char *name, HdfType type, int n_dim, const int64_t *dim, void *data,
            Err *e);
/* What is stored under a name; dim needs room for HDF_DIMS. A type that is none of ours is an
 * error. */
int h5_shape(HdfFile *f, const char *name, HdfType *type, int *n_dim, int64_t *dim, Err *e);
bool h5_has(HdfFile *f, const char *name);

/* A [rows, cols] array that grows a block of rows at a time and is never whole in memory:
 * begin, add ..., end. A failed add leaves only end to call; end reports nothing new then. */
typedef struct HdfRows HdfRows;
int h5_rows_begin(HdfRows **out, HdfFile *f, const char *name, HdfType type, int64_t cols, Err *e);
int h5_rows_add(HdfRows *r, int64_t n_rows, const void *data, Err *e);
int h5_rows_end(HdfRows *r, Err *e); /* frees r */
/* Rows [first, first + n_rows) of a 2-D array. */
int h5_read_rows(HdfFile *f, const char *name, HdfType type, int64_t first, int64_t n_rows,
                 int64_t cols, void *data, Err *e);

/* Attributes of an array or group ("/": the file). Text is appended to out. */
int h5_write_text(HdfFile *f, const char *object, const char *key, const char *text, Err *e);
int h5_write_i64(HdfFile *f, const char *object, const char *key, int64_t value, Err *e);
int h5_write_f64(HdfFile *f, const char *object, const char *key, double value, Err *e);
int h5_read_text(HdfFile *f, const char *object, const char *key, Buf *out, Err *e);
int h5_read_i64(HdfFile *f, const char *object, const char *key, int64_t *value, Err *e);
int h5_read_f64(HdfFile *f, const char *object, const char *key, double *value, Err *e);

/* The full names of all arrays, in order (strcmp): "/layer.0/experts". */
typedef struct HdfNames {
    char **name;
    int n;
} HdfNames;
int h5_list(HdfFile *f, HdfNames *out, Err *e);
void h5_names_free(HdfNames *names);
#endif
