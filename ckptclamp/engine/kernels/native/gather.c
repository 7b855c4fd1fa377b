/* Columns of a matrix as rows, and back: squares of elements are turned in registers, and the squares of a
 * block follow each other, so that whole lines of the matrix and of the rows are used while a cache has them.
 */
#include "kernels.h"

#include <string.h>

enum { WHOLE = 16 }; /* bytes of a register that every machine has */

#if defined(__clang__) || __GNUC__ >= 12
#define PICKED(vector, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICKED(vector, a, b, ...) __builtin_shuffle(a, b, (vector){__VA_ARGS__})
#endif

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* How many of `count` columns, at most `most`, follow each other. */
static inline size_t adjacent(const int64_t *columns, size_t count, size_t most) {
    size_t run = 1;
    while (run < least(count, most) && columns[run] == columns[0] + (int64_t)run) run++;
    return run;
}

/* For elements of one size, of which the halves of two registers are interleaved as FIRST and SECOND tell:
 * `square` turns as many rows as a register has elements, `turn` a block of any shape. */
#define ELEMENTS(bits, FIRST, SECOND)                                                              \
    typedef uint##bits##_t vector##bits __attribute__((vector_size(WHOLE)));                       \
                                                                                                   \
    static inline void square##bits(const uint##bits##_t *from, size_t stride, uint##bits##_t *to, \
                                    size_t step) {                                                 \
        enum { SIDE = 8 * WHOLE / bits };                                                          \
        vector##bits v[SIDE], next[SIDE];                                                          \
        for (int i = 0; i < SIDE; i++) memcpy(v + i, from + i * stride, WHOLE);                    \
        for (int n = 1; n < SIDE; n *= 2) {                                                        \
            for (int i = 0; i < SIDE / 2; i++) {                                                   \
                next[2 * i] = PICKED(vector##bits, v[i], v[i + SIDE / 2], FIRST);                  \
                next[2 * i + 1] = PICKED(vector##bits, v[i], v[i + SIDE / 2], SECOND);             \
            }                                                                                      \
            memcpy(v, next, sizeof v);                                                             \
        }                                                                                          \
        for (int i = 0; i < SIDE; i++) memcpy(to + i * step, v + i, WHOLE);                        \
    }                                                                                              \
                                                                                                   \
    static void turn##bits(const uint##bits##_t *from, size_t stride, uint##bits##_t *to,          \
                           size_t step, size_t rows, size_t across) {                              \
        enum { SIDE = 8 * WHOLE / bits };                                                          \
        size_t down = rows / SIDE * SIDE, right = across / SIDE * SIDE;                            \
        for (size_t i = 0; i < down; i += SIDE)                                                    \
            for (size_t j = 0; j < right; j += SIDE)                                               \
                square##bits(from + i * stride + j, stride, to + j * step + i, step);              \
        for (size_t i = 0; i < rows; i++)                                                          \
            for (size_t j = i < down ? right : 0; j < across; j++)                                 \
                to[j * step + i] = from[i * stride + j];                                           \
    }                                                                                              \
                                                                                                   \
    static void gather##bits(const uint##bits##_t *matrix, size_t height, size_t width,            \
                             const int64_t *columns, size_t count, uint##bits##_t *rows) {         \
        enum { BLOCK = 1024 / bits };                                                              \
        for (size_t i = 0; i < height; i += BLOCK)                                                 \
            for (size_t k = 0, run; k < count; k += run) {                                         \
                run = adjacent(columns + k, count - k, BLOCK);                                     \
                turn##bits(matrix + i * width + columns[k], width, rows + k * height + i, height,  \
                           least(BLOCK, height - i), run);                                         \
            }                                                                                      \
    }                                                                                              \
                                                                                                   \
    static void scatter##bits(uint##bits##_t *matrix, size_t height, size_t width,                 \
                              const int64_t *columns, size_t count, const uint##bits##_t *rows) {  \
        enum { BLOCK = 1024 / bits };                                                              \
        for (size_t i = 0; i < height; i += BLOCK)                                                 \
            for (size_t k = 0, run; k < count; k += run) {                                         \
                run = adjacent(columns + k, count - k, BLOCK);                                     \
                turn##bits(rows + k * height + i, height, matrix + i * width + columns[k], width,  \
                           run, least(BLOCK, height - i));                                         \
            }                                                                                      \
    }

#define LIST(...) __VA_ARGS__
ELEMENTS(8, LIST(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
         LIST(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31))
ELEMENTS(16, LIST(0, 8, 1, 9, 2, 10, 3, 11), LIST(4, 12, 5, 13, 6, 14, 7, 15))
ELEMENTS(32, LIST(0, 4, 1, 5), LIST(2, 6, 3, 7))
ELEMENTS(64, LIST(0, 2), LIST(1, 3))

void LEVEL(gather)(size_t size, const void *matrix, size_t height, size_t width,
                   const int64_t *columns, size_t count, void *rows) {
    switch (size) {
    case 1: gather8(matrix, height, width, columns, count, rows); return;
    case 2: gather16(matrix, height, width, columns, count, rows); return;
    case 4: gather32(matrix, height, width, columns, count, rows); return;
    case 8: gather64(matrix, height, width, columns, count, rows); return;
    }
}

void LEVEL(scatter)(size_t size, void *matrix, size_t height, size_t width, const int64_t *columns,
                    size_t count, const void *rows) {
    switch (size) {
    case 1: scatter8(matrix, height, width, columns, count, rows); return;
    case 2: scatter16(matrix, height, width, columns, count, rows); return;
    case 4: scatter32(matrix, height, width, columns, count, rows); return;
    case 8: scatter64(matrix, height, width, columns, count, rows); return;
    }
}
