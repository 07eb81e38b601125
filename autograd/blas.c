/* blas.c - see blas.h. */
#include "blas.h"
#include <cblas.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include "cpu.h"

static void set_one_thread(void) { openblas_set_num_threads(1); }

void blas_single_thread(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_one_thread);
}

void blas_prepare(char **argv) {
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n > 0 && !getenv("MOESMITH_PREPARED")) {
        self[n] = 0;
        setenv("MOESMITH_PREPARED", "1", 1);
        setenv("OPENBLAS_NUM_THREADS", "1", 1); /* not even started in the new life */
        setenv("GOMP_SPINCOUNT", "20000", 0);
        if (cpu_isa() >= ISA_AVX512) setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
        execv(self, argv); /* returns only on failure: then slower, not wrong */
    }
    blas_single_thread();
}
