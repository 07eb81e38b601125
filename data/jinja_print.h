/* jinja_print.h - values as text: json.dumps() here, str() and repr() in jinja_value.h. */
#ifndef JINJA_PRINT_H
#define JINJA_PRINT_H
#include "jinja_value.h"

typedef struct JsonStyle {
    bool ascii;  /* ensure_ascii */
    bool sorted; /* sort_keys */
    bool lines;  /* one item per line, each level led by indent */
    Str indent, comma, colon;
} JsonStyle;
void value_write_json(Run *r, Text *t, Value v, const JsonStyle *style);
#endif
