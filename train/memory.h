/* memory.h - what a training run will hold in memory at most, told before its first step: by train,
 * which refuses what cannot fit, and by estimate, which opens shapes only. */
#ifndef MEMORY_H
#define MEMORY_H
#include "rows.h"
#include "session.h"

/* Bytes that are resident at the run's peak, mapped pages included. */
typedef struct MemoryPlan {
    size_t base;   /* of the mapped base: what some step reads, or what of that stays (see room) */
    size_t learns; /* weights, gradients and moments of what learns */
    size_t step;   /* activations, their gradients and the ops' scratch, in the largest step */
    size_t other;  /* the process, tokenizer and rows, tables, buffers of BLAS and of writing */
    size_t peak;
    size_t whole; /* of the mapped base: what some step reads */
    int together; /* micro-batches that go through a layer while it is there (s->together, if set)
                   */
    size_t room;  /* what the base's layers may take of memory, where they are streamed; else 0 */
    int64_t run_steps, run_tokens; /* of the whole run */
} MemoryPlan;

/* s: opened to train, or as shapes; its tape runs dry. A token id below 0 may be any. */
MemoryPlan memory_plan(Session *s, const Config *cfg, const TrainData *data);
void memory_describe(const MemoryPlan *p, Buf *out); /* one line, appended */
/* An error where this machine has not what must stay in memory (the base's pages may go). */
int memory_check(const MemoryPlan *p, Err *e);
/* What goes through a layer together, after "every": "micro-batch", or "3 micro-batches". */
void memory_together(char out[32], const MemoryPlan *p);
#endif
