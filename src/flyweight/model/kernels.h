/* What the compiled products and the compiled step share: vectors of this processor, and matrices. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512BW__)
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

/* --- numbers of 8 bits: each of BYTES numbers of W, prepared, meets one of x --- */

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
/* Products of unsigned and signed bytes, added in fours: 16 sums of int32. Numbers of W get 128
   more, so that they have no sign. */
#define BYTES 64
typedef __m512i whole;
#define WHOLE_ZERO _mm512_setzero_si512()
#define WHOLE_LOAD(p) _mm512_loadu_si512(p)
#define WHOLE_X(p) _mm512_loadu_si512(p)
#define WHOLE_W(p) _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128))
#define WHOLE_ADD(sum, w, x) _mm512_dpbusd_epi32(sum, w, x)
#else
/* Products of int16, added in pairs: 8 sums of int32. */
#define BYTES 16
typedef __m256i whole;
#define WHOLE_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define WHOLE_X(p) _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p)))
#define WHOLE_W(p) WHOLE_X(p)
#define WHOLE_ADD(sum, w, x) _mm256_add_epi32(sum, _mm256_madd_epi16(x, w))
#endif

#if BYTES == 64
/* Return the sums of four vectors. */
static inline __m128 four_float_sums(vec a, vec b, vec c, vec d)
{
#define FLOAT_HALF(v) _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1))
    __m256 front = _mm256_hadd_ps(FLOAT_HALF(a), FLOAT_HALF(b));
    __m256 all = _mm256_hadd_ps(front, _mm256_hadd_ps(FLOAT_HALF(c), FLOAT_HALF(d)));
    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}
#endif

/* Return the sums of four vectors of int32. */
static inline __m128i four_sums(whole a, whole b, whole c, whole d)
{
#if BYTES == 64
#define HALF(v) _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1))
#else
#define HALF(v) v
#endif
    __m256i front = _mm256_hadd_epi32(HALF(a), HALF(b)), back = _mm256_hadd_epi32(HALF(c), HALF(d));
    __m256i all = _mm256_hadd_epi32(front, back);
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

/* --- */

enum { FLOAT32, BFLOAT16, ROWS_INT8, ROWS_INT8_DYNAMIC, BLOCKS_3BIT, BLOCKS_4BIT, BLOCKS_INT4, BLOCKS_INT3 };

/* A matrix (out, in) where it lies. `scales` are bfloat16, one a row, of int8. Of 3 and 4 bits there
   is one a block: floats, or bytes, whose offsets and then steps are `ranges`, one of each a group of
   blocks. `levels` are the 16 floats that codes stand for, of 3 bits the same 8 twice. */
typedef struct {
    int64_t format, scale_format, out, in, block, groups, threads;
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

static inline int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Fetch what is met some steps later: the processor itself looks less far ahead. */
#define AHEAD 3072 /* bytes */
#define FETCH(p) _mm_prefetch((const char *)(p) + AHEAD, _MM_HINT_T1)

/* --- integers.c --- */

/* Rows of x as integers, for formats that multiply such: `n` rows of `planes` vectors of `width`
   bytes. A row is the sum of its vectors, each worth 256 times as much as the one after it, times its
   scale. `offsets` take away what codes of W are too large by, for each lane of a vector of sums. */
typedef struct {
    int64_t n, planes, width;
    int8_t *bytes;
    int32_t *offsets;
    float *scales;
} integers;

/* Return how many bytes x takes for each number, 0 where it stays float. */
int64_t planes_of(const matrix *m);
int64_t bytes_of_integers(const matrix *m, int64_t n);
void make_integers(const matrix *m, const float *x, int64_t n, void *room, integers *made);
/* Write the products of four rows of W with `n` rows of x from `b` on to `sums` (n, 4). */
void multiply_integers(const matrix *m, const integers *x, int64_t b, int64_t n, const int64_t *rows,
                       const float *const *scales, float *sums);

/* --- kernels.c --- */

/* Write x W^T + b of `n` rows to y; return 0, or 1 where memory ran out. */
int multiply(const matrix *m, const float *x, float *y, int64_t n);
