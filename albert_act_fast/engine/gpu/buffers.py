"""All memory that the iterations touch, of a fixed capacity of which a prefix is live."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.engine.halting import RunningRows
from albert_act_fast.engine.layer import LayerWeights
from albert_act_fast.engine.packing import PackedResult


class Buffers:
    """For at most `rows` tokens of at most `sequences` sequences.

    What an iteration hands on stands twice: one iteration reads entry 0 and writes entry 1, the
    next the other way round. The K/V store, `out` and what is in it are the batch's, and have
    no order but that of the tokens.

    hidden: 2 x [R, H]. accumulated_probability: 2 x [R] float32. token_index: 2 x int64 [R].
    query_offsets: 2 x int64 [B + 1]; the last of each is how many rows are running.
    """

    def __init__(
        self, layer: LayerWeights, rows: int, sequences: int, dtype: torch.dtype, device
    ) -> None:
        width = layer.width

        def matrix(columns: int = width) -> Tensor:
            return torch.empty(rows, columns, dtype=dtype, device=device)

        def vector(length: int, of: torch.dtype) -> Tensor:
            # Zeros: no row is live before `load`, and the halting step's workspace starts so.
            return torch.zeros(length, dtype=of, device=device)

        self.rows, self.sequences = rows, sequences
        self.hidden = (matrix(), matrix())
        self.accumulated_probability = tuple(vector(rows, torch.float32) for _ in range(2))
        self.token_index = tuple(vector(rows, torch.int64) for _ in range(2))
        self.query_offsets = tuple(vector(sequences + 1, torch.int64) for _ in range(2))
        self.key_offsets = vector(sequences + 1, torch.int64)
        self.positions = vector(rows, torch.int64)
        self.key_store, self.value_store = matrix(), matrix()
        # Each holds two products of an iteration that are not needed at the same time.
        self.queries = self.projected = matrix()
        self.attended = self.ffn_output = matrix()
        self.ffn_input, self.ffn_inner = matrix(), matrix(layer.inner)
        self.workspace = vector(ops.halting_workspace(rows), torch.int64)
        # With the first call alone: importing the package imports no kernels.
        from albert_act_fast.kernels import launch_tables

        # Of the products of either depth whose depth is split. By the GPU of the weights, as
        # memory that is only counted is on none.
        gpu = layer.query[0].device
        arch, multiprocessors = launch_tables.architecture(gpu), launch_tables.multiprocessors(gpu)
        self.splits = {
            depth: launch_tables.splits(arch, rows, depth, width, dtype.itemsize, multiprocessors)
            for depth in (width, layer.inner)
        }
        self.parts = self.arrived = None
        splits = max(self.splits.values())
        if splits > 1:
            self.parts = torch.empty(splits, rows, width, dtype=torch.float32, device=device)
            self.arrived = vector(launch_tables.split_marks(rows, width), torch.int32)
        self.out = matrix()
        self.n_updates, self.remainders = (vector(rows, torch.float32) for _ in range(2))

    @staticmethod
    def bytes_needed(layer: LayerWeights, rows: int, sequences: int, dtype: torch.dtype) -> int:
        """What a `Buffers` of that capacity takes."""
        # On meta tensors: the same code counts that allocates.
        meta = Buffers(layer, rows, sequences, dtype, "meta")
        return meta.nbytes()

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors())

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """The memory may be freed at any time: nobody gets it before `stream` is done with it."""
        for tensor in self._tensors():
            tensor.record_stream(stream)

    def _tensors(self) -> list[Tensor]:
        values = (x if isinstance(x, tuple) else (x,) for x in vars(self).values())
        tensors = {id(x): x for value in values for x in value if isinstance(x, Tensor)}
        return list(tensors.values())

    def running(self, which: int) -> RunningRows:
        """What iterations of that parity read, and the others write."""
        return RunningRows(
            self.hidden[which],
            self.accumulated_probability[which],
            self.token_index[which],
            self.query_offsets[which],
        )


class Batch(Protocol):
    """What one run of the iterations is for.

    rows, sequences: how many there are. `load` writes the rows and the state before the first
    iteration; `take` reads the result, and gives nothing that is part of the buffers.
    """

    rows: int
    sequences: int

    def load(self, buffers: Buffers) -> None: ...
    def take(self, buffers: Buffers): ...


class PackedRows:
    """hidden [T, H], offsets int64 [B + 1], positions int64 [T]."""

    def __init__(self, hidden: Tensor, offsets: Tensor, positions: Tensor) -> None:
        self._hidden, self._offsets, self._positions = hidden, offsets, positions
        self.rows, self.sequences = hidden.size(0), offsets.numel() - 1

    def load(self, buffers: Buffers) -> None:
        """Sequences that the capacity has beyond the batch's are empty."""
        buffers.hidden[0][: self.rows].copy_(self._hidden)
        buffers.positions[: self.rows].copy_(self._positions)
        buffers.key_offsets[: self.sequences + 1].copy_(self._offsets)
        buffers.key_offsets[self.sequences + 1 :].fill_(self.rows)
        for query_offsets in buffers.query_offsets:
            query_offsets.copy_(buffers.key_offsets)
        buffers.accumulated_probability[0].zero_()
        torch.arange(buffers.rows, out=buffers.token_index[0])

    def take(self, buffers: Buffers) -> PackedResult:
        parts = (buffers.out, buffers.n_updates, buffers.remainders)
        return PackedResult(*(part[: self.rows].clone() for part in parts))
