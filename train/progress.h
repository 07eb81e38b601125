/* progress.h - how far a long job is: a bar with rate and time left on a terminal, a plain line
 * now and then in a log; nothing for what is done at once. All on standard error. */
#ifndef PROGRESS_H
#define PROGRESS_H
#include "../autograd/base.h"

typedef struct Progress {
    const char *what, *unit; /* "training", "steps" */
    int64_t total, first;    /* first: where this run began (resume) */
    double began, shown;     /* seconds */
    double share;            /* done */
    char line[256];          /* as shown last, without the bar */
    bool terminal;
} Progress;
double seconds_now(void); /* monotonic */
void progress_begin(Progress *p, const char *what, const char *unit, int64_t first, int64_t total);
/* note: a few words beside the bar ("loss 1.23"), may be "". */
void progress_show(Progress *p, int64_t done, const char *note);
/* progress_show for those below who call back: progress is a Progress, total may be known only now. */
void progress_step(void *progress, int64_t done, int64_t total);
void progress_end(Progress *p);
/* A line of its own, above a bar that is being shown. */
void progress_say(const Progress *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Leaves the line of a bar that nobody ended, for an error to start on its own. */
void progress_break(void);
#endif
