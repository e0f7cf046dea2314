#pragma once

namespace albert_act_fast {

enum class Activation { none, gelu, gelu_tanh, relu, silu };

}  // namespace albert_act_fast
