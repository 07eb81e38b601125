/* blas.h - settling OpenBLAS and OpenMP: the right kernels, one BLAS thread per call. */
#ifndef BLAS_H
#define BLAS_H

/* Call first thing in main. Libraries read some settings only when they are loaded, so they are
 * set here and the program starts itself anew, once, with the same arguments. What the user has
 * set in the environment stays.
 *   OPENBLAS_CORETYPE  OpenBLAS 0.3.21 does not know recent Intel processors and falls back to
 *                      AVX2; with AVX-512 it gets the kernels that use it.
 *   GOMP_SPINCOUNT     how long a waiting thread keeps its core: libgomp's default of about a
 *                      millisecond makes a machine that is shared many times slower.
 * Returns when that is done or not possible. */
void blas_prepare(char **argv);

/* Keeps OpenBLAS from starting threads of its own; our parallel regions split the work. Cheap to
 * call again. */
void blas_single_thread(void);
#endif
