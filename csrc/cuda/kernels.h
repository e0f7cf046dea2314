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

// One of the operators in semantics/operators.h.
template <class Args>
const char* run(const Args& args, void* stream);

}  // namespace albert_act_fast::cuda
