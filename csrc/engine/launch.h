// Splits the CPU kernels' work among torch's threads, for the operators and for the engine alike.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "../cpu/kernels.h"
#include "memory.h"
#include "threads.h"

namespace albert_act_fast::engine {

// Rows a thread should have at least before another is worth waking: where rows are read and
// written, and where they are written to places that neighbours share.
constexpr int64_t kGrain = 8, kSharedGrain = 16;

template <class F>
void for_rows(int64_t rows, const F& f, int64_t grain = kGrain) {
    parallel_for(0, rows, grain, f);
}

// The live ones of the rows that the arguments cover.
template <class Args>
int64_t live_rows(const Args& args) {
    return args.row_count == nullptr ? args.rows : *args.row_count;
}

#define AAF_LAUNCH(Args, name)                                                                   \
    template <class T>                                                                           \
    void launch(const Args<T>& args) {                                                           \
        for_rows(live_rows(args),                                                                \
                 [&](int64_t begin, int64_t end) { cpu::kernels<T>().name(args, begin, end); }); \
    }
AAF_ROW_OPERATORS(AAF_LAUNCH)
#undef AAF_LAUNCH

// Rows to bytes.
template <class T>
void launch(const cpu::Quantize<T>& args, int64_t rows) {
    for_rows(
        rows, [&](int64_t begin, int64_t end) { cpu::kernels<T>().quantize(args, begin, end); },
        kSharedGrain);
}

// The sums, and those in bytes where `bytes` is not null, a few rows at a time: they are in cache.
template <class T>
void launch(const AddLayerNorm<T>& args, const cpu::Quantize<T>* bytes) {
    if (bytes == nullptr) return launch(args);
    for_rows(args.rows, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r += kGrain) {
            const int64_t stop = std::min(end, r + kGrain);
            cpu::kernels<T>().add_layer_norm(args, r, stop);
            cpu::kernels<T>().quantize(*bytes, r, stop);
        }
    });
}

inline void launch(const ScatterRows& args) {
    for (int table = 0; table < args.tables; ++table)
        for_rows(live_rows(args), [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                memcpy(args.to[table].row(args.index[r]), args.from[table].row(r),
                       size_t(args.row_bytes));
        });
}

// The memory of a batch's keys and values.
struct StoreMemory {
    Buffer panels, first_slot, sequence;

    size_t bytes() const { return panels.bytes() + first_slot.bytes() + sequence.bytes(); }
};

template <class T>
cpu::KeyValueStore<T> empty_store(StoreMemory& memory, const int64_t* key_offsets,
                                  int64_t sequences, int64_t heads, int64_t head_size) {
    using Store = cpu::KeyValueStore<T>;
    constexpr int64_t panel = cpu::kPanel, step = Store::kStep;
    auto* first_slot = memory.first_slot.of<int64_t>(sequences);
    auto* sequence = memory.sequence.of<int64_t>(key_offsets[sequences]);
    int64_t panels = 0, shared = 0, free = 0;  // free: slots of panel `shared` that nobody has
    for (int64_t b = 0; b < sequences; ++b) {
        std::fill(sequence + key_offsets[b], sequence + key_offsets[b + 1], b);
        const int64_t keys = key_offsets[b + 1] - key_offsets[b];
        if (keys > panel / 2) {
            first_slot[b] = panels * panel;
            panels += cpu::panels_of(keys);
            continue;
        }
        const int64_t slots = (keys + step - 1) / step * step;
        if (slots > free) {
            shared = panels++;
            free = panel;
        }
        first_slot[b] = shared * panel + panel - free;
        free -= slots;
    }
    Store store;
    store.key_offsets = key_offsets;
    store.first_slot = first_slot;
    store.heads = heads;
    store.head_size = head_size;
    const int64_t elements = panels * heads * store.panel_elements();
    store.data = memory.panels.of<typename Store::Element>(elements);
    for_rows(
        elements,
        [&](int64_t begin, int64_t end) {
            memset(static_cast<void*>(store.data + begin), 0,
                   size_t(end - begin) * sizeof(typename Store::Element));
        },
        int64_t(1) << 16);
    return store;
}

template <class T>
void launch(const cpu::WriteKeysValues<T>& args) {
    for_rows(
        args.rows,
        [&](int64_t begin, int64_t end) { cpu::kernels<T>().write_keys_values(args, begin, end); },
        kSharedGrain);
}

// Against the keys and values that are in the store.
template <class T>
void launch(const RaggedAttention<T>& args, const cpu::KeyValueStore<T>& store) {
    std::vector<int64_t> items;
    for (int64_t b = 0; b < args.sequences; ++b)
        for (int64_t head = 0; head < args.heads; ++head)
            for (int64_t r = args.query_offsets[b]; r < args.query_offsets[b + 1];
                 r += cpu::kQueryBlock)
                items.insert(items.end(), {b, r, head});
    parallel_for(0, int64_t(items.size() / 3), 1, [&](int64_t begin, int64_t end) {
        cpu::kernels<T>().ragged_attention(args, store, items.data(), begin, end);
    });
}

// Whatever the workspace holds: what is used of it is zeros before and after. bytes: as the
// kernel's.
template <class T>
void launch(const HaltingStep<T>& args, const cpu::Quantize<T>* bytes = nullptr) {
    const int64_t blocks = cpu::halting_blocks(args.query_offsets[args.sequences]);
    if (blocks == 0) {
        std::fill_n(args.next_query_offsets, args.sequences + 1, 0);
        return;
    }
    const auto clear = [&] { std::fill_n(args.workspace, kHaltingWorkspaceHeader + blocks, 0); };
    clear();
    const int64_t workers = std::min<int64_t>(blocks, int64_t(torch::stable::get_num_threads()));
    parallel_for(0, workers, 1,
                 [&](int64_t, int64_t) { cpu::kernels<T>().halting_step(args, bytes); });
    if (args.workspace[cpu::kAsking] == 0) cpu::kernels<T>().finish_rows(args);
    clear();
}

}  // namespace albert_act_fast::engine
