// The engine as operators over a handle, which albert_act_fast/engine/native_engine.py owns.
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "../common/check.h"
#include "engine_arguments.h"
#include "handles.h"
#include "module.h"

namespace albert_act_fast::binding {

using engine::Engine;
using engine::Layer;
using engine::Run;
using engine::View;
using Engines = Handles<Engine>;

namespace {

Activation activation_named(const std::string& name) {
    static const std::pair<const char*, Activation> names[] = {{"gelu", Activation::gelu},
                                                               {"gelu_tanh", Activation::gelu_tanh},
                                                               {"relu", Activation::relu},
                                                               {"silu", Activation::silu}};
    for (const auto& [known, activation] : names)
        if (name == known) return activation;
    refuse("layer.activation: got ", name, ", expected gelu, gelu_tanh, relu or silu.");
}

int64_t engine_create(std::vector<Tensor> weights, std::vector<Tensor> mapping,
                      std::optional<Tensor> distance_embedding, bool key_distances, int64_t heads,
                      std::string activation, double attention_eps, double output_eps, bool int8,
                      bool onednn) {
    // In the order of `PAIRS` in Python.
    struct Pair {
        const char* name;
        View (Layer::*views)[2];
    };
    constexpr Pair pairs[] = {{"query", &Layer::query},
                              {"key", &Layer::key},
                              {"value", &Layer::value},
                              {"dense", &Layer::dense},
                              {"ffn", &Layer::ffn},
                              {"ffn_output", &Layer::ffn_output},
                              {"attention_norm", &Layer::attention_norm},
                              {"output_norm", &Layer::output_norm},
                              {"halting", &Layer::halting}};
    AAF_CHECK(weights.size() == 2 * std::size(pairs), "weights: got ", weights.size(),
              " tensors, expected weight and bias of ", std::size(pairs), " modules.");
    Layer layer;
    for (size_t i = 0; i < weights.size(); ++i) {
        const auto& [name, views] = pairs[i / 2];
        (layer.*views)[i % 2] =
            view(std::string("layer.") + name + (i % 2 == 0 ? " weight" : " bias"), weights[i]);
    }
    AAF_CHECK(mapping.empty() || mapping.size() == 2, "mapping: got ", mapping.size(),
              " tensors, expected weight and bias, or none.");
    if (!mapping.empty())
        layer.mapping = {view("mapping weight", mapping[0]), view("mapping bias", mapping[1])};
    if (distance_embedding.has_value())
        layer.distance_embedding = view("layer.distance_embedding", *distance_embedding);
    layer.key_distances = key_distances;
    layer.heads = heads;
    layer.activation = activation_named(activation);
    layer.attention_eps = attention_eps;
    layer.output_eps = output_eps;
    check(layer);
    return Engines::all().add(engine::make_engine(
        layer, int8 ? engine::Weights::int8 : engine::Weights::as_given, onednn));
}

std::vector<int64_t> engine_run(int64_t handle, Tensor hidden, Tensor offsets, Tensor positions,
                                double threshold, int64_t max_iterations, bool interruptible,
                                Tensor out, Tensor n_updates, Tensor remainders) {
    const std::shared_ptr<Engine> engine = Engines::all().get(handle);
    Run run{view("hidden", hidden),
            view("offsets", offsets),
            view("positions", positions),
            {float(threshold)},
            max_iterations,
            view("out", out),
            view("n_updates", n_updates),
            view("remainders", remainders),
            false,
            {}};
    if (interruptible) run.check_signals = &check_signals;
    check(run, *engine);
    try {
        return engine->run(run);
    } catch (const Interrupted&) {
        return {-1};
    }
}

void engine_release(int64_t handle) {
    Engines::all().release(handle);
}

int64_t engine_count() {
    return Engines::all().count();
}

bool engine_is_batch_invariant(int64_t handle) {
    return Engines::all().get(handle)->is_batch_invariant();
}

int64_t engine_packed_bytes(int64_t handle) {
    return int64_t(Engines::all().get(handle)->packed_bytes());
}

int64_t engine_workspace_bytes(int64_t handle) {
    return int64_t(Engines::all().get(handle)->workspace_bytes());
}

std::tuple<double, double, double> engine_seconds(int64_t handle) {
    const engine::Seconds seconds = Engines::all().get(handle)->seconds();
    return {seconds.products, seconds.attention, seconds.other};
}

}  // namespace
}  // namespace albert_act_fast::binding

// For tensors of every kind, so that the engine itself says which ones it takes; and for none.
STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, CompositeExplicitAutograd, m) {
    using namespace albert_act_fast::binding;
    m.impl("engine_create", TORCH_BOX(&engine_create));
    m.impl("engine_run", TORCH_BOX(&engine_run));
    m.impl("engine_release", TORCH_BOX(&engine_release));
    m.impl("engine_count", TORCH_BOX(&engine_count));
    m.impl("engine_is_batch_invariant", TORCH_BOX(&engine_is_batch_invariant));
    m.impl("engine_packed_bytes", TORCH_BOX(&engine_packed_bytes));
    m.impl("engine_workspace_bytes", TORCH_BOX(&engine_workspace_bytes));
    m.impl("engine_seconds", TORCH_BOX(&engine_seconds));
}
