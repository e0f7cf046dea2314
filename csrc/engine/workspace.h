// What a run works in, kept for the next one.
#pragma once

#include <optional>

#include "engine.h"
#include "launch.h"
#include "linear.h"

namespace albert_act_fast::engine {

// What moves from one iteration to the next.
template <class T>
struct Running {
    Buffer hidden, accumulated_probability, token_index, query_offsets;
};

template <class T>
struct Workspace {
    // What it may hold between runs, in bytes. Beyond it making it anew costs little beside a run
    // that needs so much: below 1 %.
    static constexpr size_t kKept = size_t(256) << 20;

    Running<T> running[2];
    // attended: what attention gives, then the FFN's input. products: what they give, one after
    // the other.
    Buffer attended, products, halting;
    StoreMemory store;
    std::optional<Tensor> projected, queries, inner, output;  // of oneDNN's products
    // Rows as products take them: those that an iteration or its feed-forward block begins with,
    // and others.
    QuantizedRows input, quantized;
    Seconds seconds;

    size_t bytes() const {
        size_t total = attended.bytes() + products.bytes() + halting.bytes() + store.bytes() +
                       input.bytes() + quantized.bytes();
        for (const auto& one : running)
            total += one.hidden.bytes() + one.accumulated_probability.bytes() +
                     one.token_index.bytes() + one.query_offsets.bytes();
        return total;
    }

    // At the end of a run. oneDNN makes its results anew each time.
    void shrink() {
        projected = queries = inner = output = std::nullopt;
        if (bytes() <= kKept) return;
        const Seconds kept = seconds;
        *this = Workspace();
        seconds = kept;
    }
};

}  // namespace albert_act_fast::engine
