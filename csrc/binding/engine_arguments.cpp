#include "engine_arguments.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "../common/check.h"
#include "../common/dtypes.h"

namespace albert_act_fast::binding {

using engine::Embeddings;
using engine::Encode;
using engine::Encoder;
using engine::Engine;
using engine::Layer;
using engine::Pooling;
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

void check_limits(int64_t max_iterations, const HaltingLimits<float>& limits) {
    AAF_CHECK(max_iterations >= 1, "max_iterations: got ", max_iterations,
              ", expected at least 1.");
    AAF_CHECK(!std::isnan(limits.threshold), "threshold: got NaN, expected a number.");
}

// [sequences + 1], ascending from 0 to `tokens`, the rows of `rows`.
void check_offsets(const View& view, int64_t tokens, const char* rows) {
    AAF_CHECK(view.shape.size() == 1 && view.shape[0] >= 1, "offsets: got shape ", text(view.shape),
              ", expected (sequences + 1,).");
    const int64_t sequences = view.shape[0] - 1;
    expect("offsets", view, ScalarType::Long, {sequences + 1});
    const auto* offsets = static_cast<const int64_t*>(view.data);
    AAF_CHECK(offsets[0] == 0, "offsets[0]: got ", offsets[0], ", expected 0.");
    for (int64_t b = 0; b < sequences; ++b)
        AAF_CHECK(offsets[b] <= offsets[b + 1], "offsets[", b + 1, "]: got ", offsets[b + 1],
                  ", expected at least ", offsets[b], ", where the sequence before it begins.");
    AAF_CHECK(offsets[sequences] == tokens, "offsets[", sequences, "]: got ", offsets[sequences],
              ", expected ", tokens, ", the rows of ", rows, ".");
}

template <class Id>
void check_ids(const Encode& call, int64_t vocabulary) {
    const auto* ids = static_cast<const Id*>(call.ids.data);
    const auto* offsets = static_cast<const int64_t*>(call.offsets.data);
    const int64_t sequences = call.offsets.shape[0] - 1;
    for (int64_t b = 0; b < sequences; ++b)
        for (int64_t t = offsets[b]; t < offsets[b + 1]; ++t)
            AAF_CHECK(ids[t] >= 0 && ids[t] < vocabulary, "ids[", t, "]: got ", ids[t], " (token ",
                      t - offsets[b], " of sequence ", b, "), expected 0 to ", vocabulary - 1,
                      " (vocabulary: ", vocabulary, ").");
}

// The first `written` of them share memory with none of the others.
void check_memory(const std::vector<std::pair<const char*, const View*>>& all, size_t written) {
    const auto begin = [](const View& view) { return reinterpret_cast<uintptr_t>(view.data); };
    const auto end = [&](const View& view) { return begin(view) + size_t(view.bytes()); };
    for (size_t i = 0; i < written; ++i)
        for (size_t other = i + 1; other < all.size(); ++other) {
            const View &a = *all[i].second, &b = *all[other].second;
            AAF_CHECK(begin(a) >= end(b) || begin(b) >= end(a), all[i].first,
                      ": shares memory with ", all[other].first,
                      ", expected a tensor of its own, which is written to.");
        }
}

}  // namespace

View view(const std::string& name, const Tensor& tensor) {
    AAF_CHECK(tensor.is_cpu(), name, ": is not on the CPU, expected a CPU tensor.");
    AAF_CHECK(tensor.layout() == torch::headeronly::Layout::Strided && tensor.is_contiguous(), name,
              ": expected a contiguous tensor.");
    std::vector<int64_t> shape;
    for (int64_t i = 0; i < tensor.dim(); ++i) shape.push_back(tensor.size(i));
    const View view{tensor.data_ptr(), tensor.scalar_type(), std::move(shape)};
    AAF_CHECK(view.data != nullptr || view.count() == 0, name,
              ": has no memory, expected a tensor with data.");
    return view;
}

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
    if (layer.mapping.has_value()) {
        const auto& [weight, bias] = *layer.mapping;
        AAF_CHECK(weight.shape.size() == 2 && weight.shape[1] > 0, "mapping weight: got shape ",
                  text(weight.shape), ", expected a matrix.");
        expect("mapping weight", weight, dtype, {width, weight.shape[1]});
        expect("mapping bias", bias, dtype, {width});
    }
    if (!layer.distance_embedding.has_value()) return;
    const View& table = *layer.distance_embedding;
    AAF_CHECK(table.shape.size() == 2 && table.shape[0] > 0, "layer.distance_embedding: got shape ",
              text(table.shape), ", expected a matrix.");
    expect("layer.distance_embedding", table, dtype, {table.shape[0], width / layer.heads});
}

void check(const Run& run, const Engine& engine) {
    const int64_t width = engine.width(), distances = engine.distances();
    check_limits(run.max_iterations, run.limits);
    const ScalarType dtype = engine.dtype(), index = ScalarType::Long, state = ScalarType::Float;
    AAF_CHECK(run.hidden.shape.size() == 2, "hidden: got shape ", text(run.hidden.shape),
              ", expected (tokens, ", engine.hidden_width(), ").");
    const int64_t tokens = run.hidden.shape[0];
    expect("hidden", run.hidden, dtype, {tokens, engine.hidden_width()});
    check_offsets(run.offsets, tokens, "hidden");
    const int64_t sequences = run.offsets.shape[0] - 1;
    expect("positions", run.positions, index, {tokens});
    expect("out", run.out, dtype, {tokens, width});
    expect("n_updates", run.n_updates, state, {tokens});
    expect("remainders", run.remainders, state, {tokens});

    const auto* offsets = static_cast<const int64_t*>(run.offsets.data);
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
    check_memory({{"out", &run.out},
                  {"n_updates", &run.n_updates},
                  {"remainders", &run.remainders},
                  {"hidden", &run.hidden},
                  {"offsets", &run.offsets},
                  {"positions", &run.positions}},
                 3);
}

void check(const Embeddings& embeddings, const Engine& engine) {
    const ScalarType dtype = engine.dtype();
    const int64_t width = engine.width(), distances = engine.distances();
    AAF_CHECK(engine.has_mapping(), "engine: has no mapping, expected one that was made with it.");
    const View word = view("word", embeddings.word);
    AAF_CHECK(word.shape.size() == 2 && word.shape[0] > 0, "word: got shape ", text(word.shape),
              ", expected a matrix.");
    const int64_t columns = engine.hidden_width(), most = embeddings.max_tokens;
    expect("word", word, dtype, {word.shape[0], columns});
    const auto table = [&](const char* name, const Tensor& tensor, int64_t rows, const char* what) {
        const View given = view(name, tensor);
        AAF_CHECK(given.shape.size() == 2 && given.shape[0] >= rows, name, ": got shape ",
                  text(given.shape), ", expected (rows, ", columns, ") with at least ", rows,
                  " rows, ", what, ".");
        expect(name, given, dtype, {given.shape[0], columns});
    };
    AAF_CHECK(most >= 1, "max_tokens: got ", most, ", expected at least 1.");
    table("token_type", embeddings.token_type, 1, "that of type 0 among them");
    if (embeddings.position.has_value())
        table("position", *embeddings.position, most, "one for each of max_tokens");
    AAF_CHECK(distances == 0 || most <= (distances + 1) / 2, "max_tokens: got ", most,
              ", expected at most ", (distances + 1) / 2, ", which is what the ", distances,
              " rows of distance_embedding reach to.");
    expect("norm weight", embeddings.norm[0], dtype, {columns});
    expect("norm bias", embeddings.norm[1], dtype, {columns});
    if (!embeddings.pooler.has_value()) return;
    expect("pooler weight", (*embeddings.pooler)[0], dtype, {width, width});
    expect("pooler bias", (*embeddings.pooler)[1], dtype, {width});
}

void check(const Encode& call, const Encoder& encoder) {
    check_limits(call.max_iterations, call.limits);
    AAF_CHECK(call.ids.dtype == ScalarType::Long || call.ids.dtype == ScalarType::Int, "ids: got ",
              text(call.ids.dtype), ", expected int64 or int32.");
    AAF_CHECK(call.ids.shape.size() == 1, "ids: got shape ", text(call.ids.shape),
              ", expected (tokens,).");
    const int64_t tokens = call.ids.shape[0];
    check_offsets(call.offsets, tokens, "ids");
    const int64_t sequences = call.offsets.shape[0] - 1, width = encoder.width();
    const auto* offsets = static_cast<const int64_t*>(call.offsets.data);
    for (int64_t b = 0; b < sequences; ++b) {
        const int64_t length = offsets[b + 1] - offsets[b];
        AAF_CHECK(length >= 1 && length <= encoder.max_tokens(), "offsets: got ", length,
                  " tokens in sequence ", b, ", expected 1 to ", encoder.max_tokens(), ".");
    }
    AAF_CHECK(call.pooling != Pooling::pooler || encoder.has_pooler(),
              "pooling: got pooler, expected none, mean or cls: the encoder was made without one.");
    if (call.pooling == Pooling::none)
        expect("out", call.out, encoder.dtype(), {tokens, width});
    else
        expect("out", call.out, ScalarType::Float, {sequences, width});
    expect("n_updates", call.n_updates, ScalarType::Float, {tokens});
    expect("remainders", call.remainders, ScalarType::Float, {tokens});
    if (call.ids.dtype == ScalarType::Long)
        check_ids<int64_t>(call, encoder.vocabulary());
    else
        check_ids<int32_t>(call, encoder.vocabulary());
    check_memory({{"out", &call.out},
                  {"n_updates", &call.n_updates},
                  {"remainders", &call.remainders},
                  {"ids", &call.ids},
                  {"offsets", &call.offsets}},
                 3);
}

}  // namespace albert_act_fast::binding
