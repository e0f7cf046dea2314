"""Who computes a case: the reference loop, the engine's implementations, and the peers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from albert_act_fast import AlbertActModel, implementations
from suite import peers
from suite.cases import ENGINES
from suite.inputs import Batch


@dataclass(frozen=True)
class Result:
    """hidden [B, S, H]; n_updates [B, S], None from a model of fixed depth."""

    hidden: Tensor
    n_updates: Tensor | None = None


Call = Callable[[], Result]


@dataclass(frozen=True)
class Variant:
    """One way to compute a case.

    Args:
        name: who and in which dtype, as in `cases`.
        adaptive: whether tokens halt; else every token runs all iterations, which is another
            function of the same weights, with a check and a count of rows of its own.
        drops: whether halted tokens leave the computation.
        why_not: None where it can run on that device, else the reason.
        prepare: makes the call that is timed. A folder is for files that can be used again.
    """

    name: str
    adaptive: bool
    drops: bool
    why_not: Callable[[str], str | None]
    prepare: Callable[[AlbertActModel, Batch, Path], Call]

    @property
    def dtype(self) -> str:
        return self.name.rsplit(" ", 1)[1]


def in_dtype(model: AlbertActModel, dtype: str) -> AlbertActModel:
    """A copy of the model, or the model itself where it already is as asked."""
    if dtype == "float32":
        return model
    if dtype == "int8":
        return copy.deepcopy(model).quantize("int8")
    return copy.deepcopy(model).to(getattr(torch, dtype))


def adaptive_call(model: AlbertActModel, batch: Batch, implementation: str) -> Call:
    def call() -> Result:
        output = model(batch.input_ids, batch.attention_mask, implementation=implementation)
        return Result(output.last_hidden_state, output.n_updates)

    return call


def _reference(dtype: str) -> Variant:
    return Variant(
        f"reference {dtype}",
        adaptive=True,
        drops=False,
        why_not=lambda device: None,
        prepare=lambda model, batch, folder: adaptive_call(
            in_dtype(model, dtype), batch, "reference"
        ),
    )


def _engine(name: str) -> Variant:
    implementation, dtype = name.split()
    return Variant(
        name,
        adaptive=True,
        drops=True,
        why_not=lambda device: implementations.availability(device)[implementation],
        prepare=lambda model, batch, folder: adaptive_call(
            in_dtype(model, dtype), batch, implementation
        ),
    )


def _compiled_reference() -> Variant:
    def prepare(model, batch, folder):
        # The loop asks after each iteration whether to go on, so what can be compiled is the layer.
        model = copy.deepcopy(model)
        model.encoder.albert_layer = torch.compile(model.encoder.albert_layer)
        return adaptive_call(model, batch, "reference")

    return Variant("compiled reference float32", True, False, peers.no_inductor, prepare)


def _peer(peer: peers.Peer) -> Variant:
    def prepare(model, batch, folder):
        run = peer.prepare(model, batch, folder, False)
        return lambda: Result(run(batch))

    return Variant(peer.name, False, False, peer.why_not, prepare)


def all_variants() -> dict[str, Variant]:
    """By name."""
    variants = [
        *(_reference(dtype) for dtype in ("float32", "bfloat16")),
        *(_engine(name) for name in ENGINES),
        _compiled_reference(),
        *(_peer(peer) for peer in peers.PEERS),
    ]
    return {variant.name: variant for variant in variants}
