// The product of a few rows with one panel (kernels.h), in registers: what products by weights and
// attention are made of. Included inside an instruction set's namespace.
//
// Each result is one sum in the order of the depth, so it does not depend on the other rows, nor on
// who computes it.
#pragma once

// acc + x w for a word of a row, the same for all columns, and the words of a vector of columns.
inline __attribute__((always_inline)) Vector<float> multiply_add(Vector<float> acc, float x,
                                                                 Vector<float> w) {
    return acc + x * w;
}

inline __attribute__((always_inline)) Vector<double> multiply_add(Vector<double> acc, double x,
                                                                  Vector<double> w) {
    return acc + x * w;
}

typedef VectorOf<float>::bits Integers;

inline __attribute__((always_inline)) Vector<float> multiply_add(Vector<float> acc, BFloat16Pair x,
                                                                 Integers w) {
#if defined(AAF_DOT_INSTRUCTIONS)
    return (Vector<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(x.bits)),
                                           (__m512bh)w);
#else
    const Integers low = w << 16, high = w & int32_t(0xFFFF0000);
    acc += bit_cast<float>(x.bits << 16) * (Vector<float>)low;
    return acc + bit_cast<float>(x.bits & 0xFFFF0000u) * (Vector<float>)high;
#endif
}

inline __attribute__((always_inline)) Integers multiply_add(Integers acc, Int8Quad x, Integers w) {
#if defined(AAF_DOT_INSTRUCTIONS)
    return (Integers)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(int(x.bits)), (__m512i)w);
#else
    for (int i = 0; i < 4; ++i)
        acc += int32_t(x.bits >> (8 * i) & 255u) * (w << (24 - 8 * i) >> 24);
    return acc;
#endif
}

// What a word's products are summed up in.
template <class Word>
struct SumOf {
    using lane = float;
    using sum = Vector<float>;
    using words = Integers;
};
template <>
struct SumOf<float> {
    using lane = float;
    using sum = Vector<float>;
    using words = Vector<float>;
};
template <>
struct SumOf<double> {
    using lane = double;
    using sum = Vector<double>;
    using words = Vector<double>;
};
template <>
struct SumOf<Int8Quad> {
    using lane = int32_t;
    using sum = Integers;
    using words = Integers;
};

// With a panel of columns each, in registers.
template <class Lane>
constexpr int kRowsAtOnce = AAF_ROWS_AT_ONCE > 1 && sizeof(Lane) == 8 ? AAF_ROWS_AT_ONCE / 2
                                                                      : AAF_ROWS_AT_ONCE;
// Whether every other row's word is read anew for each vector of columns, by the multiplying
// instruction itself where the compiler sees that it can, instead of once into a register. On Zen 4
// bfloat16 products gain 3 % by it; with all rows' words in registers it loses cycles. Compilers
// would read it once: hence a pointer that they know nothing of.
#if defined(AAF_AVX512)
constexpr bool kReadAgain = true;
#else
constexpr bool kReadAgain = false;
#endif
constexpr int64_t kPrefetch = 4096;  // bytes ahead: the way from memory, at the pace of few rows

// sums[r][0..kPanel) += row r of x times the panel, for R rows; = where `first`.
template <class Word, int R>
inline void multiply_panel(const Word* x, int64_t stride, const Word* panel, int64_t depth,
                           typename SumOf<Word>::lane* sums, int64_t sums_stride, bool first) {
    using Lane = typename SumOf<Word>::lane;
    typedef typename SumOf<Word>::sum Sum __attribute__((may_alias, aligned(4)));
    typedef typename SumOf<Word>::words Words __attribute__((may_alias, aligned(4)));
    constexpr int lanes = kLanes<Lane>, vectors = kPanel / lanes;
    Sum sum[R][vectors];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < vectors; ++j)
            sum[r][j] = first ? Sum{} : *(const Sum*)(sums + r * sums_stride + j * lanes);
#pragma GCC unroll 1
    for (int64_t k = 0; k < depth; ++k) {
        const Word* words = panel + k * kPanel;
        Words vector[vectors];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) {
            __builtin_prefetch((const char*)(words + j * lanes) + kPrefetch);
            vector[j] = *(const Words*)(words + j * lanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Word* at = x + r * stride + k;
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) {
                sum[r][j] = multiply_add(sum[r][j], *at, vector[j]);
                if (kReadAgain && r % 2 == 0) asm("" : "+r"(at));
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < vectors; ++j) *(Sum*)(sums + r * sums_stride + j * lanes) = sum[r][j];
}

// The same for at most kRowsAtOnce rows.
template <class Word, int R = kRowsAtOnce<typename SumOf<Word>::lane>>
inline void multiply_rows(int64_t rows, const Word* x, int64_t stride, const Word* panel,
                          int64_t depth, typename SumOf<Word>::lane* sums, int64_t sums_stride,
                          bool first) {
    if (rows == R)
        multiply_panel<Word, R>(x, stride, panel, depth, sums, sums_stride, first);
    else if constexpr (R > 1)
        multiply_rows<Word, R - 1>(rows, x, stride, panel, depth, sums, sums_stride, first);
}
