"""The native engine on the CPU: weights packed once, all iterations below Python.

Products are the engine's own where those are as fast as oneDNN's, which does the others, by private
operators of torch; where those are missing the engine's own do all. Where a layer is not made of
plain linear modules, the loop in Python with the same operators takes over.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from albert_act_fast import native, ops
from albert_act_fast.engine.gpu.weights import weights_of
from albert_act_fast.engine.loop import PackedResult
from albert_act_fast.engine.plain_layer import linears, why_not_plain


@dataclass(frozen=True)
class PackedLayer:
    """A native engine, and what it was made from."""

    engine: object
    fingerprint: tuple


_packed: WeakKeyDictionary[nn.Module, PackedLayer] = WeakKeyDictionary()


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
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


def _fingerprint(tensors: list[Tensor]) -> tuple:
    """Changes whenever a weight does. Address and version counter would miss changes through
    `.data`; reading all weights costs a small part of one iteration, which reads them all too."""
    contiguous = [tensor.detach().contiguous() for tensor in tensors]
    checksums = ops.implementation_of("checksum", "cpp")(contiguous).tolist()
    return tuple((t.shape, t.dtype, c) for t, c in zip(tensors, checksums, strict=True))


def pack_layer(layer: nn.Module, hidden: Tensor, int8: bool = False) -> PackedLayer | None:
    """The layer's weights, packed; packed anew when any of them has changed, in whatever way;
    rounded to int8 where asked.

    Returns:
        None where the layer cannot run on packed weights: another dtype than float32 or bfloat16,
        autocast, modules that are not plain linear ones or that carry hooks, another activation
        than gelu, its tanh form, relu and silu.
    """
    if (
        why_not_plain(layer) is not None
        or hidden.dtype not in (torch.float32, torch.bfloat16)
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    products = list(linears(layer).values())
    distance = getattr(layer.attention, "distance_embedding", None)
    modules = [*products, layer.LayerNorm, layer.full_layer_layer_norm, layer.act.dense]
    pairs = [(module.weight.detach(), module.bias.detach()) for module in modules]
    tensors = [tensor for pair in pairs for tensor in pair]
    if distance is not None:
        tensors.append(distance.weight.detach())
    if any(tensor.dtype != hidden.dtype for tensor in tensors):
        return None
    library = _has_onednn(hidden.dtype)
    # bfloat16 rows are read two numbers at a time, unless oneDNN reads them.
    odd = any(module.in_features % 2 for module in products)
    if hidden.dtype == torch.bfloat16 and odd and not library:
        return None
    fingerprint = (int8, *_fingerprint(tensors))
    packed = _packed.get(layer)
    if packed is None or packed.fingerprint != fingerprint:
        engine = _engine(layer, int8, library)
        packed = _packed[layer] = PackedLayer(engine, fingerprint)
    return packed


def packed_engine(layer: nn.Module):
    """The native engine that the layer ran on last (`packed_bytes`, `workspace_bytes`, `seconds` of
    its last run), None where there is none."""
    packed = _packed.get(layer)
    return None if packed is None else packed.engine


def _engine(layer: nn.Module, int8: bool, library: bool):
    return native.library.Engine(weights_of(layer), int8=int8, library=library)


def iterate_packed(
    packed: PackedLayer,
    hidden: Tensor,
    offsets: Tensor,
    positions: Tensor,
    *,
    threshold: float,
    max_iterations: int,
) -> PackedResult:
    """As `loop.iterate`, in one call."""
    out = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    n_updates = hidden.new_empty(hidden.size(0), dtype=torch.float32)
    remainders = torch.empty_like(n_updates)
    rows = packed.engine.run(
        hidden=hidden.contiguous(),
        offsets=offsets,
        positions=positions.contiguous(),
        threshold=threshold,
        max_iterations=max_iterations,
        out=out,
        n_updates=n_updates,
        remainders=remainders,
    )
    return PackedResult(out, n_updates, remainders, rows)
