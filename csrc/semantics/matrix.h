// Rows that may be slices of wider tensors: hence a row stride, in elements.
#pragma once

#include <cstdint>

#include "annotations.h"

namespace albert_act_fast {

template <class T>
struct Matrix {
    T* data = nullptr;
    int64_t stride = 0;

    AAF_INLINE T* row(int64_t r) const { return data + r * stride; }
};

}  // namespace albert_act_fast
