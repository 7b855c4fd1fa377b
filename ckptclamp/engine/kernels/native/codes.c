/* Codes as the weights that they stand for, decoded into a tile in the cache and measured there.
 *
 * Each operation is rounded once, in this order: less the zero point, times the factor, by the divisor. */
#include "kernels.h"

#include <math.h>
#include <string.h>

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* What a group of codes shares. */
struct group {
    double zero, factor;
    int shifts;
};

static inline double weight(double value, struct group by) {
    if (by.shifts) value -= by.zero;
    return value * by.factor;
}

/* `count` codes from number `first` of a row on; `per`, a constant, lie in a byte. */
#define DECODE(per)                                                                                \
    static inline void decode_##per(const uint8_t *restrict bytes, const double *restrict table,   \
                                    size_t first, size_t count, struct group by,                   \
                                    double *restrict out) {                                        \
        size_t i = 0, k = first % per;                                                             \
        bytes += first / per;                                                                      \
        for (; k && i < count; i++) {                                                              \
            out[i] = weight(table[*bytes * (size_t)per + k], by);                                  \
            k = (k + 1) % per;                                                                     \
            bytes += !k;                                                                           \
        }                                                                                          \
        for (; i + per <= count; i += per, bytes++) {                                              \
            const double *values = table + *bytes * (size_t)per;                                   \
            for (size_t j = 0; j < per; j++) out[i + j] = weight(values[j], by);                   \
        }                                                                                          \
        for (; i < count; i++, k++) out[i] = weight(table[*bytes * (size_t)per + k], by);          \
    }

DECODE(1)
DECODE(2)
DECODE(4)

static inline void decode_group(const struct codes *from, const uint8_t *bytes, const double *table,
                                size_t first, size_t count, struct group by, double *restrict out) {
    if (!table) {
        LEVEL(to_double)(from->dtype, bytes + first, count, out);
        for (size_t i = 0; i < count; i++) out[i] = weight(out[i], by);
    }
    else if (from->per == 1) decode_1(bytes, table, first, count, by, out);
    else if (from->per == 2) decode_2(bytes, table, first, count, by, out);
    else decode_4(bytes, table, first, count, by, out);
}

static inline void decode_row(const struct codes *from, size_t row, size_t column, size_t count, double *out) {
    const uint8_t *bytes = from->bytes + from->places[row];
    const double *table = from->table ? from->table + (from->tables ? from->tables[row] : 0) : NULL;
    const double *factors = from->factors + row * from->groups;
    const double *zeros = from->zeros ? from->zeros + row * from->groups : NULL;
    const int32_t *restrict group_of = from->group_of ? from->group_of + column : NULL;
    size_t first = from->skip + column, i = 0;
    size_t group = (from->first + column) / from->step, end = (group + 1) * from->step - from->first - column;
    if (group_of) decode_group(from, bytes, table, first, count, (struct group){0, 1, 0}, out);
    for (; !group_of && i < count; i = end, end += from->step, group++) {
        struct group by = {zeros ? zeros[group] : 0, factors[group], zeros != NULL};
        decode_group(from, bytes, table, first + i, least(end, count) - i, by, out + i);
    }
    for (i = 0; group_of && zeros && i < count; i++) out[i] -= zeros[group_of[i]];
    for (i = 0; group_of && i < count; i++) out[i] *= factors[group_of[i]];
    for (i = 0; from->divisor != 1 && i < count; i++) out[i] /= from->divisor;
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
