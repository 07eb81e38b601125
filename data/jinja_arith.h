/* jinja_arith.h - the arithmetic operators and slices, as Python computes them. */
#ifndef JINJA_ARITH_H
#define JINJA_ARITH_H
#include "jinja_value.h"

Value arith_binary(Run *r, Str op, Value a, Value b); /* + - ~ * / // % ** */
Value arith_negate(Run *r, Value v);
Value arith_slice(Run *r, Value of, const Value part[3]); /* IS_ABSENT where not written */
#endif
