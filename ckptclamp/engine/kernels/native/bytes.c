/* Sums of squares of bytes, by integers: these hold the sum of a run exactly, and so does double, so that
 * the order within a run does not matter. */
#include "kernels.h"

#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define INTEGER_SQUARES(type)                                                                      \
    static double type##_run(const void *weights, size_t count) {                                  \
        const type *restrict x = weights;                                                          \
        int32_t sum = 0;                                                                           \
        for (size_t i = 0; i < count; i++) sum += (int32_t)x[i] * x[i];                            \
        return (double)sum;                                                                        \
    }

INTEGER_SQUARES(int8_t)
INTEGER_SQUARES(uint8_t)

#ifdef __AVX2__
/* A float8_e4m3fn is M · 2**(E - 9), M of four bits, E from 0 to 14. With E modulo 8 it is an integer of 11
 * bits; the squares of those of E below 8, and of the others, are summed apart, 2**16 between them. */
struct integers {
    __m256i small_even, small_odd, large_even, large_odd; /* 16 bits each, 0 where it is of the others */
};

static inline struct integers e4m3fn_integers(__m256i code) {
    const __m256i powers = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        1, 1, 2, 4, 8, 16, 32, 64, (char)128, 1, 2, 4, 8, 16, 32, 64));
    const __m256i leading = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8));
    const __m256i even = _mm256_set1_epi16(0x00ff);
    __m256i field = _mm256_and_si256(_mm256_srli_epi16(code, 3), _mm256_set1_epi8(0x0f));
    __m256i power = _mm256_shuffle_epi8(powers, field);
    __m256i mantissa = _mm256_or_si256(_mm256_and_si256(code, _mm256_set1_epi8(7)),
                                       _mm256_shuffle_epi8(leading, field));
    __m256i high = _mm256_cmpgt_epi8(field, _mm256_set1_epi8(8));
    __m256i small = _mm256_andnot_si256(high, mantissa), large = _mm256_and_si256(high, mantissa);
    return (struct integers){
        _mm256_maddubs_epi16(power, _mm256_and_si256(small, even)),
        _mm256_maddubs_epi16(power, _mm256_andnot_si256(even, small)),
        _mm256_maddubs_epi16(power, _mm256_and_si256(large, even)),
        _mm256_maddubs_epi16(power, _mm256_andnot_si256(even, large)),
    };
}

/* The magnitudes of 32 weights; `most` becomes the largest so far, so that NaN, which is 0x7f, is seen. */
static inline __m256i e4m3fn_codes(const uint8_t *x, __m256i *most) {
    __m256i code = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)x), _mm256_set1_epi8(0x7f));
    *most = _mm256_max_epu8(*most, code);
    return code;
}

static int has_nan(__m256i most) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(most, _mm256_set1_epi8(0x7f))) != 0;
}

static inline __m256i squares(__m256i sums, __m256i x) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(x, x));
}

/* A run is at most RUN / 32 times two squares of 22 bits in each sum of 31. */
static double e4m3fn_run(const uint8_t *x, size_t count, int *nan) {
    __m256i small = _mm256_setzero_si256(), large = small, most = small;
    int32_t smalls[8], larges[8];
    int64_t sum = 0;
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        struct integers w = e4m3fn_integers(e4m3fn_codes(x + i, &most));
        small = squares(squares(small, w.small_even), w.small_odd);
        large = squares(squares(large, w.large_even), w.large_odd);
    }
    _mm256_storeu_si256((__m256i *)smalls, small);
    _mm256_storeu_si256((__m256i *)larges, large);
    for (int k = 0; k < 8; k++) sum += smalls[k] + ((int64_t)larges[k] << 16);
    *nan |= has_nan(most);
    for (; i < count; i++) {
        int field = x[i] >> 3 & 15, value = (x[i] & 7) | (field ? 8 : 0);
        int64_t weight = (int64_t)value << (field ? field - 1 : 0);
        sum += weight * weight;
        *nan |= (x[i] & 0x7f) == 0x7f;
    }
    return (double)sum * 0x1p-18;
}

/* Add squares of two rows to sums of 32 columns: eight of each kind at a time. */
static inline void add_pair(__m256i *sums, __m256i upper, __m256i lower) {
    sums[0] = squares(sums[0], _mm256_unpacklo_epi16(upper, lower));
    sums[1] = squares(sums[1], _mm256_unpackhi_epi16(upper, lower));
}

enum { PAIRS = 256 }; /* that 31 bits have room for */

/* Columns, a multiple of 32 of them, of at most 2 * PAIRS rows; tells whether there was a NaN. */
static int e4m3fn_columns(const uint8_t *x, size_t rows, size_t length, size_t width, double *out) {
    __m256i sums[TILE / 32][8], most = _mm256_setzero_si256();
    for (size_t k = 0; k < width / 32; k++)
        for (int j = 0; j < 8; j++) sums[k][j] = _mm256_setzero_si256();
    for (size_t i = 0; i < rows; i += 2, x += 2 * length)
        for (size_t k = 0; k < width / 32; k++) {
            struct integers upper = e4m3fn_integers(e4m3fn_codes(x + 32 * k, &most)), lower = {0};
            if (i + 1 < rows) lower = e4m3fn_integers(e4m3fn_codes(x + length + 32 * k, &most));
            add_pair(sums[k], upper.small_even, lower.small_even);
            add_pair(sums[k] + 2, upper.small_odd, lower.small_odd);
            add_pair(sums[k] + 4, upper.large_even, lower.large_even);
            add_pair(sums[k] + 6, upper.large_odd, lower.large_odd);
        }
    for (size_t k = 0; k < width / 32; k++) {
        int32_t at[8][8];
        memcpy(at, sums[k], sizeof at);
        for (int odd = 0; odd < 2; odd++)
            for (int j = 0; j < 16; j++) { /* halves of registers hold weights 0 to 7 and 8 to 15 */
                int half = j >> 2 & 1, place = (j & 3) + (j >> 3) * 4;
                int64_t sum = at[2 * odd + half][place] + ((int64_t)at[4 + 2 * odd + half][place] << 16);
                out[32 * k + (size_t)(2 * j + odd)] += (double)sum * 0x1p-18;
            }
    }
    return has_nan(most);
}
#endif

/* Columns: as many rows as 32 bits have room for, four at a time; then they go on in double. */
enum { ROWS = 1 << 16 };

#define COLUMN_SQUARES(type, product)                                                              \
    static void type##_columns(const type *restrict x, size_t rows, size_t length, size_t width,   \
                               double *restrict out) {                                             \
        uint32_t sums[TILE] = {0};                                                                 \
        size_t i = 0;                                                                              \
        for (; i + 4 <= rows; i += 4, x += 4 * length)                                             \
            for (size_t k = 0; k < width; k++) {                                                   \
                product a = (product)(x[k] * x[k]), b = (product)(x[k + length] * x[k + length]);  \
                product c = (product)(x[k + 2 * length] * x[k + 2 * length]);                      \
                product d = (product)(x[k + 3 * length] * x[k + 3 * length]);                      \
                sums[k] += (uint32_t)a + b + c + d;                                                \
            }                                                                                      \
        for (; i < rows; i++, x += length)                                                         \
            for (size_t k = 0; k < width; k++) sums[k] += (uint32_t)(x[k] * x[k]);                 \
        for (size_t k = 0; k < width; k++) out[k] += sums[k];                                      \
    }

COLUMN_SQUARES(int8_t, uint16_t)
COLUMN_SQUARES(uint8_t, uint16_t)

/* Whether sums of columns of this shape are exact in double here, whatever their order. */
static int takes_columns(enum dtype dtype, size_t rows, size_t length) {
    if (length < WIDE) return 0;
    if (dtype == INT8 || dtype == UINT8) return 1;
#ifdef __AVX2__
    if (dtype == FLOAT8_E4M3FN) return length % 32 == 0 && rows <= ROWS;
#endif
    (void)rows;
    return 0;
}

/* Put the sum of squares of each column of matrices into `out`, if this can be done here. */
int LEVEL(byte_columns)(enum dtype dtype, const void *weights, size_t batch, size_t rows, size_t length,
                        double *out) {
    int nan = 0;
    const uint8_t *matrix = weights;
    size_t step = ROWS;
    if (!takes_columns(dtype, rows, length)) return 0;
#ifdef __AVX2__
    if (dtype == FLOAT8_E4M3FN) step = 2 * PAIRS;
#endif
    for (size_t b = 0; b < batch && !nan; b++, matrix += rows * length, out += length)
        for (size_t left = 0; left < length; left += TILE) {
            size_t width = length - left < TILE ? length - left : TILE;
            for (size_t k = 0; k < width; k++) out[left + k] = 0;
            for (size_t i = 0; i < rows; i += step) {
                const uint8_t *at = matrix + i * length + left;
                size_t some = rows - i < step ? rows - i : step;
                if (dtype == INT8) int8_t_columns((const int8_t *)at, some, length, width, out + left);
                else if (dtype == UINT8) uint8_t_columns(at, some, length, width, out + left);
#ifdef __AVX2__
                else nan |= e4m3fn_columns(at, some, length, width, out + left);
#endif
            }
        }
    return !nan;
}

/* Put the sum of squares of each row into `out`, if this can be done here for all of them. */
int LEVEL(byte_squares)(enum dtype dtype, const void *weights, size_t count, size_t length, double *out) {
    int nan = 0;
    for (size_t i = 0; i < count && !nan; i++) {
        const uint8_t *row = (const uint8_t *)weights + i * length;
        out[i] = 0;
        for (size_t j = 0; j < length; j += RUN) {
            size_t some = length - j < RUN ? length - j : RUN;
            if (dtype == INT8) out[i] += int8_t_run(row + j, some);
            else if (dtype == UINT8) out[i] += uint8_t_run(row + j, some);
#ifdef __AVX2__
            else if (dtype == FLOAT8_E4M3FN) out[i] += e4m3fn_run(row + j, some, &nan);
#endif
            else return 0;
        }
    }
    return !nan;
}
