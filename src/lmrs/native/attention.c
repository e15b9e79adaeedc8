/* Attention inside rows that stand one after the other without padding, with what its gradient needs. lmrs/native says why it is here
   and calls it.

   Forward a query block's weights are held; backward they are made again, from the queries and keys and two numbers for each query. */

#include "attention.h"

/* rows first .. last - 1; position n of row r: offsets[r] <= n < offsets[r + 1]. query: [N, ...], a row every `asks` numbers; pairs: keys and,
   D numbers later, values, a row every `step` numbers. To: out [N, D], level and share [N, heads]. D / heads is a multiple of LANES.
   work: (D / heads + longest row) * QUERIES numbers. Returns whether all scores are finite. */
int32_t lmrs_attend(const float *query, int64_t asks, const float *pairs, int64_t step, int32_t D, int32_t heads, int32_t causal,
                    const int64_t *offsets, int64_t first, int64_t last, float *out, float *level, float *share, float *work) {
    int width = D / heads, fine = 1;
    for (int64_t r = first; r < last; r++)
        for (int h = 0; h < heads; h++) {
            int64_t n = offsets[r], from = h * width;
            const float *k = pairs + n * step + from;
            fine &= attend((int)(offsets[r + 1] - n), width, query + n * asks + from, asks, k, k + D, step, causal, out + n * D + from,
                           D, level + n * heads + h, share + n * heads + h, heads, work);
        }
    return fine;
}

/* The gradients of one head of one row. d_out, out: [T, ...], a row every `next` numbers; gq every `gnext`, gk and gv every `gstep`;
   these two are added to. work: (2 * width + 2 * T) * QUERIES numbers. */
static void back(int T, int width, const float *q, int64_t asks, const float *k, const float *v, int64_t step, int causal,
                 const float *out, const float *d_out, int64_t next, const float *level, const float *share, int heads, float *gq,
                 int64_t gnext, float *gk, float *gv, int64_t gstep, float *work) {
    float *turn = work, *wish = turn + width * QUERIES, *held = wish + width * QUERIES, *change = held + (int64_t)T * QUERIES;
    float top[QUERIES], part[QUERIES], own[QUERIES], nobody[QUERIES] = {0}, scale = 1 / sqrtf(width);
    for (int first = 0; first < T; first += QUERIES) {
        int n = T - first < QUERIES ? T - first : QUERIES, keys = causal ? first + n : T;
        turned(n, width, q + first * asks, asks, LOG2_E * scale, turn);
        turned(n, width, d_out + first * next, next, 1, wish);
        for (int r = 0; r < QUERIES; r++) {
            vec sum = all(0);
            for (int d = 0; r < n && d < width; d += LANES) sum += load(out + (first + r) * next + d) * load(d_out + (first + r) * next + d);
            own[r] = sum_of(sum);
            top[r] = r < n ? level[(first + r) * heads] : 0;
            part[r] = r < n ? share[(first + r) * heads] : 0; /* so that who is not there has no weight */
        }
        meet(n, first, T, causal, width, k, step, turn, held, nobody, nobody);
        meet(n, first, T, causal, width, v, step, wish, change, nobody, nobody);
        for (int c = 0; c < n; c += LANES) {
            int all_see = causal ? first + c : T, end = causal && c + LANES < n ? first + c + LANES : keys, key = 0;
            for (; key < keys; key++) {
                float *p = held + key * QUERIES + c, *x = change + key * QUERIES + c;
                vec weight = all(0), slope = all(0);
                if (key < end) {
                    weight = exp2s(load(p) - load(top + c)) * load(part + c);
                    if (key >= all_see) weight = chosen(from_place(key - all_see), weight, all(0));
                    slope = weight * (load(x) - load(own + c)) * all(scale);
                }
                store(p, weight);
                store(x, slope);
            }
        }
        weigh(n, width, T, causal, first, change, k, step, gq + first * gnext, gnext);
        linear(keys, n, width, change, QUERIES, q + first * asks, asks, 0, 1, gk, gstep);
        linear(keys, n, width, held, QUERIES, d_out + first * next, next, 0, 1, gv, gstep);
    }
}

/* The gradients of what lmrs_attend made: d_query [N, D] and d_pairs [N, 2 D]. d_out, out: [N, D]. work: 2 * (D / heads + longest row) *
   QUERIES numbers. */
void lmrs_attend_back(const float *query, int64_t asks, const float *pairs, int64_t step, int32_t D, int32_t heads, int32_t causal,
                      const int64_t *offsets, int64_t first, int64_t last, const float *out, const float *d_out, const float *level,
                      const float *share, float *d_query, float *d_pairs, float *work) {
    int width = D / heads;
    for (int64_t r = first; r < last; r++) {
        int64_t n = offsets[r];
        int T = (int)(offsets[r + 1] - n);
        memset(d_pairs + n * 2 * D, 0, (int64_t)T * 2 * D * sizeof(float));
        for (int h = 0; h < heads; h++) {
            int64_t from = h * width;
            const float *k = pairs + n * step + from;
            float *gk = d_pairs + n * 2 * D + from;
            back(T, width, query + n * asks + from, asks, k, k + D, step, causal, out + n * D + from, d_out + n * D + from, D,
                 level + n * heads + h, share + n * heads + h, heads, d_query + n * D + from, D, gk, gk + D, 2 * D, work);
        }
    }
}
