// torch's names of the kernels' element types.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <string>

#include "../semantics/numbers.h"

namespace albert_act_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
constexpr ScalarType kScalarType = ScalarType::Long;
template <>
inline constexpr ScalarType kScalarType<float> = ScalarType::Float;
template <>
inline constexpr ScalarType kScalarType<double> = ScalarType::Double;
template <>
inline constexpr ScalarType kScalarType<BFloat16> = ScalarType::BFloat16;
template <>
inline constexpr ScalarType kScalarType<Half> = ScalarType::Half;

inline const char* text(ScalarType dtype) {
    switch (dtype) {
        case ScalarType::Float:
            return "float32";
        case ScalarType::Double:
            return "float64";
        case ScalarType::BFloat16:
            return "bfloat16";
        case ScalarType::Half:
            return "float16";
        case ScalarType::Long:
            return "int64";
        case ScalarType::Int:
            return "int32";
        default:
            return toString(dtype);
    }
}

// Bytes of an element, for the dtypes of rows and of indices.
inline int64_t size_of(ScalarType dtype) {
    switch (dtype) {
#define AAF_SIZE(T)      \
    case kScalarType<T>: \
        return sizeof(T);
        AAF_CPU_DTYPES(AAF_SIZE)
#undef AAF_SIZE
        case ScalarType::Int:
            return sizeof(int32_t);
        default:
            return sizeof(int64_t);
    }
}

// "a, b or c".
inline std::string any_of(std::initializer_list<ScalarType> dtypes) {
    std::string all;
    for (const auto* dtype = dtypes.begin(); dtype != dtypes.end(); ++dtype)
        all += (dtype == dtypes.begin()     ? ""
                : dtype + 1 == dtypes.end() ? " or "
                                            : ", ") +
               std::string(text(*dtype));
    return all;
}

// In a switch over a tensor's dtype, and for `any_of`.
#define AAF_CALL_WITH(T) \
    case kScalarType<T>: \
        return f(T());
#define AAF_SCALAR_TYPE(T) kScalarType<T>,

}  // namespace albert_act_fast
