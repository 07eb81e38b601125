/* config_help.h - what --help says of the keys, out of the table. */
#ifndef CONFIG_HELP_H
#define CONFIG_HELP_H
#include "../autograd/base.h"

void config_help(Buf *out); /* every key, for a terminal of 100 columns */
#endif
