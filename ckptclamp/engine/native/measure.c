/* Statistics of the rows and of the columns of matrices; the order of sums stands in kernels.h. */
#include "level.h"
#include "kernels.h"

#include <math.h>
#include <string.h>

#define REAL float
#define KEY int32_t
#define KEY_MAX INT32_MAX
#define NAMED(name) name##_float
#define STORED FLOAT32
#include "tile.h"
#undef REAL
#undef KEY
#undef KEY_MAX
#undef NAMED
#undef STORED

#define REAL double
#define KEY int64_t
#define KEY_MAX INT64_MAX
#define NAMED(name) name##_double
#define STORED FLOAT64
#include "tile.h"

void LEVEL(rows)(enum dtype dtype, const void *weights, size_t count, size_t length, results out) {
    (dtype < FLOAT64 ? rows_float : rows_double)(dtype, weights, count, length, out);
}

void LEVEL(columns)(enum dtype dtype, const void *weights, size_t batch, size_t rows, size_t length,
                    results out) {
    (dtype < FLOAT64 ? columns_float : columns_double)(dtype, weights, batch, rows, length, out);
}
