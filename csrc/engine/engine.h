// All iterations of a batch below Python: albert_act_fast/engine/loop.py on packed weights.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "linear.h"
#include "view.h"

namespace albert_act_fast::engine {

// What the layer is made of; all views have the engine's dtype and are copied.
struct Layer {
    View key[2], value[2], query[2], dense[2], ffn[2], ffn_output[2];  // weight and bias
    View attention_norm[2], output_norm[2];
    View halting[2];
    // Weight [H, E] and bias of the embeddings' mapping, where that is to come before the first
    // iteration.
    std::optional<std::array<View, 2>> mapping;
    std::optional<View> distance_embedding;
    bool key_distances;
    double attention_eps, output_eps;
    int64_t heads;
    Activation activation;
};

// One run's arguments. hidden, out [T, H], but hidden [T, E] for an engine with the mapping;
// offsets [B + 1], positions [T] int64; n_updates, remainders [T] float32.
struct Run {
    View hidden, offsets, positions;
    HaltingLimits<float> limits;
    int64_t max_iterations;
    View out, n_updates, remainders;
    // A token whose probability equals the threshold asks for no further iteration, and takes one
    // if another token asks. Whether that is any token of the batch, as in the model's own loop, or
    // one of its own sequence, whose result then is the one it has alone.
    bool by_sequence = false;
    // Called about every 50 ms, and never in shorter runs; may throw, which ends the run. Empty
    // where nothing is to be looked after.
    std::function<void()> check_signals;
};

// Where a run's time went. attention: with the keys' and values' way into their store.
struct Seconds {
    double products = 0, attention = 0, other = 0;
};

// An engine may run in several threads at once: what it holds does not change, and its workspace
// serves the first of them, the others make their own.
class Engine {
  public:
    virtual ~Engine() = default;
    // Returns how many rows each iteration computed. What it is given is not looked at: binding's
    // `check` refuses whatever would make it read or write outside of that, or never end.
    virtual std::vector<int64_t> run(const Run& run) = 0;
    virtual ScalarType dtype() const = 0;
    virtual int64_t width() const = 0;
    virtual bool has_mapping() const = 0;
    virtual int64_t hidden_width() const = 0;  // of a run's `hidden`
    virtual int64_t distances() const = 0;     // rows of the distance embedding, 0 without one
    // Whether a sequence's result has the same bits whatever stands beside it in a run: the sums of
    // every product have one order for any number of rows.
    virtual bool is_batch_invariant() const = 0;
    virtual size_t packed_bytes() const = 0;
    virtual size_t workspace_bytes() const = 0;
    virtual Seconds seconds() const = 0;  // of the last run that had the engine's own workspace
};

// onednn: whether torch's oneDNN operators are there.
std::unique_ptr<Engine> make_engine(const Layer& layer, Weights weights, bool onednn);

}  // namespace albert_act_fast::engine
