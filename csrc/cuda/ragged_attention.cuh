// softmax(q k^T / sqrt(D) + relative) v of running queries over all tokens of their sequence.
//
// A warp has one query and one head, and goes once over the sequence's keys, 32 at a time: each
// lane scores one key, then all lanes add up the values, a column each (online softmax). No tensor
// cores: on GPUs the Triton kernel is the one to choose for speed.
#pragma once

#include "../semantics/softmax.h"
#include "layouts.cuh"

namespace albert_act_fast::cuda {

// Queries of a block, a warp each.
constexpr int kQueries = kThreads / kWarp;
constexpr int kColumns = int(kMaxHeadSize) / kWarp;  // of a lane

// A head's columns, one element or 16 bytes at a time.
template <class T, int kVector>
using Head = Layout<T, kVector, 1, 1>;

struct AttentionTile {
    float query[kQueries][kMaxHeadSize];
    float weight[kQueries][kWarp];
};

// q k^T scale + relative, of one query and one key.
template <class L>
__device__ __forceinline__ float score(const RaggedAttention<typename L::T>& args,
                                       const float* query, const typename L::T* key,
                                       const typename L::T* distance, float scale) {
    float product = 0, relative = 0;
    for (int d = 0; d < int(args.head_size); d += L::kVector) {
        const Vector<L> k = load_vector<L>(key + d);
        float part = 0;
        for (int i = 0; i < L::kVector; ++i) part += query[d + i] * load(k.of[i]);
        product += part;
        if (distance == nullptr) continue;
        const Vector<L> e = load_vector<L>(distance + d);
        part = 0;
        for (int i = 0; i < L::kVector; ++i) {
            const float left = query[d + i] + (args.key_distances ? load(k.of[i]) : 0.0f);
            part += left * load(e.of[i]);
        }
        relative += part;
    }
    return product * scale + relative;
}

template <class L>
__global__ void __launch_bounds__(kThreads)
    ragged_attention_kernel(const __grid_constant__ RaggedAttention<typename L::T> args) {
    const int warp = int(threadIdx.x) / kWarp;
    const int64_t r = int64_t(blockIdx.x) * kQueries + warp;
    // Warps of a block never wait for each other.
    if (r >= args.query_offsets[args.sequences]) return;
    AAF_SHARED(AttentionTile, shared);
    float* const query = shared.query[warp];
    float* const weights = shared.weight[warp];
    const int head_size = int(args.head_size);
    const int64_t head = int64_t(blockIdx.y) * args.head_size;
    for (int d = lane(); d < head_size; d += kWarp) query[d] = load(args.queries.row(r)[head + d]);
    __syncwarp();

    const int64_t b = count_below(args.query_offsets, args.sequences + 1, r + 1) - 1;
    const int64_t begin = args.key_offsets[b], end = args.key_offsets[b + 1];
    const bool relative = args.distance_embedding.data != nullptr;
    const int64_t middle = (args.distances - 1) / 2;
    const int64_t position = relative ? args.positions[args.token_index[r]] + middle : 0;
    const float scale = 1.0f / sqrtf(float(head_size));
    const auto exp = [](float x) { return expf(x); };

    float highest = -INFINITY, total = 0, sum[kColumns] = {};
    for (int64_t first = begin; first < end; first += kWarp) {
        const int64_t key = first + lane();
        float mine = -INFINITY;
        if (key < end) {
            const auto* distance =
                relative ? args.distance_embedding.row(position - args.positions[key]) : nullptr;
            mine = score<L>(args, query, args.key_store.row(key) + head, distance, scale);
        }
        const SoftmaxStep<float> step = softmax_step(highest, warp_max(mine), exp);
        highest = step.highest;
        weights[lane()] = softmax_weight(mine, highest, exp);
        total = total * step.rescale + warp_sum(weights[lane()]);
        __syncwarp();
        const int keys = int(end - first < kWarp ? end - first : kWarp);
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const int d = c * kWarp + lane();
            if (d >= head_size) break;
            float part = 0;
            for (int k = 0; k < keys; ++k)
                part += weights[k] * load(args.value_store.row(first + k)[head + d]);
            sum[c] = sum[c] * step.rescale + part;
        }
        __syncwarp();
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
        const int d = c * kWarp + lane();
        if (d < head_size) store(sum[c] / total, args.out.row(r) + head + d);
    }
}

template <class T>
const char* launch_operator(const RaggedAttention<T>& args, void* stream) {
    if (args.rows == 0 || args.head_size == 0) return nullptr;
    const Alignment alignment = Alignment(args.head_size * int64_t(sizeof(T)))
                                    .add(args.key_store)
                                    .add(args.distance_embedding);
    const dim3 grid(blocks(args.rows, kQueries), unsigned(args.heads));
    if (alignment.to16())
        return launch(ragged_attention_kernel<Head<T, 16 / sizeof(T)>>, grid, kThreads, args,
                      stream);
    return launch(ragged_attention_kernel<Head<T, 1>>, grid, kThreads, args, stream);
}

}  // namespace albert_act_fast::cuda
