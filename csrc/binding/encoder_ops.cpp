// From ids to rows in one call, as operators over a handle, which
// albert_act_fast/engine/native_encoder.py owns.
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "engine_arguments.h"
#include "handles.h"
#include "module.h"

namespace albert_act_fast::binding {

using engine::Embeddings;
using engine::Encode;
using engine::Encoder;
using engine::Engine;
using engine::Pooling;
using Encoders = Handles<Encoder>;

namespace {

Pooling pooling_named(const std::string& name) {
    static const std::pair<const char*, Pooling> names[] = {{"none", Pooling::none},
                                                            {"mean", Pooling::mean},
                                                            {"cls", Pooling::cls},
                                                            {"pooler", Pooling::pooler}};
    for (const auto& [known, pooling] : names)
        if (name == known) return pooling;
    refuse("pooling: got ", name, ", expected none, mean, cls or pooler.");
}

int64_t encoder_create(int64_t engine, Tensor word, Tensor token_type,
                       std::optional<Tensor> position, std::vector<Tensor> norm, double eps,
                       std::vector<Tensor> pooler, int64_t max_tokens) {
    const std::shared_ptr<Engine> iterates = Handles<Engine>::all().get(engine);
    AAF_CHECK(norm.size() == 2, "norm: got ", norm.size(), " tensors, expected weight and bias.");
    AAF_CHECK(pooler.empty() || pooler.size() == 2, "pooler: got ", pooler.size(),
              " tensors, expected weight and bias, or none.");
    Embeddings embeddings{
        word, token_type,   position,  {view("norm weight", norm[0]), view("norm bias", norm[1])},
        eps,  std::nullopt, max_tokens};
    if (!pooler.empty())
        embeddings.pooler = {view("pooler weight", pooler[0]), view("pooler bias", pooler[1])};
    check(embeddings, *iterates);
    return Encoders::all().add(engine::make_encoder(iterates, embeddings));
}

std::tuple<std::vector<int64_t>, bool> encoder_run(int64_t handle, Tensor ids, Tensor offsets,
                                                   double threshold, int64_t max_iterations,
                                                   std::string pooling, bool interruptible,
                                                   Tensor out, Tensor n_updates,
                                                   Tensor remainders) {
    const std::shared_ptr<Encoder> encoder = Encoders::all().get(handle);
    Encode call{view("ids", ids),
                view("offsets", offsets),
                {float(threshold)},
                max_iterations,
                pooling_named(pooling),
                view("out", out),
                view("n_updates", n_updates),
                view("remainders", remainders),
                {}};
    if (interruptible) call.check_signals = &check_signals;
    check(call, *encoder);
    try {
        auto [running_rows, finite] = encoder->run(call);
        return {std::move(running_rows), finite};
    } catch (const Interrupted&) {
        return {{-1}, false};
    }
}

void encoder_release(int64_t handle) {
    Encoders::all().release(handle);
}

int64_t encoder_count() {
    return Encoders::all().count();
}

int64_t encoder_workspace_bytes(int64_t handle) {
    return int64_t(Encoders::all().get(handle)->workspace_bytes());
}

std::tuple<double, double, double> encoder_seconds(int64_t handle) {
    const engine::Seconds seconds = Encoders::all().get(handle)->seconds();
    return {seconds.products, seconds.attention, seconds.other};
}

}  // namespace
}  // namespace albert_act_fast::binding

STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, CompositeExplicitAutograd, m) {
    using namespace albert_act_fast::binding;
    m.impl("encoder_create", TORCH_BOX(&encoder_create));
    m.impl("encoder_run", TORCH_BOX(&encoder_run));
    m.impl("encoder_release", TORCH_BOX(&encoder_release));
    m.impl("encoder_count", TORCH_BOX(&encoder_count));
    m.impl("encoder_workspace_bytes", TORCH_BOX(&encoder_workspace_bytes));
    m.impl("encoder_seconds", TORCH_BOX(&encoder_seconds));
}
