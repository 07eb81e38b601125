/* base.c - see base.h. The only file that calls malloc, mmap for memory, abort or exit. */
#include "base.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

int err_set(Err *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    return -1;
}

int err_prefix(Err *e, const char *fmt, ...) {
    Err was = *e;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof e->text) return -1;
    size_t room = sizeof e->text - (size_t)n - 1, whole = strlen(was.text);
    const char *between = ": ";
    size_t sep = room < 2 ? room : 2, rest = whole < room - sep ? whole : room - sep;
    memcpy(e->text + n, between, sep);
    memcpy(e->text + n + sep, was.text, rest);
    e->text[(size_t)n + sep + rest] = 0;
    return -1;
}

void check_failed(const char *file, int line, const char *fmt, ...) {
    fprintf(stderr, "moesmith: internal error at %s:%d: ", file, line);
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

static _Noreturn void out_of_memory(size_t bytes) {
    fprintf(stderr,
            "moesmith: out of memory: %zu bytes more were needed; shorten sequence_len, lower "
            "micro_batch_size or use a machine with more memory\n",
            bytes);
    exit(1);
}

void *mem_alloc(size_t bytes) {
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) out_of_memory(bytes);
    return p;
}

void *mem_grow(void *p, size_t old_bytes, size_t new_bytes) {
    char *q = realloc(p, new_bytes ? new_bytes : 1);
    if (!q) out_of_memory(new_bytes);
    if (new_bytes > old_bytes) memset(q + old_bytes, 0, new_bytes - old_bytes);
    return q;
}

char *mem_copy_text(const char *text) {
    size_t n = strlen(text) + 1;
    return memcpy(mem_alloc(n), text, n);
}

bool text_is(const char *text, size_t n, const char *word) {
    return n == strlen(word) && !memcmp(text, word, n);
}

bool text_ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && !strcmp(text + n - k, end);
}

void mem_free(void *p) { free(p); }

/* A limit out of a control group's file; SIZE_MAX where there is none. */
static size_t group_limit(const char *path) {
    unsigned long long limit = 0;
    FILE *f = fopen(path, "r");
    int found = f ? fscanf(f, "%llu", &limit) : 0;
    if (f) fclose(f);
    return found == 1 && limit > 0 ? (size_t)limit : SIZE_MAX;
}

/* The least of a group's limit and those of the groups around it. group: "/a/b", cut up here. */
static size_t group_least(const char *root, char *group, const char *file) {
    size_t least = SIZE_MAX;
    for (;;) {
        char path[1024];
        snprintf(path, sizeof path, "%s%s/%s", root, group, file);
        size_t limit = group_limit(path);
        least = limit < least ? limit : least;
        char *slash = strrchr(group, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

/* /proc/self/cgroup says which groups this process is in, a line each: "0::/a/b" (version 2), or
 * "4:memory:/a/b" (version 1). Inside a container the paths may be those of the machine outside;
 * its own limit then stands at the root. */
size_t mem_total(void) {
    size_t least = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    char line[900];
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *kind = strchr(line, ':'), *group = kind ? strchr(kind + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        size_t limit = SIZE_MAX;
        if (!kind[1])
            limit = group_least("/sys/fs/cgroup", group, "memory.max");
        else if (strstr(kind, "memory"))
            limit = group_least("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes");
        least = limit < least ? limit : least;
    }
    if (f) fclose(f);
    return least;
}

/* A field of /proc/self/status, which counts in KiB; 0 where there is none. */
static size_t status_field(const char *name) {
    char line[256];
    size_t found = 0, n = strlen(name);
    FILE *f = fopen("/proc/self/status", "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (!strncmp(line, name, n)) found = strtoull(line + n, NULL, 10) * 1024;
    }
    if (f) fclose(f);
    return found;
}

size_t mem_resident(void) { return status_field("VmRSS:"); }

/* ru_maxrss outlives execve and starts from the parent's: it is only asked where there is no other.
 */
size_t mem_peak(void) {
    struct rusage u;
    size_t peak = status_field("VmHWM:");
    if (peak) return peak;
    getrusage(RUSAGE_SELF, &u);
    return (size_t)u.ru_maxrss * 1024;
}

static void buf_reserve(Buf *b, size_t more) {
    if (b->n + more + 1 <= b->cap) return;
    size_t cap = b->cap ? b->cap * 2 : 64;
    while (cap < b->n + more + 1) cap *= 2;
    b->p = mem_grow(b->p, b->cap, cap);
    b->cap = cap;
}

void buf_add(Buf *b, const void *bytes, size_t n) {
    buf_reserve(b, n);
    if (n) memcpy(b->p + b->n, bytes, n);
    b->n += n;
    b->p[b->n] = 0;
}

void buf_add_text(Buf *b, const char *text) { buf_add(b, text, strlen(text)); }

void buf_printf(Buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    CHECK(n >= 0, "bad format %s", fmt);
    buf_reserve(b, (size_t)n);
    va_start(ap, fmt);
    vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
}

void buf_free(Buf *b) {
    mem_free(b->p);
    *b = (Buf){0};
}

/* Address space, at a place of its own choice or instead of what is at p. */
static void *map_arena(void *p, size_t bytes) {
    return mmap(p, bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (p ? MAP_FIXED : 0), -1, 0);
}

int arena_open(Arena *a, size_t reserve, Err *e) {
    const size_t least = reserve < (size_t)64 << 20 ? reserve : (size_t)64 << 20;
    void *p = MAP_FAILED;
    for (; p == MAP_FAILED && reserve >= least;
         reserve /= 2) { /* less where the user set a limit */
        p = map_arena(NULL, reserve);
        *a = (Arena){.base = p, .cap = reserve};
    }
    if (p == MAP_FAILED) {
        *a = (Arena){0};
        return err_set(e, "cannot reserve %zu MiB of address space; raise the limit (ulimit -v)",
                       least >> 20);
    }
    madvise(p, a->cap, MADV_HUGEPAGE);
    return 0;
}

/* Where small pages have been, large ones are given only to a new mapping. */
void arena_set_sparse(Arena *a, bool on) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), from = (a->top + page - 1) / page * page;
    if (!on && from < a->cap)
        CHECK(map_arena(a->base + from, a->cap - from) != MAP_FAILED, "an arena is lost");
    madvise(a->base, a->cap, on ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    a->sparse = on;
}

void arena_close(Arena *a) {
    if (!a->base) return;
    ASAN_UNPOISON_MEMORY_REGION(a->base, a->peak);
    munmap(a->base, a->cap);
    *a = (Arena){0};
}

void *arena_push(Arena *a, size_t bytes) {
    size_t at = (a->top + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    if (!a->base || bytes > a->cap || at > a->cap - bytes) out_of_memory(bytes);
    a->top = at + bytes;
    if (a->top > a->peak) a->peak = a->top;
    ASAN_UNPOISON_MEMORY_REGION(a->base + at, bytes);
#ifndef NDEBUG
    if (!a->sparse) memset(a->base + at, 0xff, bytes); /* every float in it is a NaN */
#endif
    return a->base + at;
}

void *arena_push_zero(Arena *a, size_t bytes) { return memset(arena_push(a, bytes), 0, bytes); }

void arena_release(Arena *a, size_t mark) {
    CHECK(mark <= a->top, "arena released above its top");
    ASAN_POISON_MEMORY_REGION(a->base + mark, a->top - mark);
    a->top = mark;
}

/* The size of a huge page where the system gives them to those who ask, as arena_open does; else of
 * a page. */
static size_t page_of_arenas(void) {
    char mode[64] = "";
    size_t huge = 0;
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (f && !fgets(mode, sizeof mode, f)) mode[0] = 0;
    if (f) fclose(f);
    bool given = strstr(mode, "[madvise]") || strstr(mode, "[always]");
    f = given ? fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "r") : NULL;
    if (f && fscanf(f, "%zu", &huge) != 1) huge = 0;
    if (f) fclose(f);
    return huge ? huge : (size_t)sysconf(_SC_PAGESIZE);
}

size_t arena_resident(const Arena *a, size_t top) {
    size_t huge = page_of_arenas(), small = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = (huge - (uintptr_t)a->base % huge) % huge; /* no whole huge page fits there */
    if (top <= before) return (top + small - 1) / small * small;
    size_t all = before + (top - before + huge - 1) / huge * huge;
    return all < a->cap ? all : a->cap;
}

static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t n) {
    return mix64(mix64(mix64(seed + 0x9e3779b97f4a7c15ull) + stream) + n * 0x9e3779b97f4a7c15ull);
}

uint64_t rng_u64(Rng *r) { return rng_at(r->seed, r->stream, r->n++); }

double rng_uniform(Rng *r) { return ((double)(rng_u64(r) >> 11) + 0.5) / 9007199254740992.0; }

float rng_normal(Rng *r) {
    double u = rng_uniform(r), v = rng_uniform(r);
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}
