/* side_files.h - what a checkpoint has besides weights: config.json, tokenizer, chat template,
 * generation and processor settings, licence. A model is a Hugging Face directory, a base.h5, which
 * carries them inside, or a GGUF file, whose metadata are put into their form (gguf_side.h): all
 * but config.json, which the model's family knows how to. */
#ifndef SIDE_FILES_H
#define SIDE_FILES_H
#include <jansson.h>
#include "../autograd/base.h"

/* An error, in a sentence about base_model, unless there is something that can be a model. */
int side_files_check(const char *model, Err *e);
bool side_files_has(const char *model, const char *name);
/* Appends a file's bytes; one that is not there is an error. */
int side_files_read(const char *model, const char *name, Buf *out, Err *e);
/* As JSON; *out stays NULL where there is no such file. */
int side_files_json(const char *model, const char *name, json_t **out, Err *e);
/* What sentences call it, "DIR/config.json"; on the heap. */
char *side_files_label(const char *model, const char *name);

/* All of them. config.json comes first, whatever the file was called; nothing is taken that is not
 * known to belong to a checkpoint: the directory may be one that training wrote, or one that holds
 * many configs. */
typedef struct SideFile {
    char *name;
    Buf text;
} SideFile;
typedef struct SideFiles {
    SideFile *file;
    int n;
} SideFiles;
/* model: as above, or a config file, for itself and what lies beside it; of a GGUF file config.json
 * has no text yet (model_side_files has it). Freed by side_files_free either way. */
int side_files_gather(SideFiles *out, const char *model, Err *e);
int side_files_write(const SideFiles *files, const char *dir, Err *e);
void side_files_free(SideFiles *files);
#endif
