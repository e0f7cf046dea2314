// Which layout serves which rows.
#pragma once

#include "row_in_registers.cuh"

namespace albert_act_fast::cuda {

// Up to 256 columns (the published embeddings have 128), up to 768 (the published hidden size), up
// to kMaxWidth; and rows of any width and alignment, one element at a time.
template <class T>
using NarrowRows = Layout<T, 16 / sizeof(T), 1, sizeof(T) / 2>;
template <class T>
using BaseRows = Layout<T, 16 / sizeof(T), 1, 3 * sizeof(T) / 2>;
template <class T>
using WideRows = Layout<T, 16 / sizeof(T), 8, sizeof(T)>;
template <class T>
using UnalignedRows = Layout<T, 1, 8, 16>;

static_assert(NarrowRows<float>::kWidth == 256 && NarrowRows<Half>::kWidth == 256);
static_assert(BaseRows<float>::kWidth == 768 && BaseRows<Half>::kWidth == 768);
static_assert(WideRows<float>::kWidth == kMaxWidth && WideRows<Half>::kWidth == kMaxWidth);
static_assert(UnalignedRows<float>::kWidth == kMaxWidth);

// Whether all rows given begin at multiples of 16 bytes.
class Alignment {
  public:
    explicit Alignment(int64_t row_bytes) { add(row_bytes); }

    Alignment& add(const void* start) { return add(int64_t(reinterpret_cast<uintptr_t>(start))); }
    template <class T>
    Alignment& add(const Matrix<T>& rows) {
        return add(static_cast<const void*>(rows.data)).add(rows.stride * int64_t(sizeof(T)));
    }
    template <class T>
    Alignment& add(const LayerNorm<T>& norm) {
        return add(static_cast<const void*>(norm.weight)).add(static_cast<const void*>(norm.bias));
    }
    bool to16() const { return bits_ % 16 == 0; }

  private:
    Alignment& add(int64_t bytes) {
        bits_ |= bytes;
        return *this;
    }

    int64_t bits_ = 0;
};

// f(layout), the narrowest that holds `width` columns.
template <class T, class F>
auto for_layout(int64_t width, const Alignment& alignment, const F& f) {
    if (!alignment.to16()) return f(UnalignedRows<T>());
    if (width <= NarrowRows<T>::kWidth) return f(NarrowRows<T>());
    if (width <= BaseRows<T>::kWidth) return f(BaseRows<T>());
    return f(WideRows<T>());
}

// Blocks for `rows` rows, `each` in a block.
inline unsigned blocks(int64_t rows, int64_t each) {
    return unsigned((rows + each - 1) / each);
}

}  // namespace albert_act_fast::cuda
