// Linear layers on packed weights: by the kernels of csrc/cpu for int8 weights, and for as many
// rows as they are as fast for as oneDNN, which does the others through torch's operators.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <mutex>
#include <optional>
#include <vector>

#include "../common/dtypes.h"
#include "../cpu/kernels.h"
#include "memory.h"

namespace albert_act_fast::engine {

// A linear layer's parameters, [outputs, inputs] and [outputs].
template <class T>
struct Parameters {
    const T *weight, *bias;
    int64_t outputs, inputs;
};

enum class Weights { as_given, int8 };

// The most inputs of an int8 product. Its sums, in int32, are of products of at most 255 (a row's
// int8 plus 128) by 127 (a weight's), which from 66,312 on may pass the largest int32.
constexpr int64_t kMaxInt8Inputs = INT32_MAX / (255 * 127);

// The most rows for which the kernels of csrc/cpu are as fast as oneDNN's (docs/cpu_engine.md).
int64_t kernel_rows(ScalarType dtype);

// The rows that oneDNN's product is run on for `rows` live ones. It compiles a kernel for every
// number of rows it meets, which takes longer than running it; with the running rows changing in
// every iteration of every batch, most products would wait for a compiler. So their number is
// rounded up; what the rows in excess hold goes nowhere.
int64_t onednn_rows(int64_t rows, ScalarType dtype);

// What products need beside: of int8 the rows in bytes and their factors, of other dtypes rows that
// are no whole number of words, filled up.
struct QuantizedRows {
    Buffer values, scales;

    size_t bytes() const { return values.bytes() + scales.bytes(); }
};

// Rows as products take them, for all products of the same input.
struct PreparedRows {
    const char* data = nullptr;
    int64_t row_bytes = 0;
    const float* scales = nullptr;  // int8 only

    template <class In>
    static PreparedRows of(const cpu::Quantize<In>& made) {
        return {reinterpret_cast<const char*>(made.out.data), made.out.stride, made.scale};
    }
    PreparedRows from(int64_t row) const {
        return {data + row * row_bytes, row_bytes, scales == nullptr ? nullptr : scales + row};
    }
};

template <class T>
class Linear {
  public:
    // Several layers of one input become one product, their outputs side by side. Where `onednn` is
    // false there is none to fall back on.
    Linear(const std::vector<Parameters<T>>& layers, Weights weights, bool onednn);

    // Whether the product of that many rows is computed by the kernels of csrc/cpu.
    bool is_by_kernels(int64_t rows) const;

    // Whether that is so for any number: each of a row's sums then has one order, whatever the
    // other rows are.
    bool is_always_by_kernels() const { return is_by_kernels(std::numeric_limits<int64_t>::max()); }

    // out = activation(x W^T + bias) of all layers side by side. Rows of another dtype than the
    // weights', in and out, only where these are int8.
    template <class In, class Out>
    void by_kernels(const Matrix<In>& x, int64_t rows, Activation activation,
                    const Matrix<Out>& out, QuantizedRows& quantized) const {
        multiply(prepare(x, rows, quantized), rows, activation, out);
    }

    // The two halves of it. What is prepared lies in `quantized` or where it was. Of int8 the first
    // half is quantising, `prepare` by itself or whoever computes the rows by what `quantizing`
    // says.
    bool is_int8() const { return weights_ == Weights::int8; }
    template <class In>
    cpu::Quantize<In> quantizing(const Matrix<In>& x, int64_t rows, QuantizedRows& quantized) const;
    template <class In>
    PreparedRows prepare(const Matrix<In>& x, int64_t rows, QuantizedRows& quantized) const;
    template <class Out>
    void multiply(const PreparedRows& x, int64_t rows, Activation activation,
                  const Matrix<Out>& out) const;

    // The same by oneDNN, in memory of its own that `holder` keeps; x must have onednn_rows(rows)
    // rows, of `inputs` numbers without gaps between them.
    Matrix<T> by_onednn(const Matrix<T>& x, int64_t rows, Activation activation,
                        std::optional<Tensor>& holder) const;

    // Numbers from one row of `by_kernels`' result to the next: not a multiple of a page, where
    // rows would compete for the same places in the cache.
    int64_t kernel_stride() const { return (outputs_ + 15) / 16 * 16 + 16; }

    size_t bytes() const;

  private:
    using Word = typename cpu::WordOf<T>::type;
    static constexpr int64_t kWordInputs = sizeof(Word) / sizeof(T);

    template <class Out, class Words>
    void launch(cpu::Product<Out, Words>& product, cpu::ProductKernel<Out, Words> kernel,
                const PreparedRows& x, int64_t rows, Activation activation,
                const Matrix<Out>& out) const;
    void pack(const std::vector<Parameters<T>>& layers);
    void pack_int8(const std::vector<Parameters<T>>& layers);
    void unpack(T* dense) const;

    int64_t inputs_, outputs_ = 0, depth_;  // depth in words
    Weights weights_;
    bool onednn_;
    Buffer panels_, bias_, column_scale_, column_sum_;
    const float* bias_data_;

    // Where a column's words begin; they are kPanel apart.
    int64_t first_word(int64_t column) const {
        return column / cpu::kPanel * depth_ * cpu::kPanel + column % cpu::kPanel;
    }

    // Made when first needed: whoever runs few rows only never pays for it.
    struct OneDnnWeights {
        Buffer bias_memory;
        Tensor weight, bias;
    };
    const OneDnnWeights& onednn_weights() const;
    mutable std::mutex mutex_;
    mutable std::optional<OneDnnWeights> onednn_weights_;
};

}  // namespace albert_act_fast::engine
