"""The native engine on the CPU: weights packed once, all iterations below Python.

Products are the engine's own where those are as fast as oneDNN's, which does the others, by private
operators of torch; where those are missing the engine's own do all.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from albert_act_fast import native, ops
from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.layer import LayerWeights, WeightAndBias, embedding_weights
from albert_act_fast.engine.native_encoder import NativeEncoder
from albert_act_fast.engine.native_engine import NativeEngine
from albert_act_fast.engine.packing import PackedResult, PackedTokens

HOW = "all iterations below Python, on packed weights"
DTYPES = (torch.float32, torch.bfloat16)
_MAPPING = "encoder.embedding_hidden_mapping_in"


@dataclass(frozen=True)
class LayerEngine:
    """A layer's native engine, and what it was made from."""

    engine: NativeEngine
    fingerprint: tuple


_engines: WeakKeyDictionary[nn.Module, LayerEngine] = WeakKeyDictionary()


def why_not(call: Call) -> str | None:
    """None where the layer can run on packed weights, else the reason."""
    if call.implementation != "cpp":
        return f"it computes implementation 'cpp', not {call.implementation!r}"
    reason = call.why_not_read_layer()
    if reason is not None:
        return reason
    layer = call.layer
    dtype = layer.attention.query.weight.dtype
    if dtype not in DTYPES:
        names = (str(taken).removeprefix("torch.") for taken in DTYPES)
        return f"the weights are {dtype}, not {' or '.join(names)}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    tensors = call.layer_weights.tensors()
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            return f"{name} is {tensor.dtype}, not {dtype} as query.weight"
    most = native.library.MAX_INT8_INPUTS
    if call.int8 and max(t.size(1) for t in tensors.values() if t.dim() == 2) > most:
        return f"an int8 product has more than {most} inputs"
    return None


def maps(call: Call) -> bool:
    """Whether `iterate` takes embeddings and computes their mapping itself."""
    return _why_not_map(call) is None


def iterate(
    call: Call, hidden: Tensor, tokens: PackedTokens, limits: HaltingLimits
) -> PackedResult:
    """As `loop.iterate`, in one native call; hidden: embeddings [T, E] where `maps`."""
    mapping = _mapping(call) if maps(call) else None
    engine = native_engine(call.layer, call.layer_weights, call.int8, mapping)
    out = hidden.new_empty(hidden.size(0), engine.width)
    n_updates = hidden.new_empty(hidden.size(0), dtype=torch.float32)
    remainders = torch.empty_like(n_updates)
    rows = engine.run(
        hidden=hidden.contiguous(),
        offsets=tokens.offsets,
        positions=tokens.positions.contiguous(),
        **limits._asdict(),
        out=out,
        n_updates=n_updates,
        remainders=remainders,
    )
    return PackedResult(out, n_updates, remainders, rows)


def native_engine(
    layer: nn.Module,
    weights: LayerWeights,
    int8: bool = False,
    mapping: WeightAndBias | None = None,
) -> NativeEngine:
    """The engine with the layer's weights, rounded to int8 where asked, and the mapping's where it
    is to come first: made anew when anything that it is made from has changed, in whatever way."""
    made = _engines.get(layer)
    if made is None or made.fingerprint != _fingerprint(weights, int8, mapping):
        # Of a copy: other threads may be changing the weights, and what the engine is packed from
        # has to be what its fingerprint was taken of.
        copy = weights.map(_copy)
        mapping = None if mapping is None else (_copy(mapping[0]), _copy(mapping[1]))
        made = _engines[layer] = LayerEngine(
            make_engine(copy, int8, mapping), _fingerprint(copy, int8, mapping)
        )
    return made.engine


def last_native_engine(layer: nn.Module) -> NativeEngine | None:
    """The native engine that the layer ran on last (`packed_bytes`, `workspace_bytes`, `seconds` of
    its last run), None where there is none."""
    made = _engines.get(layer)
    return None if made is None else made.engine


def release(layer: nn.Module) -> None:
    """Frees the layer's engine."""
    _engines.pop(layer, None)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _mapping(call: Call) -> WeightAndBias:
    mapping = call.encoder.embedding_hidden_mapping_in
    return mapping.weight.detach(), mapping.bias.detach()


def _fingerprint(weights: LayerWeights, int8: bool, mapping: WeightAndBias | None) -> tuple:
    """Changes whenever something that packing reads does. Address and version counter would miss
    changes through `.data`; reading all weights costs a small part of one iteration, which reads
    them all too."""
    tensors = [*weights.tensors().values(), *(mapping or ())]
    checksums = ops.implementation_of("checksum", "cpp")([t.contiguous() for t in tensors])
    return (
        int8,
        weights.settings(),
        tuple((t.shape, t.dtype) for t in tensors),
        tuple(checksums.tolist()),
    )


def make_engine(
    weights: LayerWeights,
    int8: bool,
    mapping: WeightAndBias | None,
    *,
    batch_invariant: bool = False,
) -> NativeEngine:
    """batch_invariant: all products are to be the engine's own, whether they are as fast or not."""
    onednn = not batch_invariant and _has_onednn(weights.query[0].dtype)
    return NativeEngine(weights, mapping=mapping, int8=int8, onednn=onednn)


def why_not_batch_invariant(products: str) -> str | None:
    """None where products of that dtype ("float32", "bfloat16" or "int8") are never oneDNN's on
    this machine, so that a sequence's results do not depend on the number of rows."""
    if native.library is None:
        return native.why_no_cpp
    own = native.build_info()["own_products"].split()
    if products in own or not _has_onednn(getattr(torch, products)):
        return None
    return "products of many rows are oneDNN's on this processor"


def why_not_encode(call: Call) -> str | None:
    """None where a `NativeEncoder` can compute the call from ids on, else the reason."""
    reason = why_not(call) or call.inspection.why_not_read("embeddings.") or _why_not_map(call)
    if reason is not None:
        return reason
    weights = embedding_weights(call.embeddings)
    return _other_dtype(call, weights.word, weights.token_type, weights.position, *weights.norm)


def _why_not_map(call: Call) -> str | None:
    """None where an engine can have the mapping of the embeddings, else the reason."""
    reason = call.inspection.why_not_read(_MAPPING)
    return reason if reason is not None else _other_dtype(call, *_mapping(call))


def _other_dtype(call: Call, *tensors: Tensor | None) -> str | None:
    dtype = call.layer_weights.query[0].dtype
    for tensor in tensors:
        if tensor is not None and tensor.dtype != dtype:
            return f"weights of the embeddings are {tensor.dtype}, not {dtype} as query.weight"
    return None


def make_encoder(
    call: Call,
    pooler: WeightAndBias | None,
    max_tokens: int,
    *,
    batch_invariant: bool = False,
) -> NativeEncoder:
    """Of weights that will not change: nothing looks after them.

    Args:
        call: one that `why_not_encode` has nothing against.
        batch_invariant: as in `make_engine`.
    """
    return NativeEncoder(
        make_engine(call.layer_weights, call.int8, _mapping(call), batch_invariant=batch_invariant),
        embedding_weights(call.embeddings),
        pooler,
        max_tokens,
    )


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
