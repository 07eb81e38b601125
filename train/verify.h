/* verify.h - what was written, read again and held against the run it came from. The readers here
 * share nothing with the writers but the name table of the model: where things stand in a file is
 * worked out anew. (What was merged, and a gguf-lora, are then also loaded as any user would: by the
 * program's own loader, after every tensor was compared.) */
#ifndef VERIFY_H
#define VERIFY_H
#include "session.h"

/* The run (base_model and lora_model_dir), and what was found to be as it should. */
typedef struct Verify {
    const Config *cfg;
    Session run;
    int planned, applied;    /* tensors of the model that the run changes; found in the file */
    int tensors[KIND_COUNT]; /* of these */
    int64_t values[KIND_COUNT];
    double rounded; /* how far rounding moved what was written, over its size */
} Verify;
/* Counts one tensor of the model as found. */
void verify_applied(Verify *v, const Site *s);
/* Whether the run changed a site, and so has to be found in what was written. */
bool verify_changed(const Verify *v, int site);
/* Half a unit in the last place of x in a plain format: as far as rounding moves a value there. */
double verify_half_ulp(double x, DType d);
/* Takes note that something was rounded to it. */
void verify_rounds_to(Verify *v, DType d);
/* A row of a weight as the run has it; part: room for as many. */
void verify_exact_row(const Site *s, int64_t row, float *part, double *sum);

/* One format; what it needs is a row of the table in verb_verify.c. */
typedef struct VerifyFormat {
    const char *name;
    bool is_adapter; /* beside a base: a canary can be written through the same exporter */
    /* Tensor by tensor against the run. Says which does not agree, by its name in the file. */
    int (*compare)(Verify *v, const char *path, Err *e);
    /* The model as what is at path makes it. */
    int (*reload)(Verify *v, const char *path, Session *out, Err *e);
} VerifyFormat;

/* verify_adapter.c: the forms peft, peft-per-expert, mlx; which, stands in v->cfg->format. */
int verify_adapter_compare(Verify *v, const char *path, Err *e);
int verify_adapter_reload(Verify *v, const char *path, Session *out, Err *e);
/* verify_merged.c: a checkpoint directory. */
int verify_merged_compare(Verify *v, const char *path, Err *e);
int verify_merged_reload(Verify *v, const char *path, Session *out, Err *e);

/* verify_gguf_lora.c: llama.cpp's adapter. verify_gguf.c: a whole model as its file. */
int verify_gguf_lora_compare(Verify *v, const char *path, Err *e);
int verify_gguf_lora_reload(Verify *v, const char *path, Session *out, Err *e);
int verify_gguf_compare(Verify *v, const char *path, Err *e);
int verify_gguf_reload(Verify *v, const char *path, Session *out, Err *e);

/* verify_run.c: logits and chosen experts on rows; then every linear, and every expert by rows that
 * are forced to it, by itself. Figures go into result. */
int verify_rows(Verify *v, Session *back, json_t *result, Err *e);
int verify_forced(Verify *v, Session *back, const char *what, Err *e);
/* The run's adapters become a pattern that no two experts, rows or columns share; kept is what they
 * were (on the heap), for verify_restore. */
float *verify_make_canary(Verify *v);
void verify_restore(Verify *v, float *kept);
#endif
