/* schedule.c - see schedule.h. */
#include "schedule.h"
#include <math.h>
#include <string.h>

static double linear_course(double done) { return fmax(0, 1 - done); }
static double cosine_course(double done) { return fmax(0, 0.5 * (1 + cos(M_PI * done))); }
static double constant_course(double done) { return (void)done, 1; }

static const struct {
    const char *name;
    double (*course)(double);
} courses[] = {{"linear", linear_course}, {"cosine", cosine_course}, {"constant", constant_course}};

int schedule_find(Schedule *s, const char *name) {
    for (size_t i = 0; i < COUNT_OF(courses); i++) {
        if (strcmp(courses[i].name, name)) continue;
        s->after_warmup = courses[i].course;
        return 0;
    }
    return -1;
}

double schedule_factor(const Schedule *s, int64_t step) {
    if (step < s->warmup) return (double)step / (double)s->warmup;
    int64_t rest = s->total - s->warmup > 1 ? s->total - s->warmup : 1;
    return s->floor + (1 - s->floor) * s->after_warmup((double)(step - s->warmup) / (double)rest);
}
