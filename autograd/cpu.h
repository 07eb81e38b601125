/* cpu.h - which instruction sets the kernels may use on this machine. */
#ifndef CPU_H
#define CPU_H
#include <stdbool.h>

/* In rising order; each includes those before it. AVX512: F, BW, VL, DQ. AMX: AVX512 with BF16, and
 * the tiles for bfloat16, asked of the system once. */
typedef enum Isa { ISA_PLAIN, ISA_AVX2, ISA_AVX512, ISA_AMX } Isa;
extern const char *const isa_name[4];
Isa cpu_isa(void);
/* For tests and benchmarks: use no more than this. */
void cpu_limit_isa(Isa most);
#endif
