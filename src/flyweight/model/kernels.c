/* Products of a few rows with a matrix as it is stored: y = x W^T + b, x (rows, in), y (rows, out).

   The compiler turns these files into machine code on the machine that runs them; see
   model/kernels.py. Every weight is read from memory once, by four streams that run through W side by
   side, far apart: the processor fetches each ahead, which it does not for short pieces that jump.
   For one row of x a weight is decoded in registers. For more, four rows of W are decoded into a small
   buffer, which all rows of x read. Products of integers are in integers.c. Sums are in float32. Their
   order depends on the processor, never on the number of threads or of rows. */

#include "kernels.h"

enum { SCALES_FLOAT32, SCALES_BFLOAT16, SCALES_NESTED };
enum { NESTED_GROUP = 256 };
enum { TILE = 16, TOGETHER = 32 }; /* rows of W of each stream, and of x, whose outputs are buffered */

/* --- one row of x, weights decoded in registers: a dot product for each format --- */

#define DOT4(NAME, TYPE, VECTOR, SCALAR)                                                           \
    static void NAME(const float *x, const TYPE *w, int64_t in, const int64_t *rows, float *sums)  \
    {                                                                                              \
        const TYPE *a = w + rows[0] * in, *b = w + rows[1] * in;                                   \
        const TYPE *c = w + rows[2] * in, *d = w + rows[3] * in;                                   \
        vec s = ZERO, t = ZERO, u = ZERO, v = ZERO;                                                \
        int64_t i = 0;                                                                             \
        for (; i + WIDTH <= in; i += WIDTH) {                                                      \
            vec y = LOAD(x + i);                                                                   \
            FETCH(a + i), FETCH(b + i), FETCH(c + i), FETCH(d + i);                                \
            s = FMA(y, VECTOR(a + i), s);                                                          \
            t = FMA(y, VECTOR(b + i), t);                                                          \
            u = FMA(y, VECTOR(c + i), u);                                                          \
            v = FMA(y, VECTOR(d + i), v);                                                          \
        }                                                                                          \
        sums[0] = SUM(s), sums[1] = SUM(t), sums[2] = SUM(u), sums[3] = SUM(v);                    \
        for (; i < in; i++) {                                                                      \
            sums[0] += x[i] * SCALAR(a[i]), sums[1] += x[i] * SCALAR(b[i]);                        \
            sums[2] += x[i] * SCALAR(c[i]), sums[3] += x[i] * SCALAR(d[i]);                        \
        }                                                                                          \
    }

DOT4(dot_float32, float, LOAD, (float))
DOT4(dot_bfloat16, uint16_t, BF16, from_bf16)
DOT4(dot_int8, int8_t, INT8, (float))

static inline int32_t word24(const uint8_t *p)
{
    return p[0] << 16 | p[1] << 8 | p[2];
}

/* Return two words, of six bytes from p on. `inside`: those two before p may be read, and are not
   used. Of a last single word the second is not used either, and not read. */
static inline int64_t two_words(const uint8_t *p, int inside)
{
    if (!inside)
        return (int64_t)word24(p) << 24 | (WIDTH > 8 ? word24(p + 3) : 0);
    if (WIDTH == 8) {
        uint32_t four;
        memcpy(&four, p - 1, 4);
        return (int64_t)(__builtin_bswap32(four) & 0xffffff) << 24;
    }
    uint64_t eight;
    memcpy(&eight, p - 2, 8);
    return (int64_t)(__builtin_bswap64(eight) & 0xffffffffffff);
}

static inline int64_t count_blocks(const matrix *m)
{
    return m->block ? (m->in + m->block - 1) / m->block : 0;
}

/* Write the scales of the blocks of `rows` rows from `row` on. */
static void read_scales(const matrix *m, int64_t row, int64_t rows, float *to)
{
    int64_t blocks = count_blocks(m), at = row * blocks, end = (row + rows) * blocks;
    if (m->scale_format == SCALES_FLOAT32) {
        memcpy(to, (const float *)m->scales + at, (end - at) * sizeof(float));
        return;
    }
    if (m->scale_format == SCALES_BFLOAT16) {
        const uint16_t *from = (const uint16_t *)m->scales + at;
        int64_t i = 0;
        for (; i + WIDTH <= end - at; i += WIDTH)
            STORE(to + i, BF16(from + i));
        for (; i < end - at; i++)
            to[i] = from_bf16(from[i]);
        return;
    }
    while (at < end) {
        int64_t group = at / NESTED_GROUP, stop = (group + 1) * NESTED_GROUP;
        float offset = m->ranges[group], step = m->ranges[m->groups + group];
        for (stop = stop < end ? stop : end; at < stop; at++)
            *to++ = offset + step * ((const uint8_t *)m->scales)[at];
    }
}

/* x lies in two halves: its even places, which meet the high codes, and from `half` on its odd ones.
   Vectors go through the whole blocks; what is left of each is added number by number. */
static void dot_4bit(const float *x, const matrix *m, const int64_t *rows,
                     const float *const *scales, float *sums)
{
    const book levels = BOOK(m->levels);
    const int64_t blocks = count_blocks(m), half = (m->in + 1) / 2, size = m->block / 2;
    const int64_t whole = size / WIDTH * WIDTH;
    const float *odd = x + half;
    const uint8_t *w[4];
    vec sum[4];
    for (int k = 0; k < 4; k++) {
        w[k] = (const uint8_t *)m->weights + rows[k] * half;
        sum[k] = ZERO;
        sums[k] = 0;
    }
    for (int64_t g = 0; g < blocks; g++) {
        int64_t first = g * size, end = first + size < half ? first + size : half, i = first;
        vec s[4] = {ZERO, ZERO, ZERO, ZERO};
        for (; i + WIDTH <= end; i += WIDTH) {
            vec high = LOAD(x + i), low = LOAD(odd + i);
            for (int k = 0; k < 4; k++) {
                codes c = CODES(w[k] + i);
                s[k] = FMA(high, LOOK(levels, HIGH(c)), s[k]);
                s[k] = FMA(low, LOOK(levels, c), s[k]);
            }
        }
        for (int k = 0; k < 4; k++)
            sum[k] = FMA(s[k], SPREAD(scales[k][g]), sum[k]);
        if (size == whole && end - first == size)
            continue;
        for (; i < end; i++)
            for (int k = 0; k < 4; k++)
                sums[k] += scales[k][g] * (x[i] * m->levels[w[k][i] >> 4] +
                                           odd[i] * m->levels[w[k][i] & 15]);
    }
    for (int k = 0; k < 4; k++)
        sums[k] += SUM(sum[k]);
}

static void dot_3bit(const float *x, const matrix *m, const int64_t *rows,
                     const float *const *scales, float *sums)
{
    const book levels = BOOK(m->levels);
    const int64_t bytes = (m->in + 7) / 8 * 3;
    const uint8_t *w[4];
    vec sum[4];
    for (int k = 0; k < 4; k++)
        w[k] = (const uint8_t *)m->weights + rows[k] * bytes, sum[k] = ZERO, sums[k] = 0;
    for (int64_t g = 0; g < count_blocks(m); g++) {
        int64_t i = g * m->block, end = i + m->block < m->in ? i + m->block : m->in;
        vec s[4] = {ZERO, ZERO, ZERO, ZERO};
        for (; i % 8 == 0 && i + WIDTH <= end; i += WIDTH) {
            vec y = LOAD(x + i);
            for (int k = 0; k < 4; k++)
                s[k] = FMA(y, LOOK(levels, THREE_BITS(two_words(w[k] + i / 8 * 3, i > 0))), s[k]);
        }
        for (int k = 0; k < 4; k++)
            sum[k] = FMA(s[k], SPREAD(scales[k][g]), sum[k]);
        for (; i < end; i++)
            for (int k = 0; k < 4; k++)
                sums[k] += scales[k][g] * x[i] *
                           m->levels[word24(w[k] + i / 8 * 3) >> (21 - i % 8 * 3) & 7];
    }
    for (int k = 0; k < 4; k++)
        sums[k] += SUM(sum[k]);
}

/* Write the sums of four rows of W. */
static void dot_rows(const float *x, const matrix *m, const int64_t *rows,
                     const float *const *scales, float *sums)
{
    switch (m->format) {
    case FLOAT32:
        dot_float32(x, m->weights, m->in, rows, sums);
        break;
    case BFLOAT16:
        dot_bfloat16(x, m->weights, m->in, rows, sums);
        break;
    case ROWS_INT8:
        dot_int8(x, m->weights, m->in, rows, sums);
        for (int k = 0; k < 4; k++)
            sums[k] *= from_bf16(((const uint16_t *)m->scales)[rows[k]]);
        break;
    case BLOCKS_3BIT:
    case BLOCKS_INT3:
        dot_3bit(x, m, rows, scales, sums);
        break;
    default:
        dot_4bit(x, m, rows, scales, sums);
    }
}

/* --- more rows of x: a row of W as floats, in the order in which x lies --- */

static void decode_4bit(const matrix *m, int64_t row, const float *scales, float *even)
{
    const book levels = BOOK(m->levels);
    const int64_t blocks = count_blocks(m), half = (m->in + 1) / 2, size = m->block / 2;
    const uint8_t *w = (const uint8_t *)m->weights + row * half;
    float *odd = even + half;
    for (int64_t g = 0; g < blocks; g++) {
        int64_t i = g * size, end = i + size < half ? i + size : half;
        vec scale = SPREAD(scales[g]);
        for (; i + WIDTH <= end; i += WIDTH) {
            codes c = CODES(w + i);
            STORE(even + i, MUL(scale, LOOK(levels, HIGH(c))));
            STORE(odd + i, MUL(scale, LOOK(levels, c)));
        }
        for (; i < end; i++)
            even[i] = scales[g] * m->levels[w[i] >> 4], odd[i] = scales[g] * m->levels[w[i] & 15];
    }
}

static void decode_3bit(const matrix *m, int64_t row, const float *scales, float *to)
{
    const book levels = BOOK(m->levels);
    const uint8_t *w = (const uint8_t *)m->weights + row * ((m->in + 7) / 8 * 3);
    for (int64_t g = 0; g < count_blocks(m); g++) {
        int64_t i = g * m->block, end = i + m->block < m->in ? i + m->block : m->in;
        vec scale = SPREAD(scales[g]);
        for (; i % 8 == 0 && i + WIDTH <= end; i += WIDTH)
            STORE(to + i, MUL(scale, LOOK(levels, THREE_BITS(two_words(w + i / 8 * 3, i > 0)))));
        for (; i < end; i++)
            to[i] = scales[g] * m->levels[word24(w + i / 8 * 3) >> (21 - i % 8 * 3) & 7];
    }
}

static void decode_row(const matrix *m, int64_t row, const float *scales, float *to)
{
    int64_t i = 0, in = m->in;
    if (m->format == BLOCKS_4BIT || m->format == BLOCKS_INT4) {
        decode_4bit(m, row, scales, to);
    } else if (m->format == BLOCKS_3BIT || m->format == BLOCKS_INT3) {
        decode_3bit(m, row, scales, to);
    } else if (m->format == ROWS_INT8) {
        const int8_t *w = (const int8_t *)m->weights + row * in;
        float scale = from_bf16(((const uint16_t *)m->scales)[row]);
        for (; i + WIDTH <= in; i += WIDTH)
            STORE(to + i, MUL(SPREAD(scale), INT8(w + i)));
        for (; i < in; i++)
            to[i] = scale * w[i];
    } else {
        const uint16_t *w = (const uint16_t *)m->weights + row * in;
        for (; i + WIDTH <= in; i += WIDTH)
            STORE(to + i, BF16(w + i));
        for (; i < in; i++)
            to[i] = from_bf16(w[i]);
    }
}

/* Write the sums of four rows of W with `n` rows of x to `sums` (n, 4). */
static void dot_decoded(const float *x, int64_t n, int64_t width, const matrix *m,
                        const int64_t *rows, const float *const *scales, float *decoded, float *sums)
{
    static const int64_t in_order[4] = {0, 1, 2, 3};
    for (int k = 0; k < 4 && m->format != FLOAT32; k++)
        decode_row(m, rows[k], scales[k], decoded + k * width);
    for (int64_t b = 0; b < n; b++) {
        if (m->format == FLOAT32)
            dot_float32(x + b * width, m->weights, width, rows, sums + 4 * b);
        else
            dot_float32(x + b * width, decoded, width, in_order, sums + 4 * b);
    }
}

/* --- all rows of W --- */

/* Write x (n, in) to `to` (n, width) with each row's even places before its odd ones. */
static void halves(const float *x, int64_t n, int64_t in, float *to)
{
    int64_t half = (in + 1) / 2;
    for (int64_t b = 0; b < n; b++, to += 2 * half) {
        to[2 * half - 1] = 0;
        for (int64_t i = 0; i < in; i++)
            to[(i & 1) * half + (i >> 1)] = x[b * in + i];
    }
}

/* x as a matrix's products read it: floats (n, width), or integers. */
typedef struct {
    const float *floats;
    int64_t n, width;
    integers whole;
} input;

/* The floats that one thread needs: scales of TILE rows of four streams, which are read in vectors
   beyond their end, decoded rows, sums, and outputs. */
static int64_t room_of(const matrix *m, int64_t n, int64_t width)
{
    return 4 * (TILE * count_blocks(m) + WIDTH + width + smaller(n, TOGETHER) * (TILE + 1));
}

/* Write the outputs of `size` rows of each stream, from `starts` on, with `n` rows of x from `b` on. */
static void multiply_tile(const matrix *m, const input *x, float *y, const int64_t *starts,
                          const int64_t *sizes, int64_t b, int64_t n, const float *tile, float *room)
{
    int64_t blocks = count_blocks(m);
    float *decoded = room, *sums = decoded + 4 * x->width, *outputs = sums + 4 * n;
    for (int64_t at = 0; at < sizes[0]; at++) {
        int64_t rows[4];
        const float *scales[4];
        for (int64_t k = 0; k < 4; k++) { /* a row more than once, where a stream has ended */
            int64_t own = smaller(at, sizes[k] ? sizes[k] - 1 : 0);
            rows[k] = starts[k] + own;
            scales[k] = tile + (k * TILE + own) * blocks;
        }
        if (x->whole.planes)
            multiply_integers(m, &x->whole, b, n, rows, scales, sums);
        else if (x->n == 1)
            dot_rows(x->floats, m, rows, scales, sums);
        else
            dot_decoded(x->floats + b * x->width, n, x->width, m, rows, scales, decoded, sums);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < 4; k++)
                outputs[(i * 4 + k) * TILE + at] = sums[4 * i + k];
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < 4; k++) {
            float *to = y + (b + i) * m->out + starts[k];
            for (int64_t at = 0; at < sizes[k]; at++) {
                float sum = outputs[(i * 4 + k) * TILE + at];
                to[at] = m->bias ? sum + m->bias[starts[k] + at] : sum;
            }
        }
}

/* Write the outputs from `first` to `end`. */
static void multiply_part(const matrix *m, const input *x, float *y, int64_t first, int64_t end,
                          float *room)
{
    int64_t quarter = (end - first + 3) / 4, blocks = count_blocks(m);
    float *tile = room, *rest = tile + 4 * TILE * blocks + WIDTH;
    memset(tile, 0, (rest - tile) * sizeof(float)); /* vectors reach into rows that are not there */
    for (int64_t at = 0; at < quarter; at += TILE) {
        int64_t starts[4], sizes[4];
        for (int64_t k = 0; k < 4; k++) {
            int64_t start = first + k * quarter + at, stop = first + (k + 1) * quarter;
            int64_t left = smaller(stop, end) - start;
            sizes[k] = left > 0 ? smaller(left, TILE) : 0;
            starts[k] = smaller(start, end - 1);
            if (blocks)
                read_scales(m, starts[k], sizes[k] ? sizes[k] : 1, tile + k * TILE * blocks);
        }
        for (int64_t b = 0; b < x->n; b += TOGETHER)
            multiply_tile(m, x, y, starts, sizes, b, smaller(x->n - b, TOGETHER), tile, rest);
    }
}

int multiply(const matrix *m, const float *x, float *y, int64_t n)
{
    int64_t split = m->format == BLOCKS_4BIT || m->format == BLOCKS_INT4;
    input read = {x, n, split ? (m->in + 1) / 2 * 2 : m->in, {0}};
    int64_t planes = planes_of(m), room = room_of(m, n, read.width), threads = m->threads;
    int64_t part = (m->out + threads - 1) / threads;
    int64_t changed = planes ? bytes_of_integers(m, n) : n * read.width * 4;
    float *all = malloc(threads * room * sizeof(float) + changed);
    if (!all)
        return 1;
    float *own = all + threads * room;
    if (planes) {
        make_integers(m, x, n, own, &read.whole);
    } else if (split) {
        halves(x, n, m->in, own);
        read.floats = own;
    }
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < threads; t++) {
        int64_t first = t * part, end = smaller((t + 1) * part, m->out);
        if (first < end)
            multiply_part(m, &read, y, first, end, all + t * room);
    }
    free(all);
    return 0;
}
