// The operators that albert_act_fast/ops/contracts.py defines, for every backend: from tensors,
// checked, to the arguments of semantics/operators.h. A backend has
//
//     kReadsValues                whether the host may look at what tensors hold
//     for_dtype(op, rows, f)      calls f with an element of the rows' dtype
//     run(op, args, rows)         computes; `rows` is the tensor whose device that happens on
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

#include "arguments.h"

namespace albert_act_fast::binding {

template <class Backend>
struct Operators {
    using Checks = Arguments<Backend>;
    using Optional = std::optional<Tensor>;

    static void embed_tokens(Tensor token_ids, Tensor token_type_ids, Tensor position_ids,
                             Tensor word, Tensor token_type, Optional position, Tensor ln_weight,
                             Tensor ln_bias, double eps, Optional row_count, Tensor out) {
        constexpr const char* op = "embed_tokens";
        Backend::for_dtype(op, word, [&](auto element) {
            using T = decltype(element);
            const Checks check(op, word);
            EmbedTokens<T> args;
            args.rows = check.length("token_ids", token_ids);
            const auto [words, width] = check.sizes("word", word);
            const int64_t types = check.rows("token_type", token_type);
            const int64_t positions = check.rows("position", position);
            args.width = width;
            args.word = check.template matrix<const T>("word", word, words, width);
            args.token_type =
                check.template matrix<const T>("token_type", token_type, types, width);
            args.position = check.template matrix<const T>("position", position, positions, width);
            args.norm =
                check.template norm<T>("ln_weight", ln_weight, "ln_bias", ln_bias, eps, width);
            args.out = check.template matrix<T>("out", out, args.rows, width);
            const int64_t* live = args.row_count = check.row_count(row_count, args.rows);
            args.token_ids = check.index("token_ids", token_ids, args.rows, live, words);
            args.token_type_ids =
                check.index("token_type_ids", token_type_ids, args.rows, live, types);
            args.position_ids =
                position.has_value()
                    ? check.index("position_ids", position_ids, args.rows, live, positions)
                    : check.template vector<const int64_t>("position_ids", position_ids, args.rows);
            Backend::run(op, args, word);
        });
    }

    static void write_kv(Tensor keys, Tensor values, Tensor token_index, Optional row_count,
                         Tensor key_store, Tensor value_store) {
        constexpr const char* op = "write_kv";
        Backend::for_dtype(op, keys, [&](auto element) {
            using T = decltype(element);
            const Checks check(op, keys);
            const auto [rows, width] = check.sizes("keys", keys);
            const int64_t tokens = check.rows("key_store", key_store);
            ScatterRows args;
            args.rows = rows;
            args.row_bytes = width * int64_t(sizeof(T));
            args.row_count = check.row_count(row_count, rows);
            args.index = check.index("token_index", token_index, rows, args.row_count, tokens);
            args.tables = 2;
            args.from[0] = check.template bytes<const Byte, const T>("keys", keys, rows, width);
            args.from[1] = check.template bytes<const Byte, const T>("values", values, rows, width);
            args.to[0] = check.template bytes<Byte, T>("key_store", key_store, tokens, width);
            args.to[1] = check.template bytes<Byte, T>("value_store", value_store, tokens, width);
            Backend::run(op, args, keys);
        });
    }

    static void scatter_rows(Tensor rows, Tensor row_index, Optional row_count, Tensor out) {
        constexpr const char* op = "scatter_rows";
        Backend::for_dtype(op, rows, [&](auto element) {
            using T = decltype(element);
            const Checks check(op, rows);
            const auto [count, width] = check.sizes("rows", rows);
            const int64_t tokens = check.rows("out", out);
            ScatterRows args;
            args.rows = count;
            args.row_bytes = width * int64_t(sizeof(T));
            args.row_count = check.row_count(row_count, count);
            args.index = check.index("row_index", row_index, count, args.row_count, tokens);
            args.tables = 1;
            args.from[0] = check.template bytes<const Byte, const T>("rows", rows, count, width);
            args.to[0] = check.template bytes<Byte, T>("out", out, tokens, width);
            Backend::run(op, args, rows);
        });
    }

    static void add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps,
                               Optional row_count, Tensor out) {
        constexpr const char* op = "add_layer_norm";
        Backend::for_dtype(op, x, [&](auto element) {
            using T = decltype(element);
            const Checks check(op, x);
            const auto [rows, width] = check.sizes("x", x);
            AddLayerNorm<T> args;
            args.rows = rows;
            args.width = width;
            args.x = check.template matrix<const T>("x", x, rows, width);
            args.residual = check.template matrix<const T>("residual", residual, rows, width);
            args.norm = check.template norm<T>("weight", weight, "bias", bias, eps, width);
            args.row_count = check.row_count(row_count, rows);
            args.out = check.template matrix<T>("out", out, rows, width);
            Backend::run(op, args, x);
        });
    }

    static void ragged_attention(Tensor queries, Tensor key_store, Tensor value_store,
                                 Tensor query_offsets, Tensor key_offsets, Tensor token_index,
                                 Tensor positions, int64_t heads, Optional distance_embedding,
                                 bool key_distances, Tensor out) {
        constexpr const char* op = "ragged_attention";
        Backend::for_dtype(op, queries, [&](auto element) {
            using T = decltype(element);
            const Checks check(op, queries);
            const auto [rows, hidden] = check.sizes("queries", queries);
            const int64_t tokens = check.rows("key_store", key_store);
            const int64_t sequences = check.sequences("key_offsets", key_offsets);
            AAF_CHECK(heads > 0 && hidden % heads == 0, op, ": ", hidden,
                      " columns cannot be divided among ", heads, " heads.");
            RaggedAttention<T> args;
            args.rows = rows;
            args.sequences = sequences;
            args.heads = heads;
            args.head_size = hidden / heads;
            args.key_distances = key_distances;
            args.queries = check.template matrix<const T>("queries", queries, rows, hidden);
            args.key_store = check.template matrix<const T>("key_store", key_store, tokens, hidden);
            args.value_store =
                check.template matrix<const T>("value_store", value_store, tokens, hidden);
            args.out = check.template matrix<T>("out", out, rows, hidden);
            args.query_offsets = check.offsets("query_offsets", query_offsets, sequences, rows);
            args.key_offsets = check.offsets("key_offsets", key_offsets, sequences, tokens);
            args.token_index = check.index("token_index", token_index, rows,
                                           args.query_offsets + sequences, tokens);
            if constexpr (Backend::kReadsValues)
                for (int64_t b = 0; b < sequences; ++b)
                    AAF_CHECK(args.key_offsets[b] < args.key_offsets[b + 1] ||
                                  args.query_offsets[b] == args.query_offsets[b + 1],
                              op, ": sequence ", b, " has queries, but no keys.");
            args.distances = check.rows("distance_embedding", distance_embedding);
            args.distance_embedding = check.template matrix<const T>(
                "distance_embedding", distance_embedding, args.distances, args.head_size);
            args.positions =
                distance_embedding.has_value()
                    ? check.index("positions", positions, tokens, nullptr, (args.distances + 1) / 2)
                    : check.template vector<const int64_t>("positions", positions, tokens);
            Backend::run(op, args, queries);
        });
    }

    static void halting_step(Tensor ffn_output, Optional ffn_input, Tensor hidden, Tensor ln_weight,
                             Tensor ln_bias, double eps, Tensor halting_weight, Tensor halting_bias,
                             double threshold, int64_t iteration, bool last,
                             Tensor accumulated_probability, Tensor token_index,
                             Tensor query_offsets, Tensor next_hidden,
                             Tensor next_accumulated_probability, Tensor next_token_index,
                             Tensor next_query_offsets, Tensor workspace, Tensor out,
                             Tensor n_updates, Tensor remainders) {
        constexpr const char* op = "halting_step";
        Backend::for_dtype(op, hidden, [&](auto element) {
            using T = decltype(element);
            using State = Arithmetic<T>;
            const Checks check(op, hidden);
            const auto [rows, width] = check.sizes("hidden", hidden);
            const int64_t tokens = check.rows("out", out);
            const int64_t sequences = check.sequences("query_offsets", query_offsets);
            AAF_CHECK(threshold == threshold, op, ": threshold is NaN, expected a number.");
            HaltingStep<T> args;
            args.rows = rows;
            args.sequences = sequences;
            args.width = width;
            args.limits.threshold = State(threshold);
            args.iteration = iteration;
            args.last = last;
            args.ffn_output = check.template matrix<const T>("ffn_output", ffn_output, rows, width);
            args.ffn_input = check.template matrix<const T>("ffn_input", ffn_input, rows, width);
            args.hidden = check.template matrix<const T>("hidden", hidden, rows, width);
            args.norm =
                check.template norm<T>("ln_weight", ln_weight, "ln_bias", ln_bias, eps, width);
            args.halting_weight =
                check.template matrix<const T>("halting_weight", halting_weight, 1, width).data;
            args.halting_bias = check.template vector<const T>("halting_bias", halting_bias, 1);
            args.accumulated_probability = check.template vector<const State>(
                "accumulated_probability", accumulated_probability, rows);
            args.query_offsets = check.offsets("query_offsets", query_offsets, sequences, rows);
            args.token_index = check.index("token_index", token_index, rows,
                                           args.query_offsets + sequences, tokens);
            args.next_hidden = check.template matrix<T>("next_hidden", next_hidden, rows, width);
            args.next_accumulated_probability = check.template vector<State>(
                "next_accumulated_probability", next_accumulated_probability, rows);
            args.next_token_index =
                check.template vector<int64_t>("next_token_index", next_token_index, rows);
            args.next_query_offsets = check.template vector<int64_t>(
                "next_query_offsets", next_query_offsets, sequences + 1);
            args.workspace = reinterpret_cast<uint64_t*>(check.template vector<int64_t>(
                "workspace", workspace, kHaltingWorkspaceHeader + rows));
            args.out = check.template matrix<T>("out", out, tokens, width);
            args.n_updates = check.template vector<State>("n_updates", n_updates, tokens);
            args.remainders = check.template vector<State>("remainders", remainders, tokens);
            Backend::run(op, args, hidden);
        });
    }

    static void implement(torch::stable::detail::StableLibrary& library,
                          const std::string& implementation) {
        const auto add = [&](const std::string& name, auto boxed) {
            library.impl((name + "." + implementation).c_str(), boxed);
        };
        add("embed_tokens", TORCH_BOX(&embed_tokens));
        add("write_kv", TORCH_BOX(&write_kv));
        add("scatter_rows", TORCH_BOX(&scatter_rows));
        add("add_layer_norm", TORCH_BOX(&add_layer_norm));
        add("ragged_attention", TORCH_BOX(&ragged_attention));
        add("halting_step", TORCH_BOX(&halting_step));
    }

  private:
    using Byte = unsigned char;
};

}  // namespace albert_act_fast::binding
