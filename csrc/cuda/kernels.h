// Launches of the CUDA kernels, no header of CUDA or torch. Pointers are to device memory.
//
// A launch covers `rows` rows; how many of them are live is read on the device. Its result is null,
// or what the CUDA runtime says against it. Rows have at most kMaxWidth columns.
#pragma once

#include <cstdint>

#include "../semantics/operators.h"

namespace albert_act_fast::cuda {

constexpr int64_t kMaxWidth = 4096;
constexpr int64_t kMaxHeadSize = 256;

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
