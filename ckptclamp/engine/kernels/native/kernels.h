/* What the compiled kernels share: dtypes, statistics, and the order in which sums are taken.
 *
 * The order (docs/numbers.md states it, engine/kernels/numpy_kernels.py keeps the same):
 * - a run of a row, RUN weights, is added up in LANES lanes, weight i in lane i % LANES, and the lanes
 *   are folded in halves; the runs of a row follow each other;
 * - narrow columns are folded: `fold` rows of a matrix count as one; the rows of a group, about PIECE
 *   weights, follow each other, then the groups do, then what was folded is folded in halves.
 * Every product and every sum is rounded to double once; nothing is fused (-ffp-contract=off).
 */
#ifndef CKPTCLAMP_KERNELS_H
#define CKPTCLAMP_KERNELS_H

#include "level.h"

#include <stddef.h>
#include <stdint.h>

enum { LANES = 16, RUN = 2048, WIDE = 256, PIECE = 1 << 18, TILE = 2 * WIDE };

enum dtype {
    FLOAT32, FLOAT16, BFLOAT16,
    FLOAT8_E4M3FN, FLOAT8_E4M3FNUZ, FLOAT8_E5M2, FLOAT8_E5M2FNUZ, FLOAT8_E8M0FNU,
    INT8, UINT8, INT16, UINT16, BOOL,
    FLOAT64, INT32, UINT32, INT64, UINT64, /* from FLOAT64 on, float does not hold every value */
};

enum statistic { SQUARES, SUM, MAGNITUDES, MINIMUM, MAXIMUM, NONZERO, NONFINITE, STATISTICS };

/* Where each statistic goes, an array of one double for each unit; NULL where it is not asked for.
 * MINIMUM and MAXIMUM are asked for together; a NaN shows in one of them. */
typedef double *const results[STATISTICS];

/* Weights as float or as double, exact but for integers beyond 2**53. */
size_t LEVEL(size_of)(enum dtype dtype);
void LEVEL(to_float)(enum dtype dtype, const void *weights, size_t count, float *out);
void LEVEL(to_double)(enum dtype dtype, const void *weights, size_t count, double *out);

/* Of each row of `count`, or of each column of `batch` matrices one after another. */
void LEVEL(rows)(enum dtype dtype, const void *weights, size_t count, size_t length, results out);
int LEVEL(byte_squares)(enum dtype dtype, const void *weights, size_t count, size_t length, double *out);
int LEVEL(byte_columns)(enum dtype dtype, const void *weights, size_t batch, size_t rows, size_t length,
                        double *out);
void LEVEL(columns)(enum dtype dtype, const void *weights, size_t batch, size_t rows, size_t length,
                    results out);

/* Of `boxes` matrices of `rows` that follow each other in a file, each of the rows, or of the `columns`; 0 where
 * they could not be read whole. `buffer` has room for one of them. */
int LEVEL(file)(int fd, int64_t offset, enum dtype dtype, size_t boxes, size_t rows, size_t length,
                int columns, results out, void *buffer);

/* Codes in rows of `length`, `per` of them in a byte (1, 2 or 4), and the weights that they stand for:
 * (table[code] - zero) * factor / divisor, zero points and factors shared by groups of a row's codes. */
struct codes {
    const uint8_t *bytes;
    const int64_t *places;  /* the first byte of each row, */
    const int64_t *numbers; /* and which row of factors and zero points is its own */
    const float *table;     /* all that a byte stands for, for each of the 256; NULL for numbers of `dtype` */
    const double *zeros, *factors; /* of `groups` each; no zeros where NULL */
    const int32_t *group_of; /* of each column; where NULL, column c is of group (first + c) / step */
    size_t length, per, skip; /* so many codes come before those of a row */
    size_t groups, step, first;
    double divisor; /* 1: none */
    enum dtype dtype;
};

void LEVEL(decode)(const struct codes *from, size_t first, size_t count, double *out);
void LEVEL(code_rows)(const struct codes *from, size_t count, size_t length, results out);
void LEVEL(code_columns)(const struct codes *from, size_t batch, size_t rows, size_t length, results out);

/* How rows move, numbers for each; NULL where nothing of the kind is done. Weights end between `least`
 * and `most`, the range of the dtype. */
struct movement {
    const double *scale, *shift, *low, *high, *offset;
    double least, most;
    int adds; /* the offset is added, instead of 1 + offset multiplied */
};

void LEVEL(move)(enum dtype dtype, const void *weights, size_t count, size_t length,
                 const struct movement *by, void *out);
void LEVEL(moved_rows)(enum dtype dtype, const void *weights, size_t count, size_t length,
                       const struct movement *by, results out, void *scratch, size_t room);
/* How rows move with the one of two offsets, and with the other; what they gain, see between.c. */
struct between {
    const struct movement *outer; /* it has offsets */
    const double *inner, *sign, *power;
};

void LEVEL(gained)(enum dtype dtype, const void *weights, size_t count, size_t length,
                   const struct between *by, double *out);
void LEVEL(fit)(enum dtype dtype, const void *weights, size_t count, size_t length,
                const struct between *by, const double *rest, void *out);
void LEVEL(compare)(enum dtype dtype, const void *before, const void *after, size_t count,
                    size_t length, uint8_t *differs, double *change, double *peak);

/* The nibbles of a matrix of bytes, the lower one of a byte first, as rows: of each column, two to a byte. */
void LEVEL(turn_nibbles)(const uint8_t *matrix, size_t height, size_t width, uint8_t *rows);

/* Some columns of a matrix of elements of `size` bytes as `count` rows of `height`, and back. */
void LEVEL(gather)(size_t size, const void *matrix, size_t height, size_t width,
                   const int64_t *columns, size_t count, void *rows);
void LEVEL(scatter)(size_t size, void *matrix, size_t height, size_t width, const int64_t *columns,
                    size_t count, const void *rows);

#endif
