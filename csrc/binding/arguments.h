// From torch tensors to the kernels' plain arguments, each check naming operator and argument.
// LibTorch's stable ABI only, so that one build serves several torch releases.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../common/check.h"
#include "../common/dtypes.h"
#include "../semantics/operators.h"

namespace albert_act_fast::binding {

// Checks the arguments of one operator and hands out their pointers. All tensors are on the device
// of `rows`. What tensors hold is looked at where Backend::kReadsValues.
template <class Backend>
class Arguments {
  public:
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
        return tensor.has_value() ? matrix<T>(name, *tensor, rows, columns) : Matrix<T>();
    }

    // The same rows without their dtype.
    template <class Byte, class T>
    Matrix<Byte> bytes(const char* name, const Tensor& tensor, int64_t rows,
                       int64_t columns) const {
        const auto typed = matrix<T>(name, tensor, rows, columns);
        return {reinterpret_cast<Byte*>(typed.data), typed.stride * int64_t(sizeof(T))};
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
    LayerNorm<T> norm(const char* weight_name, const Tensor& weight, const char* bias_name,
                      const Tensor& bias, double eps, int64_t width) const {
        return {vector<const T>(weight_name, weight, width),
                vector<const T>(bias_name, bias, width), Arithmetic<T>(eps)};
    }

    // Where the number of live ones of `rows` rows stands; null where all are.
    const int64_t* row_count(const std::optional<Tensor>& tensor, int64_t rows) const {
        if (!tensor.has_value()) return nullptr;
        const auto* count = vector<const int64_t>("row_count", *tensor, 1);
        in_range("row_count", count, 1, rows + 1);
        return count;
    }

    // Of `rows` rows at most; the last says how many are live.
    const int64_t* offsets(const char* name, const Tensor& tensor, int64_t sequences,
                           int64_t rows) const {
        const auto* offsets = vector<const int64_t>(name, tensor, sequences + 1);
        if constexpr (Backend::kReadsValues) {
            AAF_CHECK(offsets[0] == 0, op_, ": ", name, "[0] is ", offsets[0], ", expected 0.");
            for (int64_t b = 0; b < sequences; ++b)
                AAF_CHECK(offsets[b] <= offsets[b + 1], op_, ": ", name, " must not fall.");
            AAF_CHECK(offsets[sequences] <= rows, op_, ": ", name, " ends at ", offsets[sequences],
                      ", expected at most ", rows, " rows.");
        }
        return offsets;
    }

    // `count` indices of rows of a table, of which those before *live (null: all) mean something.
    const int64_t* index(const char* name, const Tensor& tensor, int64_t count, const int64_t* live,
                         int64_t table_rows) const {
        const auto* index = vector<const int64_t>(name, tensor, count);
        if constexpr (Backend::kReadsValues)
            in_range(name, index, live == nullptr ? count : *live, table_rows);
        return index;
    }

    // Rows and columns of a matrix of any size.
    std::pair<int64_t, int64_t> sizes(const char* name, const Tensor& tensor) const {
        AAF_CHECK(tensor.dim() == 2, op_, ": ", name, " has shape ", shape(tensor),
                  ", expected a matrix.");
        return {tensor.size(0), tensor.size(1)};
    }
    int64_t rows(const char* name, const std::optional<Tensor>& tensor) const {
        return tensor.has_value() ? sizes(name, *tensor).first : 0;
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

  private:
    void in_range(const char* name, const int64_t* index, int64_t count, int64_t rows) const {
        if constexpr (Backend::kReadsValues)
            for (int64_t i = 0; i < count; ++i)
                AAF_CHECK(index[i] >= 0 && index[i] < rows, op_, ": ", name, "[", i, "] is ",
                          index[i], ", expected 0 to ", rows - 1, ".");
    }

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

}  // namespace albert_act_fast::binding
