// From torch tensors to the kernels' plain arguments, each check naming operator and argument.
// LibTorch's stable ABI only, so that one build serves several torch releases.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "check.h"
#include "dtypes.h"

namespace albert_act_fast::binding {

// Checks the arguments of one operator and hands out their pointers.
class Arguments {
  public:
    // All tensors are on the CPU.
    explicit Arguments(const char* op) : op_(op) {}
    // All tensors are on the device of `rows`.
    Arguments(const char* op, const Tensor& rows)
        : op_(op), on_cpu_(rows.is_cpu()), device_index_(rows.get_device_index()) {}

    // [rows, columns] with columns next to each other; rows may be further apart.
    template <class T>
    Matrix<T> matrix(const char* name, const Tensor& tensor, int64_t rows, int64_t columns) const {
        using Element = std::remove_const_t<T>;
        check_type<Element>(name, tensor);
        AAF_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns, op_,
                  ": ", name, " has shape ", shape(tensor), ", expected (", rows, ", ", columns,
                  ").");
        AAF_CHECK(columns < 2 || rows == 0 || tensor.stride(1) == 1, op_, ": ", name,
                  " has column stride ", tensor.stride(1), ", expected 1.");
        return {data<T>(name, tensor), tensor.stride(0)};
    }

    // Without data where there is none.
    template <class T>
    Matrix<T> matrix(const char* name, const std::optional<Tensor>& tensor, int64_t rows,
                     int64_t columns) const {
        if (!tensor.has_value()) return {nullptr, 0};
        return matrix<T>(name, *tensor, rows, columns);
    }

    template <class T>
    T* vector(const char* name, const Tensor& tensor, int64_t count) const {
        using Element = std::remove_const_t<T>;
        check_type<Element>(name, tensor);
        AAF_CHECK(tensor.dim() == 1 && tensor.size(0) == count, op_, ": ", name, " has shape ",
                  shape(tensor), ", expected (", count, ",).");
        AAF_CHECK(count < 2 || tensor.stride(0) == 1, op_, ": ", name, " has stride ",
                  tensor.stride(0), ", expected 1.");
        return data<T>(name, tensor);
    }

    template <class T>
    cpu::LayerNorm<T> norm(const Tensor& weight, const Tensor& bias, double eps,
                           int64_t width) const {
        return {vector<const T>("ln_weight", weight, width),
                vector<const T>("ln_bias", bias, width), eps};
    }

    // Rows and columns of a matrix of any size.
    std::pair<int64_t, int64_t> sizes(const char* name, const Tensor& tensor) const {
        AAF_CHECK(tensor.dim() == 2, op_, ": ", name, " has shape ", shape(tensor),
                  ", expected a matrix.");
        return {tensor.size(0), tensor.size(1)};
    }
    int64_t length(const char* name, const Tensor& tensor) const {
        AAF_CHECK(tensor.dim() == 1, op_, ": ", name, " has shape ", shape(tensor),
                  ", expected a vector.");
        return tensor.size(0);
    }

    // How many sequences the offsets are of.
    int64_t sequences(const char* name, const Tensor& offsets) const {
        const int64_t count = length(name, offsets);
        AAF_CHECK(count >= 1, op_, ": ", name, " has shape (0,), expected (sequences + 1,).");
        return count - 1;
    }

    // Every index of `count` lies in a table of `rows`.
    void check_range(const char* name, const int64_t* index, int64_t count, int64_t rows) const {
        for (int64_t i = 0; i < count; ++i)
            AAF_CHECK(index[i] >= 0 && index[i] < rows, op_, ": ", name, "[", i, "] is ", index[i],
                      ", expected 0 to ", rows - 1, ".");
    }

  private:
    template <class Element>
    void check_type(const char* name, const Tensor& tensor) const {
        AAF_CHECK(!on_cpu_ || tensor.is_cpu(), op_, ": ", name, " is not a CPU tensor.");
        AAF_CHECK(on_cpu_ || (tensor.is_cuda() && tensor.get_device_index() == device_index_), op_,
                  ": ", name, " is not on cuda:", device_index_,
                  ", where the operator's rows are.");
        AAF_CHECK(tensor.scalar_type() == kScalarType<Element>, op_, ": ", name,
                  " has another dtype than the operator's rows or int64 for indices.");
    }

    template <class T>
    T* data(const char* name, const Tensor& tensor) const {
        auto* data = static_cast<T*>(tensor.data_ptr());
        AAF_CHECK(data != nullptr || tensor.numel() == 0, op_, ": ", name, " has no memory.");
        return data;
    }

    static std::string shape(const Tensor& tensor) {
        std::vector<int64_t> sizes;
        for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
        return text(sizes);
    }

    const char* op_;
    bool on_cpu_ = true;
    int device_index_ = 0;
};

// Calls f with the storage type of `tensor` as its argument's type.
template <class F>
void for_dtype(const char* op, const Tensor& tensor, const F& f) {
    switch (tensor.scalar_type()) {
        case ScalarType::Float:
            return f(float());
        case ScalarType::Double:
            return f(double());
        case ScalarType::BFloat16:
            return f(BFloat16());
        case ScalarType::Half:
            return f(Half());
        default:
            AAF_CHECK(false, op, ": expected float32, float64, bfloat16 or float16 rows.");
    }
}

}  // namespace albert_act_fast::binding
