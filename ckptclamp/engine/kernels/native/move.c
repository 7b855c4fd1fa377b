/* What `apply` does to every weight: moved, rounded to its storage dtype, and compared with what it was.
 *
 * Rows of `count` units, each moved by numbers of its own:
 * clip(w · scale + shift, low, high), then once more times 1 + offset, or plus it.
 */
#include "bits.h"
#include "kernels.h"
#include "narrow.h"

#include <string.h>

/* How one row moves. */
struct numbers {
    double scale, shift, low, high, offset, least, most;
};

static inline struct numbers numbers(const struct movement *by, size_t row) {
    return (struct numbers){
        .scale = by->scale[row], .shift = by->shift ? by->shift[row] : 0,
        .low = by->low ? by->low[row] : -INFINITY, .high = by->low ? by->high[row] : INFINITY,
        .offset = by->offset ? by->offset[row] : 0, .least = by->least, .most = by->most,
    };
}

enum kind { SCALED, GROWS, ADDS, SHIFTED, SHIFTED_GROWS, SHIFTED_ADDS };

/* What need not be done is not, since adding 0 makes minus zero 0. */
static inline enum kind kind_of(const struct movement *by, struct numbers row) {
    return (row.shift != 0 ? SHIFTED : SCALED) + (row.offset != 0 ? by->adds ? ADDS : GROWS : SCALED);
}

/* One weight, moved. */
static inline double moved(double v, struct numbers by, enum kind kind) {
    v *= by.scale;
    if (kind >= SHIFTED) v += by.shift;
    v = v < by.low ? by.low : v;
    v = v > by.high ? by.high : v;
    if (kind % SHIFTED == ADDS) v += by.offset;
    if (kind % SHIFTED == GROWS) v += v * by.offset;
    v = v < by.least ? by.least : v;
    return v > by.most ? by.most : v;
}

/* One loop for each kind: with a choice inside of it none is vectorised. */
#define AS(KIND, value)                                                                            \
    case KIND:                                                                                     \
        for (size_t i = 0; i < count; i++) out[i] = value(moved(w[i], by, KIND));                  \
        return;
#define MOVE(value)                                                                                \
    switch (kind) {                                                                                \
        AS(SCALED, value) AS(GROWS, value) AS(ADDS, value)                                         \
        AS(SHIFTED, value) AS(SHIFTED_GROWS, value) AS(SHIFTED_ADDS, value)                        \
    }

static void move_doubles(double *w, size_t count, struct numbers by, enum kind kind) {
    double *out = w;
    MOVE()
}

static void move_floats(const float *restrict w, size_t count, struct numbers by, enum kind kind,
                        float *restrict out) {
    MOVE(to_float32)
}

#define EACH(type, value)                                                                          \
    {                                                                                              \
        type *restrict codes = out;                                                                \
        for (size_t i = 0; i < count; i++) {                                                       \
            double v = w[i];                                                                       \
            codes[i] = value;                                                                      \
        }                                                                                          \
        return;                                                                                    \
    }

static void store(enum dtype dtype, const double *restrict w, size_t count, void *restrict out) {
    switch (dtype) {
    case FLOAT32: EACH(float, to_float32(v))
    case FLOAT16: EACH(uint16_t, to_float16(v))
    case BFLOAT16: EACH(uint16_t, to_bfloat16(v))
    case FLOAT8_E4M3FN: EACH(uint8_t, to_e4m3fn(v))
    case FLOAT8_E4M3FNUZ: EACH(uint8_t, to_e4m3fnuz(v))
    case FLOAT8_E5M2: EACH(uint8_t, to_e5m2(v))
    case FLOAT8_E5M2FNUZ: EACH(uint8_t, to_e5m2fnuz(v))
    case INT8: EACH(int8_t, (int8_t)rint(v))
    case UINT8: EACH(uint8_t, (uint8_t)rint(v))
    case INT16: EACH(int16_t, (int16_t)rint(v))
    case UINT16: EACH(uint16_t, (uint16_t)rint(v))
    case INT32: EACH(int32_t, (int32_t)rint(v))
    case UINT32: EACH(uint32_t, (uint32_t)rint(v))
    default: return;
    }
}

/* How many short rows are worked on at once, and the pieces that long ones are cut into. */
static inline size_t together(size_t length) { return length < RUN ? RUN / length : 1; }

void LEVEL(move)(enum dtype dtype, const void *weights, size_t count, size_t length,
                 const struct movement *by, void *out) {
    double tile[RUN];
    size_t size = LEVEL(size_of)(dtype), step = together(length);
    for (size_t i = 0; dtype == FLOAT32 && i < count; i++) {
        struct numbers row = numbers(by, i);
        move_floats((const float *)weights + i * length, length, row, kind_of(by, row),
                    (float *)out + i * length);
    }
    for (size_t i = 0; dtype != FLOAT32 && i < count; i += step)
        for (size_t j = 0; j < length; j += RUN) {
            size_t rows = count - i < step ? count - i : step;
            size_t some = length - j < RUN ? length - j : RUN, at = (i * length + j) * size;
            LEVEL(to_double)(dtype, (const char *)weights + at, rows * some, tile);
            for (size_t k = 0; k < rows; k++) {
                struct numbers row = numbers(by, i + k);
                move_doubles(tile + k * some, some, row, kind_of(by, row));
            }
            store(dtype, tile, rows * some, (char *)out + at);
        }
}

/* The movement of the rows from `first` on. */
static struct movement from(const struct movement *by, size_t first) {
    return (struct movement){
        .scale = by->scale + first, .shift = by->shift ? by->shift + first : NULL,
        .low = by->low ? by->low + first : NULL, .high = by->high ? by->high + first : NULL,
        .offset = by->offset ? by->offset + first : NULL,
        .least = by->least, .most = by->most, .adds = by->adds,
    };
}

/* Statistics of rows as `move` would store them: some at a time, in `scratch`, which holds `room` rows. */
void LEVEL(moved_rows)(enum dtype dtype, const void *weights, size_t count, size_t length,
                       const struct movement *by, results out, void *scratch, size_t room) {
    size_t size = LEVEL(size_of)(dtype) * length;
    for (size_t i = 0; i < count; i += room) {
        size_t rows = count - i < room ? count - i : room;
        double *some[STATISTICS];
        struct movement these = from(by, i);
        for (int s = 0; s < STATISTICS; s++) some[s] = out[s] ? out[s] + i : NULL;
        LEVEL(move)(dtype, (const char *)weights + i * size, rows, length, &these, scratch);
        LEVEL(rows)(dtype, scratch, rows, length, some);
    }
}

/* Magnitudes are compared as the integers that their bits are: in the same order, and vectorised. */
static inline double largest(const double *restrict x, size_t count, double so_far) {
    uint64_t most = double_bits(so_far);
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = double_bits(x[i]) & UINT64_MAX >> 1;
        most = bits > most ? bits : most;
    }
    return double_of(most);
}

/* The same of the differences between floats, and of the floats. */
static double largest_change(const float *restrict was, const float *restrict is, size_t count) {
    uint64_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = double_bits((double)is[i] - (double)was[i]) & UINT64_MAX >> 1;
        most = bits > most ? bits : most;
    }
    return double_of(most);
}

static double largest_float(const float *restrict x, size_t count) {
    uint32_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = float_bits(x[i]) & UINT32_MAX >> 1;
        most = bits > most ? bits : most;
    }
    return (double)float_of(most);
}

/* Of each row: whether a byte is another, the largest change of a weight, and the largest weight. */
void LEVEL(compare)(enum dtype dtype, const void *before, const void *after, size_t count,
                    size_t length, uint8_t *differs, double *change, double *peak) {
    double was[RUN], is[RUN];
    size_t size = LEVEL(size_of)(dtype), step = together(length);
    for (size_t i = 0; i < count; i++) {
        size_t at = i * length * size;
        differs[i] = memcmp((const char *)before + at, (const char *)after + at, length * size) != 0;
        change[i] = peak[i] = 0;
        if (dtype != FLOAT32) continue;
        const float *old = (const float *)before + i * length;
        change[i] = largest_change(old, (const float *)after + i * length, length);
        peak[i] = largest_float(old, length);
    }
    for (size_t i = 0; dtype != FLOAT32 && i < count; i += step)
        for (size_t j = 0; j < length; j += RUN) {
            size_t rows = count - i < step ? count - i : step;
            size_t some = length - j < RUN ? length - j : RUN, at = (i * length + j) * size;
            LEVEL(to_double)(dtype, (const char *)before + at, rows * some, was);
            LEVEL(to_double)(dtype, (const char *)after + at, rows * some, is);
            for (size_t k = 0; k < rows * some; k++) is[k] -= was[k];
            for (size_t k = 0; k < rows; k++) {
                change[i + k] = largest(is + k * some, some, change[i + k]);
                peak[i + k] = largest(was + k * some, some, peak[i + k]);
            }
        }
}
