// Refusing what the engine must not be given.
#pragma once

#include <string>

#include "../engine/encoder.h"

namespace albert_act_fast::binding {

// The tensor's memory, valid as long as the tensor is.
engine::View view(const std::string& name, const Tensor& tensor);

// Weights whose shapes or dtypes do not fit each other.
void check(const engine::Layer& layer);
void check(const engine::Embeddings& embeddings, const engine::Engine& engine);

// Whatever would make the engine read or write outside what it was given, or never end.
void check(const engine::Run& run, const engine::Engine& engine);
void check(const engine::Encode& call, const engine::Encoder& encoder);

}  // namespace albert_act_fast::binding
