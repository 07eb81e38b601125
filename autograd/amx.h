/* amx.h - the AMX tile instructions, as the kernels use them. A tile is 16 rows of 64 bytes: as an
 * operand 16 x 32 bfloat16, as a sum 16 x 16 float32. Own assembly, because gcc 12's intrinsics do
 * not tell the compiler what memory they read and write. The tile registers belong to the thread:
 * amx_begin and amx_end stand around their use. Only where cpu_isa() == ISA_AMX. */
#ifndef AMX_H
#define AMX_H
#include <stdint.h>

#define AMX_TARGET                                                                                 \
    __attribute__((target(                                                                         \
        "avx2,fma,prfchw,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))
#define AMX_INLINE static inline __attribute__((always_inline)) AMX_TARGET

/* Register c, a or b: a number from 0 to 7, written out. Rows in memory lie `stride` bytes apart.
 */
#define AMX_LOAD(c, p, stride)                                                                     \
    __asm__ volatile("tileloadd (%0,%1,1),%%tmm" #c ::"r"((const void *)(p)),                      \
                     "r"((int64_t)(stride))                                                        \
                     : "memory")
#define AMX_STORE(c, p, stride)                                                                    \
    __asm__ volatile("tilestored %%tmm" #c ",(%0,%1,1)" ::"r"((void *)(p)), "r"((int64_t)(stride)) \
                     : "memory")
#define AMX_ZERO(c) __asm__ volatile("tilezero %%tmm" #c ::)
/* c += a b: row i of a times column j of b, whose row r holds the pairs (2r, 2r+1) of the inner
 * side. */
#define AMX_ADD(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ",%%tmm" #a ",%%tmm" #c ::)

/* All eight tiles at full size. */
AMX_TARGET static inline void amx_begin(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg (%0)" ::"r"(&config) : "memory");
}
AMX_TARGET static inline void amx_end(void) { __asm__ volatile("tilerelease" ::); }
#endif
