/* Weights of a file, read and measured box by box in one call: the interpreter's lock is given back once. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "kernels.h"

#ifdef _WIN32

static int read_whole(int fd, char *buffer, size_t size, int64_t offset) {
    (void)fd, (void)buffer, (void)size, (void)offset;
    return 0;
}

#else

#include <unistd.h>

static int read_whole(int fd, char *buffer, size_t size, int64_t offset) {
    while (size) {
        ssize_t count = pread(fd, buffer, size, (off_t)offset);
        if (count <= 0) return 0; /* who reads it again says what is wrong */
        buffer += count, size -= (size_t)count, offset += count;
    }
    return 1;
}

#endif

int LEVEL(file)(int fd, int64_t offset, enum dtype dtype, size_t boxes, size_t rows, size_t length,
                int columns, results out, void *buffer) {
    size_t size = rows * length * LEVEL(size_of)(dtype), units = columns ? length : rows;
    for (size_t b = 0; b < boxes; b++, offset += (int64_t)size) {
        if (!read_whole(fd, buffer, size, offset)) return 0;
        double *at[STATISTICS];
        for (int s = 0; s < STATISTICS; s++) at[s] = out[s] ? out[s] + b * units : NULL;
        if (columns)
            LEVEL(columns)(dtype, buffer, 1, rows, length, at);
        else
            LEVEL(rows)(dtype, buffer, rows, length, at);
    }
    return 1;
}
