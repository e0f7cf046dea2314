// out = LayerNorm(x + residual). Reads two rows and writes one.
#pragma once

#include "layouts.cuh"

namespace albert_act_fast::cuda {

template <class L>
__global__ void __launch_bounds__(kThreads)
    add_layer_norm_kernel(const __grid_constant__ AddLayerNorm<typename L::T> args) {
    const int64_t live = live_rows(args.row_count, args.rows);
    const int64_t first = int64_t(blockIdx.x) * L::kRows, r = first + row_of_thread<L>();
    if (first >= live) return;
    AAF_SHARED(NormSums, sums);
    StoredRow<L> x{}, residual{};
    if (r < live) {
        load_row<L>(args.x.row(r), args.width, x);
        load_row<L>(args.residual.row(r), args.width, residual);
    }
    Row<L> row{};
    add<L>(x, args.width, row);
    add<L>(residual, args.width, row);
    normalize<L>(args.norm, args.width, sums, row);
    if (r < live) store_row<L>(rounded<L>(row), args.width, args.out.row(r));
}

template <class T>
const char* launch_operator(const AddLayerNorm<T>& args, void* stream) {
    if (args.rows == 0 || args.width == 0) return nullptr;
    const Alignment alignment = Alignment(args.width * int64_t(sizeof(T)))
                                    .add(args.x)
                                    .add(args.residual)
                                    .add(args.norm)
                                    .add(args.out);
    return for_layout<T>(args.width, alignment, [&](auto layout) {
        using L = decltype(layout);
        return launch(add_layer_norm_kernel<L>, dim3(blocks(args.rows, L::kRows)), kThreads, args,
                      stream);
    });
}

}  // namespace albert_act_fast::cuda
