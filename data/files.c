/* files.c - see files.h. Every system call that can fail has its sentence from one table.
 *
 * A directory is put in place by swapping two names at once where the file system can do that;
 * elsewhere the old directory steps aside first, and files_dir_recover brings it back should the
 * run be killed between the two renames. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "files.h"

/* Long enough that nobody's own file bears them: what is found under such a name is removed. */
static const char PARTIAL[] = ".moesmith.partial", OLD[] = ".moesmith.old";
enum { WALK_FDS = 16 }; /* directories a walk keeps open at once */

static const struct {
    int errno_value;
    const char *advice;
} advices[] = {
    {ENOSPC, "free some space or choose a path on another disk"},
    {EDQUOT, "free some space or choose a path on another disk"},
    {EFBIG, "raise the limit on file sizes or choose a path on another disk"},
    {EACCES, "check its permissions or choose another path"},
    {EPERM, "check its permissions or choose another path"},
    {EROFS, "choose a path that can be written"},
    {ENOENT, "check the path"},
    {ENOTDIR, "a part of the path is a file; choose another path"},
    {EEXIST, "a part of the path is a file; choose another path"},
    {EISDIR, "name a file, not a directory"},
    {ENAMETOOLONG, "choose a shorter name"},
};

const char *files_advice(const char *reason) {
    for (size_t i = 0; i < COUNT_OF(advices); i++)
        if (!strcmp(strerror(advices[i].errno_value), reason)) return advices[i].advice;
    return NULL;
}

int files_error(Err *e, const char *doing, const char *path, int errno_value) {
    const char *reason = strerror(errno_value), *advice = files_advice(reason);
    return err_set(e, "cannot %s %s: %s%s%s", doing, path, reason, advice ? "; " : "",
                   advice ? advice : "");
}

bool files_exists(const char *path) { return access(path, F_OK) == 0; }

bool files_is_dir(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

bool files_is_empty(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return !files_exists(path);
    int n = 0;
    for (struct dirent *d; n == 0 && (d = readdir(dir));)
        n = strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
    closedir(dir);
    return n == 0;
}

static char *joined(const char *a, const char *b, const char *c) {
    Buf text = {0};
    buf_printf(&text, "%s%s%s", a, b, c);
    return text.p;
}

bool files_holds(const char *dir, const char *path) {
    char *d = realpath(dir, NULL), *p = d ? realpath(path, NULL) : NULL;
    size_t n = p ? strlen(d) : 0;
    bool holds = p && !strncmp(p, d, n) && (!p[n] || p[n] == '/');
    free(d); /* the C library's */
    free(p);
    return holds;
}

char *files_join(const char *dir, const char *name) {
    size_t n = strlen(dir);
    if (n == 0 || name[0] == '/') return mem_copy_text(name);
    return joined(dir, dir[n - 1] == '/' ? "" : "/", name);
}

/* path without slashes at its end (but for "/" itself), on the heap. */
static char *trimmed(const char *path) {
    char *copy = mem_copy_text(path);
    for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--) copy[n - 1] = 0;
    return copy;
}

char *files_parent(const char *path) {
    char *copy = trimmed(path), *slash = strrchr(copy, '/');
    if (!slash) {
        mem_free(copy);
        return mem_copy_text(".");
    }
    slash[slash == copy] = 0;
    return copy;
}

/* Where a path really leads: writing through a link must not replace the link. On the heap. */
static char *resolved(const char *path) {
    char *copy = trimmed(path), *real = realpath(copy, NULL);
    if (!real) return copy;
    mem_free(copy);
    copy = mem_copy_text(real);
    free(real);
    return copy;
}

int files_read(const char *path, Buf *out, Err *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return files_error(e, "open", path, errno);
    enum { CHUNK = 1 << 16 };
    char *part = mem_alloc(CHUNK);
    ssize_t n;
    while ((n = read(fd, part, CHUNK)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0) buf_add(out, part, (size_t)n);
    int fault = n < 0 ? errno : 0;
    mem_free(part);
    close(fd);
    return fault ? files_error(e, "read", path, fault) : 0;
}

int files_map(const char *path, const void **data, size_t *bytes, Err *e) {
    *data = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hang us */
    if (fd < 0) return files_error(e, "open", path, errno);
    struct stat s;
    int fault = fstat(fd, &s) != 0 ? errno : 0;
    if (!fault && !S_ISREG(s.st_mode)) {
        close(fd);
        return err_set(e, "cannot map %s: it is not a regular file", path);
    }
    if (!fault && s.st_size > 0) {
        void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            fault = errno;
        } else {
            *data = p;
            *bytes = (size_t)s.st_size;
        }
    }
    close(fd);
    return fault ? files_error(e, "map", path, fault) : 0;
}

void files_unmap(const void *data, size_t bytes) {
    if (data) munmap((void *)(uintptr_t)data, bytes);
}

void files_forget(const void *data, size_t bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)data,
              to = (from + bytes) / page * page;
    from = (from + page - 1) / page * page;
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

int files_temp_dir(char **dir, const char *name, Err *e) {
    const char *tmp = getenv("TMPDIR");
    Buf path = {0};
    if (!tmp || !*tmp) tmp = "/tmp";
    buf_printf(&path, "%s/moesmith-%s-XXXXXX", tmp, name);
    *dir = path.p;
    if (mkdtemp(path.p)) return 0;
    err_set(e, "cannot make a directory in %s: %s; set TMPDIR to another", tmp, strerror(errno));
    buf_free(&path);
    return -1;
}

int files_lock_dir(const char *dir, int *lock, bool *busy, Err *e) {
    *busy = false;
    *lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*lock < 0) return files_error(e, "open", dir, errno);
    *busy = flock(*lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (!*busy) return 0;
    close(*lock);
    *lock = -1;
    return 0;
}

int files_make_dirs(const char *path, Err *e) {
    char *copy = trimmed(path);
    int bad = 0;
    for (char *at = copy; !bad && *at; at++) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        char was = *at;
        *at = 0;
        if (mkdir(copy, 0777) != 0 && !files_is_dir(copy))
            bad = files_error(e, "make directory", copy, errno);
        *at = was;
        if (!was) break;
    }
    mem_free(copy);
    return bad;
}

int files_make_parent(const char *path, Err *e) {
    char *parent = files_parent(path);
    int bad = files_make_dirs(parent, e);
    mem_free(parent);
    return bad;
}

int files_check_writable(const char *dir, Err *e) {
    char *at = resolved(dir);
    while (!files_exists(at)) {
        char *above = files_parent(at);
        mem_free(at);
        at = above;
    }
    int bad = 0;
    if (!files_is_dir(at))
        bad = files_error(e, "write into", at, ENOTDIR);
    else if (access(at, W_OK | X_OK))
        bad = files_error(e, "write into", at, errno);
    mem_free(at);
    return bad;
}

int files_check_regular(const char *path, Err *e) {
    struct stat s;
    if (stat(path, &s) || S_ISREG(s.st_mode)) return 0;
    return err_set(e, "cannot write %s: it is %s, expected a regular file or nothing there", path,
                   S_ISDIR(s.st_mode) ? "a directory" : "a device or pipe");
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *at) {
    (void)s, (void)kind, (void)at;
    return remove(path);
}

int files_remove(const char *path, Err *e) {
    if (nftw(path, remove_one, WALK_FDS, FTW_PHYS | FTW_DEPTH) == 0 || errno == ENOENT) return 0;
    return files_error(e, "remove", path, errno);
}

/* fsync by descriptor; file systems that cannot do it for this kind of file say EINVAL. */
static int sync_fd(int fd) { return fsync(fd) == 0 || errno == EINVAL ? 0 : -1; }

static int sync_path(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int bad = sync_fd(fd), why = errno;
    close(fd);
    errno = why;
    return bad;
}

static int sync_one(const char *path, const struct stat *s, int kind, struct FTW *at) {
    (void)at;
    bool has_data = kind == FTW_DP || (kind == FTW_F && S_ISREG(s->st_mode));
    return has_data ? sync_path(path) : 0;
}

static int sync_parent(const char *path, Err *e) {
    char *parent = files_parent(path);
    int bad = sync_path(parent) ? files_error(e, "flush directory", parent, errno) : 0;
    mem_free(parent);
    return bad;
}

void files_abort(FileOut *f) {
    if (!f->path) return;
    if (f->fd >= 0) close(f->fd);
    unlink(f->temp);
    mem_free(f->path);
    mem_free(f->temp);
    *f = (FileOut){.fd = -1};
}

/* The sentence names what was asked for, not the temporary file; f is gone afterwards. */
static int give_up(FileOut *f, const char *doing, Err *e) {
    files_error(e, doing, f->path, errno);
    files_abort(f);
    return -1;
}

int files_begin(FileOut *f, const char *path, Err *e) {
    *f = (FileOut){.fd = -1};
    TRY(files_check_regular(path, e));
    TRY(files_make_parent(path, e));
    f->path = resolved(path);
    f->temp = joined(f->path, PARTIAL, "");
    f->fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    return f->fd < 0 ? give_up(f, "write", e) : 0;
}

/* All n bytes, however many calls that takes; errno tells why not. */
static int write_all(int fd, const char *at, size_t n) {
    while (n) {
        ssize_t done = write(fd, at, n);
        if (done < 0 && errno != EINTR) return -1;
        if (done > 0) at += done, n -= (size_t)done;
    }
    return 0;
}

int files_write(FileOut *f, const void *bytes, size_t n, Err *e) {
    return write_all(f->fd, bytes, n) ? give_up(f, "write", e) : 0;
}

int files_commit(FileOut *f, Err *e) {
    if (sync_fd(f->fd)) return give_up(f, "flush", e);
    int fd = f->fd;
    f->fd = -1;
    if (close(fd)) return give_up(f, "close", e);
    if (rename(f->temp, f->path)) return give_up(f, "write", e);
    int bad = sync_parent(f->path, e);
    files_abort(f); /* the temporary file is no longer there: this only frees */
    return bad;
}

char *files_partial(const char *path) {
    char *place = resolved(path), *partial = joined(place, PARTIAL, "");
    mem_free(place);
    return partial;
}

int files_complete(const char *partial, const char *path, Err *e) {
    char *place = resolved(path);
    int bad = sync_path(partial) ? files_error(e, "flush", path, errno) : 0;
    if (!bad && rename(partial, place)) bad = files_error(e, "write", path, errno);
    if (!bad) bad = sync_parent(place, e);
    mem_free(place);
    return bad;
}

int files_write_whole(const char *path, const void *bytes, size_t n, Err *e) {
    FileOut f;
    TRY(files_begin(&f, path, e));
    TRY(files_write(&f, bytes, n, e));
    return files_commit(&f, e);
}

int files_copy(const char *from, const char *to, Err *e) {
    const void *data;
    size_t n;
    TRY(files_map(from, &data, &n, e));
    int bad = files_write_whole(to, data, n, e);
    files_unmap(data, n);
    return bad;
}

void files_dir_abort(DirOut *d) {
    Err ignored;
    if (!d->path) return;
    files_remove(d->temp, &ignored);
    mem_free(d->path);
    mem_free(d->temp);
    *d = (DirOut){0};
}

int files_dir_recover(const char *path, Err *e) {
    char *place = resolved(path), *old = joined(place, OLD, "");
    int bad = 0;
    if (files_exists(old)) {
        if (files_exists(place))
            bad = files_remove(old, e);
        else if (rename(old, place))
            bad = files_error(e, "restore", place, errno);
    }
    mem_free(old);
    mem_free(place);
    return bad;
}

int files_dir_begin(DirOut *d, const char *path, Err *e) {
    *d = (DirOut){0};
    if (files_exists(path) && !files_is_dir(path))
        return err_set(e, "cannot write directory %s: it is a file; choose another path", path);
    if (files_make_parent(path, e) || files_dir_recover(path, e)) return -1;
    *d = (DirOut){.path = resolved(path)};
    d->temp = joined(d->path, PARTIAL, "");
    int bad = files_remove(d->temp, e);
    if (!bad && mkdir(d->temp, 0777)) bad = files_error(e, "make directory", d->temp, errno);
    if (bad) files_dir_abort(d);
    return bad;
}

/* new takes the name of path; what was there before is then called old or new, and still whole. */
static int swap_in(const char *new, const char *path, const char *old) {
    if (rename(new, path) == 0) return 0; /* nothing there, or an empty directory */
    if (errno != ENOTEMPTY && errno != EEXIST) return -1;
    if (renameat2(AT_FDCWD, new, AT_FDCWD, path, RENAME_EXCHANGE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) return -1;
    if (rename(path, old)) return -1;
    if (rename(new, path) == 0) return 0;
    int why = errno;
    rename(old, path); /* failing that, files_dir_recover is the next to try */
    errno = why;
    return -1;
}

int files_dir_commit(DirOut *d, Err *e) {
    char *old = joined(d->path, OLD, "");
    int bad = 0;
    if (nftw(d->temp, sync_one, WALK_FDS, FTW_PHYS | FTW_DEPTH) || swap_in(d->temp, d->path, old))
        bad = files_error(e, "write directory", d->path, errno);
    if (!bad) bad = sync_parent(d->path, e);
    if (!bad) bad = files_remove(old, e);
    files_dir_abort(d); /* after a swap the replaced directory bears the temporary name */
    mem_free(old);
    return bad;
}

int files_append_line(const char *path, const char *line, Err *e) {
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return files_error(e, "write", path, errno);
    Buf text = {0};
    buf_printf(&text, "%s\n", line);
    off_t before = lseek(fd, 0, SEEK_END);
    ssize_t done = write(fd, text.p, text.n);
    int bad = 0;
    if (done != (ssize_t)text.n) {
        bad = files_error(e, "append a line to", path, done < 0 ? errno : ENOSPC);
        if (done > 0 && ftruncate(fd, before)) err_prefix(e, "a torn line stays behind");
    }
    buf_free(&text);
    close(fd);
    return bad;
}

/* The length of the file up to and with its last newline; -1 with errno. */
static off_t whole_lines(int fd) {
    char part[4096];
    off_t end = lseek(fd, 0, SEEK_END);
    while (end > 0) {
        off_t from = end > (off_t)sizeof part ? end - (off_t)sizeof part : 0;
        ssize_t n = pread(fd, part, (size_t)(end - from), from);
        if (n < 0) return -1;
        const char *last = memrchr(part, '\n', (size_t)n);
        if (last) return from + (last - part) + 1;
        end = from;
    }
    return end;
}

int files_drop_torn_line(const char *path, Err *e) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : files_error(e, "open", path, errno);
    off_t keep = whole_lines(fd), size = lseek(fd, 0, SEEK_END);
    int bad = keep < 0 || size < 0 || (keep < size && ftruncate(fd, keep));
    if (bad) files_error(e, "shorten", path, errno);
    close(fd);
    return bad ? -1 : 0;
}

void files_drop_cached(const char *path, int64_t offset, size_t bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    posix_fadvise(fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
    close(fd);
}
