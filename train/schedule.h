/* schedule.h - the learning rate's course, as a factor of learning_rate: Transformers'
 * get_*_schedule_with_warmup (optimization.py). A course is one row of a table. */
#ifndef SCHEDULE_H
#define SCHEDULE_H
#include "../autograd/base.h"

typedef struct Schedule {
    double (*after_warmup)(double done); /* done: 0 .. 1 of the steps after warm-up */
    int64_t warmup, total;               /* optimiser steps */
    double floor;                        /* lowest factor after warm-up */
} Schedule;
int schedule_find(Schedule *s, const char *name);        /* cosine, linear, constant; -1: unknown */
double schedule_factor(const Schedule *s, int64_t step); /* step counts from 0 */
#endif
