// The operators as C++ functions, for the loop that calls them without a dispatcher between.
// What each computes: albert_act_fast/ops/contracts.py.
#pragma once

#include "arguments.h"

namespace albert_act_fast::binding {

void embed_tokens(Tensor token_ids, Tensor token_type_ids, Tensor position_ids, Tensor word,
                  Tensor token_type, std::optional<Tensor> position, Tensor ln_weight,
                  Tensor ln_bias, double eps, std::optional<Tensor> row_count, Tensor out);

void write_kv(Tensor keys, Tensor values, Tensor token_index, std::optional<Tensor> row_count,
              Tensor key_store, Tensor value_store);

void scatter_rows(Tensor rows, Tensor row_index, std::optional<Tensor> row_count, Tensor out);

void add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, double eps,
                    std::optional<Tensor> row_count, Tensor out);

void ragged_attention(Tensor queries, Tensor key_store, Tensor value_store, Tensor query_offsets,
                      Tensor key_offsets, Tensor token_index, Tensor positions, int64_t heads,
                      std::optional<Tensor> distance_embedding, bool key_distances, Tensor out);

void halting_step(Tensor ffn_output, Tensor ffn_input, Tensor hidden, Tensor ln_weight,
                  Tensor ln_bias, double eps, Tensor halting_weight, Tensor halting_bias,
                  double threshold, int64_t iteration, bool last, Tensor accumulated_probability,
                  Tensor token_index, Tensor query_offsets, Tensor next_hidden,
                  Tensor next_accumulated_probability, Tensor next_token_index,
                  Tensor next_query_offsets, Tensor workspace, Tensor out, Tensor n_updates,
                  Tensor remainders);

}  // namespace albert_act_fast::binding
