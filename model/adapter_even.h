/* adapter_even.h - an adapter as forms for engines want it: low rank everywhere, of one rank, at
 * one scale.
 *
 * Ranks are filled up with zeros to the largest. Scales go into B, and alpha becomes the rank. A
 * router that learned whole, or whose scale did, becomes a change of its projection, and that an
 * adapter of rank E: A is the change, B ones on the diagonal. Whatever else learned whole has no
 * place in such a form and is refused. */
#ifndef ADAPTER_EVEN_H
#define ADAPTER_EVEN_H
#include "adapter_form.h"

/* As adapter_export, of an even form. */
int adapter_write_even(const char *dir, const AdapterForm *form, const Model *m, const Plan *plan,
                       const Adapter *a, bool keep, Buf *notes, Err *e);
#endif
