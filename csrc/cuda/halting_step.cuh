// The end of an iteration in one launch and one pass over the rows: add, LayerNorm, halting
// probability and rule, mix, and stable compaction. Reads three rows per row and writes one, or two
// where the row halts.
//
// A block takes a tile of rows into registers, decides which of them run on, learns from the blocks
// before how many rows run on before its own (look_back.cuh), and writes each mixed row straight to
// its packed slot. The mixed rows wait in registers in their storage format.
//
// The workspace, uint64: ticket of the next tile, tiles finished, 6 unused, and one status for each
// tile. The last block to finish makes all of it zeros again; and where no row that runs on asks
// for another iteration it finishes those rows too.
#pragma once

#include "../semantics/halting.h"
#include "layouts.cuh"
#include "look_back.cuh"

namespace albert_act_fast::cuda {

// Blocks that a multiprocessor should hold at least: as many as the registers of a row allow
// without spilling. Left to itself, ptxas spills for one more.
template <class L>
constexpr int kHaltingBlocks = L::kVector == 1                 ? 1
                               : L::kVectors * L::kVector <= 8 ? 4
                                                               : 2;

template <class L>
struct HaltingTile {
    NormSums norm;
    WarpSums logit;
    int64_t tile, before;  // before: rows that run on in earlier tiles
    unsigned runs_on;      // a bit for each row of the tile
    bool row_runs_on[L::kRows], row_asks[L::kRows];
    bool is_last;
};

// h = w g + (1 - w) h for this thread's part of a row.
template <class L>
__device__ __forceinline__ StoredRow<L> mix(const Row<L>& candidate, const StoredRow<L>& hidden,
                                            float weight) {
    Row<L> mixed;
#pragma unroll
    for (int j = 0; j < L::kVectors; ++j)
        for (int i = 0; i < L::kVector; ++i)
            mixed.x[j][i] =
                weight * candidate.x[j][i] + (1.0f - weight) * load(hidden.vectors[j].of[i]);
    return rounded<L>(mixed);
}

// By one warp: where the sequences begin that begin within rows `first` to `end`, once compacted.
template <class T>
__device__ __forceinline__ void write_offsets(const HaltingStep<T>& args, int64_t first,
                                              int64_t end, int64_t live, int64_t before,
                                              unsigned runs_on) {
    const int64_t begin = count_below(args.query_offsets, args.sequences + 1, first);
    for (int64_t b = begin + lane(); b <= args.sequences; b += kWarp) {
        const int64_t offset = args.query_offsets[b];
        if (offset >= end && end < live) break;
        const unsigned earlier = (1u << (offset - first)) - 1;
        args.next_query_offsets[b] = before + __popc(runs_on & earlier);
    }
}

// By one block, after all others: the rows in the first `count` slots halt without a remainder.
template <class L>
__device__ void finish_rows(const HaltingStep<typename L::T>& args, int64_t count) {
    for (int64_t slot = row_of_thread<L>(); slot < count; slot += L::kRows) {
        const int64_t token = args.next_token_index[slot];
        StoredRow<L> row;
        load_row<L>(args.next_hidden.row(slot), args.width, row);
        store_row<L>(row, args.width, args.out.row(token));
        if (place_in_row<L>() == 0) {
            args.n_updates[token] = float(args.iteration);
            args.remainders[token] = 0;
        }
    }
    for (int64_t b = threadIdx.x; b <= args.sequences; b += kThreads)
        args.next_query_offsets[b] = 0;
}

template <class L>
__global__ void __launch_bounds__(kThreads, kHaltingBlocks<L>)
    halting_step_kernel(const __grid_constant__ HaltingStep<typename L::T> args) {
    static_assert(L::kRows < kWarp, "a tile's rows are bits of one word");
    wait_for_the_kernel_before();
    const int64_t live = args.query_offsets[args.sequences];
    if (int64_t(blockIdx.x) * L::kRows >= live) {
        if (blockIdx.x == 0)  // no row is left: no other block writes the offsets
            for (int64_t b = threadIdx.x; b <= args.sequences; b += kThreads)
                args.next_query_offsets[b] = 0;
        return;
    }
    AAF_SHARED(HaltingTile<L>, shared);
    uint64_t* const ticket = args.workspace;
    uint64_t* const finished = args.workspace + 1;
    uint64_t* const status = args.workspace + kHaltingWorkspaceHeader;
    if (threadIdx.x == 0) shared.tile = int64_t(add_relaxed(ticket, 1));
    __syncthreads();

    const int64_t tile = shared.tile, first = tile * L::kRows;
    const int64_t end = first + L::kRows < live ? first + L::kRows : live;
    const int in_tile = row_of_thread<L>();
    const int64_t r = first + in_tile;
    const bool is_row = r < live;
    Row<L> candidate{};
    StoredRow<L> ffn_output{}, ffn_input{}, hidden{};
    float accumulated = 0;
    int64_t token = 0;
    if (is_row) {
        load_row<L>(args.ffn_output.row(r), args.width, ffn_output);
        if (args.ffn_input.data != nullptr)
            load_row<L>(args.ffn_input.row(r), args.width, ffn_input);
        load_row<L>(args.hidden.row(r), args.width, hidden);
        accumulated = args.accumulated_probability[r];
        token = args.token_index[r];
    }
    add<L>(ffn_output, args.width, candidate);
    if (args.ffn_input.data != nullptr) add<L>(ffn_input, args.width, candidate);
    normalize<L>(args.norm, args.width, shared.norm, candidate);
    float logit = 0;
    for_vectors<L>(args.width, [&](int j, int column) {
        const Vector<L> weight = load_vector<L>(args.halting_weight + column);
        for (int i = 0; i < L::kVector; ++i) logit += candidate.x[j][i] * load(weight.of[i]);
    });
    logit = row_sum<L>(logit, shared.logit) + load(*args.halting_bias);
    const float p = 1.0f / (1.0f + expf(-logit));
    const Halting<float> rule = halting_rule(accumulated, p, args.limits);
    const bool runs_on = is_row && rule.goes_on && !args.last;
    const StoredRow<L> mixed = mix<L>(candidate, hidden, rule.weight);

    if (place_in_row<L>() == 0) {
        shared.row_runs_on[in_tile] = runs_on;
        shared.row_asks[in_tile] = runs_on && rule.asks;
    }
    __syncthreads();
    if (threadIdx.x < kWarp) {
        const bool has_row = lane() < L::kRows;
        const unsigned mask = __ballot_sync(kAllLanes, has_row && shared.row_runs_on[lane()]);
        const bool asking = __any_sync(kAllLanes, has_row && shared.row_asks[lane()]) != 0;
        const int64_t before = look_back(status, tile, unsigned(__popc(mask)), asking);
        if (lane() == 0) {
            shared.runs_on = mask;
            shared.before = before;
        }
        write_offsets(args, first, end, live, before, mask);
    }
    __syncthreads();

    if (is_row) {
        const int64_t running_before =
            shared.before + __popc(shared.runs_on & ((1u << in_tile) - 1));
        const int64_t slot = runs_on ? running_before : live - 1 - (r - running_before);
        store_row<L>(mixed, args.width, args.next_hidden.row(slot));
        if (!runs_on) store_row<L>(mixed, args.width, args.out.row(token));
        if (place_in_row<L>() == 0) {
            args.next_token_index[slot] = token;
            if (runs_on) {
                args.next_accumulated_probability[slot] = rule.accumulated;
            } else {
                args.n_updates[token] = float(rule.updated ? args.iteration : args.iteration - 1);
                args.remainders[token] = rule.remainder;
            }
        }
    }

    // The last block to come here sees all that the others have written.
    const int64_t tiles = (live + L::kRows - 1) / L::kRows;
    __syncthreads();
    if (threadIdx.x == 0) shared.is_last = int64_t(add_acquire_release(finished, 1)) == tiles - 1;
    __syncthreads();
    if (!shared.is_last) return;
    const uint64_t all = load_relaxed(status + tiles - 1);
    if (Status::count(all) > 0 && !Status::asking(all)) finish_rows<L>(args, Status::count(all));
    __syncthreads();
    for (int64_t i = threadIdx.x; i < tiles; i += kThreads) status[i] = 0;
    if (threadIdx.x == 0) *ticket = *finished = 0;
}

template <class T>
const char* launch_operator(const HaltingStep<T>& args, void* stream) {
    const Alignment alignment = Alignment(args.width * int64_t(sizeof(T)))
                                    .add(args.ffn_output)
                                    .add(args.ffn_input)
                                    .add(args.hidden)
                                    .add(args.norm)
                                    .add(static_cast<const void*>(args.halting_weight))
                                    .add(args.next_hidden)
                                    .add(args.out);
    return for_layout<T>(args.width, alignment, [&](auto layout) {
        using L = decltype(layout);
        // At least one block: with no row at all, the offsets must still be written.
        const unsigned grid = args.rows == 0 ? 1 : blocks(args.rows, L::kRows);
        return launch_dependent(halting_step_kernel<L>, dim3(grid), kThreads, args, stream);
    });
}

}  // namespace albert_act_fast::cuda
