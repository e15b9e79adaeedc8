/* What a transformer makes of the last position of each row of symbols, on one thread, without dropout: layer by layer for some rows
   at a time, while all that is needed stays in the second-level cache. lmrs/native says why it is here and calls it.

   Of the last layer nobody reads the other positions, so no keys and values are made: with one query q,
   q . (W_k x_t + b_k) = x_t . (W_k' q) + what is the same for all t, and sum_t a_t (W_v x_t + b_v) = W_v (sum_t a_t x_t) + b_v. */

#include "attention.h"

#define CHUNK 192 /* positions, or the longest row */

enum { MIX, MIX_BIAS, KEY, OUT, OUT_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, SEEN, SEEN_SHIFT, FEED, FEED_SHIFT, GATE, GATE_BIAS,
       GATE_FEED, GATE_FEED_BIAS, TENSORS };
enum { POST, PRE, QUERY, GATED };
enum { RELU, GELU };

/* y = LayerNorm(x), by rows [n, D]; they may be the same. */
static void norm(int n, int D, const float *x, const float *scale, const float *shift, float *y) {
    for (int a = 0; a < n; a++, x += D, y += D) {
        vec total = all(0), square = all(0);
        for (int d = 0; d < D; d += LANES) total += load(x + d);
        vec mean = all(sum_of(total) / D);
        for (int d = 0; d < D; d += LANES) {
            vec off = load(x + d) - mean;
            square += off * off;
        }
        float spread = sum_of(square) / D + 1e-5f;
        vec by = all(spread < INFINITY ? 1 / sqrtf(spread) : NAN); /* what overflows is no number, rather than zero */
        for (int d = 0; d < D; d += LANES) store(y + d, (load(x + d) - mean) * by * load(scale + d) + load(shift + d));
    }
}

INLINE vec sigmoid(vec x) {
    vec small = exp2s(MAX(-x, x) * all(-LOG2_E)), share = all(1) / (all(1) + small); /* of |x|, so that nothing overflows */
    return chosen(x != x, x, chosen(x < all(0), share * small, share));
}

/* x times the share of a normal distribution below it. erfc(y) exp(y^2) is a polynomial in 1 / (1 + y / 2), minimax by erfc(y):
   absolute error 3e-9 before rounding. */
INLINE vec gelu(vec x) {
    vec y = MAX(-x, x) * all(0.70710678118654752f), t = all(1) / (all(1) + all(0.5f) * y);
    vec p = all(-0.0402044293f);
    p = p * t + all(0.280947151f);
    p = p * t + all(-0.740662515f);
    p = p * t + all(0.799841159f);
    p = p * t + all(-0.2158075f);
    p = p * t + all(0.371599608f);
    p = p * t + all(0.260678415f);
    p = p * t + all(0.283608113f);
    vec beyond = all(0.5f) * t * p * exp2s(y * y * all(-LOG2_E));
    return x * chosen(x < all(0), beyond, all(1) - beyond);
}

static void activate(int64_t count, int act, float *x) {
    for (int64_t i = 0; i < count; i += LANES) store(x + i, act == GELU ? gelu(load(x + i)) : MAX(all(0), load(x + i))); /* NaN stays */
}

/* x += y * sigmoid(g) */
static void gate(int64_t count, float *x, const float *y, const float *g) {
    for (int64_t i = 0; i < count; i += LANES) store(x + i, load(x + i) + load(y + i) * sigmoid(load(g + i)));
}

/* The last position of one row, for one head: told [D] = sum_t a_t x_t, a = softmax of goal . x_t, scores in base 2. x: [T, D]. held: T numbers, up to
   whole registers. Returns whether all scores are finite. */
static int attend_last(int T, int D, const float *goal, const float *x, float *told, float *held) {
    float top = -INFINITY, check = 0;
    for (int t = 0; t < T; t++) {
        vec s = all(0);
        for (int d = 0; d < D; d += LANES) s += load(goal + d) * load(x + t * D + d);
        held[t] = sum_of(s);
        check += held[t];
        top = held[t] > top ? held[t] : top;
    }
    for (int t = T; t % LANES; t++) held[t] = -INFINITY;
    vec mass = all(0);
    for (int t = 0; t < T; t += LANES) {
        vec s = load(held + t), e = exp2s(s - all(top));
        e = (vec)((ints)e & (s > all(-INFINITY)));
        store(held + t, e);
        mass += e;
    }
    for (int d = 0; d < D; d += LANES) {
        vec sum = all(0);
        for (int t = 0; t < T; t++) sum += all(held[t]) * load(x + t * D + d);
        store(told + d, sum * all(1 / sum_of(mass)));
    }
    return check - check == 0;
}

/* What a block does after the attention, at n positions. x [n, D]: the block's input, or what the order has in its place, then its
   output. o [n, D]: what the heads saw. y: n * D numbers, or x itself where only PRE and GATED would use it; u: n * hidden, if GATED
   n * the larger of 2 hidden and D. */
static void feed(const float *const *m, int n, int D, int hidden, int order, int act, float *x, const float *o, float *y, float *u) {
    if (order == GATED) {
        linear(n, D, D, o, D, m[OUT], D, m[OUT_BIAS], 0, y, D);
        linear(n, D, D, x, D, m[GATE], D, m[GATE_BIAS], 0, u, D);
        gate((int64_t)n * D, x, y, u);
        norm(n, D, x, m[FEED], m[FEED_SHIFT], y);
        linear(n, D, 2 * hidden, y, D, m[UP], 2 * hidden, 0, 0, u, 2 * hidden);
        for (int a = 0; a < n; a++)
            for (int j = 0; j < hidden; j += LANES) {
                float *left = u + (int64_t)a * 2 * hidden + j;
                store(left, load(left) * sigmoid(load(left)) * load(left + hidden));
            }
        linear(n, hidden, D, u, 2 * hidden, m[DOWN], D, 0, 0, y, D);
        linear(n, D, D, x, D, m[GATE_FEED], D, m[GATE_FEED_BIAS], 0, u, D);
        gate((int64_t)n * D, x, y, u);
        return;
    }
    linear(n, D, D, o, D, m[OUT], D, m[OUT_BIAS], 1, x, D);
    if (order != PRE) norm(n, D, x, order == POST ? m[SEEN] : m[FEED], order == POST ? m[SEEN_SHIFT] : m[FEED_SHIFT], x);
    else norm(n, D, x, m[FEED], m[FEED_SHIFT], y);
    linear(n, D, hidden, order == PRE ? y : x, D, m[UP], hidden, m[UP_BIAS], 0, u, hidden);
    activate((int64_t)n * hidden, act, u);
    linear(n, hidden, D, u, hidden, m[DOWN], D, m[DOWN_BIAS], 1, x, D);
    if (order == POST) norm(n, D, x, m[FEED], m[FEED_SHIFT], x);
}

/* How many numbers lmrs_last needs to work with. */
int64_t lmrs_last_work(int64_t longest, int32_t D, int32_t heads, int32_t hidden) {
    int64_t most = longest > CHUNK ? longest : CHUNK, wide = 3 * D > 2 * hidden ? 3 * D : 2 * hidden;
    int64_t single = (2 * heads + 1) * D > 2 * hidden + 2 * D ? (2 * heads + 1) * D : 2 * hidden + 2 * D; /* of the last layer */
    return most * 3 * D + (most * wide > single ? most * wide : single) + (longest + D / heads + LANES) * QUERIES;
}

/* x [n, D]: positions offsets[r] .. offsets[end] - 1 as they begin. */
static void begin(const float *vectors, const int64_t *symbols, int D, float scale, const float *places, const int64_t *position,
                  int32_t length, int32_t right, const int64_t *offsets, int64_t r, int64_t end, float *x) {
    for (; r < end; r++) {
        int64_t shift = 0;
        for (int64_t n = offsets[r]; right && n < offsets[r + 1]; n++) shift = position[n] > shift ? position[n] : shift;
        if (right) shift = length - 1 - shift;
        for (int64_t n = offsets[r]; n < offsets[r + 1]; n++, x += D) {
            const float *from = vectors + (symbols ? symbols[n] : n) * D, *place = places ? places + (position[n] + shift) * D : 0;
            for (int d = 0; d < D; d += LANES) store(x + d, load(from + d) * all(scale) + (place ? load(place + d) : all(0)));
        }
    }
}

/* Keys and values for the rows r .. end - 1 come from `seen` [n, D], queries from `asks`; o [n, D]: what the heads saw. mix: n * 3 D
   numbers. */
static int look(const float *const *m, int D, int heads, int causal, const int64_t *offsets, int64_t r, int64_t end, const float *asks,
                const float *seen, float *o, float *mix, float *held) {
    int n = (int)(offsets[end] - offsets[r]), width = D / heads, fine = 1;
    linear(n, D, asks == seen ? 3 * D : D, asks, D, m[MIX], 3 * D, m[MIX_BIAS], 0, mix, 3 * D);
    if (asks != seen) linear(n, D, 2 * D, seen, D, m[MIX] + D, 3 * D, m[MIX_BIAS] + D, 0, mix + D, 3 * D);
    for (; r < end; r++) {
        int T = (int)(offsets[r + 1] - offsets[r]);
        for (int h = 0; h < heads; h++) {
            const float *q = mix + h * width;
            fine &= attend(T, width, q, 3 * D, q + D, q + 2 * D, 3 * D, causal, o + h * width, D, 0, 0, 0, held);
        }
        mix += (int64_t)T * 3 * D;
        o += (int64_t)T * D;
    }
    return fine;
}

/* The same for the last of T positions alone, whose query comes from `asks` [D]: o [D]. mix: (2 heads + 1) * D numbers. */
static int look_last(const float *const *m, int D, int heads, int T, const float *asks, const float *seen, float *o, float *mix,
                     float *held) {
    int width = D / heads, fine = 1;
    float *q = mix, *goal = mix + D, *told = goal + heads * D;
    linear(1, D, D, asks, D, m[MIX], 3 * D, m[MIX_BIAS], 0, q, D);
    for (int d = 0; d < D; d++) q[d] *= LOG2_E / sqrtf(width);
    for (int h = 0; h < heads; h++, goal += D, told += D) {
        const float *values = m[MIX] + 2 * D + h * width, *shift = m[MIX_BIAS] + 2 * D + h * width;
        linear(1, width, D, q + h * width, D, m[KEY] + (int64_t)h * width * D, D, 0, 0, goal, D);
        fine &= attend_last(T, D, goal, seen, told, held);
        linear(1, D, width, told, D, values, 3 * D, shift, 0, o + h * width, D);
    }
    return fine;
}

/* tensors: [layers][TENSORS], linear maps as [inputs, outputs], but KEY, the keys' part of MIX, as [outputs, inputs]. Widths D,
   D / heads and hidden are multiples of LANES.
   Position n of row r, offsets[r] <= n < offsets[r + 1], begins as vectors[symbols[n]] (or vectors[n] without symbols) * scale +
   places[position[n]], or, `right`, + places[length - 1 - largest position of the row + position[n]]; then LayerNorm by begin_norm
   if that is there. To: states [rows, D], of the last positions, after the LayerNorm end_norm if that is there. Rows first ..
   last - 1, of 1 to `longest` positions. work: as many numbers as lmrs_last_work says. Returns whether all scores were finite. */
int32_t lmrs_last(const float *const *tensors, int32_t layers, int32_t D, int32_t heads, int32_t hidden, int32_t order, int32_t act,
                  int32_t causal, const float *vectors, const int64_t *symbols, float scale, const float *places,
                  const int64_t *position, int32_t length, int32_t right, const float *const *begin_norm,
                  const float *const *end_norm, const int64_t *offsets, int64_t first, int64_t last, int64_t longest, float *states,
                  float *work) {
    int fine = 1;
    int64_t most = longest > CHUNK ? longest : CHUNK;
    float *held = work, *x = held + (longest + D / heads + LANES) * QUERIES, *y = x + most * D, *o = y + most * D, *mix = o + most * D;
    for (int64_t r = first, end; r < last; r = end) {
        for (end = r + 1; end < last && offsets[end + 1] - offsets[r] <= most; end++) continue;
        int n = (int)(offsets[end] - offsets[r]);
        begin(vectors, symbols, D, scale, places, position, length, right, offsets, r, end, x);
        if (begin_norm) norm(n, D, x, begin_norm[0], begin_norm[1], x);
        for (int layer = 0; layer < layers; layer++) {
            const float *const *m = tensors + layer * TENSORS;
            float *asks = order == POST ? x : y, *seen = order == POST || order == QUERY ? x : y;
            float *carried = order == QUERY ? y : x; /* what the residual branches are added to */
            if (order != POST) norm(n, D, x, m[SEEN], m[SEEN_SHIFT], y);
            if (layer < layers - 1) {
                fine &= look(m, D, heads, causal, offsets, r, end, asks, seen, o, mix, held);
                feed(m, n, D, hidden, order, act, carried, o, y, mix);
                if (carried == y) y = x, x = carried;
                continue;
            }
            for (int64_t row = r; row < end; row++) {
                int64_t from = (offsets[row] - offsets[r]) * D, at = from + (offsets[row + 1] - offsets[row] - 1) * D;
                float *state = states + row * D;
                fine &= look_last(m, D, heads, (int)(offsets[row + 1] - offsets[row]), asks + at, seen + from, o, mix, held);
                memcpy(state, carried + at, D * sizeof(float));
                feed(m, 1, D, hidden, order, act, state, o, mix, mix + D);
                if (end_norm) norm(1, D, state, end_norm[0], end_norm[1], state);
            }
        }
    }
    return fine;
}
