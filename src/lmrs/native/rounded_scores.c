/* The cross-entropy of catalogue_scores.c with the factors of its three products rounded to bf16, two of which a register's lane
   multiplies at a time; sums, exponentials and all that is added up stay fp32. For processors with AVX512-BF16 alone. */

#include "catalogue.h"

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)

typedef uint16_t half; /* a bf16 number */
typedef uint32_t pair; /* two, the first in the low bits */

INLINE vec dot(vec sum, __m512i a, pair b) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)b));
}
INLINE __m512i pairs_at(const pair *from) { return _mm512_loadu_si512(from); }
INLINE __m256i narrow(vec x) { return (__m256i)_mm512_cvtneps_pbh((__m512)x); }
INLINE __m512i both(__m256i low, __m256i high) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}
static half rounded(float x) { return (half)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0); }
static float widened(half x) {
    uint32_t bits = (uint32_t)x << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* e[k][c] = 2^(table[k] . states[c] + bias[k] - level[c]) for k < items; added to sum, and the largest exponents to peak. To p [., ROWS],
   and to q [./2, ROWS], where two items make a pair. */
INLINE void scores(int items, int columns, const pair *table, const float *bias, const pair *states, int twos, const float *level,
                   half *p, pair *q, float *sum, float *peak) {
    vec x[ITEMS][3];
    for (int k = 0; k < items; k++)
        for (int c = 0; c < columns; c++) x[k][c] = (bias ? all(bias[k]) : all(0)) - load(level + c * LANES);
    for (int j = 0; j < twos; j++) {
        __m512i state[3];
        for (int c = 0; c < columns; c++) state[c] = pairs_at(states + j * ROWS + c * LANES);
        for (int k = 0; k < items; k++)
            for (int c = 0; c < columns; c++) x[k][c] = dot(x[k][c], state[c], table[k * twos + j]);
    }
    for (int c = 0; c < columns; c++) {
        vec total = load(sum + c * LANES), top = load(peak + c * LANES);
        for (int k = 0; k < items; k += 2) {
            __m256i low, high = _mm256_setzero_si256();
            vec e = exp2s(x[k][c]);
            top = MAX(top, x[k][c]);
            total += e;
            low = narrow(e);
            _mm256_storeu_si256((__m256i *)(p + k * ROWS + c * LANES), low);
            if (k + 1 < items) {
                e = exp2s(x[k + 1][c]);
                top = MAX(top, x[k + 1][c]);
                total += e;
                high = narrow(e);
                _mm256_storeu_si256((__m256i *)(p + (k + 1) * ROWS + c * LANES), high);
            }
            _mm512_storeu_si512(q + k / 2 * ROWS + c * LANES, both(low, high));
        }
        store(sum + c * LANES, total);
        store(peak + c * LANES, top);
    }
}

INLINE void strips(int columns, int items, const pair *table, const float *bias, const pair *states, int twos, const float *level,
                   half *p, pair *q, float *sum, float *peak) {
    int k = 0;
    for (; k + ITEMS <= items; k += ITEMS)
        scores(ITEMS, columns, table + k * twos, bias ? bias + k : 0, states, twos, level, p + k * ROWS, q + k / 2 * ROWS, sum, peak);
    for (; k + 2 <= items; k += 2)
        scores(2, columns, table + k * twos, bias ? bias + k : 0, states, twos, level, p + k * ROWS, q + k / 2 * ROWS, sum, peak);
    if (k < items) scores(1, columns, table + k * twos, bias ? bias + k : 0, states, twos, level, p + k * ROWS, q + k / 2 * ROWS, sum, peak);
}

static void panel(int items, int rows, const pair *table, const float *bias, const pair *states, int twos, const float *level,
                  half *p, pair *q, float *sum, float *peak) {
    if (rows > 2 * LANES) {
        strips(3, items, table, bias, states, twos, level, p, q, sum, peak);
        return;
    }
    for (int c = 0; c < rows; c += LANES)
        strips(1, items, table, bias, states + c, twos, level + c, p + c, q + c, sum + c, peak + c);
}

/* out[a][w] += sum over j < K of the two products of the pairs c[j * next + a * beside] and x[j][w], for `wide` registers w. */
INLINE void product(int outs, int wide, int K, const pair *c, int next, int beside, const pair *x, int D, float *out) {
    vec y[OUTS][4];
    for (int a = 0; a < outs; a++)
        for (int w = 0; w < wide; w++) y[a][w] = load(out + a * D + w * LANES);
    for (int j = 0; j < K; j++) {
        __m512i row[4];
        for (int w = 0; w < wide; w++) row[w] = pairs_at(x + j * D + w * LANES);
        for (int a = 0; a < outs; a++)
            for (int w = 0; w < wide; w++) y[a][w] = dot(y[a][w], row[w], c[j * next + a * beside]);
    }
    for (int a = 0; a < outs; a++)
        for (int w = 0; w < wide; w++) store(out + a * D + w * LANES, y[a][w]);
}

INLINE void strip(int wide, int n, int K, const pair *c, int next, int beside, const pair *x, int D, float *out) {
    int a = 0;
    for (; a + OUTS <= n; a += OUTS) product(OUTS, wide, K, c + a * beside, next, beside, x, D, out + a * D);
    for (; a + 2 <= n; a += 2) product(2, wide, K, c + a * beside, next, beside, x, D, out + a * D);
    for (; a < n; a++) product(1, wide, K, c + a * beside, next, beside, x, D, out + a * D);
}

INLINE void products(int n, int K, const pair *c, int next, int beside, const pair *x, int D, float *out) {
    for (int w = 0; w < D; w += 4 * LANES) {
        switch ((D - w) / LANES) {
        case 1: strip(1, n, K, c, next, beside, x + w, D, out + w); break;
        case 2: strip(2, n, K, c, next, beside, x + w, D, out + w); break;
        case 3: strip(3, n, K, c, next, beside, x + w, D, out + w); break;
        default: strip(4, n, K, c, next, beside, x + w, D, out + w);
        }
    }
}

/* to [n / 2, D]: two rows make a pair; the last one's partner is 0. */
static void paired(const half *rows, int n, int D, pair *to) {
    for (int k = 0; k < n; k += 2)
        for (int d = 0; d < D; d += LANES) {
            __m256i low = _mm256_loadu_si256((const __m256i *)(rows + k * D + d)), high = _mm256_setzero_si256();
            if (k + 1 < n) high = _mm256_loadu_si256((const __m256i *)(rows + (k + 1) * D + d));
            _mm512_storeu_si512(to + k / 2 * D + d, both(low, high));
        }
}

int32_t lmrs_rounds(void) { return 1; }

/* lmrs_rows and lmrs_items of catalogue_scores.c. table: [V, D] in bf16. p: [V, ROWS] in bf16. work: as there, and (ROWS + PANEL) / 2
   * (ROWS + D) numbers. */
void lmrs_rows_rounded(const float *scaled, const float *own, int32_t n, const half *table, const float *bias, int64_t V, int32_t D,
                       double *log_mass, float *inverse, half *p, float *grad, float *work) {
    float *near = work, *far = near + ROWS * D;
    pair *states = (pair *)(far + ROWS * D), *held = states + ROWS * D / 2, *items_ = held + PANEL / 2 * ROWS;
    float level[ROWS] = {0}, sum[ROWS], peak[ROWS];
    double mass[ROWS] = {0};
    for (int j = 0; j < D / 2; j++)
        for (int r = 0; r < ROWS; r++)
            states[j * ROWS + r] = r < n ? rounded(scaled[r * D + 2 * j]) | (pair)rounded(scaled[r * D + 2 * j + 1]) << 16 : 0;
    memcpy(level, own, n * sizeof(float));
    memset(near, 0, 2 * ROWS * D * sizeof(float));
    for (int64_t first = 0; first < V; first += PANEL) {
        int items = V - first < PANEL ? (int)(V - first) : PANEL, high = 0;
        for (;;) {
            memset(sum, 0, sizeof sum);
            for (int r = 0; r < ROWS; r++) peak[r] = -INFINITY;
            panel(items, n, (const pair *)(table + first * D), bias ? bias + first : 0, states, D / 2, level, p + first * ROWS, held, sum,
                  peak);
            high = 0;
            for (int r = 0; r < n; r++) high |= peak[r] > HIGH;
            if (!high) break;
            for (int r = 0; r < n; r++) {
                if (peak[r] <= 0) continue;
                float less = exp2f(-peak[r]);
                level[r] += peak[r];
                mass[r] *= less;
                for (int64_t i = 0; i < first; i++) p[i * ROWS + r] = rounded(widened(p[i * ROWS + r]) * less);
                for (int d = 0; d < D; d++) near[r * D + d] *= less, far[r * D + d] *= less;
            }
        }
        for (int r = 0; r < n; r++) mass[r] += sum[r];
        if (!grad) continue;
        paired(table + first * D, items, D, items_);
        products(n, (items + 1) / 2, held, ROWS, 1, items_, D, near);
        if (first / PANEL % LONG == LONG - 1) {
            for (int j = 0; j < n * D; j++) far[j] += near[j];
            memset(near, 0, n * D * sizeof(float));
        }
    }
    for (int r = 0; r < n; r++) {
        inverse[r] = (float)(1 / mass[r]);
        log_mass[r] = log(mass[r]) + level[r] * LN_2;
        if (grad)
            for (int d = 0; d < D; d++) grad[r * D + d] = (near[r * D + d] + far[r * D + d]) * inverse[r];
    }
}

void lmrs_items_rounded(const float *states, int32_t n, const float *inverse, const half *p, int64_t first, int64_t last, int32_t D,
                        float *grad_table, float *grad_bias, float *work) {
    pair *shares = (pair *)work;
    for (int j = 0; 2 * j < n; j++)
        for (int d = 0; d < D; d++) {
            pair low = rounded(states[2 * j * D + d] * inverse[2 * j]);
            shares[j * D + d] = low | (2 * j + 1 < n ? (pair)rounded(states[(2 * j + 1) * D + d] * inverse[2 * j + 1]) << 16 : 0);
        }
    for (int64_t i = first; i < last; i += PANEL) {
        int items = last - i < PANEL ? (int)(last - i) : PANEL;
        if (grad_table) products(items, (n + 1) / 2, (const pair *)(p + i * ROWS), 1, ROWS / 2, shares, D, grad_table + i * D);
        for (int k = 0; grad_bias && k < items; k++) {
            float total = 0;
            for (int r = 0; r < n; r++) total += widened(p[(i + k) * ROWS + r]) * inverse[r];
            grad_bias[i + k] += total;
        }
    }
}

#else

int32_t lmrs_rounds(void) { return 0; }
void lmrs_rows_rounded(void) {}
void lmrs_items_rounded(void) {}

#endif
