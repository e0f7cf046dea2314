// Products of packed rows with packed weights. Included inside an instruction set's namespace.
//
// With few rows the weights are what has to be moved: every panel is read once, well ahead of its
// use, by as many multiplications as there are rows. With many, a chunk of rows and a block of a
// panel stay in cache for each other.
#pragma once

// What makes a row's sums numbers: nothing, or, of int8, the factors of the row and of a vector of
// columns.
template <class T, class Word>
struct Unscale {
    Unscale(const Product<T, Word>&, int64_t) {}
    inline __attribute__((always_inline)) Vector<float> operator()(const float* sums,
                                                                   int64_t) const {
        return load_vector(sums);
    }
};
template <class T>
struct Unscale<T, Int8Quad> {
    Unscale(const Product<T, Int8Quad>& args, int64_t column)
        // What the rows are too large by, times the weights.
        : too_much(kInt8Zero * *(const Integers*)(args.column_sum + column)),
          column_scale(load_vector(args.column_scale + column)),
          row_scale(args.row_scale) {}
    inline __attribute__((always_inline)) Vector<float> operator()(const int32_t* sums,
                                                                   int64_t row) const {
        return __builtin_convertvector(*(const Integers*)sums - too_much, Vector<float>) *
               (column_scale * row_scale[row]);
    }
    Integers too_much;
    Vector<float> column_scale;
    const float* row_scale;
};

// What activations are made of (activation.h).
template <bool kRounded>
struct Functions {
    inline __attribute__((always_inline)) Vector<float> exp(Vector<float> x) const {
        return exp_nonpositive<kRounded>(x);
    }
    inline __attribute__((always_inline)) Vector<float> magnitude(Vector<float> x) const {
        return (Vector<float>)((Integers)x & 0x7FFFFFFF);
    }
    inline __attribute__((always_inline)) Vector<float> smaller(Vector<float> a,
                                                                Vector<float> b) const {
        return AAF_NAMESPACE::smaller(a, b);
    }
    inline __attribute__((always_inline)) Vector<float> larger(Vector<float> a,
                                                               Vector<float> b) const {
        return AAF_NAMESPACE::larger(a, b);
    }
};

// A panel's sums [rows, kPanel] of the rows from `first` on to results.
template <Activation kActivation, class T, class Word, class Sum>
void finish_sums(const Product<T, Word>& args, int64_t first, int64_t rows, int64_t panel,
                 const Sum* sums) {
    constexpr int lanes = kLanes<float>;
    constexpr bool rounded = __is_same(T, BFloat16);
    constexpr RoundedTo to_what = __is_same(Word, Int8Quad) ? RoundedTo::int8
                                  : rounded                 ? RoundedTo::bfloat16
                                                            : RoundedTo::float32;
    for (int64_t j = 0; j < kPanel; j += lanes) {
        const int64_t column = panel * kPanel + j, left = args.columns - column;
        const Unscale<T, Word> unscale(args, column);
        const Vector<float> bias = load_vector(args.bias + column);
        const auto result = [&](int64_t r) {
            const Vector<float> linear = unscale(sums + r * kPanel + j, first + r) + bias;
            return activate<to_what>(kActivation, linear, Functions<rounded>());
        };
        T* to = args.out.row(first) + column;
        const int64_t stride = args.out.stride;
        if (left >= lanes) {
            for (int64_t r = 0; r < rows; ++r, to += stride) store_normal(result(r), to);
            continue;
        }
        for (int64_t r = 0; r < rows; ++r, to += stride) {
            float each[lanes];  // were they taken from the result, that would always be in memory
            store_vector<float>(result(r), each);
            for (int64_t i = 0; i < left; ++i) store(each[i], to + i);
        }
    }
}

template <class T, class Word, class Sum>
void finish(const Product<T, Word>& args, int64_t first, int64_t rows, int64_t panel,
            const Sum* sums) {
    switch (args.activation) {
        case Activation::none:
            return finish_sums<Activation::none>(args, first, rows, panel, sums);
        case Activation::gelu:
            return finish_sums<Activation::gelu>(args, first, rows, panel, sums);
        case Activation::gelu_tanh:
            return finish_sums<Activation::gelu_tanh>(args, first, rows, panel, sums);
        case Activation::relu:
            return finish_sums<Activation::relu>(args, first, rows, panel, sums);
        case Activation::silu:
            return finish_sums<Activation::silu>(args, first, rows, panel, sums);
    }
}

template <class T, class Word>
void product(const Product<T, Word>& args, int64_t begin, int64_t end) {
    using Multiply = Multiplier<Word>;
    Multiply multiply;
    alignas(64) typename SumOf<Word>::lane sums[kRowChunk * kPanel];
    const int64_t panels = panels_of(args.columns), chunks = row_chunks(args.rows);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t chunk = item / panels, panel = item % panels;
        const int64_t first = args.rows * chunk / chunks;
        const int64_t count = args.rows * (chunk + 1) / chunks - first;
        const int64_t blocks = (count + Multiply::kRows - 1) / Multiply::kRows;
        const int64_t block_depth = blocks == 1 ? args.depth : Multiply::kDepthBlock;
        const Word* words = args.panels + panel * args.depth * kPanel;
        // Where the results go lies rows apart: to be there by the time they are known.
        for (int64_t r = 0; r < count; ++r)
            __builtin_prefetch(args.out.row(first + r) + panel * kPanel, 1);
        for (int64_t k = 0; k < args.depth; k += block_depth) {
            const int64_t depth = k + block_depth < args.depth ? block_depth : args.depth - k;
            // What is multiplied next, of this panel or the one after it, comes meanwhile. For few
            // blocks it would come all at once; there the kernel's own looking ahead does.
            const char* ahead = reinterpret_cast<const char*>(words + (k + depth) * kPanel);
            const int64_t lines = depth * kPanel * int64_t(sizeof(Word)) / 64 / blocks;
            for (int64_t block = 0; block < blocks; ++block) {
                if (blocks >= Multiply::kManyBlocks)
                    for (int64_t line = 0; line < lines; ++line, ahead += 64)
                        __builtin_prefetch(ahead, 0, 2);
                const int64_t r = count * block / blocks, rows = count * (block + 1) / blocks - r;
                // Where nothing is added to them later, all blocks' sums share one place in cache.
                auto* const these = block_depth >= args.depth ? sums : sums + r * kPanel;
                multiply(rows, args.x.row(first + r) + k, args.x.stride, words + k * kPanel, depth,
                         these, kPanel, k == 0);
                if (k + depth == args.depth) finish(args, first + r, rows, panel, these);
            }
        }
    }
}

// The largest magnitude of a row; NaN where the row holds one, or an infinity. As integers
// magnitudes have the order that they have as numbers, those two above all others.
template <class Bits, Bits kMagnitude, Bits kInfinity, class T>
inline __attribute__((always_inline)) Bits largest_bits(const T* x, int64_t count) {
    Bits largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < count; ++i) {
        const auto bits = Bits(bit_cast<Bits>(x[i]) & kMagnitude);
        largest = bits > largest ? bits : largest;
    }
    return largest < kInfinity ? largest : kMagnitude;
}
inline float largest_magnitude(const float* x, int64_t count) {
    return bit_cast<float>(largest_bits<int32_t, 0x7FFFFFFF, 0x7F800000>(x, count));
}
inline float largest_magnitude(const BFloat16* x, int64_t count) {
    return load(BFloat16{uint16_t(largest_bits<int16_t, 0x7FFF, 0x7F80>(x, count))});
}

template <class T>
void quantize(const Quantize<T>& args, int64_t begin, int64_t end) {
    const int64_t filled = (args.width + 3) / 4 * 4;
    for (int64_t r = begin; r < end; ++r) {
        const T* x = args.x.row(r);
        uint8_t* to = args.out.row(r);
        const float largest = largest_magnitude(x, args.width);
        const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
        args.scale[r] = largest / 127.0f;
        // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
        constexpr float shift = 12582912.0f + float(kInt8Zero);
#pragma omp simd
        for (int64_t i = 0; i < args.width; ++i)
            to[i] = uint8_t(bit_cast<uint32_t>(float(load(x[i])) * inverse + shift));
        for (int64_t i = args.width; i < filled; ++i) to[i] = kInt8Zero;
    }
}

// Null for the dtypes that have no products of their own.
#define AAF_OR_IS(U) || __is_same(T, U)
template <class T>
constexpr bool kHasProducts = false AAF_ENGINE_DTYPES(AAF_OR_IS);
#undef AAF_OR_IS

template <class T>
constexpr ProductKernel<T, typename WordOf<T>::type> product_of() {
    if constexpr (kHasProducts<T>) return &product<T, typename WordOf<T>::type>;
    return nullptr;
}
template <class T>
constexpr ProductKernel<T, Int8Quad> int8_product_of() {
    if constexpr (kHasProducts<T>) return &product<T, Int8Quad>;
    return nullptr;
}
template <class T>
constexpr auto quantize_of() -> void (*)(const Quantize<T>&, int64_t, int64_t) {
    if constexpr (kHasProducts<T>) return &quantize<T>;
    return nullptr;
}
