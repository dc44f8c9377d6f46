/* One new token of some texts through all layers of a decoder: see model/step.py.

   x (n, dim) is the residual stream, whose rows are texts. Everything is float32. A layer adds what
   attention reads of the cache to x, then what the MLP makes of x. */

#include "kernels.h"

enum { NOTHING, GELU, GELU_TANH, RELU, RELU_SQUARED, SILU };

/* LayerNorm with a mean, else RMSNorm; no `weight`: no norm. */
typedef struct {
    int64_t has_mean;
    double eps;
    const float *weight, *bias;
} norm;

/* A matrix, and the two of its LoRA if there is an `a`: x W^T + b, and (x A^T) B^T. */
typedef struct {
    const matrix *matrix, *a, *b;
} linear;

/* `keys` and `values` are the layer's part of the cache, (n, kv_heads, room, head_dim). `cos` and `sin`
   turn the first `channels` of a head, the sine of the first half with its sign turned; a text's are
   `stride` numbers after those of the text before. `gate` may be missing, and so may `gain`, (heads,),
   and `head_gate`, whose rows are the heads. Values are mixed with those of the first layer, which are
   `first` in the cache, by two factors, if there is a `mix`. A matrix of the MLP with a `_reduce` reads
   what that makes of its input. Before a layer with a scalar `unet`, the stream in `source` is added;
   one with `stream` mixes the embedding in. Then `index` (dim,) is added, if there is one. Behind a
   layer its stream is `kept`, unless that is 0: the embedding is there. */
typedef struct {
    norm attention_norm, mlp_norm, q_norm, k_norm;
    linear q, k, v, out, head_gate;
    linear gate, up, down, gate_reduce, up_reduce, down_reduce;
    int64_t heads, kv_heads, head_dim, of_gate, of_up;
    const float *gain, *cos, *sin;
    int64_t channels, stride, room;
    float *keys, *values;
    const float *mix, *first, *unet, *stream, *embedding, *index;
    int64_t source, kept;
} layer;

/* What all layers work with, for `n` texts and one more token after `length` others. */
typedef struct {
    int64_t n, dim, length, threads;
    const int64_t *starts; /* of each text in the cache; none: 0 */
    float *read, *q, *k, *v, *attended, *up, *gate, *low, *added, *scores, *streams;
} work;

/* Write what a matrix and its LoRA make of x to y. */
static int multiply_linear(const linear *m, const work *w, const float *x, float *y)
{
    if (multiply(m->matrix, x, y, w->n))
        return 1;
    if (!m->a)
        return 0;
    int64_t numbers = w->n * m->matrix->out;
    float *low = w->added + numbers;
    if (multiply(m->a, x, low, w->n) || multiply(m->b, low, w->added, w->n))
        return 1;
    for (int64_t i = 0; i < numbers; i++)
        y[i] += w->added[i];
    return 0;
}

/* --- element by element --- */

/* e^x, to the last bit or two (Cephes' polynomial). */
static inline float exponential(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504088896341f), r = x - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return (p * r * r + r + 1.0f) * power;
}

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exponential(-x));
}

static void activate(int64_t kind, float *x, int64_t n)
{
    switch (kind) {
    case GELU:
        for (int64_t i = 0; i < n; i++)
            x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
        break;
    case GELU_TANH: /* 1 + tanh(u) is 2 sigmoid(2u) */
        for (int64_t i = 0; i < n; i++)
            x[i] *= sigmoid(1.59576912160573071f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
        break;
    case RELU:
        for (int64_t i = 0; i < n; i++)
            x[i] = x[i] > 0 ? x[i] : 0;
        break;
    case RELU_SQUARED:
        for (int64_t i = 0; i < n; i++)
            x[i] = x[i] > 0 ? x[i] * x[i] : 0;
        break;
    case SILU:
        for (int64_t i = 0; i < n; i++)
            x[i] *= sigmoid(x[i]);
    }
}

static inline float product(const float *x, const float *y, int64_t n)
{
    vec sum = ZERO, more = ZERO;
    int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        sum = FMA(LOAD(x + i), LOAD(y + i), sum);
        more = FMA(LOAD(x + i + WIDTH), LOAD(y + i + WIDTH), more);
    }
    float rest = 0;
    for (; i < n; i++)
        rest += x[i] * y[i];
    return rest + (SUM(sum) + SUM(more));
}

static inline float sum_of(const float *x, int64_t n)
{
    vec sum = ZERO;
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        sum = FMA(LOAD(x + i), SPREAD(1), sum);
    float rest = 0;
    for (; i < n; i++)
        rest += x[i];
    return rest + SUM(sum);
}

/* Write the normed rows of x (n, size) to `to`, which may be x. */
static void normalise(const norm *by, const float *x, int64_t n, int64_t size, float *to)
{
    for (; n; n--, x += size, to += size) {
        float mean = by->has_mean ? sum_of(x, size) / size : 0;
        for (int64_t i = 0; i < size; i++)
            to[i] = x[i] - mean;
        float scale = 1.0f / sqrtf(product(to, to, size) / size + (float)by->eps);
        for (int64_t i = 0; i < size; i++)
            to[i] = to[i] * scale * by->weight[i];
        for (int64_t i = 0; i < size && by->bias; i++)
            to[i] += by->bias[i];
    }
}

/* --- attention --- */

/* Turn heads x (n, heads, head_dim) by the position of their text. */
static void turn(const layer *l, int64_t n, int64_t heads, float *x)
{
    int64_t half = l->channels / 2;
    for (int64_t row = 0; row < n * heads; row++, x += l->head_dim) {
        const float *cos = l->cos + row / heads * l->stride, *sin = l->sin + row / heads * l->stride;
        for (int64_t i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = a * cos[i] + b * sin[i];
            x[i + half] = b * cos[i + half] + a * sin[i + half];
        }
    }
}

/* Write what one head's query q reads of keys and values (count, size). */
static void attend(const float *q, const float *keys, const float *values, int64_t count,
                   int64_t size, float *scores, float *to)
{
    float scale = 1.0f / sqrtf((float)size), most = -INFINITY;
    for (int64_t s = 0; s < count; s++) {
        scores[s] = scale * product(q, keys + s * size, size);
        most = scores[s] > most ? scores[s] : most;
    }
    for (int64_t s = 0; s < count; s++)
        scores[s] = exponential(scores[s] - most);
    float sum = sum_of(scores, count);
    memset(to, 0, size * sizeof(float));
    for (int64_t s = 0; s < count; s++)
        for (int64_t i = 0; i < size; i++)
            to[i] += scores[s] * values[s * size + i];
    for (int64_t i = 0; i < size; i++)
        to[i] /= sum;
}

/* Put the new keys or values x (n, kv_heads, head_dim) behind those of the cache. */
static void keep(const layer *l, const work *w, const float *x, float *cache)
{
    for (int64_t row = 0; row < w->n * l->kv_heads; row++)
        memcpy(cache + (row * l->room + w->length) * l->head_dim, x + row * l->head_dim,
               l->head_dim * sizeof(float));
}

static void attend_all(const layer *l, const work *w)
{
    int64_t each = l->heads / l->kv_heads;
#pragma omp parallel for num_threads(w->threads) if (w->threads > 1) schedule(static)
    for (int64_t head = 0; head < w->n * l->heads; head++) {
        int64_t text = head / l->heads, start = w->starts ? w->starts[text] : 0;
        int64_t at = (head / each * l->room + start) * l->head_dim;
        attend(w->q + head * l->head_dim, l->keys + at, l->values + at, w->length + 1 - start,
               l->head_dim, w->scores + head * (w->length + 1), w->attended + head * l->head_dim);
    }
}

/* Mix the new values with those of the first layer. */
static void mix_values(const layer *l, const work *w)
{
    for (int64_t row = 0; row < w->n * l->kv_heads; row++) {
        const float *first = l->first + (row * l->room + w->length) * l->head_dim;
        float *v = w->v + row * l->head_dim;
        for (int64_t i = 0; i < l->head_dim; i++)
            v[i] = l->mix[0] * v[i] + l->mix[1] * first[i];
    }
}

/* Multiply what heads have read by 2 sigmoid(their row x); the scores have been used. */
static int gate_heads(const layer *l, const work *w)
{
    if (multiply_linear(&l->head_gate, w, w->read, w->scores))
        return 1;
    for (int64_t head = 0; head < w->n * l->heads; head++) {
        float factor = 2.0f * sigmoid(w->scores[head]);
        for (int64_t i = 0; i < l->head_dim; i++)
            w->attended[head * l->head_dim + i] *= factor;
    }
    return 0;
}

static int read_cache(const layer *l, const work *w)
{
    int64_t n = w->n, size = l->head_dim;
    if (multiply_linear(&l->q, w, w->read, w->q) || multiply_linear(&l->k, w, w->read, w->k) ||
        multiply_linear(&l->v, w, w->read, w->v))
        return 1;
    if (l->q_norm.weight) {
        normalise(&l->q_norm, w->q, n * l->heads, size, w->q);
        normalise(&l->k_norm, w->k, n * l->kv_heads, size, w->k);
    }
    if (l->channels) {
        turn(l, n, l->heads, w->q);
        turn(l, n, l->kv_heads, w->k);
    }
    for (int64_t i = 0; i < n * l->heads * size && l->gain; i++)
        w->q[i] *= l->gain[i / size % l->heads];
    if (l->mix)
        mix_values(l, w);
    keep(l, w, w->k, l->keys);
    keep(l, w, w->v, l->values);
    attend_all(l, w);
    if (l->head_gate.matrix && gate_heads(l, w))
        return 1;
    return multiply_linear(&l->out, w, w->attended, w->read);
}

/* --- layers --- */

/* Write what `m` makes of x, or of what `reduce` makes of it, to y. */
static int multiply_low(const linear *reduce, const linear *m, const work *w, const float *x, float *y)
{
    if (!reduce->matrix)
        return multiply_linear(m, w, x, y);
    return multiply_linear(reduce, w, x, w->low) || multiply_linear(m, w, w->low, y);
}

static int run_mlp(const layer *l, const work *w)
{
    int64_t hidden = w->n * l->up.matrix->out;
    if (multiply_low(&l->up_reduce, &l->up, w, w->read, w->up))
        return 1;
    activate(l->of_up, w->up, hidden);
    if (l->gate.matrix) {
        if (multiply_low(&l->gate_reduce, &l->gate, w, w->read, w->gate))
            return 1;
        activate(l->of_gate, w->gate, hidden);
        for (int64_t i = 0; i < hidden; i++)
            w->up[i] *= w->gate[i];
    }
    return multiply_low(&l->down_reduce, &l->down, w, w->up, w->read);
}

static void add(const work *w, float *x)
{
    for (int64_t i = 0; i < w->n * w->dim; i++)
        x[i] += w->read[i];
}

/* Add to x what a layer reads of earlier streams, and the vector of its place. */
static void prepare(const layer *l, const work *w, float *x)
{
    const float *source = w->streams + l->source * w->n * w->dim;
    for (int64_t i = 0; i < w->n * w->dim && l->unet; i++)
        x[i] += *l->unet * source[i];
    for (int64_t i = 0; i < w->n * w->dim && l->stream; i++)
        x[i] = *l->stream * x[i] + *l->embedding * w->streams[i];
    for (int64_t row = 0; row < w->n && l->index; row++, x += w->dim)
        for (int64_t i = 0; i < w->dim; i++)
            x[i] += l->index[i];
}

/* Write x after all `count` layers to x, and new keys and values to the cache; return 0, or 1 where
   memory ran out. `wide`, `hidden` and `low` are the widths of the widest heads, MLP and `_reduce`, and
   `added` is that of the widest LoRA, of what it adds and its rank; so many `streams` are kept for later
   layers. */
int step(const layer *layers, int64_t count, float *x, int64_t n, int64_t dim, int64_t wide,
         int64_t hidden, int64_t low, int64_t added, int64_t length, int64_t streams,
         const int64_t *starts, int64_t threads)
{
    int64_t scores = 0;
    for (int64_t i = 0; i < count; i++)
        if (layers[i].heads > scores)
            scores = layers[i].heads;
    int64_t numbers = dim * (1 + streams) + 4 * wide + 2 * hidden + low + added;
    numbers += scores * (length + 1);
    float *room = malloc(n * numbers * sizeof(float));
    if (!room)
        return 1;
    work w = {n, dim, length, threads, starts, room, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    w.q = w.read + n * dim, w.k = w.q + n * wide, w.v = w.k + n * wide;
    w.attended = w.v + n * wide, w.up = w.attended + n * wide, w.gate = w.up + n * hidden;
    w.low = w.gate + n * hidden, w.added = w.low + n * low, w.scores = w.added + n * added;
    w.streams = w.scores + n * scores * (length + 1);
    if (streams)
        memcpy(w.streams, x, n * dim * sizeof(float));
    int failed = 0;
    for (const layer *l = layers; l < layers + count && !failed; l++) {
        prepare(l, &w, x);
        normalise(&l->attention_norm, x, n, dim, w.read);
        failed = read_cache(l, &w);
        if (failed)
            break;
        add(&w, x);
        normalise(&l->mlp_norm, x, n, dim, w.read);
        failed = run_mlp(l, &w);
        add(&w, x);
        if (l->kept)
            memcpy(w.streams + l->kept * n * dim, x, n * dim * sizeof(float));
    }
    free(room);
    return failed;
}
