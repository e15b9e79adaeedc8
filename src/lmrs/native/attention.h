/* Products of rows and matrices, and the attention of the positions of one row to each other, for one head. */

#pragma once

#include "registers.h"

#define QUERIES ROWS /* positions that look at once */
#define KEYS (SUMS / 3)
#define LOG2_E 1.44269504088896340736f

/* y[a] = bias + sum_i x[a * beside + i * next] w[i] (+ y[a]), for n rows and `wide` registers of outputs. */
INLINE void tile(int n, int wide, int I, const float *x, int64_t beside, int64_t next, const float *w, int64_t step, const float *bias,
                 int add, float *y, int64_t out) {
    vec sums[SUMS];
    for (int a = 0; a < n; a++)
        for (int c = 0; c < wide; c++) {
            sums[a * wide + c] = bias ? load(bias + c * LANES) : all(0);
            if (add) sums[a * wide + c] += load(y + a * out + c * LANES);
        }
    for (int i = 0; i < I; i++) {
        vec weights[4];
        for (int c = 0; c < wide; c++) {
            weights[c] = load(w + i * step + c * LANES);
            HELD(weights[c]);
        }
        for (int a = 0; a < n; a++) {
            vec mine = all(x[a * beside + i * next]);
            for (int c = 0; c < wide; c++) sums[a * wide + c] += mine * weights[c];
        }
    }
    for (int a = 0; a < n; a++)
        for (int c = 0; c < wide; c++) store(y + a * out + c * LANES, sums[a * wide + c]);
}

INLINE void tiles(int wide, int n, int I, const float *x, int64_t beside, int64_t next, const float *w, int64_t step, const float *bias,
                  int add, float *y, int64_t out) {
    int a = 0;
    for (; a + SUMS / wide <= n; a += SUMS / wide)
        tile(SUMS / wide, wide, I, x + a * beside, beside, next, w, step, bias, add, y + a * out, out);
    for (; a + 2 <= n; a += 2) tile(2, wide, I, x + a * beside, beside, next, w, step, bias, add, y + a * out, out);
    for (; a < n; a++) tile(1, wide, I, x + a * beside, beside, next, w, step, bias, add, y + a * out, out);
}

/* y [n, O] = bias + x [n, I] w [I, O] (+ y). A row of x, w, y begins `beside`, `step`, `out` numbers after the one before. */
static void linear(int n, int I, int O, const float *x, int64_t beside, const float *w, int64_t step, const float *bias, int add,
                   float *y, int64_t out) {
    for (int c = 0; c < O; c += 4 * LANES) {
        const float *b = bias ? bias + c : 0;
        switch ((O - c) / LANES) {
        case 1: tiles(1, n, I, x, beside, 1, w + c, step, b, add, y + c, out); break;
        case 2: tiles(2, n, I, x, beside, 1, w + c, step, b, add, y + c, out); break;
        case 3: tiles(3, n, I, x, beside, 1, w + c, step, b, add, y + c, out); break;
        default: tiles(4, n, I, x, beside, 1, w + c, step, b, add, y + c, out);
        }
    }
}

/* What n queries see: out [n, width] = p' v, of `keys` keys. p: [keys, QUERIES]. Among `causal` queries nobody sees the keys after
   `before` and his own place. */
static void weigh(int n, int width, int keys, int causal, int before, const float *p, const float *v, int64_t step, float *out,
                  int64_t out_step) {
    for (int w = 0; w < width; w += 4 * LANES) {
        int wide = (width - w) / LANES < 4 ? (width - w) / LANES : 4, most = SUMS / wide;
        for (int r = 0; r < n; r += most) {
            int rows = n - r < most ? n - r : most, until = causal ? before + r + rows : keys;
            const float *from = p + r;
            float *to = out + r * out_step + w;
            switch (wide) {
            case 1: tiles(1, rows, until, from, 1, QUERIES, v + w, step, 0, 0, to, out_step); break;
            case 2: tiles(2, rows, until, from, 1, QUERIES, v + w, step, 0, 0, to, out_step); break;
            case 3: tiles(3, rows, until, from, 1, QUERIES, v + w, step, 0, 0, to, out_step); break;
            default: tiles(4, rows, until, from, 1, QUERIES, v + w, step, 0, 0, to, out_step);
            }
        }
    }
}

/* s[k][c] = keys[k] . q[c] for n keys and `columns` registers of queries; the largest to top, their sum to sum (NaN if one is). */
INLINE void scores(int n, int columns, int width, const float *keys, int64_t step, const float *q, float *s, float *top, float *sum) {
    vec x[KEYS][3];
    for (int k = 0; k < n; k++)
        for (int c = 0; c < columns; c++) x[k][c] = all(0);
    for (int d = 0; d < width; d++) {
        vec asks[3];
        for (int c = 0; c < columns; c++) {
            asks[c] = load(q + d * QUERIES + c * LANES);
            HELD(asks[c]);
        }
        for (int k = 0; k < n; k++) {
            vec key = all(keys[k * step + d]);
            for (int c = 0; c < columns; c++) x[k][c] += key * asks[c];
        }
    }
    for (int c = 0; c < columns; c++) {
        vec most = load(top + c * LANES), total = load(sum + c * LANES);
        for (int k = 0; k < n; k++) {
            store(s + k * QUERIES + c * LANES, x[k][c]);
            most = MAX(most, x[k][c]);
            total += x[k][c];
        }
        store(top + c * LANES, most);
        store(sum + c * LANES, total);
    }
}

INLINE void strip(int columns, int n, int width, const float *keys, int64_t step, const float *q, float *s, float *top, float *sum) {
    int k = 0;
    for (; k + KEYS <= n; k += KEYS) scores(KEYS, columns, width, keys + k * step, step, q, s + k * QUERIES, top, sum);
    for (; k < n; k++) scores(1, columns, width, keys + k * step, step, q, s + k * QUERIES, top, sum);
}

static void see(int columns, int n, int width, const float *keys, int64_t step, const float *q, float *s, float *top, float *sum) {
    for (; columns >= 3; columns -= 3, q += 3 * LANES, s += 3 * LANES, top += 3 * LANES, sum += 3 * LANES)
        strip(3, n, width, keys, step, q, s, top, sum);
    if (columns == 2) strip(2, n, width, keys, step, q, s, top, sum);
    if (columns == 1) strip(1, n, width, keys, step, q, s, top, sum);
}

/* The products of n queries, those of the positions `first` and on, with the keys that they may see: s [T, QUERIES], where a register
   of queries sees none of a key it stays as it was. q: [width, QUERIES]. To top and sum the largest of each query and their sum; of keys
   that some of a register's queries see, to sum alone. */
static void meet(int n, int first, int T, int causal, int width, const float *keys, int64_t step, const float *q, float *s, float *top,
                 float *sum) {
    int groups = (n + LANES - 1) / LANES;
    float nobody[LANES] = {0};
    see(groups, causal ? first : T, width, keys, step, q, s, top, sum);
    for (int c = 0; causal && c < groups; c++) {
        int begin = c * LANES, here = n - begin < LANES ? n - begin : LANES, next = begin + LANES;
        const float *from = keys + (first + begin) * step;
        float *to = s + (first + begin) * QUERIES;
        strip(1, here, width, from, step, q + begin, to + begin, nobody, sum + begin);
        see(groups - c - 1, here, width, from, step, q + next, to + next, top + next, sum + next);
    }
}

/* Which queries of a register see a key: those from the key's own place on. */
INLINE ints from_place(int place) {
    static const int32_t places[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return *(const ints *)places >= place;
}

/* [width, QUERIES] of n rows, times `scale`, zeros behind them. */
INLINE void turned(int n, int width, const float *rows, int64_t step, float scale, float *to) {
    for (int r = 0; r < (n + LANES - 1) / LANES * LANES; r++)
        for (int d = 0; d < width; d++) to[d * QUERIES + r] = r < n ? scale * rows[r * step + d] : 0;
}

/* One head of one row of T positions: out [T, width] = softmax(q k' / sqrt(width)) v. Rows of q, of k and v, and of out begin `asks`,
   `step` and `next` numbers after one another. To level and share, unless null: a query's largest score in base 2 and the inverse of the
   sum of exponentials above it, `heads` numbers apart. work: (width + T) * QUERIES numbers. Returns whether all scores are finite. */
static int attend(int T, int width, const float *q, int64_t asks, const float *k, const float *v, int64_t step, int causal, float *out,
                  int64_t next, float *level, float *share, int heads, float *work) {
    float *turn = work, *held = work + width * QUERIES, top[QUERIES], sum[QUERIES];
    int fine = 1;
    for (int first = 0; first < T; first += QUERIES) {
        int n = T - first < QUERIES ? T - first : QUERIES;
        turned(n, width, q + first * asks, asks, LOG2_E / sqrtf(width), turn);
        for (int r = 0; r < QUERIES; r++) top[r] = -INFINITY, sum[r] = 0;
        meet(n, first, T, causal, width, k, step, turn, held, top, sum);
        for (int r = 0; r < n; r++) fine &= sum[r] - sum[r] == 0;
        for (int c = 0; c < n; c += LANES) {
            int all_see = causal ? first + c : T, keys = causal ? first + n : T;
            int end = causal && c + LANES < n ? first + c + LANES : keys, key;
            vec most = load(top + c), mass = all(0);
            for (key = all_see; key < end; key++)
                most = MAX(most, chosen(from_place(key - all_see), load(held + key * QUERIES + c), all(-INFINITY)));
            for (key = 0; key < all_see; key++) {
                vec e = exp2s(load(held + key * QUERIES + c) - most);
                store(held + key * QUERIES + c, e);
                mass += e;
            }
            for (; key < end; key++) {
                vec e = chosen(from_place(key - all_see), exp2s(load(held + key * QUERIES + c) - most), all(0));
                store(held + key * QUERIES + c, e);
                mass += e;
            }
            for (; key < keys; key++) store(held + key * QUERIES + c, all(0));
            store(top + c, most);
            store(sum + c, all(1) / mass);
        }
        weigh(n, width, T, causal, first, held, v, step, out + first * next, next);
        for (int r = 0; r < n; r++) {
            float *to = out + (first + r) * next;
            for (int d = 0; d < width; d += LANES) store(to + d, load(to + d) * all(sum[r]));
            if (level) level[(first + r) * heads] = top[r], share[(first + r) * heads] = sum[r];
        }
    }
    return fine;
}
