// The CUDA kernels' arguments and launches. Plain pointers to device memory and sizes, no header of
// CUDA or torch. What each computes: albert_act_fast/ops/contracts.py.
//
// A launch covers `rows` rows; how many of them are live is read on the device. Its result is null,
// or what the CUDA runtime says against it. Rows have at most kMaxWidth columns.
#pragma once

#include <cstdint>

#include "../semantics/matrix.h"
#include "../semantics/numbers.h"

namespace albert_act_fast::cuda {

constexpr int64_t kMaxWidth = 4096;
constexpr int64_t kMaxHeadSize = 256;
// Words of the halting step's workspace that are no tile's.
constexpr int64_t kHaltingWorkspaceHeader = 8;

template <class T>
struct LayerNorm {
    const T* weight;
    const T* bias;
    float eps;
};

template <class T>
struct EmbedTokens {
    const int64_t *token_ids, *token_type_ids, *position_ids;
    Matrix<const T> word, token_type, position;  // position.data is null where there is none
    LayerNorm<T> norm;
    const int64_t* row_count;  // null where all rows are live
    Matrix<T> out;
    int64_t rows, width;
};

template <class T>
struct AddLayerNorm {
    Matrix<const T> x, residual;
    LayerNorm<T> norm;
    const int64_t* row_count;
    Matrix<T> out;
    int64_t rows, width;
};

// to[t].row(index[r]) = from[t].row(r) for each table t. In bytes: copying knows no dtype.
struct ScatterRows {
    Matrix<const unsigned char> from[2];
    Matrix<unsigned char> to[2];
    int tables;
    const int64_t *index, *row_count;
    int64_t rows, row_bytes;
};

template <class T>
struct RaggedAttention {
    Matrix<const T> queries, keys, values;
    const int64_t *query_offsets, *key_offsets, *token_index, *positions;
    int64_t rows, sequences, heads, head_size;
    Matrix<const T> distance_embedding;  // data is null where positions are absolute
    int64_t distances;                   // its rows
    bool key_distances;
    Matrix<T> out;
};

template <class T>
struct HaltingStep {
    Matrix<const T> ffn_output, ffn_input, hidden;  // ffn_input.data is null where there is none
    LayerNorm<T> norm;
    const T *halting_weight, *halting_bias;
    float threshold;
    int64_t iteration;
    bool last;
    const float* accumulated_probability;
    const int64_t *token_index, *query_offsets;
    int64_t rows, sequences, width;
    Matrix<T> next_hidden;
    float* next_accumulated_probability;
    int64_t *next_token_index, *next_query_offsets;
    uint64_t* workspace;  // [rows + 8], see halting_step.cuh
    Matrix<T> out;
    float *n_updates, *remainders;
};

template <class T>
const char* embed_tokens(const EmbedTokens<T>& args, void* stream);
template <class T>
const char* add_layer_norm(const AddLayerNorm<T>& args, void* stream);
template <class T>
const char* ragged_attention(const RaggedAttention<T>& args, void* stream);
template <class T>
const char* halting_step(const HaltingStep<T>& args, void* stream);
const char* scatter_rows(const ScatterRows& args, void* stream);

}  // namespace albert_act_fast::cuda
