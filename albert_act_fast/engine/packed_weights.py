"""The native loop on the CPU: weights packed once for oneDNN, all iterations below Python.

The packed products are private operators of torch; where they are missing, or a layer is not made
of plain linear modules, the loop in Python with the same operators takes over.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import activations

from albert_act_fast import ops
from albert_act_fast.engine.loop import PackedResult

_ACTIVATIONS = {
    activations.GELUActivation: "gelu",
    activations.NewGELUActivation: "gelu_tanh",
    activations.GELUTanh: "gelu_tanh",
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    activations.SiLUActivation: "silu",
}


@dataclass(frozen=True)
class PackedLayer:
    """What `iterate.cpp` takes for its `linear` argument, and what it was made from."""

    linear: list[Tensor]
    fingerprint: tuple


_packed: WeakKeyDictionary[nn.Module, PackedLayer] = WeakKeyDictionary()


@functools.cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Tries the private operators once on a small product."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        weight, bias = torch.eye(16, dtype=dtype), torch.zeros(16, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        result = torch.ops.mkldnn._linear_pointwise(weight, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(result, weight)


def _linears(layer: nn.Module) -> list[nn.Module]:
    attention = layer.attention
    return [
        attention.key,
        attention.value,
        attention.query,
        attention.dense,
        layer.ffn,
        layer.ffn_output,
    ]


def _is_plain(module: nn.Module) -> bool:
    """A hook, a subclass or a `forward` of its own may do anything: then the module itself must be
    called."""
    return type(module) is nn.Linear and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or module.bias is None
    )


def _fingerprint(tensors: list[Tensor]) -> tuple:
    """Changes whenever a weight does. Address and version counter would miss changes through
    `.data`; reading all weights costs a small part of one iteration, which reads them all too."""
    contiguous = [tensor.detach().contiguous() for tensor in tensors]
    checksums = ops.implementation_of("checksum", "cpp")(contiguous).tolist()
    return tuple((t.shape, t.dtype, c) for t, c in zip(tensors, checksums, strict=True))


def pack_layer(layer: nn.Module, hidden: Tensor) -> PackedLayer | None:
    """The layer's weights, packed; packed anew when any of them has changed, in whatever way.

    Returns:
        None where the layer cannot run on packed weights: another dtype than float32 or bfloat16,
        autocast, modules that are not plain linear ones or that carry hooks, an activation that
        oneDNN does not fuse, a torch without these operators.
    """
    linears = _linears(layer)
    if (
        type(layer.activation) not in _ACTIVATIONS
        or hidden.dtype not in (torch.float32, torch.bfloat16)
        or torch.is_autocast_enabled("cpu")
        or not all(_is_plain(module) for module in linears)
        or any(module.weight.dtype != hidden.dtype for module in linears)
        or not _can_pack(hidden.dtype)
    ):
        return None
    tensors = [tensor for module in linears for tensor in (module.weight, module.bias)]
    fingerprint = _fingerprint(tensors)
    packed = _packed.get(layer)
    if packed is None or packed.fingerprint != fingerprint:
        packed = _packed[layer] = PackedLayer(_pack(linears), fingerprint)
    return packed


@torch.inference_mode()
def _pack(linears: list[nn.Module]) -> list[Tensor]:
    key, value, *others = linears
    pairs = [
        (torch.cat([key.weight, value.weight]), torch.cat([key.bias, value.bias])),
        *((module.weight.detach(), module.bias.detach()) for module in others),
    ]
    reorder = torch.ops.mkldnn._reorder_linear_weight
    return [tensor for weight, bias in pairs for tensor in (reorder(weight, 64), bias)]


def iterate_packed(
    packed: PackedLayer,
    layer: nn.Module,
    hidden: Tensor,
    offsets: Tensor,
    positions: Tensor,
    *,
    threshold: float,
    max_iterations: int,
) -> PackedResult:
    """As `loop.iterate`, in one call."""
    attention, halting = layer.attention, layer.act.dense
    after_attention, at_the_end = layer.LayerNorm, layer.full_layer_layer_norm
    distance = getattr(attention, "distance_embedding", None)
    out, n_updates, remainders, rows = ops.implementation_of("iterate", "cpp")(
        hidden.contiguous(),
        offsets,
        positions.contiguous(),
        packed.linear,
        [after_attention.weight, after_attention.bias, at_the_end.weight, at_the_end.bias],
        halting.weight,
        halting.bias,
        after_attention.eps,
        at_the_end.eps,
        attention.num_attention_heads,
        None if distance is None else distance.weight,
        attention.position_embedding_type == "relative_key_query",
        _ACTIVATIONS[type(layer.activation)],
        threshold,
        max_iterations,
    )
    return PackedResult(out, n_updates, remainders, [n for n in rows.tolist() if n])
