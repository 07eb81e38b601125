/* files.h - reading whole files, and writing so that a crash at any moment leaves the old thing or
 * the new one, whole: write beside (NAME.moesmith.partial), fsync, rename, fsync the directory. A
 * leftover of a killed run is overwritten by the next one, so nothing piles up. The directory that
 * something goes into is made where it is missing. */
#ifndef FILES_H
#define FILES_H
#include "../autograd/base.h"

/* What is there. Symbolic links are followed. */
bool files_exists(const char *path);
bool files_is_dir(const char *path);
bool files_is_empty(const char *path); /* nothing there, or a directory without entries */

bool files_holds(const char *dir, const char *path); /* path is dir itself or lies below it */

/* "dir/name", on the heap; name alone where it is absolute or dir is "". */
char *files_join(const char *dir, const char *name);
/* The directory a path lies in ("." where it names none), on the heap. */
char *files_parent(const char *path);

/* The sentence for a failed system call: "cannot DOING PATH: REASON; what to do". Returns -1. */
int files_error(Err *e, const char *doing, const char *path, int errno_value);
/* What to do about a reason, in strerror's words; NULL: nothing is known. */
const char *files_advice(const char *reason);

int files_read(const char *path, Buf *out, Err *e); /* appends the whole file */
/* A read-only mapping of a whole regular file; an empty file maps as NULL with *bytes == 0. */
int files_map(const char *path, const void **data, size_t *bytes, Err *e);
void files_unmap(const void *data, size_t bytes);
/* Gives back the memory of the whole pages in a part of a mapping; read again, they come anew from
 * the file. */
void files_forget(const void *data, size_t bytes);
/* The system need not keep this part of a file in memory either; what is mapped still stays. */
void files_drop_cached(const char *path, int64_t offset, size_t bytes);

int files_make_dirs(const char *path, Err *e);   /* mkdir -p */
int files_make_parent(const char *path, Err *e); /* of the directory that path lies in */
/* Asked before work whose result goes there, changes nothing: an error where dir cannot be written
 * into, or, while it is not there, cannot be made. */
int files_check_writable(const char *dir, Err *e);
/* An error where path is there and is no regular file. */
int files_check_regular(const char *path, Err *e);
/* A new directory in TMPDIR (/tmp where that is not set) for what is not kept; its path is on the
 * heap. name: a word of its own name. */
int files_temp_dir(char **dir, const char *name, Err *e);
/* Locks a directory for this process: *lock stays open for as long, close(*lock) gives it up. *busy:
 * another process has it, and *lock is -1. A file system that knows no locks keeps nobody out. */
int files_lock_dir(const char *dir, int *lock, bool *busy, Err *e);
int files_remove(const char *path, Err *e); /* a file or a whole directory; nothing there is fine */
int files_copy(const char *from, const char *to, Err *e); /* one regular file, atomically */

/* One file, written beside and renamed in. Every call that fails has removed the temporary file
 * and closed f; files_abort gives up early and is harmless after commit or failure:
 *     FileOut f;
 *     TRY(files_begin(&f, path, e));
 *     TRY(files_write(&f, p, n, e));
 *     return files_commit(&f, e);
 * A library that wants a path writes to f.temp between begin and commit. */
typedef struct FileOut {
    char *path, *temp;
    int fd;
} FileOut;
int files_begin(FileOut *f, const char *path, Err *e);
int files_write(FileOut *f, const void *bytes, size_t n, Err *e);
int files_commit(FileOut *f, Err *e);
void files_abort(FileOut *f);
int files_write_whole(const char *path, const void *bytes, size_t n, Err *e); /* all of the above */

/* For a file that takes long and can be gone on with: the name it has until it is whole (on the
 * heap), and giving it its own. */
char *files_partial(const char *path);
int files_complete(const char *partial, const char *path, Err *e);

/* A set of files, written into d.temp by any means, then renamed to d.path in one step. An
 * existing directory (or none) is replaced; whoever must not overwrite asks files_is_empty first.
 * Failure removes d.temp; abort is harmless after commit or failure. */
typedef struct DirOut {
    char *path, *temp;
} DirOut;
int files_dir_begin(DirOut *d, const char *path, Err *e);
int files_dir_commit(DirOut *d, Err *e);
void files_dir_abort(DirOut *d);
/* Puts right what a run killed inside files_dir_commit left: call before looking for path. */
int files_dir_recover(const char *path, Err *e);

/* Line-wise logs: line (without newline) and its newline go out in a single write. */
int files_append_line(const char *path, const char *line, Err *e);
/* Cuts off what follows the last newline; a missing file is fine. */
int files_drop_torn_line(const char *path, Err *e);
#endif
