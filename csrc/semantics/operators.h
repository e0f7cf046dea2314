// The operators' arguments, for CPU and CUDA kernels alike: plain pointers and sizes, the names
// those of the schemas in albert_act_fast/ops/contracts.py, which says what each computes.
//
// `rows` covers the rows beyond the live ones. How many are live stands where the rows are, in
// `row_count` (null where all of them are) or in the last of the query offsets.
#pragma once

#include <cstdint>

#include "halting.h"
#include "matrix.h"
#include "numbers.h"

namespace albert_act_fast {

// Words of the halting step's workspace that are no row's: contracts.HALTING_WORKSPACE_HEADER.
constexpr int64_t kHaltingWorkspaceHeader = 8;

template <class T>
struct LayerNorm {
    const T *weight = nullptr, *bias = nullptr;
    Arithmetic<T> eps = 0;
};

template <class T>
struct EmbedTokens {
    const int64_t *token_ids = nullptr, *token_type_ids = nullptr, *position_ids = nullptr;
    Matrix<const T> word, token_type, position;  // position.data is null where there is none
    LayerNorm<T> norm;
    const int64_t* row_count = nullptr;
    Matrix<T> out;
    int64_t rows = 0, width = 0;
};

template <class T>
struct AddLayerNorm {
    Matrix<const T> x, residual;
    LayerNorm<T> norm;
    const int64_t* row_count = nullptr;
    Matrix<T> out;
    int64_t rows = 0, width = 0;
};

// Those that take each row by itself: the struct, and what the kernel is called.
#define AAF_ROW_OPERATORS(DO)     \
    DO(EmbedTokens, embed_tokens) \
    DO(AddLayerNorm, add_layer_norm)

// scatter_rows of one table, or of the two of write_kv: to[t].row(index[r]) = from[t].row(r). In
// bytes: copying knows no dtype.
struct ScatterRows {
    Matrix<const unsigned char> from[2];
    Matrix<unsigned char> to[2];
    int tables = 0;
    const int64_t *index = nullptr, *row_count = nullptr;
    int64_t rows = 0, row_bytes = 0;
};

template <class T>
struct RaggedAttention {
    Matrix<const T> queries, key_store, value_store;
    const int64_t *query_offsets = nullptr, *key_offsets = nullptr, *token_index = nullptr,
                  *positions = nullptr;
    int64_t rows = 0, sequences = 0, heads = 0, head_size = 0;
    Matrix<const T> distance_embedding;  // data is null where positions are absolute
    int64_t distances = 0;               // its rows
    bool key_distances = false;
    Matrix<T> out;
};

template <class T>
struct HaltingStep {
    using State = Arithmetic<T>;
    Matrix<const T> ffn_output, ffn_input, hidden;  // ffn_input.data is null where there is none
    LayerNorm<T> norm;
    const T *halting_weight = nullptr, *halting_bias = nullptr;
    HaltingLimits<State> limits;
    int64_t iteration = 0;
    bool last = false;
    const State* accumulated_probability = nullptr;
    const int64_t *token_index = nullptr, *query_offsets = nullptr;
    int64_t rows = 0, sequences = 0, width = 0;
    Matrix<T> next_hidden;
    State* next_accumulated_probability = nullptr;
    int64_t *next_token_index = nullptr, *next_query_offsets = nullptr;
    // kHaltingWorkspaceHeader words, then one for each row; what they hold is the kernel's affair.
    uint64_t* workspace = nullptr;
    Matrix<T> out;
    State *n_updates = nullptr, *remainders = nullptr;
};

}  // namespace albert_act_fast
