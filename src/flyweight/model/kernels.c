/* Products of a few rows with a matrix as it is stored: y = x W^T + b, x (rows, in), y (rows, out).

   The compiler turns this file into machine code on the machine that runs it; see model/kernels.py.
   Every weight is read once, four rows of W at a time, which are far apart. For one row of x a weight is decoded in
   registers. For more, four rows of W are decoded into a small buffer, which all rows of x read.
   Sums are in float32. Their order depends on the processor, never on the number of threads. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define WIDTH 16
typedef __m512 vec;
#define ZERO _mm512_setzero_ps()
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define SPREAD(s) _mm512_set1_ps(s)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define SUM(v) _mm512_reduce_add_ps(v)
#define INT8(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p))))
#define BF16(p)                                                                                   \
    _mm512_castsi512_ps(_mm512_slli_epi32(                                                         \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(p))), 16))
typedef __m512i codes;
#define CODES(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define HIGH(c) _mm512_srli_epi32(c, 4)
typedef struct { __m512 all; } book;
#define BOOK(p) {_mm512_loadu_ps(p)}
#define LOOK(b, c) _mm512_permutexvar_ps(c, (b).all) /* reads the low four bits */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define WIDTH 8
typedef __m256 vec;
#define ZERO _mm256_setzero_ps()
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define SPREAD(s) _mm256_set1_ps(s)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MUL(a, b) _mm256_mul_ps(a, b)
static inline float SUM(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
#define INT8(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p))))
#define BF16(p)                                                                                   \
    _mm256_castsi256_ps(                                                                           \
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p))), 16))
typedef __m256i codes;
#define CODES(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define HIGH(c) _mm256_srli_epi32(c, 4)
typedef struct { __m256 low, high; } book;
#define BOOK(p) {_mm256_loadu_ps(p), _mm256_loadu_ps((p) + 8)}
/* The low three bits choose within a half of the book, the fourth bit chooses the half. */
#define LOOK(b, c)                                                                                \
    _mm256_blendv_ps(_mm256_permutevar8x32_ps((b).low, c), _mm256_permutevar8x32_ps((b).high, c),  \
                     _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)))
#else
#error "the kernels are written for AVX2 and AVX-512"
#endif

enum { FLOAT32, BFLOAT16, ROWS_INT8, BLOCKS_4BIT, BLOCKS_4BIT_NESTED };
enum { NESTED_GROUP = 256, TILE = 32 };

/* A matrix (out, in) where it lies. `scales` are bfloat16, one a row, of int8; float32, one a block,
   of 4 bits; or bytes, whose offsets and then steps are `ranges`, one of each a group of blocks. */
typedef struct {
    int64_t format, out, in, block, groups;
    const void *weights, *scales;
    const float *ranges, *levels, *bias;
} matrix;

static inline float from_bf16(uint16_t bits)
{
    uint32_t whole = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &whole, 4);
    return value;
}

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

static inline int64_t count_blocks(const matrix *m)
{
    return m->block ? (m->in + m->block - 1) / m->block : 0;
}

/* Write the scales of the blocks of `rows` rows from `row` on. */
static void read_scales(const matrix *m, int64_t row, int64_t rows, float *to)
{
    int64_t blocks = count_blocks(m), at = row * blocks, end = (row + rows) * blocks;
    if (m->format == BLOCKS_4BIT) {
        memcpy(to, (const float *)m->scales + at, (end - at) * sizeof(float));
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

static void decode_row(const matrix *m, int64_t row, const float *scales, float *to)
{
    int64_t i = 0, in = m->in;
    if (m->format >= BLOCKS_4BIT) {
        decode_4bit(m, row, scales, to);
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

/* --- */

/* Return x (n, in) with each row's even places before its odd ones, (n, 2 * half). */
static float *halves(const float *x, int64_t n, int64_t in)
{
    int64_t half = (in + 1) / 2;
    float *split = malloc(n * 2 * half * sizeof(float));
    for (int64_t b = 0; split && b < n; b++) {
        float *to = split + b * 2 * half;
        to[2 * half - 1] = 0;
        for (int64_t i = 0; i < in; i++)
            to[(i & 1) * half + (i >> 1)] = x[b * in + i];
    }
    return split;
}

/* The floats that one thread needs: sums, scales of TILE rows of four streams, decoded rows. */
static int64_t room_of(const matrix *m, int64_t n, int64_t width)
{
    return 4 * (n + TILE * count_blocks(m) + (n > 1 ? width : 0));
}

/* Write the outputs from `first` to `end`. Four streams run through W side by side, far apart: the
   processor fetches each ahead, which it does not for short pieces that jump. */
static void multiply_part(const matrix *m, const float *x, float *y, int64_t n, int64_t width,
                          int64_t first, int64_t end, float *room)
{
    int64_t quarter = (end - first + 3) / 4, blocks = count_blocks(m);
    float *sums = room, *tile = room + 4 * n, *decoded = tile + 4 * TILE * blocks;
    for (int64_t at = 0; at < quarter; at++) {
        int64_t rows[4], held = 0;
        const float *scales[4];
        for (int64_t k = 0; k < 4; k++) {
            rows[k] = first + k * quarter + at;
            if (rows[k] < end)
                held++;
            else
                rows[k] = end - 1; /* computed once more, and not written */
            int64_t left = rows[k] < end - TILE ? TILE : end - rows[k];
            if (blocks && at % TILE == 0)
                read_scales(m, rows[k], left, tile + k * TILE * blocks);
            scales[k] = tile + (k * TILE + at % TILE) * blocks;
        }
        if (n == 1)
            dot_rows(x, m, rows, scales, sums);
        else
            dot_decoded(x, n, width, m, rows, scales, decoded, sums);
        for (int64_t b = 0; b < n; b++)
            for (int64_t k = 0; k < held; k++)
                y[b * m->out + rows[k]] = sums[4 * b + k] + (m->bias ? m->bias[rows[k]] : 0);
    }
}

/* Write x W^T + b of `n` rows to y; return 0, or 1 where memory ran out. */
int multiply(const matrix *m, const float *x, float *y, int64_t n, int64_t threads)
{
    int64_t width = m->in;
    float *split = NULL;
    if (m->format >= BLOCKS_4BIT) {
        width = (m->in + 1) / 2 * 2;
        x = split = halves(x, n, m->in);
    }
    int64_t room = room_of(m, n, width), part = (m->out + threads - 1) / threads;
    float *buffers = calloc(threads * room, sizeof(float));
    int failed = !buffers || (m->format >= BLOCKS_4BIT && !split);
    if (!failed) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
        for (int64_t t = 0; t < threads; t++) {
            int64_t end = (t + 1) * part < m->out ? (t + 1) * part : m->out;
            multiply_part(m, x, y, n, width, t * part, end, buffers + t * room);
        }
    }
    free(buffers);
    free(split);
    return failed;
}
