/* Columns of a matrix as rows, and back, by way of a tile in the second-level cache: long stretches of the
 * matrix and several whole lines of each row at a time. Rows of a tile are no power of two apart, which
 * would have them push each other out. */
#include "kernels.h"

enum { ACROSS = 1024, DOWN = 256, LINE = 64 }; /* bytes */

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

#define GATHER(type)                                                                               \
    {                                                                                              \
        enum { WIDTH = ACROSS / sizeof(type), HEIGHT = DOWN / sizeof(type) };                      \
        const type *restrict from = matrix;                                                        \
        type *restrict to = rows;                                                                  \
        type tile[HEIGHT][WIDTH + LINE / sizeof(type)];                                            \
        for (size_t k = 0; k < count; k += WIDTH)                                                  \
            for (size_t i = 0; i < height; i += HEIGHT) {                                          \
                size_t across = least(WIDTH, count - k), down = least(HEIGHT, height - i);         \
                for (size_t a = 0; a < down; a++)                                                  \
                    for (size_t b = 0; b < across; b++)                                            \
                        tile[a][b] = from[(i + a) * width + (size_t)columns[k + b]];               \
                for (size_t b = 0; b < across; b++)                                                \
                    for (size_t a = 0; a < down; a++) to[(k + b) * height + i + a] = tile[a][b];   \
            }                                                                                      \
        return;                                                                                    \
    }

#define SCATTER(type)                                                                              \
    {                                                                                              \
        enum { WIDTH = ACROSS / sizeof(type), HEIGHT = DOWN / sizeof(type) };                      \
        const type *restrict from = rows;                                                          \
        type *restrict to = matrix;                                                                \
        type tile[HEIGHT][WIDTH + LINE / sizeof(type)];                                            \
        for (size_t k = 0; k < count; k += WIDTH)                                                  \
            for (size_t i = 0; i < height; i += HEIGHT) {                                          \
                size_t across = least(WIDTH, count - k), down = least(HEIGHT, height - i);         \
                for (size_t b = 0; b < across; b++)                                                \
                    for (size_t a = 0; a < down; a++) tile[a][b] = from[(k + b) * height + i + a]; \
                for (size_t a = 0; a < down; a++)                                                  \
                    for (size_t b = 0; b < across; b++)                                            \
                        to[(i + a) * width + (size_t)columns[k + b]] = tile[a][b];                 \
            }                                                                                      \
        return;                                                                                    \
    }

void LEVEL(gather)(size_t size, const void *matrix, size_t height, size_t width,
                   const int64_t *columns, size_t count, void *rows) {
    switch (size) {
    case 1: GATHER(uint8_t)
    case 2: GATHER(uint16_t)
    case 4: GATHER(uint32_t)
    case 8: GATHER(uint64_t)
    }
}

void LEVEL(scatter)(size_t size, void *matrix, size_t height, size_t width, const int64_t *columns,
                    size_t count, const void *rows) {
    switch (size) {
    case 1: SCATTER(uint8_t)
    case 2: SCATTER(uint16_t)
    case 4: SCATTER(uint32_t)
    case 8: SCATTER(uint64_t)
    }
}
