// The `cpp` overloads of the operators that albert_act_fast/ops/contracts.py defines.
#include <numeric>

#include "arguments.h"
#include "launch.h"

namespace albert_act_fast::binding {
namespace {

// The last of the sequence offsets says how many rows are live, at most `rows`.
int64_t check_offsets(const char* op, const char* name, const int64_t* offsets, int64_t sequences,
                      int64_t rows) {
    AAF_CHECK(offsets[0] == 0, op, ": ", name, "[0] is ", offsets[0], ", expected 0.");
    for (int64_t b = 0; b < sequences; ++b)
        AAF_CHECK(offsets[b] <= offsets[b + 1], op, ": ", name, " must not fall.");
    AAF_CHECK(offsets[sequences] <= rows, op, ": ", name, " ends at ", offsets[sequences],
              ", expected at most ", rows, " rows.");
    return offsets[sequences];
}

// The live ones of `rows` rows.
int64_t live_rows(const Arguments& check, const std::optional<Tensor>& row_count, int64_t rows) {
    if (!row_count.has_value()) return rows;
    const int64_t live = *check.vector<const int64_t>("row_count", *row_count, 1);
    check.check_range("row_count", &live, 1, rows + 1);
    return live;
}

void embed_tokens(Tensor token_ids, Tensor token_type_ids, Tensor position_ids, Tensor word,
                  Tensor token_type, std::optional<Tensor> position, Tensor ln_weight,
                  Tensor ln_bias, double eps, std::optional<Tensor> row_count, Tensor out) {
    for_dtype("embed_tokens", word, [&](auto element) {
        using T = decltype(element);
        const Arguments check("embed_tokens");
        const int64_t tokens = check.length("token_ids", token_ids);
        const auto [words, width] = check.sizes("word", word);
        const int64_t types = check.sizes("token_type", token_type).first;
        cpu::EmbedTokens<T> args{
            check.vector<const int64_t>("token_ids", token_ids, tokens),
            check.vector<const int64_t>("token_type_ids", token_type_ids, tokens),
            check.vector<const int64_t>("position_ids", position_ids, tokens),
            check.matrix<const T>("word", word, words, width),
            check.matrix<const T>("token_type", token_type, types, width),
            {nullptr, 0},
            check.norm<T>(ln_weight, ln_bias, eps, width),
            check.matrix<T>("out", out, tokens, width),
            width};
        const int64_t live = live_rows(check, row_count, tokens);
        check.check_range("token_ids", args.token_ids, live, word.size(0));
        check.check_range("token_type_ids", args.token_type_ids, live, token_type.size(0));
        if (position.has_value()) {
            args.position = check.matrix<const T>("position", *position,
                                                  check.sizes("position", *position).first, width);
            check.check_range("position_ids", args.position_ids, live,
                              check.sizes("position", *position).first);
        }
        for_rows(live, [&](int64_t begin, int64_t end) {
            cpu::kernels<T>().embed_tokens(args, begin, end);
        });
    });
}

void write_kv(Tensor keys, Tensor values, Tensor token_index, std::optional<Tensor> row_count,
              Tensor key_store, Tensor value_store) {
    for_dtype("write_kv", keys, [&](auto element) {
        using T = decltype(element);
        const Arguments check("write_kv");
        const auto [rows, width] = check.sizes("keys", keys);
        const int64_t tokens = check.sizes("key_store", key_store).first;
        const auto* index = check.vector<const int64_t>("token_index", token_index, rows);
        const int64_t live = live_rows(check, row_count, rows);
        check.check_range("token_index", index, live, tokens);
        const auto from_keys = check.matrix<const T>("keys", keys, rows, width);
        const auto from_values = check.matrix<const T>("values", values, rows, width);
        const auto to_keys = check.matrix<T>("key_store", key_store, tokens, width);
        const auto to_values = check.matrix<T>("value_store", value_store, tokens, width);
        scatter(from_keys, index, to_keys, live, width);
        scatter(from_values, index, to_values, live, width);
    });
}

void scatter_rows(Tensor rows, Tensor row_index, std::optional<Tensor> row_count, Tensor out) {
    for_dtype("scatter_rows", rows, [&](auto element) {
        using T = decltype(element);
        const Arguments check("scatter_rows");
        const auto [count, width] = check.sizes("rows", rows);
        const int64_t tokens = check.sizes("out", out).first;
        const auto* index = check.vector<const int64_t>("row_index", row_index, count);
        const int64_t live = live_rows(check, row_count, count);
        check.check_range("row_index", index, live, tokens);
        const auto from = check.matrix<const T>("rows", rows, count, width);
        const auto to = check.matrix<T>("out", out, tokens, width);
        scatter(from, index, to, live, width);
    });
}

void add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps,
                    std::optional<Tensor> row_count, Tensor out) {
    for_dtype("add_layer_norm", x, [&](auto element) {
        using T = decltype(element);
        const Arguments check("add_layer_norm");
        const auto [rows, width] = check.sizes("x", x);
        const cpu::AddLayerNorm<T> args{check.matrix<const T>("x", x, rows, width),
                                        check.matrix<const T>("residual", residual, rows, width),
                                        check.norm<T>(weight, bias, eps, width),
                                        check.matrix<T>("out", out, rows, width), width};
        for_rows(live_rows(check, row_count, rows), [&](int64_t begin, int64_t end) {
            cpu::kernels<T>().add_layer_norm(args, begin, end);
        });
    });
}

void ragged_attention(Tensor queries, Tensor key_store, Tensor value_store, Tensor query_offsets,
                      Tensor key_offsets, Tensor token_index, Tensor positions, int64_t heads,
                      std::optional<Tensor> distance_embedding, bool key_distances, Tensor out) {
    for_dtype("ragged_attention", queries, [&](auto element) {
        using T = decltype(element);
        const Arguments check("ragged_attention");
        const auto [rows, hidden] = check.sizes("queries", queries);
        const int64_t tokens = check.sizes("key_store", key_store).first;
        const int64_t sequences = check.sequences("key_offsets", key_offsets);
        AAF_CHECK(heads > 0 && hidden % heads == 0, "ragged_attention: ", hidden,
                  " columns cannot be divided among ", heads, " heads.");
        const auto keys = check.matrix<const T>("key_store", key_store, tokens, hidden);
        const auto values = check.matrix<const T>("value_store", value_store, tokens, hidden);
        const auto* bounds = check.vector<const int64_t>("key_offsets", key_offsets, sequences + 1);
        cpu::RaggedAttention<T> args{
            check.matrix<const T>("queries", queries, rows, hidden),
            check.vector<const int64_t>("query_offsets", query_offsets, sequences + 1),
            check.vector<const int64_t>("token_index", token_index, rows),
            check.vector<const int64_t>("positions", positions, tokens),
            {},
            {nullptr, 0},
            0,
            key_distances,
            check.matrix<T>("out", out, rows, hidden)};
        const int64_t live =
            check_offsets("ragged_attention", "query_offsets", args.query_offsets, sequences, rows);
        const int64_t live_keys =
            check_offsets("ragged_attention", "key_offsets", bounds, sequences, tokens);
        check.check_range("token_index", args.token_index, live, tokens);
        for (int64_t b = 0; b < sequences; ++b)
            AAF_CHECK(
                bounds[b] < bounds[b + 1] || args.query_offsets[b] == args.query_offsets[b + 1],
                "ragged_attention: sequence ", b, " has queries, but no keys.");
        if (distance_embedding.has_value()) {
            args.distances = check.sizes("distance_embedding", *distance_embedding).first;
            args.distance_embedding = check.matrix<const T>(
                "distance_embedding", *distance_embedding, args.distances, hidden / heads);
            check.check_range("positions", args.positions, tokens, (args.distances + 1) / 2);
        }
        StoreMemory memory;
        args.store = empty_store<T>(memory, bounds, sequences, heads, hidden / heads);
        std::vector<int64_t> in_order(static_cast<size_t>(live_keys));
        std::iota(in_order.begin(), in_order.end(), 0);
        write_keys_values<T>(
            {keys, values, live_keys, in_order.data(), memory.sequence.of<int64_t>(0), args.store});
        attend(args, sequences);
    });
}

void halting_step(Tensor ffn_output, std::optional<Tensor> ffn_input, Tensor hidden,
                  Tensor ln_weight, Tensor ln_bias, double eps, Tensor halting_weight,
                  Tensor halting_bias, double threshold, int64_t iteration, bool last,
                  Tensor accumulated_probability, Tensor token_index, Tensor query_offsets,
                  Tensor next_hidden, Tensor next_accumulated_probability, Tensor next_token_index,
                  Tensor next_query_offsets, Tensor workspace, Tensor out, Tensor n_updates,
                  Tensor remainders) {
    for_dtype("halting_step", hidden, [&](auto element) {
        using T = decltype(element);
        using State = Arithmetic<T>;
        const Arguments check("halting_step");
        const auto [rows, width] = check.sizes("hidden", hidden);
        const int64_t tokens = check.sizes("out", out).first;
        const int64_t sequences = check.sequences("query_offsets", query_offsets);
        AAF_CHECK(threshold == threshold, "halting_step: threshold is NaN, expected a number.");
        const T* bias = check.vector<const T>("halting_bias", halting_bias, 1);
        cpu::HaltingStep<T> args{
            check.matrix<const T>("ffn_output", ffn_output, rows, width),
            check.matrix<const T>("ffn_input", ffn_input, rows, width),
            check.matrix<const T>("hidden", hidden, rows, width),
            check.norm<T>(ln_weight, ln_bias, eps, width),
            check.matrix<const T>("halting_weight", halting_weight, 1, width).data,
            State(load(*bias)),
            State(threshold),
            iteration,
            last,
            check.vector<const State>("accumulated_probability", accumulated_probability, rows),
            check.vector<const int64_t>("token_index", token_index, rows),
            check.vector<const int64_t>("query_offsets", query_offsets, sequences + 1),
            sequences,
            width,
            check.matrix<T>("next_hidden", next_hidden, rows, width),
            check.vector<State>("next_accumulated_probability", next_accumulated_probability, rows),
            check.vector<int64_t>("next_token_index", next_token_index, rows),
            check.vector<int64_t>("next_query_offsets", next_query_offsets, sequences + 1),
            check.matrix<T>("out", out, tokens, width),
            check.vector<State>("n_updates", n_updates, tokens),
            check.vector<State>("remainders", remainders, tokens),
            nullptr,
            nullptr,
            nullptr};
        // Memory of its own serves here; the contract's is for devices that cannot allocate.
        check.vector<int64_t>("workspace", workspace, rows + 8);
        const int64_t live =
            check_offsets("halting_step", "query_offsets", args.query_offsets, sequences, rows);
        check.check_range("token_index", args.token_index, live, tokens);
        halt(args);
    });
}

}  // namespace
}  // namespace albert_act_fast::binding

STABLE_TORCH_LIBRARY_IMPL(albert_act_fast, CPU, m) {
    using namespace albert_act_fast::binding;
    m.impl("embed_tokens.cpp", TORCH_BOX(&embed_tokens));
    m.impl("write_kv.cpp", TORCH_BOX(&write_kv));
    m.impl("scatter_rows.cpp", TORCH_BOX(&scatter_rows));
    m.impl("add_layer_norm.cpp", TORCH_BOX(&add_layer_norm));
    m.impl("ragged_attention.cpp", TORCH_BOX(&ragged_attention));
    m.impl("halting_step.cpp", TORCH_BOX(&halting_step));
}
