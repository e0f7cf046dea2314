"""Layers whose weights may be read instead of their modules called.

Packed weights and fused kernels compute what a layer's modules are known to compute. Where a module
may do anything else, it must be called itself, by `loop.iterate`.
"""

from __future__ import annotations

from torch import nn
from transformers import activations

_ACTIVATIONS = {
    activations.GELUActivation: "gelu",
    activations.NewGELUActivation: "gelu_tanh",
    activations.GELUTanh: "gelu_tanh",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    activations.SiLUActivation: "silu",
}


def linears(layer: nn.Module) -> dict[str, nn.Module]:
    """The modules of a layer's six products, by name."""
    attention = layer.attention
    return {
        "key": attention.key,
        "value": attention.value,
        "query": attention.query,
        "dense": attention.dense,
        "ffn": layer.ffn,
        "ffn_output": layer.ffn_output,
    }


def activation(layer: nn.Module) -> str:
    """The operators' name for the activation of a plain layer."""
    return _ACTIVATIONS[type(layer.activation)]


def why_not_plain(layer: nn.Module) -> str | None:
    """None where the layer's weights say all that its modules compute, else the reason."""
    if type(layer.activation) not in _ACTIVATIONS:
        return f"the activation {type(layer.activation).__name__} is none of the kernels' own"
    for name, module in linears(layer).items():
        if type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}, not a plain Linear"
        if module.bias is None:
            return f"{name} has no bias"
    for name, module in {**linears(layer), "activation": layer.activation}.items():
        if "forward" in vars(module):
            return f"{name} has a forward of its own"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name} has hooks"
    return None
