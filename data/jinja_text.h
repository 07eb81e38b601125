/* jinja_text.h - strings as Python sees them: counted in code points, with Unicode's spaces, lines
 * and cases. Strings are valid UTF-8 throughout (checked where they enter). */
#ifndef JINJA_TEXT_H
#define JINJA_TEXT_H
#include "jinja_value.h"

bool str_is_utf8(Str s);
size_t str_length(Str s);                      /* code points */
size_t str_point_bytes(Str s, size_t at);      /* bytes of the code point that starts there */
uint32_t str_point(Str s, size_t at);          /* that code point */
size_t str_back(Str s, size_t at);             /* where the code point before `at` starts */
size_t str_offset(Str s, size_t points);       /* byte offset of a code point; s.n at most */
Str str_slice(Str s, size_t from, size_t to);  /* by code points */
size_t str_find(Str s, Str what, size_t from); /* byte offset, or SIZE_MAX */
size_t str_find_last(Str s, Str what);         /* byte offset, or SIZE_MAX */
int str_compare(Str a, Str b);                 /* by code points */
void append_point(Run *r, Text *t, uint32_t point);

bool point_is_space(uint32_t point); /* str.isspace */
bool point_is_alpha(uint32_t point);
bool point_is_digit(uint32_t point);
bool point_is_upper(uint32_t point);
bool point_is_lower(uint32_t point);
bool point_is_printable(uint32_t point);
/* Bytes of the line break that starts at `at` (2 for \r\n), or 0: str.splitlines. */
size_t str_line_break(Str s, size_t at);

enum Side { LEFT = 1, RIGHT = 2, BOTH = 3 };
Str str_strip(Str s, enum Side sides, const Str *chars); /* chars NULL: whitespace */

enum Case { UPPER, LOWER, TITLE, CAPITAL, SWAP };
Str str_case(Run *r, Str s, enum Case how);
Str str_replace(Run *r, Str s, Str old, Str new, int64_t count); /* count < 0: all */
Str str_escape(Run *r, Str s);                                   /* & < > " ' as HTML names them */
List *str_lines(Run *r, Str s, bool keep_ends);
Str str_pad(Run *r, Str s, int64_t width, const char *align, Str fill); /* align: < > ^ */
#endif
