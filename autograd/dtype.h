/* dtype.h - every number format there is. A format is one header in quant/ and one line here;
 * the loaders, the kernels and the writers all read this table. */
#ifndef DTYPE_H
#define DTYPE_H
#include <stdint.h>
#include "quant/plain.h"

/*      name  values per block, bytes per block, safetensors name ("" where it has none) */
#define DTYPES(X)                                                                                  \
    X(f32, 1, 4, "F32")                                                                            \
    X(bf16, 1, 2, "BF16")                                                                          \
    X(f16, 1, 2, "F16")                                                                            \
    X(i32, 1, 4, "I32")

#define X(name, n, bytes, st) DT_##name,
typedef enum DType { DTYPES(X) DT_COUNT } DType;
#undef X

typedef struct DTypeInfo {
    const char *name, *safetensors;
    int block_n, block_bytes;
    void (*to_f32)(const void *src, float *dst, int64_t n); /* n values, a whole number of blocks */
    void (*from_f32)(const float *src, void *dst, int64_t n); /* round to nearest even */
} DTypeInfo;
extern const DTypeInfo dtype_info[DT_COUNT];

/* By our name ("bf16"); DT_COUNT where name is NULL or none of ours. */
DType dtype_find(const char *name);

static inline int64_t dtype_bytes(DType d, int64_t n) {
    return n / dtype_info[d].block_n * dtype_info[d].block_bytes;
}
#endif
