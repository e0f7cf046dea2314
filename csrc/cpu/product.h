// Products of packed rows with packed weights, for few rows in float32 and bfloat16 and for any
// number in int8. Included inside an instruction set's namespace.
//
// With few rows the weights are what has to be moved: every panel is read once, well ahead of its
// use, by as many multiplications as there are rows. Each result is one sum in the order of the
// depth, so it does not depend on the other rows, nor on who computes it.
#pragma once

// acc + x w for a word of a row, the same for all columns, and the words of kLanes<float> columns.
inline __attribute__((always_inline)) Vector<float> multiply_add(Vector<float> acc, float x,
                                                                 Vector<float> w) {
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

// What a word's products are summed up in: kLanes<float> lanes.
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
struct SumOf<Int8Quad> {
    using lane = int32_t;
    using sum = Integers;
    using words = Integers;
};

constexpr int kRowsAtOnce = AAF_ROWS_AT_ONCE;  // with a panel of columns each, in registers
constexpr int64_t kDepthBlock = 192;  // of a panel: stays in the first cache for all of a chunk
constexpr int64_t kPrefetch = 4096;   // bytes ahead: the way from memory, at the pace of few rows

// sums[r][0..kPanel) += row r of x times the panel, for R rows; = where `first`.
template <class Word, int R>
inline void multiply_panel(const Word* x, int64_t stride, const Word* panel, int64_t depth,
                           typename SumOf<Word>::lane* sums, bool first) {
    typedef typename SumOf<Word>::sum Sum __attribute__((may_alias, aligned(4)));
    typedef typename SumOf<Word>::words Words __attribute__((may_alias, aligned(4)));
    constexpr int lanes = kLanes<float>;
    Sum sum[R][2];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 2; ++j)
            sum[r][j] = first ? Sum{} : *(const Sum*)(sums + r * kPanel + j * lanes);
#pragma GCC unroll 1
    for (int64_t k = 0; k < depth; ++k) {
        const Word* words = panel + k * kPanel;
        __builtin_prefetch((const char*)words + kPrefetch);
        __builtin_prefetch((const char*)words + kPrefetch + 64);
        const Words left = *(const Words*)words, right = *(const Words*)(words + lanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Word word = x[r * stride + k];
            sum[r][0] = multiply_add(sum[r][0], word, left);
            sum[r][1] = multiply_add(sum[r][1], word, right);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < 2; ++j) *(Sum*)(sums + r * kPanel + j * lanes) = sum[r][j];
}

template <class Word, int R = kRowsAtOnce>
inline void multiply_rows(int64_t rows, const Word* x, int64_t stride, const Word* panel,
                          int64_t depth, typename SumOf<Word>::lane* sums, bool first) {
    if (rows == R)
        multiply_panel<Word, R>(x, stride, panel, depth, sums, first);
    else if constexpr (R > 1)
        multiply_rows<Word, R - 1>(rows, x, stride, panel, depth, sums, first);
}

template <class T>
inline __attribute__((always_inline)) Vector<float> unscaled(const Product<T, Int8Quad>& args,
                                                             int64_t row, int64_t column,
                                                             const int32_t* sums) {
    typedef int32_t Loose __attribute__((vector_size(64), may_alias, aligned(4)));
    // The rows' 128 too much, times the weights.
    const Integers sum = *(const Loose*)sums - 128 * *(const Loose*)(args.column_sum + column);
    return __builtin_convertvector(sum, Vector<float>) *
           (load_vector(args.column_scale + column) * args.row_scale[row]);
}

template <class T, class Word>
inline __attribute__((always_inline)) Vector<float> unscaled(const Product<T, Word>&, int64_t,
                                                             int64_t, const float* sums) {
    return load_vector(sums);
}

template <class T, class Word>
void product(const Product<T, Word>& args, int64_t begin, int64_t end) {
    constexpr int lanes = kLanes<float>;
    alignas(64) typename SumOf<Word>::lane sums[kRowChunk * kPanel];
    const int64_t panels = panels_of(args.columns), chunks = row_chunks(args.rows);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t chunk = item / panels, panel = item % panels;
        const int64_t first = args.rows * chunk / chunks;
        const int64_t count = args.rows * (chunk + 1) / chunks - first;
        const int64_t blocks = (count + kRowsAtOnce - 1) / kRowsAtOnce;
        const int64_t block_depth = blocks == 1 ? args.depth : kDepthBlock;
        const Word* words = args.panels + panel * args.depth * kPanel;
        for (int64_t k = 0; k < args.depth; k += block_depth) {
            const int64_t depth = k + block_depth < args.depth ? block_depth : args.depth - k;
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t r = count * block / blocks, stop = count * (block + 1) / blocks;
                multiply_rows(stop - r, args.x.row(first + r) + k, args.x.stride,
                              words + k * kPanel, depth, sums + r * kPanel, k == 0);
            }
        }
        for (int64_t r = 0; r < count; ++r)
            for (int64_t j = 0; j < kPanel; j += lanes) {
                const int64_t column = panel * kPanel + j;
                const int64_t left = args.columns - column < lanes ? args.columns - column : lanes;
                const Vector<float> linear =
                    unscaled(args, first + r, column, sums + r * kPanel + j) +
                    load_vector(args.bias + column);
                const Vector<float> result = activate(
                    args.activation, linear, [](Vector<float> x) __attribute__((always_inline)) {
                        return exp_nonpositive(x);
                    });
                T* to = args.out.row(first + r) + column;
                if (left == lanes) {
#pragma omp simd
                    for (int i = 0; i < lanes; ++i) store(result[i], to + i);
                } else {
                    for (int64_t i = 0; i < left; ++i) store(result[i], to + i);
                }
            }
    }
}

template <class T>
void quantize(const Quantize<T>& args, int64_t begin, int64_t end) {
    const int64_t filled = (args.width + 3) / 4 * 4;
    for (int64_t r = begin; r < end; ++r) {
        const T* x = args.x.row(r);
        uint8_t* to = args.out.row(r);
        float largest = 0, poison = 0;  // poison: NaN where the row holds one, or an infinity
#pragma omp simd reduction(max : largest) reduction(+ : poison)
        for (int64_t i = 0; i < args.width; ++i) {
            const float value = float(load(x[i])), magnitude = value < 0 ? -value : value;
            largest = magnitude > largest ? magnitude : largest;
            poison += value * 0.0f;
        }
        const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
        args.scale[r] = largest / 127.0f + poison;
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
#pragma omp simd
        for (int64_t i = 0; i < args.width; ++i)
            to[i] = uint8_t(bit_cast<uint32_t>(float(load(x[i])) * inverse + 12582912.0f) + 128u);
        for (int64_t i = args.width; i < filled; ++i) to[i] = 128;
    }
}

template <class T>
constexpr ProductKernel<T, typename WordOf<T>::type> product_of() {
    return nullptr;
}
template <>
constexpr ProductKernel<float, float> product_of<float>() {
    return &product<float, float>;
}
template <>
constexpr ProductKernel<BFloat16, BFloat16Pair> product_of<BFloat16>() {
    return &product<BFloat16, BFloat16Pair>;
}

template <class T>
constexpr ProductKernel<T, Int8Quad> int8_product_of() {
    if constexpr (product_of<T>() != nullptr) return &product<T, Int8Quad>;
    return nullptr;
}
