/* Products of integers: x is rounded to integers, whose products with codes of W are summed exactly.

   int8_dynamic rounds x to 8 bits, which is what it is. For int8 and int4 x gets 24 bits, three bytes:
   as many as a float32 has, for the largest number of a row. So nothing of x is lost, and the
   processor's products of bytes are several times as fast as those of floats. */

#include "kernels.h"

#define BITS_8 127
#define BITS_24 8000000
#define LANES ((int64_t)(sizeof(whole) / sizeof(int32_t)))
#define STEP 128 /* columns of four bits in 64 bytes */
#define EACH(k) _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++)
#define HOLD(v) __asm__("" : "+v"(v)); /* in a register, which would be loaded again and again */
#define TOGETHER (BYTES == 64 ? 4 : 2) /* vectors of x that fit the registers with four rows of W */

static int in_blocks(const matrix *m)
{
    return m->format == BLOCKS_INT4 || m->format == BLOCKS_INT3;
}

int64_t planes_of(const matrix *m)
{
    if (m->format == ROWS_INT8_DYNAMIC)
        return 1;
    return BYTES == 64 && (m->format == ROWS_INT8 || in_blocks(m)) ? 3 : 0;
}

static int64_t width_of(const matrix *m)
{
    int64_t unit = m->format == BLOCKS_INT4 ? STEP : 64;
    return (m->in + unit - 1) / unit * unit;
}

static int64_t count_offsets(const matrix *m)
{
    if (!in_blocks(m))
        return planes_of(m) * LANES;
    return width_of(m) / (m->format == BLOCKS_INT4 ? STEP : 64) * LANES;
}

int64_t bytes_of_integers(const matrix *m, int64_t n)
{
    int64_t width = width_of(m), floats = n * (1 + count_offsets(m)) + width;
    return floats * 4 + n * planes_of(m) * width;
}

static float largest(const float *x, int64_t in)
{
    /* Of floats without their sign, the larger one has the larger bits. */
    uint32_t most = 0;
    for (int64_t i = 0; i < in; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float value;
    memcpy(&value, &most, 4);
    return value;
}

static void round_to_8_bits(const float *x, int64_t in, float step, int8_t *to)
{
    for (int64_t i = 0; i < in; i++) {
        float code = rintf(x[i] / step);
        to[i] = (int8_t)(code < -BITS_8 ? -BITS_8 : code > BITS_8 ? BITS_8 : code);
    }
}

static void round_to_24_bits(const float *x, int64_t in, float step, int8_t *to)
{
    int8_t *high = to, *middle = to + in, *low = to + 2 * in;
    for (int64_t i = 0; i < in; i++) {
        int32_t code = (int32_t)rintf(x[i] / step);
        low[i] = (int8_t)code;
        code = (code + 128) >> 8;
        middle[i] = (int8_t)code;
        high[i] = (int8_t)((code + 128) >> 8);
    }
}

/* Write a row of x in the order of its codes of 4 bits: a step's even places before its odd ones. */
static void reorder(const float *x, int64_t in, int64_t width, float *to)
{
    for (; width; width -= STEP, in -= STEP, x += STEP, to += STEP) {
        float rest[STEP] = {0};
        const float *from = x;
        if (in < STEP)
            from = memcpy(rest, x, (in > 0 ? in : 0) * sizeof(float));
        for (int64_t i = 0; i < STEP / 2; i++)
            to[i] = from[2 * i], to[STEP / 2 + i] = from[2 * i + 1];
    }
}

#if BYTES == 64
/* Numbers of W of 8 bits are 128 too large. */
static void add_offsets(const int8_t *x, int64_t planes, int64_t width, int32_t *offsets)
{
    const __m512i more = _mm512_set1_epi8(-128);
    for (int64_t p = 0; p < planes; p++, offsets += LANES) {
        whole sum = WHOLE_ZERO;
        for (int64_t i = 0; i < width; i += 64, x += 64)
            sum = WHOLE_ADD(sum, more, WHOLE_X(x));
        _mm512_storeu_si512(offsets, _mm512_sub_epi32(WHOLE_ZERO, sum));
    }
}

/* Codes of 4 bits are 8 too large, those of 3 bits 4. */
static void add_block_offsets(int bits, const int8_t *x, int64_t width, int32_t *offsets)
{
    const __m512i more = _mm512_set1_epi8(bits == 4 ? 8 : 4);
    for (int64_t i = 0; i < width; i += bits == 4 ? 128 : 64, offsets += 16) {
        whole sum = WHOLE_ZERO;
        for (int64_t p = 0; p < 3; p++) {
            const int8_t *at = x + p * width + i;
            sum = WHOLE_ADD(_mm512_slli_epi32(sum, 8), more, WHOLE_X(at));
            if (bits == 4)
                sum = WHOLE_ADD(sum, more, WHOLE_X(at + 64));
        }
        _mm512_storeu_si512(offsets, _mm512_sub_epi32(WHOLE_ZERO, sum));
    }
}

static void offset(const matrix *m, const int8_t *x, int64_t planes, int64_t width, int32_t *offsets)
{
    if (in_blocks(m))
        add_block_offsets(m->format == BLOCKS_INT4 ? 4 : 3, x, width, offsets);
    else
        add_offsets(x, planes, width, offsets);
}
#else
static void offset(const matrix *m, const int8_t *x, int64_t planes, int64_t width, int32_t *offsets)
{
    (void)m, (void)x, (void)width;
    memset(offsets, 0, planes * LANES * sizeof(int32_t));
}
#endif

void make_integers(const matrix *m, const float *x, int64_t n, void *room, integers *made)
{
    int64_t planes = planes_of(m), width = width_of(m), offsets = count_offsets(m);
    float *row = (float *)room + n * (1 + offsets);
    *made = (integers){n, planes, width, (int8_t *)(row + width), (int32_t *)room + n, room};
    memset(row, 0, width * sizeof(float));
    for (int64_t b = 0; b < n; b++, x += m->in) {
        int8_t *to = made->bytes + b * planes * width;
        made->scales[b] = largest(x, m->in) / (planes == 1 ? BITS_8 : BITS_24);
        float step = made->scales[b] > 0 ? made->scales[b] : 1;
        if (m->format == BLOCKS_INT4)
            reorder(x, m->in, width, row);
        else
            memcpy(row, x, m->in * sizeof(float));
        if (planes == 1)
            round_to_8_bits(row, width, step, to);
        else
            round_to_24_bits(row, width, step, to);
        offset(m, to, planes, width, made->offsets + b * offsets);
    }
}

/* --- int8 --- */

static inline __attribute__((always_inline)) void meet(const int8_t *const *w, const int8_t *x,
                                                       int64_t width, const int count,
                                                       whole (*sums)[4])
{
    whole rows[4];
    EACH(k)
        rows[k] = WHOLE_W(w[k]);
#pragma GCC unroll 4
    for (int v = 0; v < count; v++) {
        whole each = WHOLE_X(x + v * width);
        HOLD(each)
        EACH(k)
            sums[v][k] = WHOLE_ADD(sums[v][k], rows[k], each);
    }
}

/* Add the products of four rows of W with `count` vectors of x to `sums`, from their offsets on. */
static inline __attribute__((always_inline)) void dots(const int8_t *const *w, int64_t in,
                                                       const integers *x, int64_t first,
                                                       const int count, whole (*sums)[4])
{
    const int8_t *vectors = x->bytes + first * x->width;
#pragma GCC unroll 4
    for (int v = 0; v < count; v++)
        EACH(k)
            sums[v][k] = WHOLE_LOAD(x->offsets + (first + v) * LANES);
    int64_t i = 0;
    for (; i + BYTES <= in; i += BYTES) {
        const int8_t *at[4] = {w[0] + i, w[1] + i, w[2] + i, w[3] + i};
        EACH(k)
            FETCH(at[k]);
        meet(at, vectors + i, x->width, count, sums);
    }
    if (i < in) { /* x has zeros behind its end */
        int8_t rest[4][BYTES] = {{0}};
        EACH(k)
            memcpy(rest[k], w[k] + i, in - i);
        const int8_t *at[4] = {rest[0], rest[1], rest[2], rest[3]};
        meet(at, vectors + i, x->width, count, sums);
    }
}

/* Write the sums with `count` rows of 8 bits, (count, 4): exact, whatever their order. */
static inline __attribute__((always_inline)) void exact_sums(const int8_t *const *w, int64_t in,
                                                             const integers *x, int64_t b,
                                                             const int count, __m128 scales,
                                                             float *to)
{
    whole sums[TOGETHER][4];
    dots(w, in, x, b, count, sums);
#pragma GCC unroll 4
    for (int v = 0; v < count; v++) {
        __m128i found = four_sums(sums[v][0], sums[v][1], sums[v][2], sums[v][3]);
        __m128 scaled = _mm_mul_ps(_mm_cvtepi32_ps(found), _mm_set1_ps(x->scales[b + v]));
        _mm_storeu_ps(to + 4 * v, _mm_mul_ps(scaled, scales));
    }
}

#if BYTES == 64
/* Write the sums with a row of 24 bits. */
static void fine_sums(const int8_t *const *w, int64_t in, const integers *x, int64_t b, __m128 scales,
                      float *to)
{
    whole sums[3][4];
    vec all[4];
    dots(w, in, x, 3 * b, 3, sums);
    EACH(k) {
        all[k] = FMA(_mm512_cvtepi32_ps(sums[0][k]), SPREAD(256), _mm512_cvtepi32_ps(sums[1][k]));
        all[k] = FMA(all[k], SPREAD(256), _mm512_cvtepi32_ps(sums[2][k]));
    }
    __m128 found = four_float_sums(all[0], all[1], all[2], all[3]);
    _mm_storeu_ps(to, _mm_mul_ps(_mm_mul_ps(found, _mm_set1_ps(x->scales[b])), scales));
}
#endif

static void int8_sums(const matrix *m, const integers *x, int64_t b, int64_t n, const int64_t *rows,
                      float *sums)
{
    const int8_t *w[4];
    float each[4];
    EACH(k) {
        w[k] = (const int8_t *)m->weights + rows[k] * m->in;
        each[k] = from_bf16(((const uint16_t *)m->scales)[rows[k]]);
    }
    const __m128 scales = _mm_loadu_ps(each);
#if BYTES == 64
    for (; n && x->planes == 3; n--, b++, sums += 4)
        fine_sums(w, m->in, x, b, scales, sums);
#endif
    for (; n >= TOGETHER; n -= TOGETHER, b += TOGETHER, sums += 4 * TOGETHER)
        exact_sums(w, m->in, x, b, TOGETHER, scales, sums);
    for (; n; n--, b++, sums += 4)
        exact_sums(w, m->in, x, b, 1, scales, sums);
}

/* --- int4 and int3 --- */

#if BYTES == 64
/* The codes of 64 columns of a row, one a byte: all of 3 bits, of 4 bits the even columns and then the
   odd ones, in two vectors. Codes of 3 bits are eight in three bytes, the first in the highest bits. */
typedef struct {
    __m512i first, second;
} unpacked;

static inline unpacked unpack(int bits, __m512i both)
{
    if (bits == 4) {
        const __m512i four = _mm512_set1_epi8(15);
        __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), four);
        return (unpacked){high, _mm512_and_si512(both, four)};
    }
    const __m512i words = _mm512_set_epi64(0x151617, 0x121314, 0x0f1011, 0x0c0d0e, 0x090a0b, 0x060708,
                                           0x030405, 0x000102);
    const __m512i shifts = _mm512_set1_epi64(0x000306090c0f1215);
    __m512i bytes = _mm512_permutexvar_epi8(words, both);
    __m512i codes = _mm512_multishift_epi64_epi8(shifts, bytes);
    return (unpacked){_mm512_and_si512(codes, _mm512_set1_epi8(7)), _mm512_setzero_si512()};
}

/* Write the sums of four rows of W of 3 or 4 bits with row `b` of x, 64 bytes of codes a step. */
static inline __attribute__((always_inline)) void block_sums(const int bits, const matrix *m,
                                                             const integers *x, int64_t b,
                                                             const int64_t *rows,
                                                             const float *const *scales, float *sums)
{
    const int64_t columns = bits == 4 ? 128 : 64, bytes = bits == 4 ? 64 : 24, width = x->width;
    const int64_t row_bytes = bits == 4 ? (m->in + 1) / 2 : (m->in + 7) / 8 * 3;
    const int64_t each = columns / m->block;
    const int32_t *offsets = x->offsets + b * (width / columns * 16);
    const int8_t *high = x->bytes + b * 3 * width, *middle = high + width, *low = middle + width;
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i place = _mm512_srli_epi32(lanes, __builtin_ctzll(m->block / (columns / 16)));
    vec total[4] = {ZERO, ZERO, ZERO, ZERO};
    const uint8_t *w[4];
    const float *steps[4];
    EACH(k)
        w[k] = (const uint8_t *)m->weights + rows[k] * row_bytes, steps[k] = scales[k];
    for (int64_t i = 0, left = row_bytes; i < width; i += columns, left -= bytes, offsets += 16) {
        whole x0 = WHOLE_X(high + i), x1 = WHOLE_X(middle + i), x2 = WHOLE_X(low + i);
        whole y0 = x0, y1 = x1, y2 = x2, offset = _mm512_loadu_si512(offsets);
        if (bits == 4)
            y0 = WHOLE_X(high + i + 64), y1 = WHOLE_X(middle + i + 64), y2 = WHOLE_X(low + i + 64);
        HOLD(x0) HOLD(x1) HOLD(x2) HOLD(y0) HOLD(y1) HOLD(y2)
        const __mmask64 there = left < 64 ? (1ull << left) - 1 : ~0ull;
        EACH(k) {
            __m512i both;
            if (left >= 64) /* the masked one is slower */
                both = _mm512_loadu_si512(w[k]);
            else
                both = _mm512_maskz_loadu_epi8(there, w[k]);
            FETCH(w[k]);
            unpacked codes = unpack(bits, both);
            whole s0 = WHOLE_ADD(WHOLE_ZERO, codes.first, x0);
            whole s1 = WHOLE_ADD(WHOLE_ZERO, codes.first, x1);
            whole s2 = WHOLE_ADD(offset, codes.first, x2);
            if (bits == 4) {
                s0 = WHOLE_ADD(s0, codes.second, y0), s1 = WHOLE_ADD(s1, codes.second, y1);
                s2 = WHOLE_ADD(s2, codes.second, y2);
            }
            s1 = _mm512_add_epi32(_mm512_slli_epi32(s0, 8), s1);
            s2 = _mm512_add_epi32(_mm512_slli_epi32(s1, 8), s2);
            vec scale = _mm512_permutexvar_ps(place, LOAD(steps[k]));
            total[k] = FMA(_mm512_cvtepi32_ps(s2), scale, total[k]);
            w[k] += bytes, steps[k] += each;
        }
    }
    __m128 found = four_float_sums(total[0], total[1], total[2], total[3]);
    _mm_storeu_ps(sums, _mm_mul_ps(found, _mm_set1_ps(x->scales[b])));
}
#endif

void multiply_integers(const matrix *m, const integers *x, int64_t b, int64_t n, const int64_t *rows,
                       const float *const *scales, float *sums)
{
    (void)scales; /* without blocks */
#if BYTES == 64
    for (; n && m->format == BLOCKS_INT4; n--, b++, sums += 4)
        block_sums(4, m, x, b, rows, scales, sums);
    for (; n && m->format == BLOCKS_INT3; n--, b++, sums += 4)
        block_sums(3, m, x, b, rows, scales, sums);
#endif
    if (n)
        int8_sums(m, x, b, n, rows, sums);
}
