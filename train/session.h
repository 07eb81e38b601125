/* session.h - a model made ready by a config: base, adapter, what learns, and the memory one step
 * runs in. Every verb that runs a model opens one. */
#ifndef SESSION_H
#define SESSION_H
#include "../model/adapter.h"
#include "../model/merge.h"
#include "config.h"

/* UNFILLED: as to train, but what learns has no memory before session_fill. SHAPES: for a dry run
 * only: so it stays, nothing of the base is read, and base_model may be a config.json alone. */
typedef enum SessionUse { USE_TO_TRAIN, USE_UNFILLED, USE_AS_IS, USE_SHAPES } SessionUse;

typedef struct Session {
    Model *model;
    bool base_made; /* base_model is not what is opened, but a base.h5 made of it */
    Plan plan;
    Adapter adapter;
    bool has_adapter; /* false: full training, or the base alone */
    ParamSet params;
    Arena step; /* of the tape: marked and released by whoever runs it */
    Tape tape;
    size_t memory; /* bytes it may take, of mem_total() */
    int together;  /* micro-batches that pass a layer together; 0: memory_plan decides */
    size_t resident_before, peak_before; /* of the process, when the session was opened */
} Session;

/* AS_IS: the base, with lora_model_dir where given; nothing wants a gradient. The others: what the
 * config says learns; CONFIG_REFUSED where it cannot of this model. */
int session_open(Session *s, const Config *cfg, SessionUse use, Err *e);
/* Memory and first values for what learns, if it has none yet. */
int session_fill(Session *s, const Config *cfg, Err *e);
/* AS_IS, with the weights that base_model itself holds: base_quantization is not looked at. */
int session_open_original(Session *s, const Config *cfg, Err *e);
void session_close(Session *s);
bool session_base_is_packed(const Session *s); /* whether any weight is quantised */

/* How an adapter is written in the form that format says: a gguf-lora for the file that base_gguf
 * names, else base_model (config_check.c: one of them is a GGUF file). */
AdapterOut session_adapter_out(const Config *cfg, bool keep);
/* Its adapter written so; the notes go to standard error. */
int session_write_adapter(Session *s, const Config *cfg, bool keep, const char *path, Err *e);

typedef enum OutputForm { OUTPUT_FILE, OUTPUT_DIR } OutputForm;
/* An error where output cannot be written, or exists and is not to be written over; called before
 * any work is done. */
int output_check(const Config *cfg, OutputForm form, Err *e);
/* An error where path, which the key named so gives, is one of the files that the run reads. */
int output_check_file(const Config *cfg, const char *key, const char *path, Err *e);

/* How far the step arena fills with these n micro-batches in one pass (what they are made of lies
 * in it already), found by a dry run: forward and, if learns, backward. */
size_t session_dry_run(Session *s, const Batch *batch, int n, bool learns);
/* What learns, by kind: tensors and parameters. A table of three lines; appended. */
void session_describe(const Session *s, Buf *out);
/* A loss or logit that is no number: -1 with the sentence that names the culprit. */
int session_blame_nonfinite(const Session *s, const char *what, Err *e);
#endif
