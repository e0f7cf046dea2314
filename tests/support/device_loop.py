"""The GPU engine's loop on CPU tensors: buffers full of NaN, counts that arrive late."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from albert_act_fast.engine.call import Call
from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.gpu.counts import KnownAtFirst
from albert_act_fast.engine.layer import Inspection

INTEGER_POISON = 2**40


def poison(buffers: Buffers) -> None:
    """What nobody has written is NaN, or an index far out of range; all but what has to be 0: key
    offsets and query offsets, because a graph is captured before any batch was loaded, and the
    halting step's workspace."""
    matrices = [*buffers.hidden, buffers.key_store, buffers.value_store, buffers.queries]
    matrices += [buffers.attended, buffers.ffn_input, buffers.ffn_inner, buffers.out]
    vectors = [*buffers.accumulated_probability, buffers.n_updates, buffers.remainders]
    for tensor in matrices + vectors:
        tensor.fill_(float("nan"))
    for tensor in (*buffers.token_index, buffers.positions):
        tensor.fill_(INTEGER_POISON)


class Late(KnownAtFirst):
    """Every count arrives `lag` iterations after it was sent, or at random after at least that."""

    def __init__(self, rows: int, lag: int, seed: int | None = None) -> None:
        super().__init__(rows)
        self._sent: list[int] = []
        self._lag, self._random = lag, None if seed is None else random.Random(seed)

    def sent(self, count: Tensor) -> None:
        self._sent.append(int(count))

    def poll(self) -> None:
        ready = len(self._sent) + 1 - self._lag
        if self._random is not None:
            ready = self._random.randint(0, max(0, ready))
        self.known.extend(self._sent[len(self.known) - 1 : max(0, ready - 1)])


def clear(buffers: Buffers) -> bool:
    """Whether the halting step left its workspace as it found it."""
    return not buffers.workspace.any()


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
