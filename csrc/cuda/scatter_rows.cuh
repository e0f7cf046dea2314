// Rows of one or two tables to other places, bit for bit: reads each row once and writes it once.
#pragma once

#include "layouts.cuh"

namespace albert_act_fast::cuda {

// Rows of a block, a warp each. Word: the widest that all rows are aligned to.
constexpr int kScatterRows = kThreads / kWarp;

template <class Word>
__global__ void __launch_bounds__(kThreads)
    scatter_rows_kernel(const __grid_constant__ ScatterRows args) {
    const int64_t live = live_rows(args.row_count, args.rows);
    const int64_t r = int64_t(blockIdx.x) * kScatterRows + threadIdx.x / kWarp;
    if (r >= live) return;
    const int table = blockIdx.y;
    const auto* from = reinterpret_cast<const Word*>(args.from[table].row(r));
    auto* to = reinterpret_cast<Word*>(args.to[table].row(args.index[r]));
    const int words = int(args.row_bytes / int64_t(sizeof(Word)));
#pragma unroll 4
    for (int i = lane(); i < words; i += kWarp) to[i] = from[i];
}

inline const char* launch_operator(const ScatterRows& args, void* stream) {
    if (args.rows == 0 || args.row_bytes == 0) return nullptr;
    Alignment alignment(args.row_bytes);
    for (int table = 0; table < args.tables; ++table)
        alignment.add(args.from[table]).add(args.to[table]);
    const dim3 grid(blocks(args.rows, kScatterRows), unsigned(args.tables));
    if (alignment.to16()) return launch(scatter_rows_kernel<uint4>, grid, kThreads, args, stream);
    return launch(scatter_rows_kernel<uint16_t>, grid, kThreads, args, stream);
}

}  // namespace albert_act_fast::cuda
