/* adapter_parts.h - the tensors of an adapter file as parts of what lies in memory.
 *
 * In memory an adapter is A (E,R,I) and B (E,O,R), or (R,I) and (O,R). Files cut these into experts
 * and halves (gate and up), turn them, or let the expert run fastest; but in every layout there is,
 * value (e, row, column) of a part stands at a sum of three strides. So a layout is a list of
 * parts, and one pair of loops reads and writes them all. */
#ifndef ADAPTER_PARTS_H
#define ADAPTER_PARTS_H
#include "params.h"

enum { PART_ALL = -1 };
typedef struct Part {
    char *name; /* in the file; on the heap */
    int site;
    ParamRole role;
    int expert,
        half; /* the one expert it is of; 0: gate, 1: up of gate_up's outputs; or PART_ALL */
    int n_dim;
    int64_t dim[3];        /* in the file */
    int64_t n[3], step[3]; /* experts, rows, columns; value (e,r,c) is the file's e*step[0] + ... */
    /* Read only. The file's values are memory's times these, an expert each; NULL: 1. And memory's
     * are the file's times gain. */
    const Tensor *expert_scale; /* f32 (E) */
    float gain;
} Part;
typedef struct PartList {
    Part *p;
    int n, cap;
} PartList;
/* One more, of a site: n and step are the caller's. name is taken over. */
Part *parts_add(PartList *list, char *name, int site, ParamRole role);
void parts_free(PartList *list);
/* Sets shape and steps of a part whose values run in the file as they do in memory, (rows, cols),
 * or turned, (cols, rows); with so many experts in front, or (0) without. */
void part_plain(Part *p, int64_t experts, int64_t rows, int64_t cols, bool turned);

/* Where the values of a part lie in memory: (e,r,c) at e*step[0] + ... of `at`, beyond dim zeros;
 * in files each times scale. diagonal: ones where row == column instead. */
typedef struct PartView {
    float *at;
    int64_t dim[3], step[3];
    float scale;
    bool diagonal;
} PartView;
/* Of a tensor with data in memory's layout. apart: gate and up have an A each, which A and B hold
 * one behind the other along the rank. */
PartView part_view(const Part *p, float *data, int n_dim, const int64_t *dim, bool apart);

/* All parts as float32 into one safetensors file. */
typedef PartView (*PartViewFn)(const void *ctx, const Part *p);
int parts_write(const char *path, const PartList *list, PartViewFn view, const void *ctx, Err *e);

/* Against the file: each part is there with its shape, in a type that can be read, and nothing is
 * left over. dir: for sentences. */
int parts_check(const PartList *list, const Plan *plan, Weights *w, const char *dir, Err *e);
int64_t part_numel(const Part *p); /* in the file */
/* All values of a part that was checked, as they stand in the file. On the heap. */
float *part_values(const Part *p, const WeightView *v);
/* The values into the parameters; what no part covers stays. apart: per site, or NULL. */
int parts_read(const PartList *list, Weights *w, ParamSet *ps, const bool *apart, Err *e);
#endif
