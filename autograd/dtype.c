/* dtype.c - the table of number formats: row loops of the plain ones, which only say how one value
 * opens; the packed ones bring their own. */
#include "dtype.h"
#include "quant/gguf_k.h"
#include "quant/int4_g32.h"
#include "quant/int8.h"
#include "quant/mxfp4.h"
#include "quant/nf4.h"
#include "quant/tq4.h"

static void f32_rows_to_f32(const void *src, float *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * 4);
}
static void f32_rows_from_f32(const float *src, void *dst, int64_t n) {
    memcpy(dst, src, (size_t)n * 4);
}
static void bf16_rows_to_f32(const void *src, float *dst, int64_t n) {
    const uint16_t *s = src;
    for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(s[i]);
}
static void bf16_rows_from_f32(const float *src, void *dst, int64_t n) {
    uint16_t *d = dst;
    for (int64_t i = 0; i < n; i++) d[i] = f32_to_bf16(src[i]);
}
static void f16_rows_to_f32(const void *src, float *dst, int64_t n) {
    const uint16_t *s = src;
    for (int64_t i = 0; i < n; i++) dst[i] = f16_to_f32(s[i]);
}
static void f16_rows_from_f32(const float *src, void *dst, int64_t n) {
    uint16_t *d = dst;
    for (int64_t i = 0; i < n; i++) d[i] = f32_to_f16(src[i]);
}
static void i32_rows_to_f32(const void *src, float *dst, int64_t n) {
    const int32_t *s = src;
    for (int64_t i = 0; i < n; i++) dst[i] = (float)s[i];
}
static void i32_rows_from_f32(const float *src, void *dst, int64_t n) {
    int32_t *d = dst;
    for (int64_t i = 0; i < n; i++) d[i] = (int32_t)src[i];
}

/* Values of blocks, 32 at a time; of the first and the last part perhaps only some. */
#define X(name, values, bytes, ...)                                                                \
    SIMD static void name##_open(const void *src, int64_t from, int64_t n, float *dst) {           \
        float part[PART];                                                                          \
        for (int64_t end = from + n; from < end;) {                                                \
            const uint8_t *block = (const uint8_t *)src + from / (values) * (bytes);               \
            int64_t skip = from % PART,                                                            \
                    some = PART - skip < end - from ? PART - skip : end - from;                    \
            float *to = some == PART ? dst : part;                                                 \
            name##_part(block, (int)(from % (values) / PART), to);                                 \
            if (some < PART) memcpy(dst, part + skip, (size_t)some * sizeof *dst);                 \
            from += some, dst += some;                                                             \
        }                                                                                          \
    }
BLOCK_DTYPES(X)
#undef X

#define ENCODER(name, bytes)                                                                       \
    SIMD static void name##_rows_from_f32(const float *src, void *dst, int64_t n) {                \
        for (int64_t i = 0; i < n; i += PART)                                                      \
            name##_encode(src + i, (uint8_t *)dst + i / PART * (bytes));                           \
    }
ENCODER(q8_0, 34)
ENCODER(q4_0, 18)
ENCODER(mxfp4_gguf, 17)

#define X(name, bytes, tail, turned)                                                               \
    static const PackedFormat packed_##name = {bytes, tail, turned, name##_pack, name##_open};
PACKED_DTYPES(X)
#undef X

/* clang-format off */
#define PLAIN(name_, values, bytes, file, number)                                                  \
    {.name = #name_, .safetensors = file, .gguf = file, .gguf_number = number,                     \
     .block_n = values, .block_bytes = bytes,                                                      \
     .to_f32 = name_##_rows_to_f32, .from_f32 = name_##_rows_from_f32},
#define BLOCKS(name_, values, bytes, file, number, encoder)                                        \
    {.name = #name_, .safetensors = "", .gguf = file, .gguf_number = number,                       \
     .block_n = values, .block_bytes = bytes, .from_f32 = encoder, .open = name_##_open},
#define PACKED(name_, ...)                                                                         \
    {.name = #name_, .safetensors = "", .gguf = "", .packed = &packed_##name_},
const DTypeInfo dtype_info[DT_COUNT] = {
    PLAIN_DTYPES(PLAIN)
    BLOCK_DTYPES(BLOCKS)
    PACKED_DTYPES(PACKED)
    [DT_nf4_flat] = {.name = "nf4_flat", .safetensors = "", .gguf = ""},
};
/* clang-format on */

DType dtype_find(const char *name) {
    for (int i = 0; i < DT_COUNT && name; i++) {
        if (!strcmp(dtype_info[i].name, name)) return (DType)i;
    }
    return DT_COUNT;
}
