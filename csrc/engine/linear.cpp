#include "linear.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "../common/check.h"
#include "launch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace albert_act_fast::engine {
namespace {

#if defined(__x86_64__)
bool has_amx_bf16() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1u);
}

bool is_amd() {
    unsigned a, b, c, d;  // "AuthenticAMD" stands in b, d and c
    return __get_cpuid(0, &a, &b, &c, &d) && b == 0x68747541u;
}
#else
bool has_amx_bf16() {
    return false;
}
bool is_amd() {
    return false;
}
#endif

template <class T>
Tensor view(const T* data, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
    return torch::stable::from_blob(const_cast<T*>(data), sizes, strides,
                                    torch::headeronly::DeviceType::CPU, kScalarType<T>);
}

// mkldnn::_linear_pointwise by torch's dispatcher: an operator without a C++ header in the stable
// ABI. `weight` is one that mkldnn::_reorder_linear_weight packed.
Tensor linear_pointwise(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        Activation activation) {
    using torch::stable::detail::from;
    static constexpr const char* names[] = {"none", "gelu", "gelu", "relu", "swish"};
    static constexpr const char* algorithms[] = {"", "none", "tanh", "", ""};
    std::array<StableIValue, 6> stack{
        from(x),
        from(weight),
        from(std::optional<Tensor>(bias)),
        from(std::string(names[int(activation)])),
        from(std::vector<std::optional<double>>()),
        from(std::optional<std::string>(algorithms[int(activation)]))};
    AAF_CHECK(torch_call_dispatcher("mkldnn::_linear_pointwise", "", stack.data(),
                                    TORCH_ABI_VERSION) == TORCH_SUCCESS,
              "engine: oneDNN's product (mkldnn::_linear_pointwise) failed.");
    return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor reorder(const Tensor& weight, int64_t rows) {
    using torch::stable::detail::from;
    std::array<StableIValue, 2> stack{from(weight), from(std::optional<int64_t>(rows))};
    AAF_CHECK(torch_call_dispatcher("mkldnn::_reorder_linear_weight", "", stack.data(),
                                    TORCH_ABI_VERSION) == TORCH_SUCCESS,
              "engine: oneDNN's packing (mkldnn::_reorder_linear_weight) failed.");
    return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

int64_t kernel_rows(ScalarType dtype) {
    const std::string set = cpu::instruction_set();
    constexpr int64_t all = std::numeric_limits<int64_t>::max();
    static const bool amd = is_amd(), amx = has_amx_bf16();
    if (dtype == ScalarType::Float) {
        if (set == "portable") return 8;
        return amd ? all : set == "avx2" ? 8 : 32;
    }
    if (set == "amx") return all;
    if (set != "avx512_vnni") return 4;
    // With AMX, where this library is told to do without it: oneDNN is not.
    return amx ? 8 : amd ? all : 48;
}

int64_t onednn_rows(int64_t rows, ScalarType dtype) {
    int64_t step;
    if (dtype == ScalarType::Float)
        // Time grows row by row, so the steps are small.
        step = rows <= 64 ? 4 : rows <= 256 ? 8 : rows <= 512 ? 16 : rows <= 2048 ? 32 : 128;
    else
        // A matrix unit, where there is one, takes 16 rows at a time.
        step = rows <= 256 ? 16 : rows <= 512 ? 32 : rows <= 2048 ? 64 : 256;
    return (rows + step - 1) / step * step;
}

template <class T>
Linear<T>::Linear(const std::vector<Parameters<T>>& layers, Weights weights, bool onednn)
    : inputs_(layers[0].inputs), weights_(weights), onednn_(onednn) {
    AAF_CHECK(weights != Weights::int8 || inputs_ <= kMaxInt8Inputs, "int8: a product has ",
              inputs_, " inputs, expected at most ", kMaxInt8Inputs, ", whose sum fits int32.");
    for (const auto& layer : layers) outputs_ += layer.outputs;
    float* bias = bias_.of<float>(cpu::panels_of(outputs_) * cpu::kPanel);
    bias_data_ = bias;
    for (const auto& layer : layers)
        for (int64_t n = 0; n < layer.outputs; ++n) *bias++ = load(layer.bias[n]);
    weights == Weights::int8 ? pack_int8(layers) : pack(layers);
}

template <class T>
void Linear<T>::pack(const std::vector<Parameters<T>>& layers) {
    constexpr int64_t step = kWordInputs;
    depth_ = (inputs_ + step - 1) / step;
    T* panels = panels_.of<T>(cpu::panels_of(outputs_) * cpu::kPanel * depth_ * step);
    int64_t column = 0;
    for (const auto& layer : layers)
        for (int64_t n = 0; n < layer.outputs; ++n, ++column) {
            T* to = panels + first_word(column) * step;
            for (int64_t k = 0; k < inputs_; ++k)
                to[k / step * cpu::kPanel * step + k % step] = layer.weight[n * inputs_ + k];
        }
}

// Symmetric, with a factor for each output: the largest weight of the output becomes 127.
template <class T>
void Linear<T>::pack_int8(const std::vector<Parameters<T>>& layers) {
    depth_ = (inputs_ + 3) / 4;
    const int64_t columns = cpu::panels_of(outputs_) * cpu::kPanel;
    int8_t* panels = panels_.of<int8_t>(columns * depth_ * 4);
    float* scales = column_scale_.of<float>(columns);
    int32_t* sums = column_sum_.of<int32_t>(columns);
    int64_t column = 0;
    for (const auto& layer : layers)
        for (int64_t n = 0; n < layer.outputs; ++n, ++column) {
            const T* weight = layer.weight + n * inputs_;
            float largest = 0, poison = 0;
            for (int64_t k = 0; k < inputs_; ++k) {
                largest = std::max(largest, std::fabs(load(weight[k])));
                poison += load(weight[k]) * 0.0f;
            }
            scales[column] = largest / 127.0f + poison;
            const float inverse = largest > 0 && poison == 0 ? 127.0f / largest : 0.0f;
            int8_t* to = panels + first_word(column) * 4;
            for (int64_t k = 0; k < inputs_; ++k) {
                const auto value =
                    int8_t(poison == 0 ? std::nearbyint(load(weight[k]) * inverse) : 0);
                to[k / 4 * cpu::kPanel * 4 + k % 4] = value;
                sums[column] += value;
            }
        }
}

template <class T>
bool Linear<T>::is_by_kernels(int64_t rows) const {
    return is_int8() || !onednn_ || rows <= kernel_rows(kScalarType<T>);
}

template <class T>
template <class Out, class Words>
void Linear<T>::launch(cpu::Product<Out, Words>& product, cpu::ProductKernel<Out, Words> kernel,
                       const PreparedRows& x, int64_t rows, Activation activation,
                       const Matrix<Out>& out) const {
    product.x = {reinterpret_cast<const Words*>(x.data), x.row_bytes / int64_t(sizeof(Words))};
    product.rows = rows;
    product.depth = depth_;
    product.panels = static_cast<const Words*>(panels_.data());
    product.bias = bias_data_;
    product.activation = activation;
    product.out = out;
    product.columns = outputs_;
    const int64_t items = cpu::panels_of(outputs_) * cpu::row_chunks(rows);
    parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(product, begin, end); });
}

template <class T>
template <class In>
cpu::Quantize<In> Linear<T>::quantizing(const Matrix<In>& x, int64_t rows,
                                        QuantizedRows& memory) const {
    const int64_t stride = (inputs_ + 63) / 64 * 64 + 64;
    return {{x.data, x.stride},
            inputs_,
            {memory.values.of<uint8_t>(rows * stride), stride},
            memory.scales.of<float>(rows)};
}

template <class T>
template <class In>
PreparedRows Linear<T>::prepare(const Matrix<In>& x, int64_t rows, QuantizedRows& memory) const {
    if (is_int8()) {
        const cpu::Quantize<In> made = quantizing(x, rows, memory);
        engine::launch(made, rows);
        return PreparedRows::of(made);
    }
    AAF_CHECK((std::is_same_v<In, T>), "engine: rows of ", text(kScalarType<In>),
              " for a product of ", text(kScalarType<T>), ".");
    if (inputs_ % kWordInputs == 0)
        return {reinterpret_cast<const char*>(x.data), x.stride * int64_t(sizeof(In))};
    // Rows are read in whole words: a copy with zeros where something is missing to that.
    const int64_t stride = depth_ * kWordInputs;
    In* const words = memory.values.of<In>(rows * stride);
    parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            memcpy(words + r * stride, x.row(r), size_t(inputs_) * sizeof(In));
            memset(static_cast<void*>(words + r * stride + inputs_), 0,
                   size_t(stride - inputs_) * sizeof(In));
        }
    });
    return {reinterpret_cast<const char*>(words), stride * int64_t(sizeof(In))};
}

template <class T>
template <class Out>
void Linear<T>::multiply(const PreparedRows& x, int64_t rows, Activation activation,
                         const Matrix<Out>& out) const {
    if (is_int8()) {
        cpu::Product<Out, cpu::Int8Quad> product;
        product.row_scale = x.scales;
        product.column_scale = static_cast<const float*>(column_scale_.data());
        product.column_sum = static_cast<const int32_t*>(column_sum_.data());
        launch(product, cpu::kernels<Out>().int8_product, x, rows, activation, out);
    } else if constexpr (std::is_same_v<Out, T>) {
        cpu::Product<T, Word> product;
        launch(product, cpu::kernels<T>().product, x, rows, activation, out);
    } else {
        AAF_CHECK(false, "engine: a product of ", text(kScalarType<T>), " as ",
                  text(kScalarType<Out>), ".");
    }
}

// The packed weights, unpacked again.
template <class T>
void Linear<T>::unpack(T* dense) const {
    constexpr int64_t step = kWordInputs;
    for (int64_t n = 0; n < outputs_; ++n) {
        const T* from = static_cast<const T*>(panels_.data()) + first_word(n) * step;
        for (int64_t k = 0; k < inputs_; ++k)
            dense[n * inputs_ + k] = from[k / step * cpu::kPanel * step + k % step];
    }
}

template <class T>
const typename Linear<T>::OneDnnWeights& Linear<T>::onednn_weights() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!onednn_weights_.has_value()) {
        Buffer dense, bias;
        unpack(dense.of<T>(outputs_ * inputs_));
        T* bias_data = bias.of<T>(outputs_);
        for (int64_t n = 0; n < outputs_; ++n) store(bias_data_[n], bias_data + n);
        const Tensor weight = reorder(view(dense.of<T>(0), {outputs_, inputs_}, {inputs_, 1}), 64);
        onednn_weights_.emplace(
            OneDnnWeights{std::move(bias), weight, view(bias_data, {outputs_}, {1})});
    }
    return *onednn_weights_;
}

template <class T>
Matrix<T> Linear<T>::by_onednn(const Matrix<T>& x, int64_t rows, Activation activation,
                               std::optional<Tensor>& holder) const {
    const OneDnnWeights& weights = onednn_weights();
    const Tensor input = view(x.data, {onednn_rows(rows, kScalarType<T>), inputs_}, {x.stride, 1});
    holder = linear_pointwise(input, weights.weight, weights.bias, activation);
    return {static_cast<T*>(holder->data_ptr()), holder->size(1)};
}

template <class T>
size_t Linear<T>::bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t copy = onednn_weights_.has_value() ? size_t(outputs_ * inputs_) * sizeof(T) : 0;
    return panels_.bytes() + bias_.bytes() + column_scale_.bytes() + column_sum_.bytes() + copy;
}

#define AAF_INSTANTIATE_ROWS(T, Rows)                                                             \
    template cpu::Quantize<Rows> Linear<T>::quantizing(const Matrix<Rows>&, int64_t,              \
                                                       QuantizedRows&) const;                     \
    template PreparedRows Linear<T>::prepare(const Matrix<Rows>&, int64_t, QuantizedRows&) const; \
    template void Linear<T>::multiply(const PreparedRows&, int64_t, Activation,                   \
                                      const Matrix<Rows>&) const;
#define AAF_INSTANTIATE(T)    \
    template class Linear<T>; \
    AAF_INSTANTIATE_ROWS(T, T)
AAF_ENGINE_DTYPES(AAF_INSTANTIATE)
AAF_INSTANTIATE_ROWS(float, BFloat16)
#undef AAF_INSTANTIATE
#undef AAF_INSTANTIATE_ROWS

}  // namespace albert_act_fast::engine
