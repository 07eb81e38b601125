/* amount.c - see amount.h. */
#include "amount.h"
#include <stdio.h>
#include "base.h"

/* A unit is used from an amount on, up to where the next one is. */
typedef struct Unit {
    const char *name;
    double is, from;
} Unit;

static Amount amount_in(const Unit *unit, int n_units, double n) {
    Amount a;
    int i = 0;
    while (i + 1 < n_units && n >= unit[i + 1].from) i++;
    double x = n / unit[i].is;
    snprintf(a.text, sizeof a.text, x >= 100 ? "%.0f%s%s" : "%.3g%s%s", x, *unit[i].name ? " " : "",
             unit[i].name);
    return a;
}

Amount amount_bytes(double n) {
    static const Unit unit[] = {{"B", 1, 0},
                                {"KiB", 0x1p10, 0x1p10},
                                {"MiB", 0x1p20, 0x1p20},
                                {"GiB", 0x1p30, 0x1p30},
                                {"TiB", 0x1p40, 0x1p40}};
    return amount_in(unit, COUNT_OF(unit), n);
}

Amount amount_count(double n) {
    static const Unit unit[] = {
        {"", 1, 0}, {"k", 1e3, 1e4}, {"M", 1e6, 1e6}, {"G", 1e9, 1e9}, {"T", 1e12, 1e12}};
    return amount_in(unit, COUNT_OF(unit), n);
}

Amount amount_seconds(double s) {
    static const Unit unit[] = {{"us", 1e-6, 0}, {"ms", 1e-3, 1e-3}, {"s", 1, 1},
                                {"min", 60, 60}, {"h", 3600, 3600},  {"d", 86400, 172800}};
    return amount_in(unit, COUNT_OF(unit), s);
}
