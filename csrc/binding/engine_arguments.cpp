#include "engine_arguments.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "../common/check.h"
#include "../common/dtypes.h"

namespace albert_act_fast::binding {

using engine::Engine;
using engine::Layer;
using engine::Run;
using engine::View;

namespace {

void expect(const std::string& name, const View& view, ScalarType dtype,
            const std::vector<int64_t>& shape) {
    AAF_CHECK(view.dtype == dtype, name, ": got ", text(view.dtype), ", expected ", text(dtype),
              ".");
    AAF_CHECK(view.shape == shape, name, ": got shape ", text(view.shape), ", expected ",
              text(shape), ".");
}

std::string full(const char* name) {
    return std::string("layer.") + name;
}

}  // namespace

void check(const Layer& layer) {
    const View& query = layer.query[0];
    const std::initializer_list<ScalarType> taken = {AAF_ENGINE_DTYPES(AAF_SCALAR_TYPE)};
    AAF_CHECK(std::find(taken.begin(), taken.end(), query.dtype) != taken.end() &&
                  query.shape.size() == 2 && query.shape[0] > 0,
              "layer.query weight: got ", text(query.dtype), " of shape ", text(query.shape),
              ", expected a matrix in ", any_of(taken), ".");
    const View& ffn = layer.ffn[0];
    AAF_CHECK(ffn.shape.size() == 2 && ffn.shape[0] > 0, "layer.ffn weight: got shape ",
              text(ffn.shape), ", expected a matrix.");
    const ScalarType dtype = query.dtype;
    const int64_t width = query.shape[0], inner = ffn.shape[0];
    const auto linear = [dtype](const char* name, const View(&pair)[2], int64_t outputs,
                                int64_t inputs) {
        expect(full(name) + " weight", pair[0], dtype, {outputs, inputs});
        expect(full(name) + " bias", pair[1], dtype, {outputs});
    };
    linear("query", layer.query, width, width);
    linear("key", layer.key, width, width);
    linear("value", layer.value, width, width);
    linear("dense", layer.dense, width, width);
    linear("ffn", layer.ffn, inner, width);
    linear("ffn_output", layer.ffn_output, width, inner);
    linear("halting", layer.halting, 1, width);
    for (int i = 0; i < 2; ++i) {
        const char* part = i == 0 ? " weight" : " bias";
        expect(full("attention_norm") + part, layer.attention_norm[i], dtype, {width});
        expect(full("output_norm") + part, layer.output_norm[i], dtype, {width});
    }
    AAF_CHECK(layer.heads >= 1 && width % layer.heads == 0, "layer.heads: got ", layer.heads,
              ", expected a number that divides the ", width, " columns.");
    if (!layer.distance_embedding.has_value()) return;
    const View& table = *layer.distance_embedding;
    AAF_CHECK(table.shape.size() == 2 && table.shape[0] > 0, "layer.distance_embedding: got shape ",
              text(table.shape), ", expected a matrix.");
    expect("layer.distance_embedding", table, dtype, {table.shape[0], width / layer.heads});
}

void check(const Run& run, const Engine& engine) {
    const int64_t width = engine.width(), distances = engine.distances();
    AAF_CHECK(run.max_iterations >= 1, "max_iterations: got ", run.max_iterations,
              ", expected at least 1.");
    AAF_CHECK(!std::isnan(run.limits.threshold), "threshold: got NaN, expected a number.");
    const ScalarType dtype = engine.dtype(), index = ScalarType::Long, state = ScalarType::Float;
    AAF_CHECK(run.hidden.shape.size() == 2, "hidden: got shape ", text(run.hidden.shape),
              ", expected (tokens, ", width, ").");
    AAF_CHECK(run.offsets.shape.size() == 1 && run.offsets.shape[0] >= 1, "offsets: got shape ",
              text(run.offsets.shape), ", expected (sequences + 1,).");
    const int64_t tokens = run.hidden.shape[0], sequences = run.offsets.shape[0] - 1;
    expect("hidden", run.hidden, dtype, {tokens, width});
    expect("offsets", run.offsets, index, {sequences + 1});
    expect("positions", run.positions, index, {tokens});
    expect("out", run.out, dtype, {tokens, width});
    expect("n_updates", run.n_updates, state, {tokens});
    expect("remainders", run.remainders, state, {tokens});

    const auto* offsets = static_cast<const int64_t*>(run.offsets.data);
    AAF_CHECK(offsets[0] == 0, "offsets[0]: got ", offsets[0], ", expected 0.");
    for (int64_t b = 0; b < sequences; ++b)
        AAF_CHECK(offsets[b] <= offsets[b + 1], "offsets[", b + 1, "]: got ", offsets[b + 1],
                  ", expected at least ", offsets[b], ", where the sequence before it begins.");
    AAF_CHECK(offsets[sequences] == tokens, "offsets[", sequences, "]: got ", offsets[sequences],
              ", expected ", tokens, ", the rows of hidden.");
    const auto* positions = static_cast<const int64_t*>(run.positions.data);
    for (int64_t b = 0; distances > 0 && b < sequences; ++b) {
        if (offsets[b] == offsets[b + 1]) continue;
        const auto [first, last] =
            std::minmax_element(positions + offsets[b], positions + offsets[b + 1]);
        // Unsigned, so that no difference overflows.
        AAF_CHECK(uint64_t(*last) - uint64_t(*first) <= uint64_t(distances - 1) / 2,
                  "positions: got ", *first, " to ", *last, " in sequence ", b,
                  ", expected at most ", (distances - 1) / 2, " apart, which is what the ",
                  distances, " rows of distance_embedding reach to.");
    }

    const std::pair<const char*, const View*> all[] = {
        {"out", &run.out},       {"n_updates", &run.n_updates}, {"remainders", &run.remainders},
        {"hidden", &run.hidden}, {"offsets", &run.offsets},     {"positions", &run.positions}};
    const auto begin = [](const View& view) { return reinterpret_cast<uintptr_t>(view.data); };
    const auto end = [&](const View& view) { return begin(view) + size_t(view.bytes()); };
    for (int written = 0; written < 3; ++written)
        for (int other = written + 1; other < 6; ++other) {
            const View &a = *all[written].second, &b = *all[other].second;
            AAF_CHECK(begin(a) >= end(b) || begin(b) >= end(a), all[written].first,
                      ": shares memory with ", all[other].first,
                      ", expected a tensor of its own, which is written to.");
        }
}

}  // namespace albert_act_fast::binding
