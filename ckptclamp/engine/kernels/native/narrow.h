/* Double rounded to a storage dtype once, to the nearest, ties to even: never by way of float, which
 * would round twice. Included where doubles become weights. */
#ifndef CKPTCLAMP_NARROW_H
#define CKPTCLAMP_NARROW_H

#include "bits.h"

#include <math.h>

/* The nearest multiple of what the last of `mantissa` bits is worth, for numbers no smaller than
 * 2**`least` normal and for smaller ones subnormal: adding 1.5 · 2**52 of these makes double round. */
static inline double nearest(double value, int mantissa, int least) {
    int64_t exponent = (int64_t)(double_bits(value) >> 52 & 0x7ff), floor = 1023 + least;
    exponent = exponent < floor ? floor : exponent;
    double magic = double_of((uint64_t)(exponent + 52 - mantissa) << 52 | UINT64_C(1) << 51);
    return copysign(value + magic - magic, value);
}

/* The code of a small float of `bits` bits that holds `value`, which float holds, too. */
static inline uint32_t small_code(double value, int bits, int mantissa, float power) {
    uint32_t moved = float_bits(fabsf((float)value) * power) >> (23 - mantissa);
    return moved | (double_bits(value) >> 63) << (bits - 1);
}

static inline float to_float32(double v) { return (float)v; }
static inline uint16_t to_float16(double v) {
    return (uint16_t)small_code(nearest(v, 10, -14), 16, 10, 0x1p-112f);
}
static inline uint16_t to_bfloat16(double v) {
    return (uint16_t)(float_bits((float)nearest(v, 7, -126)) >> 16);
}
static inline uint8_t to_e4m3fn(double v) {
    return (uint8_t)small_code(nearest(v, 3, -6), 8, 3, 0x1p-120f);
}
static inline uint8_t to_e5m2(double v) {
    return (uint8_t)small_code(nearest(v, 2, -14), 8, 2, 0x1p-112f);
}
/* These have no minus zero. */
static inline uint8_t to_e4m3fnuz(double v) {
    uint32_t code = small_code(nearest(v, 3, -7), 8, 3, 0x1p-119f);
    return (uint8_t)(code == 0x80 ? 0 : code);
}
static inline uint8_t to_e5m2fnuz(double v) {
    uint32_t code = small_code(nearest(v, 2, -15), 8, 2, 0x1p-111f);
    return (uint8_t)(code == 0x80 ? 0 : code);
}

#endif
