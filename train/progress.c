/* progress.c - see progress.h. */
#include "progress.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include "../autograd/amount.h"

enum { BAR = 24, BAR_LEAST = 6 };
#define LOG_EVERY      10.0 /* seconds between lines of a log */
#define TERMINAL_EVERY 0.1  /* seconds between redrawings */
#define LOG_FROM       2.0  /* what takes less is not worth a line */
#define TERMINAL_FROM  0.3

static bool bar_open; /* the cursor of the one standard error stands behind a bar */

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

/* An amount of work, with its unit if asked for; bytes always have theirs. */
static void amount_text(char out[48], const Progress *p, double n, bool unit) {
    if (!strcmp(p->unit, "bytes"))
        snprintf(out, 48, "%s", amount_bytes(n).text);
    else
        snprintf(out, 48, unit ? "%.0f %s" : "%.0f", n, p->unit);
}

/* Slow work is told by the time of one, fast work by the number in a second. */
static void rate_text(char out[64], const Progress *p, double rate) {
    char text[48];
    amount_text(text, p, rate, false);
    if (!strcmp(p->unit, "bytes") || rate >= 100)
        snprintf(out, 64, "%s/s", text);
    else if (rate < 1 && rate > 0)
        snprintf(out, 64, "%.1f s each", 1 / rate);
    else
        snprintf(out, 64, "%.1f/s", rate);
}

static int terminal_columns(void) {
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

/* One line, never wider than the terminal: a line that wraps cannot be drawn over. */
static void draw(const Progress *p) {
    char bar[BAR * 3 + 1] = "";
    int room = terminal_columns() - 1 - (int)strlen(p->what) - 1;
    int width = room - (int)strlen(p->line) - 1;
    if (width > BAR) width = BAR;
    if (width < BAR_LEAST) width = 0;
    for (int i = 0; i < width; i++) strcat(bar, i < p->share * width ? "━" : "╌");
    if (width) room -= width + 1;
    fprintf(stderr, "\r\033[K%s %s%s%.*s", p->what, bar, width ? " " : "", room > 0 ? room : 0,
            p->line);
    fflush(stderr);
    bar_open = true;
}

void progress_break(void) {
    if (bar_open) fputc('\n', stderr);
    bar_open = false;
}

void progress_begin(Progress *p, const char *what, const char *unit, int64_t first, int64_t total) {
    *p = (Progress){.what = what,
                    .unit = unit,
                    .total = total,
                    .first = first,
                    .began = seconds_now(),
                    .terminal = isatty(STDERR_FILENO) == 1};
}

void progress_show(Progress *p, int64_t done, const char *note) {
    double now = seconds_now(), spent = now - p->began;
    bool end = done >= p->total;
    if (end && p->shown > 0 && p->share >= 1) return; /* the last line stands already */
    if (spent < (p->terminal ? TERMINAL_FROM : LOG_FROM)) return;
    if (!end && now - p->shown < (p->terminal ? TERMINAL_EVERY : LOG_EVERY)) return;
    double rate = (double)(done - p->first) / spent;
    char at[48], of[48], per[64], time[32];
    amount_text(at, p, (double)done, !strcmp(p->unit, "bytes"));
    amount_text(of, p, (double)p->total, true);
    rate_text(per, p, rate);
    time_text(time, end ? spent : rate > 0 ? (double)(p->total - done) / rate : 0);
    if (rate > 0 || end)
        snprintf(p->line, sizeof p->line,
                 end ? "%s of %s, %s, in %s%s%s" : "%s of %s, %s, %s left%s%s", at, of, per, time,
                 *note ? ", " : "", note);
    else
        snprintf(p->line, sizeof p->line, "%s of %s%s%s", at, of, *note ? ", " : "", note);
    p->shown = now;
    p->share = p->total > 0 ? (double)done / (double)p->total : 1;
    if (p->terminal)
        draw(p);
    else
        fprintf(stderr, "%s %s\n", p->what, p->line);
}

void progress_step(void *progress, int64_t done, int64_t total) {
    Progress *p = progress;
    p->total = total;
    progress_show(p, done, "");
}

void progress_end(Progress *p) {
    if (p->terminal) progress_break();
    p->shown = 0;
}

void progress_say(const Progress *p, const char *fmt, ...) {
    bool bar = p && p->terminal && p->shown > 0;
    va_list ap;
    va_start(ap, fmt);
    if (bar)
        fputs("\r\033[K", stderr);
    else
        progress_break();
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    if (bar) draw(p);
}
