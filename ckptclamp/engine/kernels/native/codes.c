/* Codes as the weights that they stand for, decoded into a tile in the cache and measured there.
 *
 * What a code stands for is a float. Each operation on it is rounded once, as double, in this order: less the
 * zero point, times the factor, by the divisor. */
#include "kernels.h"

#include <math.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Codes, and what the 16 nibbles stand for, where a byte stands for what its two nibbles do. */
struct coded {
    const struct codes *codes;
    enum { NO_NIBBLES, LOWER_FIRST, UPPER_FIRST } nibbles;
    float values[16];
};

static struct coded coded_of(const struct codes *codes) {
    struct coded from = {codes, NO_NIBBLES, {0}};
    const float *table = codes->table;
    for (int upper = 0; table && codes->per == 2 && upper < 2; upper++) {
        int differs = 0;
        for (int n = 0; n < 16; n++) from.values[n] = table[2 * n + upper];
        for (int b = 0; b < 256; b++) {
            float pair[2] = {from.values[upper ? b >> 4 : b & 15], from.values[upper ? b & 15 : b >> 4]};
            differs |= memcmp(pair, table + 2 * b, sizeof pair);
        }
        if (!differs) {
            from.nibbles = upper ? UPPER_FIRST : LOWER_FIRST;
            break;
        }
    }
    return from;
}

/* Pairs of nibbles, looked up in registers; returns how many codes were, the rest are for the table. */
#ifdef __AVX2__
#ifdef __AVX512F__
static inline void look_up(__m128i codes, const float *values, float *out) {
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), _mm512_loadu_ps(values)));
}
#else
static inline __m256 look_up_half(__m128i codes, const float *values) {
    __m256i code = _mm256_cvtepu8_epi32(codes);
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), code);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values + 8), code);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
}

static inline void look_up(__m128i codes, const float *values, float *out) {
    _mm256_storeu_ps(out, look_up_half(codes, values));
    _mm256_storeu_ps(out + 8, look_up_half(_mm_srli_si128(codes, 8), values));
}
#endif

/* Bits above a nibble are no part of a number here. */
static inline size_t decode_nibbles(const uint8_t *bytes, size_t count, const float *values, int upper_first,
                                    float *restrict out) {
    size_t done = 0;
    for (; done + 32 <= count; done += 32) {
        __m128i lower = _mm_loadu_si128((const __m128i *)(bytes + done / 2)), upper = _mm_srli_epi16(lower, 4);
        __m128i one = upper_first ? upper : lower, other = upper_first ? lower : upper;
        look_up(_mm_unpacklo_epi8(one, other), values, out + done);
        look_up(_mm_unpackhi_epi8(one, other), values, out + done + 16);
    }
    return done;
}
#else
static inline size_t decode_nibbles(const uint8_t *bytes, size_t count, const float *values, int upper_first,
                                    float *restrict out) {
    (void)bytes, (void)count, (void)values, (void)upper_first, (void)out;
    return 0;
}
#endif

/* `count` codes from number `first` of a row on, `per` of them, a constant, in a byte. */
static inline void decode_per(size_t per, const uint8_t *bytes, const float *table, size_t first, size_t count,
                              float *restrict out) {
    size_t i = 0, end = first + count;
    for (; first % per && first < end; first++) out[i++] = table[bytes[first / per] * per + first % per];
    for (; first + per <= end; first += per, i += per)
        memcpy(out + i, table + bytes[first / per] * per, per * sizeof(float));
    for (; first < end; first++) out[i++] = table[bytes[first / per] * per + first % per];
}

/* What codes of a row stand for. */
static void decode_values(const struct coded *from, const uint8_t *bytes, size_t first, size_t count,
                          float *restrict out) {
    const float *table = from->codes->table;
    if (!table) {
        LEVEL(to_float)(from->codes->dtype, bytes + first, count, out);
        return;
    }
    if (from->nibbles && first % 2 == 0) {
        size_t done = decode_nibbles(bytes + first / 2, count, from->values, from->nibbles == UPPER_FIRST, out);
        first += done, count -= done, out += done;
    }
    if (from->codes->per == 1) decode_per(1, bytes, table, first, count, out);
    else if (from->codes->per == 2) decode_per(2, bytes, table, first, count, out);
    else decode_per(4, bytes, table, first, count, out);
}

/* A row, or some of it: where its codes lie, and its factors and zero points. */
struct part {
    const uint8_t *bytes;
    size_t first; /* code */
    const double *factors, *zeros;
};

static inline struct part part_of(const struct codes *from, size_t row, size_t column) {
    size_t numbers = (size_t)from->numbers[row] * from->groups;
    return (struct part){from->bytes + from->places[row], from->skip + column, from->factors + numbers,
                         from->zeros ? from->zeros + numbers : NULL};
}

/* No zero point is 0, which takes nothing from any number. */
static void scale_groups(const struct codes *from, const struct part *at, size_t column, size_t count,
                         const float *restrict values, double *restrict out) {
    size_t group = (from->first + column) / from->step;
    size_t end = (group + 1) * from->step - from->first - column;
    for (size_t i = 0; i < count; end += from->step, group++) {
        double zero = at->zeros ? at->zeros[group] : 0, factor = at->factors[group];
        for (size_t stop = least(end, count); i < stop; i++) out[i] = (values[i] - zero) * factor;
    }
}

/* Each code is of a group of its own, or of any. */
static void scale_each(const struct codes *from, const struct part *at, size_t column, size_t count,
                       const float *restrict values, double *restrict out) {
    const double *restrict factors = at->factors, *restrict zeros = at->zeros;
    size_t first = from->first + column;
    if (from->group_of) {
        const int32_t *restrict group_of = from->group_of + column;
        for (size_t i = 0; i < count; i++) out[i] = values[i] - (zeros ? zeros[group_of[i]] : 0);
        for (size_t i = 0; i < count; i++) out[i] *= factors[group_of[i]];
        return;
    }
    for (size_t i = 0; i < count; i++) out[i] = values[i] - (zeros ? zeros[first + i] : 0);
    for (size_t i = 0; i < count; i++) out[i] *= factors[first + i];
}

/* At most RUN weights of a row. */
static void decode_run(const struct coded *coded, size_t row, size_t column, size_t count, double *restrict out) {
    const struct codes *from = coded->codes;
    struct part at = part_of(from, row, column);
    float values[RUN];
    decode_values(coded, at.bytes, at.first, count, values);
    (from->group_of || from->step == 1 ? scale_each : scale_groups)(from, &at, column, count, values, out);
    double divisor = from->divisor; /* of which the compiler then knows that `out` does not change it */
    for (size_t i = 0; divisor != 1 && i < count; i++) out[i] /= divisor;
}

static const double *load_codes(const struct coded *from, size_t first, size_t count, double *tile) {
    size_t length = from->codes->length, row = first / length, column = first % length;
    for (size_t done = 0; done < count;) {
        size_t some = least(least(count - done, length - column), RUN);
        decode_run(from, row, column, some, tile + done);
        done += some, column += some;
        if (column == length) row++, column = 0;
    }
    return tile;
}

void LEVEL(decode)(const struct codes *codes, size_t first, size_t count, double *out) {
    struct coded from = coded_of(codes);
    load_codes(&from, first, count, out);
}

#define SOURCE struct coded
#define REAL double
#define KEY int64_t
#define KEY_MAX INT64_MAX
#define NAMED(name) name##_codes
#include "tile.h"

static inline double folded(double *lanes) {
    for (size_t half = LANES / 2; half; half /= 2)
        for (size_t k = 0; k < half; k++) lanes[k] += lanes[k + half];
    return lanes[0];
}

/* Squares of a run of a row, added up as `run_squares` does, without a tile of doubles: the lanes of a run
 * begin where a group does, LANES to LANES. */
static inline double squares(const struct codes *from, const struct part *at, size_t column, size_t count,
                             const float *restrict values, int has_zeros, int divides) {
    double lanes[LANES] = {0}, divisor = from->divisor;
    size_t step = from->step, group = (from->first + column) / step, i = 0;
    size_t end = (group + 1) * step - from->first - column; /* of a group, in this run */
    double zero = has_zeros ? at->zeros[group] : 0, factor = at->factors[group];
    for (; i + LANES <= count; i += LANES) {
        if (i == end) {
            group++, end += step, factor = at->factors[group];
            if (has_zeros) zero = at->zeros[group];
        }
        for (size_t k = 0; k < LANES; k++) {
            double w = (has_zeros ? values[i + k] - zero : values[i + k]) * factor;
            if (divides) w /= divisor;
            lanes[k] += w * w;
        }
    }
    if (i == end && i < count) {
        group++, factor = at->factors[group];
        if (has_zeros) zero = at->zeros[group];
    }
    for (size_t k = 0; i < count; i++, k++) {
        double w = (has_zeros ? values[i] - zero : values[i]) * factor;
        if (divides) w /= divisor;
        lanes[k] += w * w;
    }
    return folded(lanes);
}

#ifdef __AVX512F__
enum { MANY = 64 }; /* weights of a group, from which on it is cheaper to square all that a nibble may be */

static inline __m512d squares_of(const float *values, double zero, double factor, double divisor) {
    __m512d w = _mm512_sub_pd(_mm512_cvtps_pd(_mm256_loadu_ps(values)), _mm512_set1_pd(zero));
    w = _mm512_mul_pd(w, _mm512_set1_pd(factor));
    if (divisor != 1) w = _mm512_div_pd(w, _mm512_set1_pd(divisor));
    return _mm512_mul_pd(w, w);
}

/* The same of nibbles from the first of a byte on: in a group each stands for one of 16 squares. */
static double nibble_squares(const struct coded *coded, const struct part *at, size_t column, size_t count) {
    const struct codes *from = coded->codes;
    const uint8_t *bytes = at->bytes + at->first / 2;
    size_t step = from->step, group = (from->first + column) / step, i = 0;
    size_t end = (group + 1) * step - from->first - column;
    int upper = coded->nibbles == UPPER_FIRST;
    __m512i places = upper ? _mm512_setr_epi64(4, 0, 12, 8, 20, 16, 28, 24)
                           : _mm512_setr_epi64(0, 4, 8, 12, 16, 20, 24, 28);
    __m512i further = _mm512_add_epi64(places, _mm512_set1_epi64(32));
    __m512d low = _mm512_setzero_pd(), high = low;
    double lanes[LANES], squares[16];
    for (; i < count; group++, end += step) {
        double zero = at->zeros ? at->zeros[group] : 0, factor = at->factors[group];
        __m512d one = squares_of(coded->values, zero, factor, from->divisor);
        __m512d other = squares_of(coded->values + 8, zero, factor, from->divisor);
        for (size_t stop = least(end, count); i + LANES <= stop; i += LANES) {
            int64_t word;
            memcpy(&word, bytes + i / 2, sizeof word);
            __m512i codes = _mm512_set1_epi64(word); /* bits above the lowest four choose nothing */
            low = _mm512_add_pd(low, _mm512_permutex2var_pd(one, _mm512_srlv_epi64(codes, places), other));
            high = _mm512_add_pd(high, _mm512_permutex2var_pd(one, _mm512_srlv_epi64(codes, further), other));
        }
        if (i + LANES > count) {
            _mm512_storeu_pd(squares, one), _mm512_storeu_pd(squares + 8, other);
            break;
        }
    }
    _mm512_storeu_pd(lanes, low), _mm512_storeu_pd(lanes + 8, high);
    for (size_t k = 0; i < count; i++, k++)
        lanes[k] += squares[bytes[i / 2] >> ((i % 2 != 0) != upper ? 4 : 0) & 15];
    return folded(lanes);
}

static int takes_nibbles(const struct coded *coded) {
    const struct codes *from = coded->codes;
    return coded->nibbles && from->step >= MANY && from->skip % 2 == 0;
}
#else
static double nibble_squares(const struct coded *coded, const struct part *at, size_t column, size_t count) {
    (void)coded, (void)at, (void)column, (void)count;
    return 0;
}

static int takes_nibbles(const struct coded *coded) {
    (void)coded;
    return 0;
}
#endif

static int takes_squares(const struct codes *from, size_t length, results out) {
    int alone = out[SQUARES] != NULL;
    for (int s = 0; s < STATISTICS; s++) alone &= s == SQUARES || !out[s];
    int by_lanes = from->step % LANES == 0 && from->first % LANES == 0;
    int one = from->first + from->length <= from->step;
    return alone && length == from->length && length >= LANES && !from->group_of && (by_lanes || one);
}

static void square_rows(const struct coded *coded, size_t count, size_t length, double *out) {
    const struct codes *from = coded->codes;
    float values[RUN];
    for (size_t row = 0; row < count; row++) {
        double sum = 0;
        for (size_t column = 0; column < length; column += RUN) {
            size_t some = least(RUN, length - column);
            struct part at = part_of(from, row, column);
            if (takes_nibbles(coded)) {
                sum += nibble_squares(coded, &at, column, some);
                continue;
            }
            decode_values(coded, at.bytes, at.first, some, values);
            if (from->divisor != 1 && at.zeros) sum += squares(from, &at, column, some, values, 1, 1);
            else if (from->divisor != 1) sum += squares(from, &at, column, some, values, 0, 1);
            else if (at.zeros) sum += squares(from, &at, column, some, values, 1, 0);
            else sum += squares(from, &at, column, some, values, 0, 0);
        }
        out[row] = sum;
    }
}

void LEVEL(code_rows)(const struct codes *codes, size_t count, size_t length, results out) {
    struct coded from = coded_of(codes);
    if (takes_squares(codes, length, out)) square_rows(&from, count, length, out[SQUARES]);
    else rows_codes(&from, count, length, out);
}

void LEVEL(code_columns)(const struct codes *codes, size_t batch, size_t rows, size_t length, results out) {
    struct coded from = coded_of(codes);
    columns_codes(&from, batch, rows, length, out);
}
