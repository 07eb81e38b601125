/* replay.c - runs a fuzzer's entry over every file of the folders named, as a plain test, and
 * over damaged copies of each: cut short at many places, and with single bytes changed. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    static uint8_t whole[1 << 20];
    size_t n = fread(whole, 1, sizeof whole, f);
    fclose(f);
    LLVMFuzzerTestOneInput(whole, n);
    uint8_t *copy = malloc(n + 1);
    for (size_t cut = 0; cut < n; cut += n / 64 + 1) {
        memcpy(copy, whole, cut);
        uint8_t *tight = malloc(cut + 1);
        memcpy(tight, whole, cut);
        LLVMFuzzerTestOneInput(tight, cut);
        free(tight);
    }
    uint64_t state = 88172645463325252ull;
    for (int k = 0; n && k < 200; k++) {
        memcpy(copy, whole, n);
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        copy[(state >> 8) % n] = (uint8_t)(state >> 40);
        LLVMFuzzerTestOneInput(copy, n);
    }
    free(copy);
    return 1;
}

int main(int argc, char **argv) {
    int files = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        if (!d) continue;
        for (struct dirent *e; (e = readdir(d));) {
            char path[4096];
            if (e->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
            files += replay_file(path);
        }
        closedir(d);
    }
    printf("%d seeds replayed\n", files);
    return files == 0; /* a fuzzer without seeds tests nothing */
}
