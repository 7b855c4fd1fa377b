/* A matrix of nibbles, two to a byte, turned round: tile by tile, of as many rows as fill a line of what
 * comes out. */
#include "kernels.h"

#include <string.h>

enum { ACROSS = 64, DOWN = 128, ROWS = 16 }; /* bytes across a tile, rows down, pairs of rows turned at once */

/* Rows i and i + half of `half` pairs, side by side byte by byte. */
static inline void interleave(const uint8_t *restrict from, size_t half, uint8_t *restrict to) {
    size_t length = ACROSS * ROWS / 2 / half;
    for (size_t i = 0; i < half; i++)
        for (size_t j = 0; j < length; j++) {
            to[2 * (i * length + j)] = from[i * length + j];
            to[2 * (i * length + j) + 1] = from[(i + half) * length + j];
        }
}

/* ROWS rows of ACROSS bytes as ACROSS rows: what is interleaved in halves ends in order. */
static inline void turn(uint8_t *restrict a, uint8_t *restrict b) {
    interleave(a, 8, b);
    interleave(b, 4, a);
    interleave(a, 2, b);
    interleave(b, 1, a);
}

void LEVEL(turn_nibbles)(const uint8_t *matrix, size_t height, size_t width, uint8_t *rows) {
    uint8_t tile[2 * ACROSS][DOWN / 2], low[ROWS * ACROSS], high[ROWS * ACROSS], other[ROWS * ACROSS];
    static const uint8_t none[ACROSS];
    size_t length = (height + 1) / 2;
    for (size_t left = 0; left < width; left += ACROSS)
        for (size_t top = 0; top < height; top += DOWN) {
            size_t across = width - left < ACROSS ? width - left : ACROSS;
            size_t down = height - top < DOWN ? height - top : DOWN;
            for (size_t i = 0; i < down; i += 2 * ROWS) {
                memset(low, 0, sizeof low), memset(high, 0, sizeof high);
                for (size_t k = 0; k < ROWS && i + 2 * k < down; k++) {
                    size_t at = i + 2 * k;
                    const uint8_t *restrict even = matrix + (top + at) * width + left;
                    const uint8_t *restrict odd = at + 1 < down ? even + width : none;
                    for (size_t j = 0; j < across; j++) {
                        low[k * ACROSS + j] = (uint8_t)((even[j] & 15) | odd[j] << 4);
                        high[k * ACROSS + j] = (uint8_t)(even[j] >> 4 | (odd[j] & 0xf0));
                    }
                }
                turn(low, other);
                turn(high, other);
                for (size_t j = 0; j < across; j++) {
                    memcpy(tile[2 * j] + i / 2, low + j * ROWS, ROWS);
                    memcpy(tile[2 * j + 1] + i / 2, high + j * ROWS, ROWS);
                }
            }
            for (size_t j = 0; j < 2 * across; j++)
                memcpy(rows + (2 * left + j) * length + top / 2, tile[j], (down + 1) / 2);
        }
}
