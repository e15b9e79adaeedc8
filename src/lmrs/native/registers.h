/* Registers of LANES numbers, whatever the machine, and what is computed on all of them at once. */

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define SUMS 24 /* registers that hold sums; the others hold what is read */
#define MAX(a, b) ((vec)_mm512_max_ps((__m512)(a), (__m512)(b)))
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define SUMS 12
#define MAX(a, b) ((vec)_mm256_max_ps((__m256)(a), (__m256)(b)))
#else
#define LANES 4
#define SUMS 20
#define MAX(a, b) larger(a, b)
#endif

/* Rows of a block, or queries that look at once: three registers of 16 lanes. lmrs.native.Kernel sizes its buffers by it. */
#define ROWS 48

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#if defined(__AVX512F__) || defined(__AVX2__)
#define HELD(x) __asm__("" : "+v"(x)) /* in a register: compilers would read it again for every use */
#else
#define HELD(x)
#endif

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec x) { *(vec *)to = x; }
INLINE vec all(float x) { return x - (vec){0}; }

/* Whether any lane of a comparison's result is set. */
INLINE int some(ints mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#else
    int32_t set = 0;
    for (int lane = 0; lane < LANES; lane++) set |= mask[lane];
    return set != 0;
#endif
}

/* a where `first` is set, else b. */
INLINE vec chosen(ints first, vec a, vec b) { return (vec)((first & (ints)a) | (~first & (ints)b)); }

/* The sum of the lanes, by halves. */
INLINE float sum_of(vec x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)x);
#else
    float lanes[LANES];
    store(lanes, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
#endif
}

#if !defined(__AVX512F__) && !defined(__AVX2__)
INLINE vec larger(vec a, vec b) { return chosen(a > b, a, b); }
#endif

/* 2^x for x <= 127 (beyond that anything), at least 2^-126. x = n + f with n whole: 2^f is a minimax polynomial (relative error 2e-9 before rounding),
   and n is added to its exponent. */
INLINE vec exp2s(vec x) {
    const vec shift = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number, which stands in the low bits */
    vec t = MAX(x, all(-126.0f)) + shift;
    vec f = MAX(x, all(-126.0f)) - (t - shift);
    vec p = all(1.53533619e-4f);
    p = p * f + all(1.33988745e-3f);
    p = p * f + all(9.61843736e-3f);
    p = p * f + all(5.55033247e-2f);
    p = p * f + all(2.40226479e-1f);
    p = p * f + all(6.93147203e-1f);
    p = p * f + all(1.0f);
    return (vec)((bits)p + ((bits)t << 23));
}
