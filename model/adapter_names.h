/* adapter_names.h - the names of an adapter's tensors, for its writer and its reader. */
#ifndef ADAPTER_NAMES_H
#define ADAPTER_NAMES_H
#include "adapter.h"

/* The whole name of one tensor of the file, on the heap. PEFT wraps a module once per adapted
 * parameter, in the order the module declares them: the last is outermost and carries the plain
 * name, each one before it lies one "base_layer" deeper. */
char *adapter_tensor_name(const Model *m, const Plan *plan, const Adapter *a, int site,
                          ParamRole role);
#endif
