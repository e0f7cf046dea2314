// out = LayerNorm(word + token type + position). Reads three rows of tables and writes one row.
#pragma once

#include "layouts.cuh"

namespace albert_act_fast::cuda {

template <class L>
__global__ void __launch_bounds__(kThreads)
    embed_tokens_kernel(const __grid_constant__ EmbedTokens<typename L::T> args) {
    const int64_t live = live_rows(args.row_count, args.rows);
    const int64_t first = int64_t(blockIdx.x) * L::kRows, r = first + row_of_thread<L>();
    if (first >= live) return;
    AAF_SHARED(NormSums, sums);
    const bool has_position = args.position.data != nullptr;
    StoredRow<L> word{}, token_type{}, position{};
    if (r < live) {
        // The places first: where a row stands is known only once its place has been loaded.
        const int64_t token = args.token_ids[r], kind = args.token_type_ids[r];
        const int64_t place = has_position ? args.position_ids[r] : 0;
        load_row<L>(args.word.row(token), args.width, word);
        load_row<L>(args.token_type.row(kind), args.width, token_type);
        if (has_position) load_row<L>(args.position.row(place), args.width, position);
    }
    Row<L> row{};
    add<L>(word, args.width, row);
    add<L>(token_type, args.width, row);
    if (has_position) add<L>(position, args.width, row);
    normalize<L>(args.norm, args.width, sums, row);
    if (r < live) store_row<L>(rounded<L>(row), args.width, args.out.row(r));
}

template <class T>
const char* launch_operator(const EmbedTokens<T>& args, void* stream) {
    if (args.rows == 0 || args.width == 0) return nullptr;
    const Alignment alignment = Alignment(args.width * int64_t(sizeof(T)))
                                    .add(args.word)
                                    .add(args.token_type)
                                    .add(args.position)
                                    .add(args.norm)
                                    .add(args.out);
    return for_layout<T>(args.width, alignment, [&](auto layout) {
        using L = decltype(layout);
        return launch(embed_tokens_kernel<L>, dim3(blocks(args.rows, L::kRows)), kThreads, args,
                      stream);
    });
}

}  // namespace albert_act_fast::cuda
