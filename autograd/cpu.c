/* cpu.c - see cpu.h. */
#include "cpu.h"
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *const isa_name[4] = {"plain", "avx2", "avx512", "amx"};
static Isa found, limit = ISA_AMX;

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

/* AMX-BF16 (bit 22) and AMX-TILE (bit 24) of cpuid leaf 7, edx; AVX512-BF16 in subleaf 1. The
 * system keeps tile registers per thread and gives them to processes that ask. */
static bool has_amx(void) {
    unsigned a, b, c, d, a1 = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool tiles = (d & 1u << 22) && (d & 1u << 24);
    if (!__get_cpuid_count(7, 1, &a1, &b, &c, &d)) return false;
    return tiles && (a1 & 1u << 5) &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static void look(void) {
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    found = avx512 && has_amx() ? ISA_AMX : avx512 ? ISA_AVX512 : avx2 ? ISA_AVX2 : ISA_PLAIN;
}

Isa cpu_isa(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look);
    return found < limit ? found : limit;
}

void cpu_limit_isa(Isa most) { limit = most; }
