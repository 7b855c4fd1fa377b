/* Codes as the weights that they stand for, decoded into a tile in the cache and measured there.
 *
 * Each operation is rounded once, in this order: less the zero point, times the factor, by the divisor. */
#include "kernels.h"

#include <math.h>
#include <string.h>

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

enum { BATCH = 8 }; /* codes of whole bytes that are decoded at once: few enough for registers */

/* `count` codes from number `first` of a row on, `per` of them, a constant, in a byte. */
#define DECODE(per)                                                                                \
    static inline void decode_##per(const uint8_t *restrict bytes, const double *restrict table,   \
                                    size_t first, size_t count, double zero, double factor,        \
                                    double *restrict out) {                                        \
        size_t i = 0, end = first + count;                                                         \
        for (; first % per && first < end; first++)                                                \
            out[i++] = (table[bytes[first / per] * (size_t)per + first % per] - zero) * factor;    \
        for (; first + BATCH <= end; first += BATCH, i += BATCH) {                                 \
            double values[BATCH];                                                                  \
            for (size_t k = 0; k < BATCH / per; k++)                                               \
                memcpy(values + k * per, table + bytes[first / per + k] * (size_t)per,             \
                       per * sizeof(double));                                                      \
            for (size_t k = 0; k < BATCH; k++) out[i + k] = (values[k] - zero) * factor;           \
        }                                                                                          \
        for (; first < end; first++)                                                               \
            out[i++] = (table[bytes[first / per] * (size_t)per + first % per] - zero) * factor;    \
    }

DECODE(1)
DECODE(2)
DECODE(4)

/* Weights of one group; no zero point is 0, which takes nothing from any number. Numbers of a dtype lie in
 * `out` already. */
static inline void decode_group(const struct codes *from, const uint8_t *bytes, size_t first, size_t count,
                                double zero, double factor, double *restrict out) {
    const double *table = from->table;
    if (!table) for (size_t i = 0; i < count; i++) out[i] = (out[i] - zero) * factor;
    else if (from->per == 1) decode_1(bytes, table, first, count, zero, factor, out);
    else if (from->per == 2) decode_2(bytes, table, first, count, zero, factor, out);
    else decode_4(bytes, table, first, count, zero, factor, out);
}

static void scale_groups(const struct codes *from, const uint8_t *bytes, const double *zeros,
                         const double *factors, size_t column, size_t count, double *out) {
    size_t group = (from->first + column) / from->step, first = from->skip + column;
    size_t end = (group + 1) * from->step - from->first - column;
    for (size_t i = 0; i < count; i = end, end += from->step, group++) {
        double zero = zeros ? zeros[group] : 0;
        decode_group(from, bytes, first + i, least(end, count) - i, zero, factors[group], out + i);
    }
}

/* Each code is of a group of its own, or of any. */
static void scale_each(const struct codes *from, const double *restrict zeros, const double *restrict factors,
                       size_t column, size_t count, double *restrict out) {
    size_t first = from->first + column;
    const int32_t *restrict group_of = from->group_of ? from->group_of + column : NULL;
    if (group_of) {
        for (size_t i = 0; zeros && i < count; i++) out[i] -= zeros[group_of[i]];
        for (size_t i = 0; i < count; i++) out[i] *= factors[group_of[i]];
        return;
    }
    for (size_t i = 0; zeros && i < count; i++) out[i] -= zeros[first + i];
    for (size_t i = 0; i < count; i++) out[i] *= factors[first + i];
}

static inline void decode_row(const struct codes *from, size_t row, size_t column, size_t count,
                              double *restrict out) {
    const uint8_t *bytes = from->bytes + from->places[row];
    size_t numbers = (size_t)from->numbers[row] * from->groups, first = from->skip + column;
    const double *factors = from->factors + numbers, *zeros = from->zeros ? from->zeros + numbers : NULL;
    int each = from->group_of || from->step == 1;
    if (!from->table) LEVEL(to_double)(from->dtype, bytes + first, count, out);
    if (each && from->table) decode_group(from, bytes, first, count, 0, 1, out);
    if (each) scale_each(from, zeros, factors, column, count, out);
    else scale_groups(from, bytes, zeros, factors, column, count, out);
    double divisor = from->divisor; /* of which the compiler then knows that `out` does not change it */
    for (size_t i = 0; divisor != 1 && i < count; i++) out[i] /= divisor;
}

void LEVEL(decode)(const struct codes *from, size_t first, size_t count, double *out) {
    size_t row = first / from->length, column = first % from->length;
    for (size_t done = 0; done < count; row++, column = 0) {
        size_t some = least(count - done, from->length - column);
        decode_row(from, row, column, some, out + done);
        done += some;
    }
}

static inline const double *load_codes(const struct codes *from, size_t first, size_t count, double *tile) {
    LEVEL(decode)(from, first, count, tile);
    return tile;
}

#define SOURCE struct codes
#define REAL double
#define KEY int64_t
#define KEY_MAX INT64_MAX
#define NAMED(name) name##_codes
#include "tile.h"

void LEVEL(code_rows)(const struct codes *from, size_t count, size_t length, results out) {
    rows_codes(from, count, length, out);
}

void LEVEL(code_columns)(const struct codes *from, size_t batch, size_t rows, size_t length, results out) {
    columns_codes(from, batch, rows, length, out);
}
