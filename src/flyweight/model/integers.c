/* Products of integers: x is rounded to integers, whose products with codes of W are summed exactly.

   int8_dynamic rounds x to 8 bits, which is what it is. For int8 and int4 x gets 24 bits, three bytes:
   as many as a float32 has, for the largest number of a row. So nothing of x is lost, and the
   processor's products of bytes are several times as fast as those of floats. */

#include "kernels.h"

#define BITS_8 127
#define BITS_24 8000000
#define STEP 128 /* columns of four bits in 64 bytes */
#define TOGETHER (BYTES == 64 ? 4 : 2) /* vectors of x that fit the registers with four rows of W */

int64_t planes_of(const matrix *m)
{
    if (m->format == ROWS_INT8_DYNAMIC)
        return 1;
    return BYTES == 64 && (m->format == ROWS_INT8 || m->format == BLOCKS_INT4) ? 3 : 0;
}

static int64_t width_of(const matrix *m)
{
    int64_t unit = m->format == BLOCKS_INT4 ? STEP : BYTES;
    return (m->in + unit - 1) / unit * unit;
}

static int64_t count_offsets(const matrix *m)
{
    return m->format == BLOCKS_INT4 ? width_of(m) / STEP * 16 : planes_of(m);
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

/* Write what OFFSET adds to the products of each vector, with its sign turned. */
static void add_offsets(const int8_t *x, int64_t planes, int64_t width, int32_t *offsets)
{
    for (int64_t p = 0; p < planes; p++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < width; i++)
            sum += x[p * width + i];
        offsets[p] = -OFFSET * sum;
    }
}

#if BYTES == 64
/* Codes of four bits are 8 too large. */
static void add_offsets_of_4_bits(const int8_t *x, int64_t width, int32_t *offsets)
{
    const __m512i eight = _mm512_set1_epi8(8);
    for (int64_t i = 0; i < width; i += STEP, offsets += 16) {
        whole sum = WHOLE_ZERO;
        for (int64_t p = 0; p < 3; p++) {
            const int8_t *at = x + p * width + i;
            sum = _mm512_slli_epi32(sum, 8);
            sum = WHOLE_ADD(sum, eight, WHOLE_X(at));
            sum = WHOLE_ADD(sum, eight, WHOLE_X(at + 64));
        }
        _mm512_storeu_si512(offsets, _mm512_sub_epi32(WHOLE_ZERO, sum));
    }
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
#if BYTES == 64
        if (m->format == BLOCKS_INT4) {
            add_offsets_of_4_bits(to, width, made->offsets + b * offsets);
            continue;
        }
#endif
        add_offsets(to, planes, width, made->offsets + b * offsets);
    }
}

/* --- int8 --- */

static inline __attribute__((always_inline)) void meet(const int8_t *const *w, const int8_t *x,
                                                       int64_t width, const int count,
                                                       whole (*sums)[4])
{
    whole rows[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++)
        rows[k] = WHOLE_W(w[k]);
#pragma GCC unroll 4
    for (int v = 0; v < count; v++) {
        whole each = WHOLE_X(x + v * width);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            sums[v][k] = WHOLE_ADD(sums[v][k], rows[k], each);
    }
}

/* Write the sums of four rows of W with `count` vectors of x, (count, 4). */
static inline __attribute__((always_inline)) void dots(const int8_t *const *w, int64_t in,
                                                       const int8_t *x, int64_t width,
                                                       const int count, int32_t *to)
{
    whole sums[TOGETHER][4];
#pragma GCC unroll 4
    for (int v = 0; v < count; v++)
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            sums[v][k] = WHOLE_ZERO;
    int64_t i = 0;
    for (; i + BYTES <= in; i += BYTES) {
        const int8_t *at[4] = {w[0] + i, w[1] + i, w[2] + i, w[3] + i};
        meet(at, x + i, width, count, sums);
    }
    if (i < in) { /* x has zeros behind its end */
        int8_t rest[4][BYTES] = {{0}};
        for (int k = 0; k < 4; k++)
            memcpy(rest[k], w[k] + i, in - i);
        const int8_t *at[4] = {rest[0], rest[1], rest[2], rest[3]};
        meet(at, x + i, width, count, sums);
    }
#pragma GCC unroll 4
    for (int v = 0; v < count; v++)
        _mm_storeu_si128((__m128i *)(to + 4 * v),
                         four_sums(sums[v][0], sums[v][1], sums[v][2], sums[v][3]));
}

static void dots_of(const int8_t *const *w, int64_t in, const int8_t *x, int64_t width, int64_t count,
                    int32_t *to)
{
    for (; count >= TOGETHER; count -= TOGETHER, x += TOGETHER * width, to += 4 * TOGETHER)
        dots(w, in, x, width, TOGETHER, to);
    if (count >= 2) {
        if (TOGETHER > 2 && count == 3)
            dots(w, in, x, width, TOGETHER > 2 ? 3 : 1, to);
        else
            dots(w, in, x, width, 2, to);
    } else if (count) {
        dots(w, in, x, width, 1, to);
    }
}

static void int8_sums(const matrix *m, const integers *x, int64_t b, int64_t n, const int64_t *rows,
                      float *sums)
{
    const int8_t *w[4];
    const int64_t planes = x->planes;
    float scales[4];
    int32_t found[4 * 3 * TOGETHER];
    for (int k = 0; k < 4; k++) {
        w[k] = (const int8_t *)m->weights + rows[k] * m->in;
        scales[k] = from_bf16(((const uint16_t *)m->scales)[rows[k]]);
    }
    for (int64_t end = b + n; b < end; b += TOGETHER, sums += 4 * TOGETHER) {
        int64_t some = smaller(TOGETHER, end - b);
        const int32_t *offsets = x->offsets + b * planes;
        dots_of(w, m->in, x->bytes + b * planes * x->width, x->width, some * planes, found);
        for (int64_t i = 0; i < some; i++)
            for (int k = 0; k < 4; k++) {
                const int32_t *own = found + 4 * planes * i + k;
                double sum = own[0] + offsets[planes * i];
                for (int64_t p = 1; p < planes; p++)
                    sum = sum * 256 + (own[4 * p] + offsets[planes * i + p]);
                sums[4 * i + k] = (float)sum * x->scales[b + i] * scales[k];
            }
    }
}

/* --- int4 --- */

#if BYTES == 64
static void int4_sums(const matrix *m, const integers *x, int64_t b, const int64_t *rows,
                      const float *const *scales, float *sums)
{
    const int64_t half = (m->in + 1) / 2, each = STEP / m->block, width = x->width;
    const int32_t *offsets = x->offsets + b * (width / STEP * 16);
    const int8_t *high = x->bytes + b * 3 * width, *middle = high + width, *low = middle + width;
    const __m512i four = _mm512_set1_epi8(15);
    int32_t places[16];
    for (int lane = 0; lane < 16; lane++)
        places[lane] = (int32_t)(lane * 8 / m->block);
    const __m512i place = _mm512_loadu_si512(places);
    vec total[4] = {ZERO, ZERO, ZERO, ZERO};
    for (int64_t i = 0, step = 0; i < width; i += STEP, step++) {
        int64_t left = half - i / 2;
        __mmask64 there = left < 64 ? (1ull << left) - 1 : ~0ull;
        whole x0 = WHOLE_X(high + i), x1 = WHOLE_X(middle + i), x2 = WHOLE_X(low + i);
        whole y0 = WHOLE_X(high + i + 64), y1 = WHOLE_X(middle + i + 64), y2 = WHOLE_X(low + i + 64);
        whole offset = _mm512_loadu_si512(offsets + 16 * step);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const uint8_t *w = (const uint8_t *)m->weights + rows[k] * half + i / 2;
            __m512i both = _mm512_maskz_loadu_epi8(there, w);
            __m512i even = _mm512_and_si512(_mm512_srli_epi16(both, 4), four);
            __m512i odd = _mm512_and_si512(both, four);
            whole s0 = WHOLE_ADD(WHOLE_ADD(WHOLE_ZERO, even, x0), odd, y0);
            whole s1 = WHOLE_ADD(WHOLE_ADD(WHOLE_ZERO, even, x1), odd, y1);
            whole s2 = WHOLE_ADD(WHOLE_ADD(offset, even, x2), odd, y2);
            s1 = _mm512_add_epi32(_mm512_slli_epi32(s0, 8), s1);
            s2 = _mm512_add_epi32(_mm512_slli_epi32(s1, 8), s2);
            vec scale = _mm512_permutexvar_ps(place, LOAD(scales[k] + each * step));
            total[k] = FMA(_mm512_cvtepi32_ps(s2), scale, total[k]);
        }
    }
    for (int k = 0; k < 4; k++)
        sums[k] = SUM(total[k]) * x->scales[b];
}
#endif

void multiply_integers(const matrix *m, const integers *x, int64_t b, int64_t n, const int64_t *rows,
                       const float *const *scales, float *sums)
{
#if BYTES == 64
    if (m->format == BLOCKS_INT4) {
        for (int64_t i = 0; i < n; i++)
            int4_sums(m, x, b + i, rows, scales, sums + 4 * i);
        return;
    }
#endif
    int8_sums(m, x, b, n, rows, sums);
}
