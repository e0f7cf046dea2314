"""What engines read of a model, what they call of it, and what they cannot pass by: in one place.

An engine computes the tokens that are running, packed: it cannot hand its rows to a module that may
look at more than one of them, or at where they stand. So each module of the embeddings and the
encoder is one of three things:

- *plain*: it computes what its weights say. Engines may read them and not call the module.
- known to work *row by row* (a Linear with a LoRA adapter, a parametrised one, an activation that
  the kernels do not have): it must be called, and may be called with packed rows.
- anything else (a hook, a forward of its own, another type): only the reference loop, which calls
  every module as its author expects, computes such a model.

`PARTS` names all modules; `inspect` says which is what. A container's forward is never called by an
engine, so that it must be the package's own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from albert_act_fast import ops
from albert_act_fast.engine import row_wise
from albert_act_fast.modules import HaltingLinear

# Every module below a base model's `embeddings` and `encoder`: its kind, and what of it is read.
#   container: its forward is bypassed.          linear, embedding, norm: weights are read.
#   activation: its type is read.                dropout: only that it does nothing is.
_LAYER = "encoder.albert_layer"
PARTS = {
    "embeddings": "container",
    "embeddings.word_embeddings": "embedding",
    "embeddings.token_type_embeddings": "embedding",
    "embeddings.position_embeddings": "embedding",
    "embeddings.LayerNorm": "norm",
    "embeddings.dropout": "dropout",
    "encoder": "container",
    "encoder.embedding_hidden_mapping_in": "linear",
    _LAYER: "container",
    f"{_LAYER}.attention": "container",
    f"{_LAYER}.attention.query": "linear",
    f"{_LAYER}.attention.key": "linear",
    f"{_LAYER}.attention.value": "linear",
    f"{_LAYER}.attention.dense": "linear",
    f"{_LAYER}.attention.attention_dropout": "dropout",
    f"{_LAYER}.attention.output_dropout": "dropout",
    f"{_LAYER}.attention.distance_embedding": "distances",
    f"{_LAYER}.LayerNorm": "norm",
    f"{_LAYER}.ffn": "linear",
    f"{_LAYER}.activation": "activation",
    f"{_LAYER}.ffn_output": "linear",
    f"{_LAYER}.dropout": "dropout",
    f"{_LAYER}.full_layer_layer_norm": "norm",
    f"{_LAYER}.act": "container",
    f"{_LAYER}.act.dense": "halting",
}
_PLAIN = {
    "linear": (nn.Linear,),
    "halting": (nn.Linear, HaltingLinear),
    "embedding": (nn.Embedding,),
    "distances": (nn.Embedding,),
    "norm": (nn.LayerNorm,),
    "activation": tuple(row_wise.KERNEL_ACTIVATIONS),
    "dropout": (nn.Dropout,),
}

WeightAndBias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerWeights:
    """What the layer's modules compute with: their own tensors, nothing copied. Every pair is
    (weight, bias)."""

    query: WeightAndBias
    key: WeightAndBias
    value: WeightAndBias
    dense: WeightAndBias
    ffn: WeightAndBias
    ffn_output: WeightAndBias
    attention_norm: WeightAndBias
    output_norm: WeightAndBias
    halting: WeightAndBias
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

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: "query.weight", ..., "distance_embedding"."""
        named = {}
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                named[f"{name}.weight"], named[f"{name}.bias"] = value
            elif isinstance(value, Tensor):
                named[name] = value
        return named

    def settings(self) -> tuple:
        """All that is no tensor."""
        return tuple(x for x in vars(self).values() if not isinstance(x, Tensor | tuple))

    def identity(self) -> tuple:
        """Equal for two calls only where the same addresses hold weights of the same form."""
        return self.settings() + tuple(
            (t.data_ptr(), t.shape, t.stride(), t.dtype, t.device) for t in self.tensors().values()
        )

    def map(self, function) -> LayerWeights:
        """The same with `function` of every tensor."""

        def of(value):
            if isinstance(value, tuple):
                return tuple(function(tensor) for tensor in value)
            return function(value) if isinstance(value, Tensor) else value

        return LayerWeights(**{name: of(value) for name, value in vars(self).items()})


@dataclass(frozen=True)
class EmbeddingWeights:
    """The embeddings' tables [rows, E] and LayerNorm; position is None where positions are
    relative."""

    word: Tensor
    token_type: Tensor
    position: Tensor | None
    norm: WeightAndBias
    eps: float

    def embed(self, implementation: str, ids: tuple[Tensor, ...], given: Tensor | None) -> Tensor:
        """[T, E], by operator `embed_tokens`.

        Args:
            ids: of T tokens: token ids, token types, position ids; int64.
            given: embeddings [places, E] in the words' place, which the first of the ids say.
        """
        word = self.word if given is None else given
        out = word.new_empty(ids[0].numel(), word.size(1))
        ops.implementation_of("embed_tokens", implementation)(
            *ids,
            word.contiguous(),
            self.token_type.contiguous(),
            None if self.position is None else self.position.contiguous(),
            self.norm[0].contiguous(),
            self.norm[1].contiguous(),
            self.eps,
            None,
            out,
        )
        return out


@dataclass(frozen=True)
class Inspection:
    """What the modules of one model are, at the time of one call.

    Attributes:
        reference_only: why the packed rows can be given to no engine, or None.
        called: path and reason of each module that must be called.
        active_dropout: path of a dropout that changes numbers, or None.
    """

    reference_only: str | None
    called: dict[str, str]
    active_dropout: str | None

    def why_not_read(self, prefix: str) -> str | None:
        """None where all weights below `prefix` may be read, else the first reason not to."""
        for path, reason in self.called.items():
            if path.startswith(prefix):
                return reason
        return None


def inspect(embeddings: nn.Module, encoder: nn.Module, containers: dict[str, type]) -> Inspection:
    """Looks at every module that an engine would read or bypass. Made anew for every call: hooks
    and modules come and go.

    Args:
        embeddings, encoder: a base model's.
        containers: for every container of `PARTS` the class whose forward the engines replace.
    """
    if torch_module._has_any_global_hook():
        return Inspection("a global module hook is registered (torch.nn.modules.module)", {}, None)
    called: dict[str, str] = {}
    active = None
    tops = {"embeddings": embeddings, "encoder": encoder}
    for path, (top, names), kind in _paths():
        module = tops[top]
        for name in names:
            module = module._modules.get(name)
            if module is None:
                break
        if module is None:
            if kind == "distances" or (kind == "container" and not names):
                continue
            return Inspection(f"{path} is missing", {}, None)
        reason = row_wise.changed(module)
        if reason is None and kind == "container":
            if type(module) is not containers[path]:
                reason = f"is a {type(module).__name__}, not a {containers[path].__name__}"
            elif extra := _unknown_children(path, module):
                reason = f"has a further module, {extra}"
            elif path.endswith("attention"):
                reason = _changed_attention(module)
        if reason is not None:
            return Inspection(f"{path} {reason}", {}, None)
        if kind == "container":
            continue
        reason = _why_not_plain(module, kind)
        if reason is None:
            if kind == "dropout" and module.training and module.p > 0 and active is None:
                active = path
            continue
        unknown = row_wise.why_not(module)
        if unknown is not None or kind == "distances":
            return Inspection(f"{path} {unknown or reason}", {}, None)
        called[path] = f"{path} {reason}"
        if active is None and any(row_wise.active_dropouts(module)):
            active = path
    return Inspection(None, called, active)


@functools.cache
def _paths() -> tuple[tuple[str, tuple[str, tuple[str, ...]], str], ...]:
    split = []
    for path, kind in PARTS.items():
        top, *names = path.split(".")
        split.append((path, (top, tuple(names)), kind))
    return tuple(split)


def _changed_attention(attention: nn.Module) -> str | None:
    """Engines take sizes from the weights; None where the attributes still say the same."""
    query = getattr(attention.query, "out_features", None)
    heads, size = attention.num_attention_heads, attention.attention_head_size
    if query is not None and heads * size != query:
        return f"has {heads} heads of {size} columns, but queries of {query}"
    if attention.relative:
        rows = getattr(attention._modules.get("distance_embedding"), "num_embeddings", None)
        if rows is not None and rows != 2 * attention.max_position_embeddings - 1:
            return f"has {rows} distances for max_position_embeddings={(rows + 1) // 2} alone"
    return None


def _unknown_children(path: str, module: nn.Module) -> str | None:
    """A module that the container's own class would not have: nothing here would call it."""
    known = _children().get(path, frozenset())
    return next((n for n, m in module._modules.items() if m is not None and n not in known), None)


@functools.cache
def _children() -> dict[str, frozenset[str]]:
    children: dict[str, set[str]] = {}
    for path in PARTS:
        parent, _, name = path.rpartition(".")
        children.setdefault(parent, set()).add(name)
    return {path: frozenset(names) for path, names in children.items()}


def _why_not_plain(module: nn.Module, kind: str) -> str | None:
    """None where the weights, or the type, say all that the module computes. The module itself is
    known to be unchanged."""
    if type(module) not in _PLAIN[kind]:
        return f"is a {type(module).__name__}, which must be called"
    if kind in ("dropout", "activation"):
        return None
    parameters = module._parameters
    if kind in ("embedding", "distances"):
        if module.max_norm is not None:
            return "has a max_norm"
        names = ("weight",)
    else:
        names = ("weight", "bias")
    for name in names:
        tensor = parameters.get(name)
        if tensor is None:
            return f"has no {name} of its own"
        if type(tensor) not in (nn.Parameter, Tensor):
            return f"has a {type(tensor).__name__} as {name}"
        if tensor.layout is not torch.strided or tensor.is_meta:
            return f"has no dense {name} in memory"
    return None


def missing_weights(model: nn.Module) -> str | None:
    """Name of a base model's weight on the meta device that no hook or forward of a tool (which
    offloads them) would bring to memory, or None."""
    parts = {name: model._modules.get(name) for name in ("embeddings", "encoder", "pooler")}
    if not any(parameter.is_meta for parameter in parameters_below(*parts.values())):
        return None
    for name, part in parts.items():
        found = None if part is None else _on_meta(name, part)
        if found is not None:
            return found
    return None


def parameters_below(*modules: nn.Module | None) -> Iterator[nn.Parameter]:
    """All parameters of these modules. `Module.parameters`, which spends most of its time on their
    names, would cost ten times as much in every call."""
    found = [module for module in modules if module is not None]
    for module in found:  # grows on the way
        found.extend(child for child in module._modules.values() if child is not None)
        yield from (p for p in module._parameters.values() if p is not None)


def _on_meta(path: str, module: nn.Module) -> str | None:
    if row_wise.changed(module) is not None:
        return None
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_meta:
            return f"{path}.{name}"
    for name, child in module._modules.items():
        found = None if child is None else _on_meta(f"{path}.{name}", child)
        if found is not None:
            return found
    return None


def layer_weights(layer: nn.Module) -> LayerWeights:
    """Of a layer whose modules may all be read."""
    attention = layer.attention
    distance = attention._modules.get("distance_embedding")
    return LayerWeights(
        query=_weight_and_bias(attention.query),
        key=_weight_and_bias(attention.key),
        value=_weight_and_bias(attention.value),
        dense=_weight_and_bias(attention.dense),
        ffn=_weight_and_bias(layer.ffn),
        ffn_output=_weight_and_bias(layer.ffn_output),
        attention_norm=_weight_and_bias(layer.LayerNorm),
        output_norm=_weight_and_bias(layer.full_layer_layer_norm),
        halting=_weight_and_bias(layer.act.dense),
        distance_embedding=distance.weight.detach() if attention.relative else None,
        key_distances=attention.key_distances,
        heads=attention.num_attention_heads,
        activation=row_wise.KERNEL_ACTIVATIONS[type(layer.activation)],
        attention_eps=layer.LayerNorm.eps,
        output_eps=layer.full_layer_layer_norm.eps,
    )


def embedding_weights(embeddings: nn.Module) -> EmbeddingWeights:
    """Of embeddings whose modules may all be read."""
    table = embeddings.position_embeddings
    return EmbeddingWeights(
        word=embeddings.word_embeddings.weight.detach(),
        token_type=embeddings.token_type_embeddings.weight.detach(),
        position=table.weight.detach() if embeddings.has_positions else None,
        norm=_weight_and_bias(embeddings.LayerNorm),
        eps=embeddings.LayerNorm.eps,
    )


def _weight_and_bias(module: nn.Module) -> WeightAndBias:
    return module.weight.detach(), module.bias.detach()
