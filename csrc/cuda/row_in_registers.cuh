// A row in the registers of the threads that share it: loaded once, whatever is computed from it.
#pragma once

#include <cmath>

#include "../semantics/layer_norm.h"
#include "../semantics/numbers.h"
#include "device.cuh"
#include "kernels.h"

namespace albert_act_fast::cuda {

// How a block's threads share its rows. Each row has kWarps warps, each thread kVectors vectors of
// kVector neighbouring elements: 16 bytes, or one element where rows are not so aligned.
template <class Element, int kVector_, int kWarps_, int kVectors_>
struct Layout {
    using T = Element;
    static constexpr int kVector = kVector_, kWarps = kWarps_, kVectors = kVectors_;
    static constexpr int kLanes = kWarps * kWarp;               // threads of a row
    static constexpr int kRows = kThreads / kLanes;             // rows of a block
    static constexpr int kWidth = kLanes * kVectors * kVector;  // most columns of a row
    static_assert(kVector == 1 || kVector * sizeof(T) == 16);
};

// The row of the block, and the place within that row, that this thread works on.
template <class L>
__device__ __forceinline__ int row_of_thread() {
    return int(threadIdx.x) / L::kLanes;
}
template <class L>
__device__ __forceinline__ int place_in_row() {
    return int(threadIdx.x) % L::kLanes;
}

template <class L>
struct alignas(sizeof(typename L::T) * L::kVector) Vector {
    typename L::T of[L::kVector];
};

// This thread's part of a row as it is stored, and for arithmetic. Past the width it means nothing.
template <class L>
struct StoredRow {
    Vector<L> vectors[L::kVectors];
};
template <class L>
struct Row {
    float x[L::kVectors][L::kVector];
};

// f(vector, column) for each of this thread's vectors within `width`.
template <class L, class F>
__device__ __forceinline__ void for_vectors(int64_t width, const F& f) {
#pragma unroll
    for (int j = 0; j < L::kVectors; ++j) {
        const int column = (j * L::kLanes + place_in_row<L>()) * L::kVector;
        if (column < int(width)) f(j, column);
    }
}

template <class L>
__device__ __forceinline__ Vector<L> load_vector(const typename L::T* from) {
    if constexpr (L::kVector > 1)
        return bit_cast<Vector<L>>(*reinterpret_cast<const uint4*>(from));
    else
        return {{*from}};
}

template <class L>
__device__ __forceinline__ void store_vector(const Vector<L>& vector, typename L::T* to) {
    if constexpr (L::kVector > 1)
        *reinterpret_cast<uint4*>(to) = bit_cast<uint4>(vector);
    else
        *to = vector.of[0];
}

template <class L>
__device__ __forceinline__ void load_row(const typename L::T* from, int64_t width,
                                         StoredRow<L>& row) {
    for_vectors<L>(width,
                   [&](int j, int column) { row.vectors[j] = load_vector<L>(from + column); });
}

template <class L>
__device__ __forceinline__ void store_row(const StoredRow<L>& row, int64_t width,
                                          typename L::T* to) {
    for_vectors<L>(width, [&](int j, int column) { store_vector<L>(row.vectors[j], to + column); });
}

// row += stored. Apart from the loads, and held back until all that stand before are under way: a
// thread is to wait for the memory of its rows once, not row by row.
template <class L>
__device__ __forceinline__ void add(const StoredRow<L>& stored, int64_t width, Row<L>& row) {
    for_vectors<L>(width, [&](int j, int) {
        Vector<L> vector = stored.vectors[j];
        if constexpr (L::kVector > 1) {
            uint4 words = bit_cast<uint4>(vector);
            hold(words);
            vector = bit_cast<Vector<L>>(words);
        }
        for (int i = 0; i < L::kVector; ++i) row.x[j][i] += load(vector.of[i]);
    });
}

template <class L>
__device__ __forceinline__ StoredRow<L> rounded(const Row<L>& row) {
    StoredRow<L> stored;
#pragma unroll
    for (int j = 0; j < L::kVectors; ++j)
        for (int i = 0; i < L::kVector; ++i) store(row.x[j][i], &stored.vectors[j].of[i]);
    return stored;
}

// One entry for each warp; every sum takes one of its own, so that none waits for the readers of
// another.
using WarpSums = float[kThreads / kWarp];

// The sum over a row of what each of its threads has, in all of them. By all threads of the block.
template <class L>
__device__ __forceinline__ float row_sum(float value, WarpSums& sums) {
    value = warp_sum(value);
    if constexpr (L::kWarps > 1) {
        if (lane() == 0) sums[threadIdx.x / kWarp] = value;
        __syncthreads();
        value = 0;
        for (int w = 0; w < L::kWarps; ++w) value += sums[row_of_thread<L>() * L::kWarps + w];
    }
    return value;
}

struct NormSums {
    WarpSums mean, squares;
};

// LayerNorm in place. By all threads of the block, those without a row included.
template <class L>
__device__ __forceinline__ void normalize(const LayerNorm<typename L::T>& norm, int64_t width,
                                          NormSums& sums, Row<L>& row) {
    float sum = 0;
    for_vectors<L>(width, [&](int j, int) {
        for (int i = 0; i < L::kVector; ++i) sum += row.x[j][i];
    });
    const float mean = row_sum<L>(sum, sums.mean) / float(width);
    float squares = 0;
    for_vectors<L>(width, [&](int j, int) {
        for (int i = 0; i < L::kVector; ++i) {
            const float distance = row.x[j][i] - mean;
            squares += distance * distance;
        }
    });
    const float scale = layer_norm_scale(row_sum<L>(squares, sums.squares), float(width), norm.eps,
                                         [](float x) { return sqrtf(x); });
    for_vectors<L>(width, [&](int j, int column) {
        const Vector<L> weight = load_vector<L>(norm.weight + column);
        const Vector<L> bias = load_vector<L>(norm.bias + column);
        for (int i = 0; i < L::kVector; ++i)
            row.x[j][i] =
                layer_norm_element(row.x[j][i], mean, scale, load(weight.of[i]), load(bias.of[i]));
    });
}

}  // namespace albert_act_fast::cuda
