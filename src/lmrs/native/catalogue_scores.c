/* A catalogue's scores for a block of rows, on one thread, and what becomes of them at once: the cross-entropy with its gradients,
   or the best items and the rank of one. lmrs/native says why it is here and calls it.

   Scores are held items by rows, so that a register holds one item's scores for LANES rows: the exponentials, their
   sums and the largest scores need no reduction within a register. A panel of items is scored and added to the gradient of the
   states while it is in the first-level cache. Every number a loop of 64 steps reads comes once from memory to a register.

   For the cross-entropy scores are in base 2. A row's are taken relative to a level, at first that of its target, so that the sum of
   exponentials is at least 1. A score that is more than HIGH above the level raises it; what was summed until then is scaled down.
   All is finite: the caller sees to that.

   A score is one chain of fused multiply-adds over the width, wherever its row and item stand: equal items get equal bits. */

#include "catalogue.h"

#define COLUMNS 3

/* p[k][c] = 2^(table[k] . states[c] + bias[k] - level[c]) for k < items and `columns` registers of rows; added to sum, and the
   largest exponents to peak. Without level: p[k][c] = table[k] . states[c] + bias[k]. states: [D][ROWS]. */
INLINE void scores(int items, int columns, const float *table, const float *bias, const float *states, int D, const float *level,
                   float *p, float *sum, float *peak) {
    vec x[ITEMS][COLUMNS];
    for (int k = 0; k < items; k++)
        for (int c = 0; c < columns; c++) {
            x[k][c] = bias ? all(bias[k]) : all(0);
            if (level) x[k][c] -= load(level + c * LANES);
        }
    for (int d = 0; d < D; d++) {
        vec state[COLUMNS];
        for (int c = 0; c < columns; c++) {
            state[c] = load(states + d * ROWS + c * LANES);
            HELD(state[c]);
        }
        for (int k = 0; k < items; k++) {
            vec weight = all(table[k * D + d]);
            for (int c = 0; c < columns; c++) x[k][c] += weight * state[c];
        }
    }
    for (int c = 0; !level && c < columns; c++)
        for (int k = 0; k < items; k++) store(p + k * ROWS + c * LANES, x[k][c]);
    for (int c = 0; level && c < columns; c++) {
        vec total = load(sum + c * LANES), top = load(peak + c * LANES);
        for (int k = 0; k < items; k++) {
            top = MAX(top, x[k][c]);
            vec e = exp2s(x[k][c]);
            store(p + k * ROWS + c * LANES, e);
            total += e;
        }
        store(sum + c * LANES, total);
        store(peak + c * LANES, top);
    }
}

/* `scores` for a panel of `items` items and the first `rows` rows, rounded up to whole registers. */
INLINE void strips(int columns, int items, const float *table, const float *bias, const float *states, int D, const float *level,
                   float *p, float *sum, float *peak) {
    int k = 0;
    for (; k + ITEMS <= items; k += ITEMS)
        scores(ITEMS, columns, table + k * D, bias ? bias + k : 0, states, D, level, p + k * ROWS, sum, peak);
    for (; k < items; k++) scores(1, columns, table + k * D, bias ? bias + k : 0, states, D, level, p + k * ROWS, sum, peak);
}

static void panel(int items, int rows, const float *table, const float *bias, const float *states, int D, const float *level,
                  float *p, float *sum, float *peak) {
    int c = 0;
    for (; c + (COLUMNS - 1) * LANES < rows; c += COLUMNS * LANES)
        strips(COLUMNS, items, table, bias, states + c, D, level + c, p + c, sum + c, peak + c);
    for (; c < rows; c += LANES) strips(1, items, table, bias, states + c, D, level + c, p + c, sum + c, peak + c);
}

static void plain(int items, int rows, const float *table, const float *bias, const float *states, int D, float *p) {
    int c = 0;
    for (; c + (COLUMNS - 1) * LANES < rows; c += COLUMNS * LANES) strips(COLUMNS, items, table, bias, states + c, D, 0, p + c, 0, 0);
    for (; c < rows; c += LANES) strips(1, items, table, bias, states + c, D, 0, p + c, 0, 0);
}

/* out[a][w] += sum over k < K of c[k * next + a * beside] x[k][w], for a < outs and `wide` registers w. */
INLINE void product(int outs, int wide, int K, const float *c, int next, int beside, const float *x, int D, float *out) {
    vec y[OUTS][4];
    for (int a = 0; a < outs; a++)
        for (int w = 0; w < wide; w++) y[a][w] = load(out + a * D + w * LANES);
    for (int k = 0; k < K; k++) {
        vec row[4];
        for (int w = 0; w < wide; w++) {
            row[w] = load(x + k * D + w * LANES);
            HELD(row[w]);
        }
        for (int a = 0; a < outs; a++) {
            vec weight = all(c[k * next + a * beside]);
            for (int w = 0; w < wide; w++) y[a][w] += weight * row[w];
        }
    }
    for (int a = 0; a < outs; a++)
        for (int w = 0; w < wide; w++) store(out + a * D + w * LANES, y[a][w]);
}

INLINE void strip(int wide, int n, int K, const float *c, int next, int beside, const float *x, int D, float *out) {
    int a = 0;
    for (; a + OUTS <= n; a += OUTS) product(OUTS, wide, K, c + a * beside, next, beside, x, D, out + a * D);
    for (; a + 2 <= n; a += 2) product(2, wide, K, c + a * beside, next, beside, x, D, out + a * D);
    for (; a < n; a++) product(1, wide, K, c + a * beside, next, beside, x, D, out + a * D);
}

/* `product` for n outputs of D numbers. */
static void products(int n, int K, const float *c, int next, int beside, const float *x, int D, float *out) {
    for (int w = 0; w < D; w += 4 * LANES) {
        switch ((D - w) / LANES) {
        case 1: strip(1, n, K, c, next, beside, x + w, D, out + w); break;
        case 2: strip(2, n, K, c, next, beside, x + w, D, out + w); break;
        case 3: strip(3, n, K, c, next, beside, x + w, D, out + w); break;
        default: strip(4, n, K, c, next, beside, x + w, D, out + w);
        }
    }
}

/* What the caller has to know: {LANES, ROWS, PANEL}. D must be a multiple of LANES. */
void lmrs_shape(int32_t *shape) {
    shape[0] = LANES;
    shape[1] = ROWS;
    shape[2] = PANEL;
}

/* [n, D] rows to [D][ROWS], zeros behind them. */
static void across(const float *rows, int n, int D, float *states) {
    for (int d = 0; d < D; d++)
        for (int r = 0; r < ROWS; r++) states[d * ROWS + r] = r < n ? rows[r * D + d] : 0;
}

/* Phase one, for n <= ROWS rows and the whole catalogue.

   scaled: [n, D] states times log2(e). own: [n] score of some item, best the target's. table: [V, D]. bias: [V] or null; both in
   base 2. To: log_mass [n], log of the sum of exponentials, in nats. p [V, ROWS], probabilities up to a factor for each row, and
   inverse [n], that factor. grad [n, D], sum of the table's rows by probability; null where nobody asks.
   work: 3 * ROWS * D numbers. */
void lmrs_rows(const float *scaled, const float *own, int32_t n, const float *table, const float *bias, int64_t V, int32_t D,
               double *log_mass, float *inverse, float *p, float *grad, float *work) {
    float *states = work, *near = work + ROWS * D, *far = near + ROWS * D;
    float level[ROWS] = {0}, sum[ROWS], peak[ROWS];
    double mass[ROWS] = {0};
    across(scaled, n, D, states);
    memcpy(level, own, n * sizeof(float));
    memset(near, 0, 2 * ROWS * D * sizeof(float));
    for (int64_t first = 0; first < V; first += PANEL) {
        int items = V - first < PANEL ? (int)(V - first) : PANEL, high = 0;
        float *q = p + first * ROWS;
        for (;;) {
            memset(sum, 0, sizeof sum);
            for (int r = 0; r < ROWS; r++) peak[r] = -INFINITY;
            panel(items, n, table + first * D, bias ? bias + first : 0, states, D, level, q, sum, peak);
            high = 0;
            for (int r = 0; r < n; r++) high |= peak[r] > HIGH;
            if (!high) break;
            for (int r = 0; r < n; r++) {
                if (peak[r] <= 0) continue;
                float less = exp2f(-peak[r]);
                level[r] += peak[r];
                mass[r] *= less;
                for (int64_t i = 0; i < first; i++) p[i * ROWS + r] *= less;
                for (int d = 0; d < D; d++) near[r * D + d] *= less, far[r * D + d] *= less;
            }
        }
        for (int r = 0; r < n; r++) mass[r] += sum[r];
        if (!grad) continue;
        products(n, items, q, ROWS, 1, table + first * D, D, near);
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

/* Phase two, for the same n rows and the items first .. last - 1: adds each item's share of the gradients.

   states: [n, D], not scaled. inverse, p: of phase one. To: grad_table [V, D] and grad_bias [V]; either may be null.
   work: ROWS * D numbers. */
void lmrs_items(const float *states, int32_t n, const float *inverse, const float *p, int64_t first, int64_t last, int32_t D,
                float *grad_table, float *grad_bias, float *work) {
    for (int r = 0; r < n; r++)
        for (int d = 0; d < D; d++) work[r * D + d] = states[r * D + d] * inverse[r];
    for (int64_t i = first; i < last; i += PANEL) {
        int items = last - i < PANEL ? (int)(last - i) : PANEL;
        if (grad_table) products(items, n, p + i * ROWS, 1, ROWS, work, D, grad_table + i * D);
        for (int k = 0; grad_bias && k < items; k++) {
            float total = 0;
            for (int r = 0; r < n; r++) total += p[(i + k) * ROWS + r] * inverse[r];
            grad_bias[i + k] += total;
        }
    }
}

/* The scores of one row for some items, by the same chain of additions as in `scores`. */
static void singles(const float *state, const float *table, const float *bias, int D, const int64_t *items, int64_t count,
                    float *found) {
    for (int64_t at = 0; at < count; at += LANES) {
        int here = count - at < LANES ? (int)(count - at) : LANES;
        const float *rows[LANES];
        vec x;
        for (int lane = 0; lane < LANES; lane++) {
            int64_t item = items[at + (lane < here ? lane : 0)];
            rows[lane] = table + item * D;
            x[lane] = bias ? bias[item] : 0;
        }
        for (int d = 0; d < D; d++) {
            vec weight;
            for (int lane = 0; lane < LANES; lane++) weight[lane] = rows[lane][d];
            x += weight * all(state[d]);
        }
        for (int lane = 0; lane < here; lane++) found[at + lane] = x[lane];
    }
}

static int among(const int64_t *items, int64_t begin, int64_t end, int64_t item) {
    while (begin < end) {
        int64_t middle = begin + (end - begin) / 2;
        if (items[middle] == item) return 1;
        if (items[middle] < item) begin = middle + 1;
        else end = middle;
    }
    return 0;
}

/* The scores of one row [D] for the whole catalogue. work: ROWS * D + PANEL * ROWS numbers. */
void lmrs_line(const float *row, const float *table, const float *bias, int64_t V, int32_t D, float *found, float *work) {
    float *states = work, *p = work + ROWS * D;
    across(row, 1, D, states);
    for (int64_t first = 0; first < V; first += PANEL) {
        int items = V - first < PANEL ? (int)(V - first) : PANEL;
        plain(items, 1, table + first * D, bias ? bias + first : 0, states, D, p);
        for (int k = 0; k < items; k++) found[first + k] = p[k * ROWS];
    }
}

/* The best items of n <= ROWS rows and where one true item of each stands, without holding the scores.

   rows: [n, D]. table: [V, D]. bias: [V] or null. left: items that are left out of row r are left[begin[r]] .. left[begin[r + 1] - 1],
   rising, without the true one. truth: [n]. To: values, items [n, m], the m best, falling (minus infinity behind the last); greater,
   equal [n], other items above and beside the true one. work: ROWS * D + PANEL * ROWS numbers, and as many as left[] at most for a row. */
void lmrs_rank(const float *rows, int32_t n, const float *table, const float *bias, int64_t V, int32_t D, const int64_t *begin,
               const int64_t *left, const int64_t *truth, int32_t m, float *values, int64_t *items, int64_t *greater,
               int64_t *equal, float *work) {
    float *states = work, *p = work + ROWS * D, *out = p + PANEL * ROWS;
    float own[ROWS], least[ROWS]; /* the true item's score; the m-th best so far */
    int32_t above[ROWS] = {0}, beside[ROWS] = {0};
    across(rows, n, D, states);
    for (int r = 0; r < ROWS; r++) own[r] = least[r] = INFINITY; /* rows that are not there have no items */
    for (int r = 0; r < n; r++) {
        singles(rows + r * D, table, bias, D, truth + r, 1, own + r);
        least[r] = -INFINITY;
        for (int j = 0; j < m; j++) values[r * m + j] = -INFINITY, items[r * m + j] = 0;
    }
    for (int64_t first = 0; first < V; first += PANEL) {
        int many = V - first < PANEL ? (int)(V - first) : PANEL;
        plain(many, n, table + first * D, bias ? bias + first : 0, states, D, p);
        for (int c = 0; c < n; c += LANES) {
            vec mine = load(own + c), top = all(-INFINITY);
            ints up = *(ints *)(above + c), same = *(ints *)(beside + c);
            for (int k = 0; k < many; k++) {
                vec x = load(p + k * ROWS + c);
                up -= x > mine;
                same -= x == mine;
                top = MAX(top, x);
            }
            *(ints *)(above + c) = up;
            *(ints *)(beside + c) = same;
            if (!some(top > load(least + c))) continue;
            for (int k = 0; k < many; k++) {
                if (!some(load(p + k * ROWS + c) > load(least + c))) continue;
                for (int r = c; r < c + LANES && r < n; r++) {
                    float score = p[k * ROWS + r], *best = values + r * m;
                    if (!(score > least[r]) || among(left, begin[r], begin[r + 1], first + k)) continue;
                    int j = m - 1;
                    for (; j > 0 && best[j - 1] < score; j--) best[j] = best[j - 1], items[r * m + j] = items[r * m + j - 1];
                    best[j] = score;
                    items[r * m + j] = first + k;
                    least[r] = best[m - 1];
                }
            }
        }
    }
    for (int r = 0; r < n; r++) {
        int64_t count = begin[r + 1] - begin[r];
        singles(rows + r * D, table, bias, D, left + begin[r], count, out);
        greater[r] = above[r];
        equal[r] = beside[r] - 1;
        for (int64_t j = 0; j < count; j++) greater[r] -= out[j] > own[r], equal[r] -= out[j] == own[r];
    }
}
