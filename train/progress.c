/* progress.c - see progress.h. */
#include "progress.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 24 };
#define LOG_EVERY      10.0 /* seconds between lines of a log */
#define TERMINAL_EVERY 0.1  /* seconds between redrawings */

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void time_text(char out[32], double seconds) {
    long s = seconds < 0 ? 0 : (long)(seconds + 0.5);
    if (s < 3600)
        snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

void progress_begin(Progress *p, const char *what, const char *unit, int64_t first, int64_t total) {
    *p = (Progress){what, unit, total, first, seconds_now(), 0, isatty(2) == 1};
}

void progress_show(Progress *p, int64_t done, const char *note) {
    double now = seconds_now(), spent = now - p->began,
           every = p->terminal ? TERMINAL_EVERY : LOG_EVERY;
    if (done < p->total && now - p->shown < every) return;
    p->shown = now;
    double rate = spent > 0 ? (double)(done - p->first) / spent : 0;
    double share = p->total > 0 ? (double)done / (double)p->total : 1;
    char left[32], gone[32], bar[BAR * 3 + 1] = "";
    time_text(left, rate > 0 ? (double)(p->total - done) / rate : 0);
    time_text(gone, spent);
    for (int i = 0; i < BAR; i++) strcat(bar, (double)i < share * BAR ? "━" : "╌");
    if (p->terminal) {
        fprintf(stderr, "\r\033[K%s %s %3.0f%% %ld/%ld %s  %.2f/s  %s<%s  %s", p->what, bar,
                100 * share, (long)done, (long)p->total, p->unit, rate, gone, left, note);
    } else {
        fprintf(stderr, "%s %ld/%ld %s, %.2f/s, %s left  %s\n", p->what, (long)done, (long)p->total,
                p->unit, rate, left, note);
    }
    fflush(stderr);
}

void progress_end(Progress *p) {
    if (p->terminal && p->shown > 0) fputc('\n', stderr);
    p->shown = 0;
}

void progress_say(const Progress *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (p && p->terminal && p->shown > 0) fputs("\r\033[K", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}
