/* Statistics of the rows and of the columns of matrices; the order of sums stands in kernels.h. */
#include "kernels.h"

#include <math.h>
#include <string.h>

/* Weights as they are stored. */
struct stored {
    enum dtype dtype;
    size_t size;
    const char *weights;
};

/* Weights from number `first` on: where they lie, or in `tile`. */
static inline const float *load_float(const struct stored *from, size_t first, size_t count, float *tile) {
    const char *weights = from->weights + first * from->size;
    if (from->dtype == FLOAT32) return (const float *)weights;
    LEVEL(to_float)(from->dtype, weights, count, tile);
    return tile;
}

static inline const double *load_double(const struct stored *from, size_t first, size_t count, double *tile) {
    const char *weights = from->weights + first * from->size;
    if (from->dtype == FLOAT64) return (const double *)weights;
    LEVEL(to_double)(from->dtype, weights, count, tile);
    return tile;
}

#define SOURCE struct stored
#define REAL float
#define KEY int32_t
#define KEY_MAX INT32_MAX
#define NAMED(name) name##_float
#include "tile.h"
#undef REAL
#undef KEY
#undef KEY_MAX
#undef NAMED

#define REAL double
#define KEY int64_t
#define KEY_MAX INT64_MAX
#define NAMED(name) name##_double
#include "tile.h"

static int squares_alone(results out) {
    for (int s = 0; s < STATISTICS; s++)
        if (!out[s] == (s == SQUARES)) return 0;
    return 1;
}

void LEVEL(rows)(enum dtype dtype, const void *weights, size_t count, size_t length, results out) {
    if (squares_alone(out) && LEVEL(byte_squares)(dtype, weights, count, length, out[SQUARES])) return;
    struct stored from = {dtype, LEVEL(size_of)(dtype), weights};
    (dtype < FLOAT64 ? rows_float : rows_double)(&from, count, length, out);
}

void LEVEL(columns)(enum dtype dtype, const void *weights, size_t batch, size_t rows, size_t length,
                    results out) {
    if (squares_alone(out) && LEVEL(byte_columns)(dtype, weights, batch, rows, length, out[SQUARES])) return;
    struct stored from = {dtype, LEVEL(size_of)(dtype), weights};
    (dtype < FLOAT64 ? columns_float : columns_double)(&from, batch, rows, length, out);
}
