/* base.h - the ground floor: checks, errors, memory, random numbers.
 *
 * Two kinds of failure, never mixed:
 *   CHECK(...)  a bug in this program: print file:line and stop.
 *   Err         the outside world disagreed: return -1 and say what was found,
 *               what was expected and what to do. Only main() prints it. */
#ifndef BASE_H
#define BASE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

typedef struct Err {
    char text[1024];
} Err;
/* Writes the sentence and returns -1, so that a caller can `return err_set(...)`. */
int err_set(Err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Puts "prefix: " before the sentence already there; returns -1. */
int err_prefix(Err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

_Noreturn void check_failed(const char *file, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) check_failed(__FILE__, __LINE__, __VA_ARGS__);                                \
    } while (0)
#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) != 0) return -1;                                                                \
    } while (0)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Heap memory for what outlives every arena (file contents, tables). Zeroed. There is no
 * sensible way on without memory: these print one sentence and exit with status 1. */
void *mem_alloc(size_t bytes);
void *mem_grow(void *p, size_t old_bytes, size_t new_bytes); /* the added part is zeroed */
char *mem_copy_text(const char *text);                       /* strdup */
void mem_free(void *p);
bool text_ends_with(const char *text, const char *end);
bool text_is(const char *text, size_t n, const char *word); /* n bytes, perhaps without a NUL */
size_t
mem_total(void); /* bytes this process may have: the machine's, or its control group's limit */
/* Bytes of this process in memory, mapped pages included: now, and at most since it was started. */
size_t mem_resident(void);
size_t mem_peak(void);

/* A growing run of bytes; always NUL-terminated behind its end (p may be NULL while n == 0). */
typedef struct Buf {
    char *p;
    size_t n, cap;
} Buf;
void buf_add(Buf *b, const void *bytes, size_t n);
void buf_add_text(Buf *b, const char *text);
void buf_printf(Buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_free(Buf *b);

/* A bump allocator over reserved address space: pages become real when first touched. Nothing
 * in it is freed alone: whoever took the mark gives everything above it back at once. */
enum { ARENA_ALIGN = 64 };
typedef struct Arena {
    char *base;
    size_t cap, top, peak; /* bytes; peak is the highest top ever */
    bool sparse;           /* see arena_set_sparse */
} Arena;
int arena_open(Arena *a, size_t reserve, Err *e); /* gets less where the system gives less */
/* For dry runs: while on, what nobody writes stays out of memory, by the smallest pages, in debug
 * builds too. Turned off, what lies above the top leaves it. */
void arena_set_sparse(Arena *a, bool on);
void arena_close(Arena *a);
void *arena_push(Arena *a, size_t bytes); /* 64-byte aligned, not cleared (NaN in debug builds) */
void *arena_push_zero(Arena *a, size_t bytes);
static inline size_t arena_mark(const Arena *a) { return a->top; }
void arena_release(Arena *a, size_t mark);
/* Bytes that are in memory once all below top has been touched: huge pages count whole. */
size_t arena_resident(const Arena *a, size_t top);

/* Counter-based random numbers (SplitMix64 finaliser over seed, stream and counter): the n-th
 * number of a stream depends on nothing else, so a resumed run needs only the counter. */
typedef struct Rng {
    uint64_t seed, stream, n;
} Rng;
uint64_t rng_at(uint64_t seed, uint64_t stream, uint64_t n);
uint64_t rng_u64(Rng *r);
double rng_uniform(Rng *r); /* in (0, 1) */
float rng_normal(Rng *r);   /* mean 0, variance 1 */
#endif
