/* What `apply` does to every weight: moved, rounded to its storage dtype, and compared with what it was.
 *
 * Rows of `count` units, each moved by numbers of its own:
 * clip(w · scale + shift, low, high), then once more times 1 + offset, or plus it.
 */
#include "bits.h"
#include "kernels.h"
#include "narrow.h"

#include <string.h>

/* One row, moved; what need not be done is not, since adding 0 makes minus zero 0. */
static inline void move_row(double *restrict w, size_t count, const struct movement *by, size_t row) {
    double scale = by->scale[row], offset = by->offset ? by->offset[row] : 0;
    for (size_t i = 0; i < count; i++) w[i] *= scale;
    if (by->shift)
        for (size_t i = 0; i < count; i++) w[i] += by->shift[row];
    if (by->low)
        for (size_t i = 0; i < count; i++) {
            double low = by->low[row], high = by->high[row];
            double above = w[i] < low ? low : w[i];
            w[i] = above > high ? high : above;
        }
    if (by->offset && by->adds)
        for (size_t i = 0; i < count; i++) w[i] += offset;
    if (by->offset && !by->adds)
        for (size_t i = 0; i < count; i++) w[i] += w[i] * offset;
    for (size_t i = 0; i < count; i++) {
        double above = w[i] < by->least ? by->least : w[i];
        w[i] = above > by->most ? by->most : above;
    }
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
    for (size_t i = 0; i < count; i += step)
        for (size_t j = 0; j < length; j += RUN) {
            size_t rows = count - i < step ? count - i : step;
            size_t some = length - j < RUN ? length - j : RUN, at = (i * length + j) * size;
            LEVEL(to_double)(dtype, (const char *)weights + at, rows * some, tile);
            for (size_t k = 0; k < rows; k++) move_row(tile + k * some, some, by, i + k);
            store(dtype, tile, rows * some, (char *)out + at);
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

/* Of each row: whether a byte is another, the largest change of a weight, and the largest weight. */
void LEVEL(compare)(enum dtype dtype, const void *before, const void *after, size_t count,
                    size_t length, uint8_t *differs, double *change, double *peak) {
    double was[RUN], is[RUN];
    size_t size = LEVEL(size_of)(dtype), step = together(length);
    for (size_t i = 0; i < count; i++) {
        size_t at = i * length * size;
        differs[i] = memcmp((const char *)before + at, (const char *)after + at, length * size) != 0;
        change[i] = peak[i] = 0;
    }
    for (size_t i = 0; i < count; i += step)
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
