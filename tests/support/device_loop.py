"""The GPU engine's loop on CPU tensors: buffers full of NaN, counts that arrive late."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.gpu.buffers import Buffers, PackedRows
from albert_act_fast.engine.gpu.counts import Unknown
from albert_act_fast.engine.gpu.iterations import launch_all
from albert_act_fast.engine.layer import Inspection, layer_weights
from albert_act_fast.engine.packing import PackedResult
from support.models import random_model

# Of tests in tests/triton, whose fixture `halting_step` it sets: Triton's own, and that of the CUDA
# kernels, compiled as C++, between Triton's.
BOTH_HALTING_STEPS = pytest.mark.parametrize("halting_step", ["triton", "cuda"], indirect=True)
INTEGER_POISON = 2**40


def poison(buffers: Buffers) -> None:
    """What nobody has written is NaN, or an index far out of range; all but what has to be 0: key
    offsets and query offsets, because a graph is captured before any batch was loaded, and the
    halting step's workspace."""
    matrices = [*buffers.hidden, buffers.key_store, buffers.value_store, buffers.queries]
    matrices += [buffers.attended, buffers.ffn_input, buffers.ffn_inner, buffers.out]
    vectors = [*buffers.accumulated_probability, buffers.n_updates, buffers.remainders]
    parts = [] if buffers.parts is None else [buffers.parts]
    for tensor in matrices + vectors + parts:
        tensor.fill_(float("nan"))
    for tensor in (*buffers.token_index, buffers.positions):
        tensor.fill_(INTEGER_POISON)


class PoisonedBuffers(Buffers):
    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        poison(self)


class Late(Unknown):
    """Every count arrives `lag` iterations after it was sent, or at random after at least that."""

    def __init__(self, lag: int, seed: int | None = None) -> None:
        self._sent: list[int] = []
        self._lag, self._random = lag, None if seed is None else random.Random(seed)

    def sent(self, count: Tensor) -> None:
        self._sent.append(int(count))

    def no_row_runs(self) -> bool:
        arrived = max(0, len(self._sent) - self._lag)
        if self._random is not None:
            arrived = self._random.randint(0, arrived)
        return 0 in self._sent[:arrived]


def clear(buffers: Buffers) -> bool:
    """Whether the halting step and split products left zeros where they found them."""
    marks = buffers.arrived is not None and buffers.arrived.any()
    return not buffers.workspace.any() and not marks


def packed(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Offsets and positions of sequences of these lengths."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.cat([torch.arange(n) for n in lengths])
    return offsets, positions


def call_of_layer(layer: nn.Module, implementation: str) -> Call:
    """A call that computes one plain layer."""
    encoder = nn.Module()
    encoder.albert_layer = layer
    return Call(nn.Module(), encoder, Inspection(None, {}, None), implementation)


def layer_and_rows(
    seed: int, lengths: list[int], **overrides
) -> tuple[nn.Module, Tensor, HaltingLimits]:
    """A random model's layer, and a row for each token of sequences of these lengths."""
    model = random_model(seed, **overrides)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(sum(lengths), model.config.hidden_size, generator=generator)
    return model.encoder.albert_layer, hidden, model.config.halting_limits


def on_device(
    layer: nn.Module,
    hidden: Tensor,
    lengths: list[int],
    limits: HaltingLimits,
    *,
    more: tuple[int, int] = (0, 0),
    counts: Unknown | None = None,
) -> PackedResult:
    """The loop on buffers of a capacity `more` than needed."""
    batch = PackedRows(hidden, *packed(lengths))
    weights = layer_weights(layer)
    rows, sequences = hidden.size(0) + more[0], len(lengths) + more[1]
    buffers = PoisonedBuffers(weights, rows, sequences, hidden.dtype, "cpu")
    batch.load(buffers)
    with torch.no_grad():
        launch_all(weights, buffers, limits, counts or Unknown())
    assert clear(buffers)
    assert buffers.out[hidden.size(0) :].isnan().all(), "rows that no token has were written"
    return batch.take(buffers)
