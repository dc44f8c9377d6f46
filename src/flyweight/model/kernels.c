/* Products of a few rows with a matrix as it is stored: y = x W^T + b, x (rows, in), y (rows, out).

   The compiler turns this file into machine code on the machine that runs it; see model/kernels.py.
   Every weight is read once, four rows of W at a time, which are far apart. For one row of x a weight is decoded in
   registers. For more, four rows of W are decoded into a small buffer, which all rows of x read.
   Sums are in float32. Their order depends on the processor, never on the number of threads. */

#include <math.h>
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
/* 32 products of int16, added in pairs: 16 sums of int32 */
typedef __m512i whole;
#define WHOLE_WIDTH 32
#define WHOLE_ZERO _mm512_setzero_si512()
#define INT16(w) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w)))
#ifdef __AVX512VNNI__
#define WHOLE_ADD(x, w, sum) _mm512_dpwssd_epi32(sum, _mm512_loadu_si512(x), INT16(w))
#else
#define WHOLE_ADD(x, w, sum)                                                                      \
    _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_loadu_si512(x), INT16(w)))
#endif
#define WHOLE_SUM(v) _mm512_reduce_add_epi32(v)
typedef __m512i codes;
#define CODES(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(p)))
#define HIGH(c) _mm512_srli_epi32(c, 4)
typedef struct { __m512 all; } book;
#define BOOK(p) {_mm512_loadu_ps(p)}
#define LOOK(b, c) _mm512_permutexvar_ps(c, (b).all) /* reads the low four bits */
/* Codes of three bits, of the 48 bits of two words; the book has its eight levels twice. */
#define THREE_BITS(bits)                                                                          \
    _mm512_srlv_epi32(                                                                             \
        _mm512_mask_set1_epi32(_mm512_set1_epi32((int32_t)((bits) >> 24)), 0xff00, (int32_t)(bits)), \
        _mm512_set_epi32(0, 3, 6, 9, 12, 15, 18, 21, 0, 3, 6, 9, 12, 15, 18, 21))
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
typedef __m256i whole;
#define WHOLE_WIDTH 16
#define WHOLE_ZERO _mm256_setzero_si256()
#define WHOLE_ADD(x, w, sum)                                                                      \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(x)),              \
                                            _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w)))))
static inline int32_t WHOLE_SUM(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
typedef __m256i codes;
#define CODES(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(p)))
#define HIGH(c) _mm256_srli_epi32(c, 4)
typedef struct { __m256 low, high; } book;
#define BOOK(p) {_mm256_loadu_ps(p), _mm256_loadu_ps((p) + 8)}
/* The low three bits choose within a half of the book, the fourth bit chooses the half. */
#define LOOK(b, c)                                                                                \
    _mm256_blendv_ps(_mm256_permutevar8x32_ps((b).low, c), _mm256_permutevar8x32_ps((b).high, c),  \
                     _mm256_castsi256_ps(_mm256_slli_epi32(c, 28)))
#define THREE_BITS(bits)                                                                          \
    _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)((bits) >> 24)),                                  \
                      _mm256_set_epi32(0, 3, 6, 9, 12, 15, 18, 21))
#else
#error "the kernels are written for AVX2 and AVX-512"
#endif

enum { FLOAT32, BFLOAT16, ROWS_INT8, ROWS_INT8_DYNAMIC, BLOCKS_3BIT, BLOCKS_4BIT };
enum { SCALES_FLOAT32, SCALES_BFLOAT16, SCALES_NESTED };
enum { NESTED_GROUP = 256, TILE = 32 };

/* A matrix (out, in) where it lies. `scales` are bfloat16, one a row, of int8. Of 3 and 4 bits there
   is one a block: floats, or bytes, whose offsets and then steps are `ranges`, one of each a group of
   blocks. `levels` are the 16 floats that codes stand for, of 3 bits the same 8 twice. */
typedef struct {
    int64_t format, scale_format, out, in, block, groups;
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
        for (; at < end; at++)
            *to++ = from_bf16(((const uint16_t *)m->scales)[at]);
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

/* x are integers here. */
static void dot_int8_dynamic(const int16_t *x, const int8_t *w, int64_t in, const int64_t *rows,
                             float *sums)
{
    for (int k = 0; k < 4; k += 2) {
        const int8_t *a = w + rows[k] * in, *b = w + rows[k + 1] * in;
        whole s = WHOLE_ZERO, t = WHOLE_ZERO;
        int64_t i = 0;
        for (; i + WHOLE_WIDTH <= in; i += WHOLE_WIDTH) {
            s = WHOLE_ADD(x + i, a + i, s);
            t = WHOLE_ADD(x + i, b + i, t);
        }
        int32_t first = WHOLE_SUM(s), second = WHOLE_SUM(t);
        for (; i < in; i++)
            first += x[i] * a[i], second += x[i] * b[i];
        sums[k] = first, sums[k + 1] = second;
    }
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
    if (m->format == BLOCKS_4BIT) {
        decode_4bit(m, row, scales, to);
    } else if (m->format == BLOCKS_3BIT) {
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
    if (m->format == ROWS_INT8_DYNAMIC) {
        for (int64_t b = 0; b < n; b++)
            dot_int8_dynamic((const int16_t *)x + b * width, m->weights, width, rows, sums + 4 * b);
        return;
    }
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

/* Write x (n, in) as integers from -127 to 127, and what they are to be multiplied by, (n,). */
static void integers(const float *x, int64_t n, int64_t in, int16_t *to, float *scales)
{
    for (int64_t b = 0; b < n; b++, x += in, to += in) {
        /* Of floats without their sign, the larger one has the larger bits. */
        uint32_t most = 0;
        for (int64_t i = 0; i < in; i++) {
            uint32_t bits;
            memcpy(&bits, x + i, 4);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }
        float largest;
        memcpy(&largest, &most, 4);
        scales[b] = largest / 127;
        float step = scales[b] > 0 ? scales[b] : 1;
        for (int64_t i = 0; i < in; i++) {
            float code = rintf(x[i] / step);
            to[i] = (int16_t)(code < -127 ? -127 : code > 127 ? 127 : code);
        }
    }
}

/* The floats that one thread needs: sums, scales of TILE rows of four streams, decoded rows. */
static int64_t room_of(const matrix *m, int64_t n, int64_t width)
{
    return 4 * (n + TILE * count_blocks(m) + width);
}

/* Return an output, of the sum of its row; of int8_dynamic that is one of integers. */
static inline float output(const matrix *m, float x_scale, int64_t row, float sum)
{
    if (m->format == ROWS_INT8_DYNAMIC)
        sum = sum * x_scale * from_bf16(((const uint16_t *)m->scales)[row]);
    return m->bias ? sum + m->bias[row] : sum;
}

/* Write the outputs from `first` to `end`. Four streams run through W side by side, far apart: the
   processor fetches each ahead, which it does not for short pieces that jump. */
static void multiply_part(const matrix *m, const float *x, const float *x_scales, float *y,
                          int64_t n, int64_t width, int64_t first, int64_t end, float *room)
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
        if (n == 1 && m->format != ROWS_INT8_DYNAMIC)
            dot_rows(x, m, rows, scales, sums);
        else
            dot_decoded(x, n, width, m, rows, scales, decoded, sums);
        for (int64_t b = 0; b < n; b++)
            for (int64_t k = 0; k < held; k++)
                y[b * m->out + rows[k]] = output(m, x_scales[b], rows[k], sums[4 * b + k]);
    }
}

/* Write x W^T + b of `n` rows to y; return 0, or 1 where memory ran out. */
int multiply(const matrix *m, const float *x, float *y, int64_t n, int64_t threads)
{
    int64_t width = m->format == BLOCKS_4BIT ? (m->in + 1) / 2 * 2 : m->in;
    int64_t room = room_of(m, n, width), part = (m->out + threads - 1) / threads;
    float *all = calloc(threads * room + n * (width + 1), sizeof(float));
    if (!all)
        return 1;
    float *x_scales = all + threads * room, *changed = x_scales + n;
    if (m->format == BLOCKS_4BIT) {
        halves(x, n, m->in, changed);
        x = changed;
    } else if (m->format == ROWS_INT8_DYNAMIC) {
        integers(x, n, m->in, (int16_t *)changed, x_scales);
        x = changed;
    }
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < threads; t++) {
        int64_t end = (t + 1) * part < m->out ? (t + 1) * part : m->out;
        multiply_part(m, x, x_scales, y, n, width, t * part, end, all + t * room);
    }
    free(all);
    return 0;
}
