/* Rows of which the first weights take one offset and the others another; see engine/project/between.py.
 *
 * What a weight with the inner offset gains is what its row's sum of squares, or (where offsets are
 * added) its sum, then has less than with the outer one, or more: times its row's sign, times its power.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

/* One row of what is moved, with one of its two offsets. */
static inline struct movement one(const struct movement *by, size_t row, const double *offset) {
    return (struct movement){
        .scale = by->scale + row, .shift = by->shift ? by->shift + row : NULL,
        .low = by->low ? by->low + row : NULL, .high = by->high ? by->high + row : NULL,
        .offset = offset + row, .least = by->least, .most = by->most, .adds = by->adds,
    };
}

static void gains(enum dtype dtype, const void *outer, const void *inner, size_t count, int adds,
                  double sign, double power, double *out) {
    double more[RUN], less[RUN];
    LEVEL(to_double)(dtype, outer, count, more);
    LEVEL(to_double)(dtype, inner, count, less);
    for (size_t i = 0; i < count; i++) out[i] = (more[i] - less[i]) * power;
    for (size_t i = 0; !adds && i < count; i++) out[i] *= (more[i] + less[i]) * power;
    for (size_t i = 0; i < count; i++) out[i] *= sign;
}

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* What each row gains in all. */
void LEVEL(gained)(enum dtype dtype, const void *weights, size_t count, size_t length,
                   const struct between *by, double *out) {
    double outer[RUN], inner[RUN], each[RUN]; /* room for weights of any dtype */
    size_t size = LEVEL(size_of)(dtype);
    for (size_t i = 0; i < count; i++) {
        struct movement less = one(by->outer, i, by->inner), more = one(by->outer, i, by->outer->offset);
        out[i] = 0;
        for (size_t j = 0; j < length; j += RUN) {
            size_t some = least(RUN, length - j);
            const char *from = (const char *)weights + (i * length + j) * size;
            double sum;
            LEVEL(move)(dtype, from, 1, some, &less, inner);
            LEVEL(move)(dtype, from, 1, some, &more, outer);
            gains(dtype, outer, inner, some, by->outer->adds, by->sign[i], by->power[i], each);
            LEVEL(rows)(FLOAT64, each, 1, some, (results){[SUM] = &sum});
            out[i] += sum;
        }
    }
}

/* Let as few of the first weights as it takes to gain `rest` take the inner offset: of an infinite rest
 * all of them, of 0 none. */
void LEVEL(fit)(enum dtype dtype, const void *weights, size_t count, size_t length,
                const struct between *by, const double *rest, void *out) {
    double outer[RUN], each[RUN];
    size_t size = LEVEL(size_of)(dtype);
    for (size_t i = 0; i < count; i++) {
        struct movement less = one(by->outer, i, by->inner), more = one(by->outer, i, by->outer->offset);
        const char *from = (const char *)weights + i * length * size;
        char *to = (char *)out + i * length * size;
        size_t j = 0;
        double sum = 0;
        for (size_t some; j < length && isfinite(rest[i]) && sum < rest[i]; j += some) {
            size_t k = 0;
            some = least(RUN, length - j);
            LEVEL(move)(dtype, from + j * size, 1, some, &less, to + j * size);
            LEVEL(move)(dtype, from + j * size, 1, some, &more, outer);
            gains(dtype, outer, to + j * size, some, by->outer->adds, by->sign[i], by->power[i], each);
            while (k < some && sum < rest[i]) sum += each[k++];
            memcpy(to + (j + k) * size, (const char *)outer + k * size, (some - k) * size);
        }
        if (j < length)
            LEVEL(move)(dtype, from + j * size, 1, length - j, rest[i] > sum ? &less : &more, to + j * size);
    }
}
