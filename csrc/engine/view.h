// Dense CPU tensors of the caller's, as the engine reads and writes them.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "../common/check.h"
#include "../common/dtypes.h"
#include "linear.h"

namespace albert_act_fast::engine {

struct View {
    void* data;
    ScalarType dtype;
    std::vector<int64_t> shape;

    int64_t count() const {
        int64_t product = 1;
        for (const int64_t size : shape) product *= size;
        return product;
    }
    int64_t bytes() const { return count() * size_of(dtype); }
};

template <class T>
T* data_of(const View& view) {
    AAF_CHECK(view.dtype == kScalarType<std::remove_const_t<T>>,
              "engine: a tensor has another dtype than needed.");
    return static_cast<T*>(view.data);
}

template <class T>
Parameters<T> parameters(const View (&linear)[2]) {
    return {data_of<T>(linear[0]), data_of<T>(linear[1]), linear[0].shape[0], linear[0].shape[1]};
}

// A copy of a small tensor.
template <class T>
std::vector<T> copy_of(const View& view) {
    return {data_of<T>(view), data_of<T>(view) + view.count()};
}

}  // namespace albert_act_fast::engine
