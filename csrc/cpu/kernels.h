// The CPU kernels' arguments. Plain pointers and sizes; rows may be slices of wider tensors, so
// each matrix comes with its row stride in elements. What each computes:
// albert_act_fast/ops/contracts.py.
//
// Every kernel works on a range of its items; the caller splits the items among threads. Results do
// not depend on how.
#pragma once

#include <cstdint>

#include "../semantics/numbers.h"

namespace albert_act_fast::cpu {

template <class T>
struct Matrix {
    T* data;
    int64_t stride;

    T* row(int64_t r) const { return data + r * stride; }
};

template <class T>
struct LayerNorm {
    const T* weight;
    const T* bias;
    double eps;
};

template <class T>
struct EmbedTokens {
    const int64_t *token_ids, *token_type_ids, *position_ids;
    Matrix<const T> word, token_type, position;  // position.data is null where there is none
    LayerNorm<T> norm;
    Matrix<T> out;
    int64_t width;
};

template <class T>
struct AddLayerNorm {
    Matrix<const T> x, residual;
    LayerNorm<T> norm;
    Matrix<T> out;
    int64_t width;
};

template <class T>
struct RaggedAttention {
    Matrix<const T> queries, keys, values;
    const int64_t *query_offsets, *key_offsets, *token_index, *positions;
    int64_t head_size;
    Matrix<const T> distance_embedding;  // data is null where positions are absolute
    int64_t distances;                   // its rows
    bool key_distances;
    Matrix<T> out;
};

template <class T>
struct HaltingStep {
    using State = Arithmetic<T>;
    Matrix<const T> ffn_output, ffn_input, hidden;
    LayerNorm<T> norm;
    const T* halting_weight;
    State halting_bias, threshold;
    int64_t iteration;
    bool last;
    const State* accumulated_probability;
    const int64_t *token_index, *query_offsets;
    int64_t sequences, width;
    Matrix<T> next_hidden;
    State* next_accumulated_probability;
    int64_t *next_token_index, *next_query_offsets;
    Matrix<T> out;
    State *n_updates, *remainders;
    // Shared by the workers of one call. ticket: the next block nobody works on, from 0.
    // running_up_to[i]: rows that go on in blocks 0 to i, -1 until known. asking: rows that go on
    // below the threshold, from 0.
    int64_t *ticket, *running_up_to, *asking;
};

// Rows that one worker takes at a time. The candidate states of a block stay in cache between the
// halting rule and the mix, so every row is read once.
constexpr int64_t kHaltingBlock = 32;
// Queries of one sequence and head that one worker takes at a time.
constexpr int64_t kQueryBlock = 128;

template <class T>
struct Kernels {
    void (*embed_tokens)(const EmbedTokens<T>&, int64_t begin, int64_t end);     // rows
    void (*add_layer_norm)(const AddLayerNorm<T>&, int64_t begin, int64_t end);  // rows
    // items: three numbers each, the sequence, its first query of at most kQueryBlock, the head
    void (*ragged_attention)(const RaggedAttention<T>&, const int64_t* items, int64_t begin,
                             int64_t end);
    // Takes blocks by ticket until none is left; to be called once by each worker.
    void (*halting_step)(const HaltingStep<T>&);
    // By one worker after the others, where `asking` stayed 0.
    void (*finish_rows)(const HaltingStep<T>&);
};

// The kernels for the widest instruction set that this machine has.
template <class T>
const Kernels<T>& kernels();

// Of `words` 8-byte words of `data` from word `first` on; the checksum of a whole is the sum
// (modulo 2^64) of those of its parts.
uint64_t checksum(const void* data, int64_t first, int64_t words);

// "avx512", "avx2" or "portable": what kernels() chose.
const char* instruction_set();

}  // namespace albert_act_fast::cpu
