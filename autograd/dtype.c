/* dtype.c - the table of number formats: row loops of the plain ones, which only say how one value
 * opens; the packed ones bring their own. */
#include "dtype.h"
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

#define X(name, bytes, tail, turned)                                                               \
    static const PackedFormat packed_##name = {bytes, tail, turned, name##_pack, name##_open};
PACKED_DTYPES(X)
#undef X

const DTypeInfo dtype_info[DT_COUNT] = {
#define X(name, n, bytes, st) {#name, st, n, bytes, name##_rows_to_f32, name##_rows_from_f32, NULL},
    PLAIN_DTYPES(X)
#undef X
#define X(name, ...) {#name, "", 0, 0, NULL, NULL, &packed_##name},
        PACKED_DTYPES(X)
#undef X
            [DT_nf4_flat] = {"nf4_flat", "", 0, 0, NULL, NULL, NULL},
};

DType dtype_find(const char *name) {
    for (int i = 0; i < DT_COUNT && name; i++) {
        if (!strcmp(dtype_info[i].name, name)) return (DType)i;
    }
    return DT_COUNT;
}
