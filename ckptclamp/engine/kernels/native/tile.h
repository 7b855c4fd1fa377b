/* Rows and columns of a matrix, by way of cached tiles of REAL: float with KEY int32_t, or double with
 * int64_t. NAMED(x) is x_float, say; NAMED(load) gives weights of a SOURCE, by their number in C order,
 * where they can be computed with: where they lie, or in a tile.
 *
 * Extremes are compared as integers: with the bits of a negative number below its sign turned over,
 * the order of integers is that of the numbers, and NaN lie beyond both ends, where they show.
 */

static inline KEY NAMED(key)(REAL value) {
    KEY bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ (bits >> (8 * sizeof bits - 1) & KEY_MAX);
}

/* The number that a key stands for; 0 for minus zero. */
static inline double NAMED(number)(KEY key) {
    KEY bits = key ^ (key >> (8 * sizeof key - 1) & KEY_MAX);
    REAL value;
    memcpy(&value, &bits, sizeof value);
    return (double)value + 0.0;
}

#define LANE_SUM(name, term)                                                                       \
    static inline double NAMED(name)(const REAL *restrict x, size_t count) {                       \
        double lanes[LANES] = {0};                                                                 \
        size_t i = 0;                                                                              \
        for (; i + LANES <= count; i += LANES)                                                     \
            for (size_t k = 0; k < LANES; k++) {                                                   \
                double w = x[i + k];                                                               \
                lanes[k] += term;                                                                  \
            }                                                                                      \
        for (size_t k = 0; i < count; i++, k++) {                                                  \
            double w = x[i];                                                                       \
            lanes[k] += term;                                                                      \
        }                                                                                          \
        for (size_t half = LANES / 2; half; half /= 2)                                             \
            for (size_t k = 0; k < half; k++) lanes[k] += lanes[k + half];                         \
        return lanes[0];                                                                           \
    }

LANE_SUM(run_squares, w *w)
LANE_SUM(run_sum, w)
LANE_SUM(run_magnitudes, fabs(w))

static inline void NAMED(run_extremes)(const REAL *restrict x, size_t count, KEY *low, KEY *high) {
    KEY least = *low, most = *high;
    for (size_t i = 0; i < count; i++) {
        KEY key = NAMED(key)(x[i]);
        least = key < least ? key : least;
        most = key > most ? key : most;
    }
    *low = least, *high = most;
}

static inline double NAMED(run_nonzero)(const REAL *restrict x, size_t count) {
    uint32_t zeros = 0;
    for (size_t i = 0; i < count; i++) zeros += x[i] == 0;
    return (double)(count - zeros);
}

static inline double NAMED(run_nonfinite)(const REAL *restrict x, size_t count) {
    uint32_t broken = 0;
    for (size_t i = 0; i < count; i++) broken += x[i] - x[i] != 0;
    return (double)broken;
}

/* Rows shorter than the lanes are turned round, several at once: a lane of each lies side by side.
 * Lanes without a weight would add 0, and are left out. */
enum { NAMED(TOGETHER) = 64 };

#define SHORT_SUM(name, term)                                                                      \
    static inline void NAMED(name)(const REAL *restrict x, size_t rows, size_t length,             \
                                   double *restrict out) {                                         \
        double lanes[LANES][NAMED(TOGETHER)];                                                      \
        size_t half = LANES / 2;                                                                   \
        for (size_t k = 0; k < length; k++)                                                        \
            for (size_t i = 0; i < rows; i++) {                                                    \
                double w = x[i * length + k];                                                      \
                lanes[k][i] = 0.0 + term;                                                          \
            }                                                                                      \
        for (; half; half /= 2)                                                                    \
            for (size_t k = 0; k < half && k + half < length; k++)                                 \
                for (size_t i = 0; i < rows; i++) lanes[k][i] += lanes[k + half][i];               \
        memcpy(out, lanes[0], rows * sizeof(double));                                              \
    }

SHORT_SUM(short_squares, w *w)
SHORT_SUM(short_sum, w)
SHORT_SUM(short_magnitudes, fabs(w))
SHORT_SUM(short_nonzero, (w != 0 ? 1.0 : 0.0))
SHORT_SUM(short_nonfinite, (w - w != 0 ? 1.0 : 0.0))

static inline void NAMED(short_extremes)(const REAL *restrict x, size_t rows, size_t length,
                                         double *restrict low, double *restrict high) {
    KEY least[NAMED(TOGETHER)], most[NAMED(TOGETHER)];
    for (size_t i = 0; i < rows; i++) least[i] = KEY_MAX, most[i] = ~KEY_MAX;
    for (size_t k = 0; k < length; k++)
        for (size_t i = 0; i < rows; i++) {
            KEY key = NAMED(key)(x[i * length + k]);
            least[i] = key < least[i] ? key : least[i];
            most[i] = key > most[i] ? key : most[i];
        }
    for (size_t i = 0; i < rows; i++) low[i] = NAMED(number)(least[i]);
    for (size_t i = 0; i < rows; i++) high[i] = NAMED(number)(most[i]);
}

static void NAMED(short_rows)(const SOURCE *from, size_t count, size_t length, results out) {
    REAL tile[LANES * NAMED(TOGETHER)];
    for (size_t first = 0; first < count; first += NAMED(TOGETHER)) {
        size_t rows = count - first < NAMED(TOGETHER) ? count - first : NAMED(TOGETHER);
        const REAL *x = NAMED(load)(from, first * length, rows * length, tile);
        if (out[SQUARES]) NAMED(short_squares)(x, rows, length, out[SQUARES] + first);
        if (out[SUM]) NAMED(short_sum)(x, rows, length, out[SUM] + first);
        if (out[MAGNITUDES]) NAMED(short_magnitudes)(x, rows, length, out[MAGNITUDES] + first);
        if (out[NONZERO]) NAMED(short_nonzero)(x, rows, length, out[NONZERO] + first);
        if (out[NONFINITE]) NAMED(short_nonfinite)(x, rows, length, out[NONFINITE] + first);
        if (out[MINIMUM])
            NAMED(short_extremes)(x, rows, length, out[MINIMUM] + first, out[MAXIMUM] + first);
    }
}

/* What is known of one row. */
struct NAMED(row) {
    double sums[STATISTICS];
    KEY low, high;
};

static inline void NAMED(add_run)(struct NAMED(row) *row, const REAL *x, size_t count, results out) {
    if (out[SQUARES]) row->sums[SQUARES] += NAMED(run_squares)(x, count);
    if (out[SUM]) row->sums[SUM] += NAMED(run_sum)(x, count);
    if (out[MAGNITUDES]) row->sums[MAGNITUDES] += NAMED(run_magnitudes)(x, count);
    if (out[NONZERO]) row->sums[NONZERO] += NAMED(run_nonzero)(x, count);
    if (out[NONFINITE]) row->sums[NONFINITE] += NAMED(run_nonfinite)(x, count);
    if (out[MINIMUM]) NAMED(run_extremes)(x, count, &row->low, &row->high);
}

static void NAMED(rows)(const SOURCE *from, size_t count, size_t length, results out) {
    if (length < LANES) {
        NAMED(short_rows)(from, count, length, out);
        return;
    }
    REAL tile[RUN];
    size_t together = length < RUN ? RUN / length : 1; /* short rows are loaded several at once */
    for (size_t first = 0; first < count; first += together) {
        size_t rows = count - first < together ? count - first : together;
        struct NAMED(row) row;
        const REAL *x = tile;
        if (length < RUN) x = NAMED(load)(from, first * length, rows * length, tile);
        for (size_t i = 0; i < rows; i++) {
            row = (struct NAMED(row)){.low = KEY_MAX, .high = ~KEY_MAX};
            if (length < RUN) NAMED(add_run)(&row, x + i * length, length, out);
            for (size_t j = 0; length >= RUN && j < length; j += RUN) {
                size_t some = length - j < RUN ? length - j : RUN;
                x = NAMED(load)(from, (first + i) * length + j, some, tile);
                NAMED(add_run)(&row, x, some, out);
            }
            for (int s = 0; s < STATISTICS; s++)
                if (out[s]) out[s][first + i] = row.sums[s];
            if (out[MINIMUM]) {
                out[MINIMUM][first + i] = NAMED(number)(row.low);
                out[MAXIMUM][first + i] = NAMED(number)(row.high);
            }
        }
    }
}

/* What is known of as many columns as a tile has. */
struct NAMED(columns) {
    double sums[STATISTICS][TILE];
    KEY low[TILE], high[TILE];
};

#define EACH_COLUMN(statement)                                                                     \
    for (size_t k = 0; k < count; k++) statement;

static inline void NAMED(add_row)(struct NAMED(columns) *restrict at, const REAL *restrict x,
                                  size_t count, results out) {
    if (out[SQUARES]) EACH_COLUMN(at->sums[SQUARES][k] += (double)x[k] * (double)x[k])
    if (out[SUM]) EACH_COLUMN(at->sums[SUM][k] += (double)x[k])
    if (out[MAGNITUDES]) EACH_COLUMN(at->sums[MAGNITUDES][k] += fabs((double)x[k]))
    if (out[NONZERO]) EACH_COLUMN(at->sums[NONZERO][k] += x[k] == 0 ? 0.0 : 1.0)
    if (out[NONFINITE]) EACH_COLUMN(at->sums[NONFINITE][k] += x[k] - x[k] != 0 ? 1.0 : 0.0)
    if (out[MINIMUM])
        for (size_t k = 0; k < count; k++) {
            KEY key = NAMED(key)(x[k]);
            at->low[k] = key < at->low[k] ? key : at->low[k];
            at->high[k] = key > at->high[k] ? key : at->high[k];
        }
}

/* Add up `width` columns from `left` on of the matrix that begins at weight `origin`, of `total` weights in
 * rows of `length`; `sums` has room. */
static void NAMED(column_tile)(const SOURCE *from, size_t origin, size_t total, size_t length, size_t left,
                               size_t width, results out, struct NAMED(columns) *sums) {
    REAL tile[TILE];
    struct NAMED(columns) group;
    size_t rows = PIECE / length ? PIECE / length : 1;
    for (size_t k = 0; out[MINIMUM] && k < width; k++) group.low[k] = KEY_MAX, group.high[k] = ~KEY_MAX;
    for (int s = 0; s < STATISTICS; s++)
        if (out[s]) memset(sums->sums[s], 0, width * sizeof(double));
    for (size_t start = left; start < total;) {
        for (int s = 0; s < STATISTICS; s++)
            if (out[s]) memset(group.sums[s], 0, width * sizeof(double));
        for (size_t i = 0; i < rows && start < total; i++, start += length) {
            size_t some = total - start < width ? total - start : width;
            NAMED(add_row)(&group, NAMED(load)(from, origin + start, some, tile), some, out);
        }
        for (int s = 0; s < STATISTICS; s++)
            for (size_t k = 0; out[s] && k < width; k++) sums->sums[s][k] += group.sums[s][k];
    }
    for (size_t k = 0; out[MINIMUM] && k < width; k++)
        sums->low[k] = group.low[k], sums->high[k] = group.high[k];
}

/* Fold columns of `fold` rows that were taken as one. */
static void NAMED(fold)(struct NAMED(columns) *at, size_t fold, size_t length) {
    for (size_t half = fold / 2 * length; half >= length; half = half / length / 2 * length)
        for (size_t k = 0; k < half; k++) {
            for (int s = 0; s < STATISTICS; s++) at->sums[s][k] += at->sums[s][k + half];
            if (at->low[k + half] < at->low[k]) at->low[k] = at->low[k + half];
            if (at->high[k + half] > at->high[k]) at->high[k] = at->high[k + half];
        }
}

static void NAMED(columns)(const SOURCE *from, size_t batch, size_t rows, size_t length, results out) {
    struct NAMED(columns) sums;
    size_t fold = 1, total = rows * length;
    while (fold * length < WIDE && 2 * fold <= rows) fold *= 2;
    memset(&sums, 0, sizeof sums);
    for (size_t b = 0; b < batch; b++)
        for (size_t left = 0; left < length; left += TILE) {
            size_t width = length - left < TILE ? length - left : TILE, to = b * length + left;
            NAMED(column_tile)(from, b * total, total, fold * length, left,
                               fold > 1 ? fold * length : width, out, &sums);
            NAMED(fold)(&sums, fold, length);
            for (int s = 0; s < STATISTICS; s++)
                if (out[s]) memcpy(out[s] + to, sums.sums[s], width * sizeof(double));
            for (size_t k = 0; out[MINIMUM] && k < width; k++) {
                out[MINIMUM][to + k] = NAMED(number)(sums.low[k]);
                out[MAXIMUM][to + k] = NAMED(number)(sums.high[k]);
            }
        }
}

#undef LANE_SUM
#undef SHORT_SUM
#undef EACH_COLUMN
