/* Stored weights as float or double: bits moved to where IEEE 754 has them, no table, no branch. */
#include "bits.h"
#include "kernels.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

/* A small float of `mantissa` bits: moved up to float's exponent, it is short of `power` there.
 * Its magnitudes from `special` on are infinite or NaN, and get float's exponent for these. */
static inline float small(uint32_t code, int bits, int mantissa, float power, uint32_t special) {
    uint32_t sign = code >> (bits - 1), magnitude = code & ((1u << (bits - 1)) - 1);
    uint32_t moved = float_bits(float_of(magnitude << (23 - mantissa)) * power);
    uint32_t exponent = magnitude >= special ? 0x7f800000u : 0;
    return float_of(moved | exponent | sign << 31);
}

/* Without infinities; the one NaN is the code of minus zero. */
static inline float unsigned_zero(uint32_t code, int mantissa, float power) {
    uint32_t sign = code >> 7, magnitude = code & 0x7f;
    uint32_t moved = float_bits(float_of(magnitude << (23 - mantissa)) * power);
    return float_of(code == 0x80 ? 0xffc00000u : moved | sign << 31);
}

static inline float float16(uint16_t c) { return small(c, 16, 10, 0x1p112f, 0x7c00); }
static inline float bfloat16(uint16_t c) { return float_of((uint32_t)c << 16); }
static inline float e4m3fn(uint8_t c) { return small(c, 8, 3, 0x1p120f, 0x7f); }
static inline float e5m2(uint8_t c) { return small(c, 8, 2, 0x1p112f, 0x7c); }
static inline float e4m3fnuz(uint8_t c) { return unsigned_zero(c, 3, 0x1p119f); }
static inline float e5m2fnuz(uint8_t c) { return unsigned_zero(c, 2, 0x1p111f); }
static inline float e8m0fnu(uint8_t c) {
    uint32_t power = c ? (uint32_t)c << 23 : 0x00400000u; /* the least is half of float's least normal */
    return float_of(c == 0xff ? 0x7fc00000u : power);
}

size_t LEVEL(size_of)(enum dtype dtype) {
    static const uint8_t sizes[] = {4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 2, 2, 1, 8, 4, 4, 8, 8};
    return sizes[dtype];
}

#define EACH(type, value)                                                                          \
    {                                                                                              \
        const type *restrict codes = weights;                                                      \
        for (size_t i = 0; i < count; i++) {                                                       \
            type c = codes[i];                                                                     \
            out[i] = value;                                                                        \
        }                                                                                          \
        return;                                                                                    \
    }

/* The processor converts float16, which the compiler's vectoriser does not find out, and with it what is
 * float16 of fewer bits: float8_e5m2 is its upper half, and float8_e4m3fn, moved by one bit, is short of
 * 2**8. Each returns how many weights it converted; the rest are for the loops above. */
#ifdef __F16C__
static size_t convert_float16(const uint16_t *restrict codes, size_t count, float *restrict out) {
    size_t done = 0;
    for (; done + 8 <= count; done += 8)
        _mm256_storeu_ps(out + done, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(codes + done))));
    return done;
}

static size_t convert_e5m2(const uint8_t *restrict codes, size_t count, float *restrict out) {
    size_t done = 0;
    for (; done + 8 <= count; done += 8) {
        __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(codes + done)));
        _mm256_storeu_ps(out + done, _mm256_cvtph_ps(_mm_slli_epi16(wide, 8)));
    }
    return done;
}

static int has_e4m3fn_nan(const uint8_t *codes, size_t count) {
    uint8_t most = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t magnitude = codes[i] & 0x7f;
        most = magnitude > most ? magnitude : most;
    }
    return most == 0x7f;
}

static size_t convert_e4m3fn(const uint8_t *restrict codes, size_t count, float *restrict out) {
    size_t done = 0;
    if (has_e4m3fn_nan(codes, count)) return 0;
    for (; done + 16 <= count; done += 16) {
        __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(codes + done)));
        __m256i moved = _mm256_srai_epi16(_mm256_slli_epi16(wide, 8), 1); /* the sign, twice */
        __m256i halves = _mm256_and_si256(moved, _mm256_set1_epi16((short)0xbfff));
        __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
        _mm256_storeu_ps(out + done, _mm256_mul_ps(low, _mm256_set1_ps(0x1p8f)));
        _mm256_storeu_ps(out + done + 8, _mm256_mul_ps(high, _mm256_set1_ps(0x1p8f)));
    }
    return done;
}

static size_t converted(enum dtype dtype, const void *weights, size_t count, float *out) {
    switch (dtype) {
    case FLOAT16: return convert_float16(weights, count, out);
    case FLOAT8_E5M2: return convert_e5m2(weights, count, out);
    case FLOAT8_E4M3FN: return convert_e4m3fn(weights, count, out);
    default: return 0;
    }
}
#else
static size_t converted(enum dtype dtype, const void *weights, size_t count, float *out) {
    (void)dtype, (void)weights, (void)count, (void)out;
    return 0;
}
#endif

void LEVEL(to_float)(enum dtype dtype, const void *weights, size_t count, float *restrict out) {
    size_t done = converted(dtype, weights, count, out);
    weights = (const char *)weights + done * LEVEL(size_of)(dtype);
    count -= done, out += done;
    switch (dtype) {
    case FLOAT32: EACH(float, c)
    case FLOAT16: EACH(uint16_t, float16(c))
    case BFLOAT16: EACH(uint16_t, bfloat16(c))
    case FLOAT8_E4M3FN: EACH(uint8_t, e4m3fn(c))
    case FLOAT8_E4M3FNUZ: EACH(uint8_t, e4m3fnuz(c))
    case FLOAT8_E5M2: EACH(uint8_t, e5m2(c))
    case FLOAT8_E5M2FNUZ: EACH(uint8_t, e5m2fnuz(c))
    case FLOAT8_E8M0FNU: EACH(uint8_t, e8m0fnu(c))
    case INT8: EACH(int8_t, (float)c)
    case UINT8: EACH(uint8_t, (float)c)
    case INT16: EACH(int16_t, (float)c)
    case UINT16: EACH(uint16_t, (float)c)
    case BOOL: EACH(uint8_t, (float)(c != 0))
    default: return;
    }
}

void LEVEL(to_double)(enum dtype dtype, const void *weights, size_t count, double *restrict out) {
    switch (dtype) {
    case FLOAT64: EACH(double, c)
    case FLOAT32: EACH(float, (double)c)
    case INT32: EACH(int32_t, (double)c)
    case UINT32: EACH(uint32_t, (double)c)
    case INT64: EACH(int64_t, (double)c)
    case UINT64: EACH(uint64_t, (double)c)
    default: break;
    }
    float near[RUN];
    size_t size = LEVEL(size_of)(dtype);
    for (size_t i = 0; i < count; i += RUN) {
        size_t some = count - i < RUN ? count - i : RUN;
        LEVEL(to_float)(dtype, (const char *)weights + i * size, some, near);
        for (size_t k = 0; k < some; k++) out[i + k] = near[k];
    }
}
