"""An engine with embeddings before it and pooling behind: ids of many sequences in, rows out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from albert_act_fast.engine.layer import EmbeddingWeights, WeightAndBias
from albert_act_fast.engine.native_engine import (
    NativeEngine,
    completed,
    is_interruptible,
    parts,
    release_with,
)

_ops = torch.ops.albert_act_fast


class EncodedRows(NamedTuple):
    """rows: float32 [B, H], or the states [T, H] in the engine's dtype where nothing is pooled;
    n_updates, remainders: float32 [T]; running_rows: how many rows each iteration computed;
    finite: whether all of `rows` is."""

    rows: Tensor
    n_updates: Tensor
    remainders: Tensor
    running_rows: list[int]
    finite: bool


class NativeEncoder:
    """A whole model for text, in one native call without the interpreter's lock. Freed with its
    last reference.

    Each sequence gets what it gets alone, of the same bits if `engine.is_batch_invariant`: no
    padding is made, products of the embeddings too are the engine's own, and a token whose
    accumulated probability equals the threshold goes on only if one of its own sequence asks to.
    Tokens are of type 0, positions count from a sequence's first token.

    It may run in several threads at once. A process that is forked may go on using it.

    Args:
        engine: the iterations, and the mapping of the embeddings before them.
        embeddings: tables, which are kept and must not change, and LayerNorm, which is copied.
        pooler: weight [H, H] and bias, copied, of the product below the pooler's tanh; or None.
        max_tokens: of a sequence.

    Raises:
        ValueError: shapes or dtypes do not fit each other.
    """

    __slots__ = ("__weakref__", "_handle", "dtype", "engine", "width")

    def __init__(
        self,
        engine: NativeEngine,
        embeddings: EmbeddingWeights,
        pooler: WeightAndBias | None,
        max_tokens: int,
    ):
        position = embeddings.position
        self.engine = engine
        self.width, self.dtype = engine.width, embeddings.word.dtype
        self._handle = _ops.encoder_create.default(
            engine._handle,
            embeddings.word.contiguous(),
            embeddings.token_type.contiguous(),
            None if position is None else position.contiguous(),
            [tensor.contiguous() for tensor in embeddings.norm],
            embeddings.eps,
            [] if pooler is None else [tensor.contiguous() for tensor in pooler],
            max_tokens,
        )
        release_with(self, _ops.encoder_release.default, self._handle)

    def __reduce__(self):
        raise TypeError("a native encoder cannot be copied or pickled; its model can.")

    def run(
        self,
        ids: Tensor,
        offsets: Tensor,
        *,
        threshold: float,
        max_iterations: int,
        pooling: str = "none",
    ) -> EncodedRows:
        """
        Args:
            ids: [T] int64 or int32 of B sequences, one after the other.
            offsets: [B + 1] int64; sequence b owns `offsets[b]` to `offsets[b + 1]`, at least one
                token.
            threshold, max_iterations: as those of `HaltingLimits`.
            pooling: "mean", of all tokens' states in float32; "cls", the first token's; "pooler",
                tanh of the pooler's product of that; "none" for all states.

        Raises:
            ValueError: an argument does not fit; of an id that is no row of the table the message
                has the index.
            BaseException: what a signal handler raised meanwhile, as in `NativeEngine.run`.
        """
        tokens = ids.numel()
        if pooling == "none":
            out = torch.empty(tokens, self.width, dtype=self.dtype)
        else:
            out = torch.empty(offsets.numel() - 1, self.width)
        n_updates, remainders = torch.empty(tokens), torch.empty(tokens)
        running_rows, finite = _ops.encoder_run.default(
            self._handle, ids, offsets, threshold, max_iterations, pooling,
            is_interruptible(), out, n_updates, remainders,
        )  # fmt: skip
        return EncodedRows(out, n_updates, remainders, completed(running_rows), finite)

    @property
    def workspace_bytes(self) -> int:
        """What is kept from call to call, beside the engine's own."""
        return _ops.encoder_workspace_bytes.default(self._handle)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of the last run went: that of the engine's iterations, and the mapping's
        and the pooler's products."""
        return parts(_ops.encoder_seconds.default(self._handle))


def count() -> int:
    """How many native encoders there are."""
    return _ops.encoder_count.default()
