/* amount.h - amounts as people read them: three digits in the unit that fits. */
#ifndef AMOUNT_H
#define AMOUNT_H

/* By value, to stand among printf's arguments: amount_bytes(n).text. */
typedef struct Amount {
    char text[32];
} Amount;
Amount amount_bytes(double n);   /* "0 B", "6.55 MiB", "18.7 GiB" */
Amount amount_count(double n);   /* "882", "88.1 k", "3.43 M", "25.2 G" */
Amount amount_seconds(double s); /* "21.5 us", "3.2 s", "14 min", "5.1 h", "3 d" */
#endif
