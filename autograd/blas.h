/* blas.h - settling OpenBLAS: the right kernels, one thread per call. */
#ifndef BLAS_H
#define BLAS_H

/* Call first thing in main. OpenBLAS 0.3.21 does not know recent Intel processors and falls back
 * to AVX2; which kernels it uses it decides once, when it is loaded, from OPENBLAS_CORETYPE. So on
 * a processor with AVX-512, where the user has not set it, it is set and the program starts itself
 * anew with the same arguments. Returns when that is done, not needed or not possible. */
void blas_prepare(char **argv);

/* Keeps OpenBLAS from starting threads of its own; our parallel regions split the work. Cheap to
 * call again. */
void blas_single_thread(void);
#endif
