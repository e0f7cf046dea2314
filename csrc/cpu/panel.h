// The product of a few rows with one panel (kernels.h), in registers: what products by weights and
// attention are made of. Included inside an instruction set's namespace.
//
// Each result is one sum in the order of the depth, so it does not depend on the other rows, nor on
// who computes it.
#pragma once

typedef int16_t Shorts __attribute__((vector_size(AAF_REGISTER_BYTES), may_alias, aligned(2)));

// acc + x w for a word of a row, the same for all columns, and the words of a register of columns.
inline __attribute__((always_inline)) Vector<float> multiply_add(Vector<float> acc, float x,
                                                                 Vector<float> w) {
    return acc + x * w;
}

inline __attribute__((always_inline)) Vector<double> multiply_add(Vector<double> acc, double x,
                                                                  Vector<double> w) {
    return acc + x * w;
}

#if defined(AAF_DOT_INSTRUCTIONS)
inline __attribute__((always_inline)) Vector<float> multiply_add(Vector<float> acc, BFloat16Pair x,
                                                                 Integers w) {
    return (Vector<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(x.bits)),
                                           (__m512bh)w);
}
#endif

#if !defined(AAF_DOT_INSTRUCTIONS) && !defined(AAF_AVX2)
// Of neighbours, the product of the one and of the other, added up.
inline __attribute__((always_inline)) Integers multiply_pairs(Shorts x, Shorts w) {
#if defined(AAF_AVX512)
    return (Integers)_mm512_madd_epi16((__m512i)x, (__m512i)w);
#elif defined(__SSE2__)
    return (Integers)_mm_madd_epi16((__m128i)x, (__m128i)w);
#else
    const Integers a = (Integers)x, b = (Integers)w;
    return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}
#endif

// kInt8Zero: what stands in a word of a row for 0.
#if defined(AAF_AVX2)
constexpr int kInt8Zero = 0;

// Four int8 of each column, and their magnitudes.
struct Int8Weights {
    __m256i values, magnitudes;
};
// The instruction for bytes adds neighbours up in 16 bits, where uint8 by int8 would not fit.
// Magnitudes of at most 127 by rows that take over the weights' signs do, at most 2 * 127 * 128.
inline __attribute__((always_inline)) Integers multiply_add(Integers acc, Int8Quad x,
                                                            Int8Weights w) {
    const __m256i rows = _mm256_sign_epi8(_mm256_set1_epi32(int(x.bits)), w.values);
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitudes, rows);
    return acc + (Integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
constexpr int kInt8Zero = 128;

inline __attribute__((always_inline)) Integers multiply_add(Integers acc, Int8Quad x, Integers w) {
#if defined(AAF_DOT_INSTRUCTIONS)
    return (Integers)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(int(x.bits)), (__m512i)w);
#else
    // The first and third of four, and the second and fourth, in 16 bits: exact.
    const Integers quads = Integers{} + int32_t(x.bits);
    const Shorts weights = (Shorts)w;
    acc += multiply_pairs((Shorts)(quads & 0x00FF00FF), weights << 8 >> 8);
    return acc + multiply_pairs((Shorts)(quads >> 8 & 0x00FF00FF), weights >> 8);
#endif
}
#endif

// What a word's products are summed up in, and the factors that a word of a row is multiplied as:
// itself, or, of bfloat16 without an instruction for it, two of float32, one after the other. Rows
// come as such (Multiplier in tiles.h): to make a word float32 anew for every register of columns
// takes longer than to multiply by it.
template <class Word>
struct SumOf {
    using lane = Word;
    using sum = Vector<Word>;
    using words = Vector<Word>;
    using factor = Word;
    static constexpr int factors = 1;
};
template <>
struct SumOf<BFloat16Pair> {
    using lane = float;
    using sum = Vector<float>;
    using words = Integers;
#if defined(AAF_DOT_INSTRUCTIONS)
    using factor = BFloat16Pair;
    static constexpr int factors = 1;
#else
    using factor = float;
    static constexpr int factors = 2;
#endif
};
template <>
struct SumOf<Int8Quad> {
    using lane = int32_t;
    using sum = Integers;
    using words = Integers;
    using factor = Int8Quad;
    static constexpr int factors = 1;
};

// What the i-th factor is multiplied by, of a register of columns.
template <class Word>
inline __attribute__((always_inline)) auto weights_of(typename SumOf<Word>::words words, int i) {
    if constexpr (SumOf<Word>::factors == 1)
        return words;
    else
        return (Vector<float>)(i == 0 ? words << 16 : words & int32_t(0xFFFF0000));
}
#if defined(AAF_AVX2)
template <>
inline __attribute__((always_inline)) auto weights_of<Int8Quad>(Integers words, int) {
    return Int8Weights{(__m256i)words, _mm256_abs_epi8((__m256i)words)};
}
#endif

// How many rows, and how many columns of a panel, have their sums in registers at once, beside the
// weights and the row's word they are multiplied by: all columns where there are 32 registers, two
// registers of them where there are 16.
#if defined(AAF_AVX512)
template <class Word>
constexpr int kRowsAtOnce = sizeof(Word) == 8 ? 6 : 12;
template <class Word>
constexpr int kColumnsAtOnce = kPanel;
#else
template <class Word>
constexpr int kRowsAtOnce = __is_same(Word, Int8Quad)   ? 4
                            : SumOf<Word>::factors == 2 ? 5
                                                        : 6;
template <class Word>
constexpr int kColumnsAtOnce = 2 * AAF_REGISTER_BYTES / sizeof(typename SumOf<Word>::lane);
#endif
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

// sums[r][0..kColumnsAtOnce) += row r of x times as many columns of a panel, for R rows; = where
// `first`. `stride` and `depth` count words.
template <class Word, int R>
inline __attribute__((always_inline)) void multiply_columns(const typename SumOf<Word>::factor* x,
                                                            int64_t stride, const Word* columns,
                                                            int64_t depth,
                                                            typename SumOf<Word>::lane* sums,
                                                            int64_t sums_stride, bool first) {
    using Sum = typename SumOf<Word>::sum;
    using Words = typename SumOf<Word>::words;
    constexpr int factors = SumOf<Word>::factors;
    constexpr int lanes = sizeof(Sum) / sizeof(typename SumOf<Word>::lane);
    constexpr int vectors = kColumnsAtOnce<Word> / lanes;
    constexpr int lines = sizeof(Sum) < 64 ? 64 / sizeof(Sum) : 1;  // vectors in a line of cache
    Sum sum[R][vectors];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < vectors; ++j)
            sum[r][j] = first ? Sum{} : *(const Sum*)(sums + r * sums_stride + j * lanes);
#pragma GCC unroll 1
    for (int64_t k = 0; k < depth; ++k) {
        const Word* words = columns + k * kPanel;
#pragma GCC unroll 2
        for (int i = 0; i < factors; ++i) {
            decltype(weights_of<Word>(Words{}, 0)) vector[vectors];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) {
                if (i == 0 && j % lines == 0)
                    __builtin_prefetch((const char*)(words + j * lanes) + kPrefetch);
                vector[j] = weights_of<Word>(*(const Words*)(words + j * lanes), i);
            }
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const auto* at = x + (r * stride + k) * factors + i;
#pragma GCC unroll 4
                for (int j = 0; j < vectors; ++j) {
                    sum[r][j] = multiply_add(sum[r][j], *at, vector[j]);
                    if (kReadAgain && r % 2 == 0) asm("" : "+r"(at));
                }
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < vectors; ++j) *(Sum*)(sums + r * sums_stride + j * lanes) = sum[r][j];
}

// The same for all kPanel columns of a panel.
template <class Word, int R>
inline void multiply_panel(const typename SumOf<Word>::factor* x, int64_t stride, const Word* panel,
                           int64_t depth, typename SumOf<Word>::lane* sums, int64_t sums_stride,
                           bool first) {
#pragma GCC unroll 1
    for (int64_t column = 0; column < kPanel; column += kColumnsAtOnce<Word>)
        multiply_columns<Word, R>(x, stride, panel + column, depth, sums + column, sums_stride,
                                  first);
}

// The same for at most kRowsAtOnce rows.
template <class Word, int R = kRowsAtOnce<Word>>
inline void multiply_rows(int64_t rows, const typename SumOf<Word>::factor* x, int64_t stride,
                          const Word* panel, int64_t depth, typename SumOf<Word>::lane* sums,
                          int64_t sums_stride, bool first) {
    if (rows == R)
        multiply_panel<Word, R>(x, stride, panel, depth, sums, sums_stride, first);
    else if constexpr (R > 1)
        multiply_rows<Word, R - 1>(rows, x, stride, panel, depth, sums, sums_stride, first);
}
