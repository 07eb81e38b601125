/* config_check.h - what follows from a whole Config: the values that depend on other keys, and the
 * combinations that cannot be. */
#ifndef CONFIG_CHECK_H
#define CONFIG_CHECK_H
#include "config.h"

void config_resolve(Config *cfg);            /* fills what the comment of Config promises */
int config_check(const Config *cfg, Err *e); /* one sentence that names the keys of the clash */

void text_list_add(TextList *list, const char *text);
bool text_list_has(const TextList *list, const char *text);
void text_list_free(TextList *list);
#endif
