// Refusing what the engine must not be given.
#pragma once

#include "../engine/engine.h"

namespace albert_act_fast::binding {

// Weights whose shapes or dtypes do not fit each other.
void check(const engine::Layer& layer);

// Whatever would make the engine read or write outside what it was given, or never end.
void check(const engine::Run& run, const engine::Engine& engine);

}  // namespace albert_act_fast::binding
