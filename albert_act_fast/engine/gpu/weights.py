"""A layer's weights as the kernels take them: the modules' own tensors, nothing copied.

So a weight changed in place is seen at once. A graph keeps their addresses, which `identity` tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from albert_act_fast.engine.plain_layer import activation, linears, why_not_plain
from albert_act_fast.ops.triton_ops import MAX_HEAD_SIZE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerWeights:
    """Every pair is (weight, bias)."""

    query: Pair
    key: Pair
    value: Pair
    dense: Pair
    ffn: Pair
    ffn_output: Pair
    attention_norm: Pair
    output_norm: Pair
    halting: Pair
    distance_embedding: Tensor | None
    key_distances: bool
    heads: int
    activation: str
    attention_eps: float
    output_eps: float

    @property
    def width(self) -> int:
        return self.query[0].size(0)

    @property
    def inner(self) -> int:
        return self.ffn[0].size(0)

    def identity(self) -> tuple:
        """Equal for two calls only where the same addresses hold weights of the same form."""
        values = []
        for value in vars(self).values():
            tensors = value if isinstance(value, tuple) else (value,)
            values += [_identity(x) if isinstance(x, Tensor) else x for x in tensors]
        return tuple(values)


def _identity(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def why_not(layer: nn.Module) -> str | None:
    """None where the kernels can run on the layer's weights, without autocast, else the reason."""
    reason = why_not_plain(layer)
    if reason is not None:
        return reason
    attention = layer.attention
    modules = linears(layer) | {
        "LayerNorm": layer.LayerNorm,
        "full_layer_layer_norm": layer.full_layer_layer_norm,
        "act.dense": layer.act.dense,
    }
    dtype = attention.query.weight.dtype
    if dtype not in DTYPES:
        return f"the weights are {dtype}"
    for name, module in modules.items():
        if {module.weight.dtype, module.bias.dtype} != {dtype}:
            return f"{name} is not {dtype} as query is"
        if not (module.weight.is_contiguous() and module.bias.is_contiguous()):
            return f"{name} has weights that are not contiguous"
    head_size = attention.query.weight.size(0) // attention.num_attention_heads
    if head_size > MAX_HEAD_SIZE:
        return f"a head has {head_size} columns, more than {MAX_HEAD_SIZE}"
    return None


def weights_of(layer: nn.Module) -> LayerWeights:
    """Of a layer for which `why_not` is None."""
    attention, distance = layer.attention, getattr(layer.attention, "distance_embedding", None)
    return LayerWeights(
        **{name: _pair(module) for name, module in linears(layer).items()},
        attention_norm=_pair(layer.LayerNorm),
        output_norm=_pair(layer.full_layer_layer_norm),
        halting=_pair(layer.act.dense),
        distance_embedding=None if distance is None else distance.weight.detach(),
        key_distances=attention.position_embedding_type == "relative_key_query",
        heads=attention.num_attention_heads,
        activation=activation(layer),
        attention_eps=layer.LayerNorm.eps,
        output_eps=layer.full_layer_layer_norm.eps,
    )


def _pair(module: nn.Module) -> Pair:
    return module.weight.detach(), module.bias.detach()
