"""The native engine as Python sees it: an object that owns a handle of the engine's operators.

LibTorch's stable ABI has operators and no classes. What is on it alone is bound to no release of
torch, and to none of Python.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from albert_act_fast import native

# What an engine is packed from, in the order in which its operator takes them.
PAIRS = ("query", "key", "value", "dense", "ffn", "ffn_output")
PAIRS += ("attention_norm", "output_norm", "halting")
_FIELDS = (*PAIRS, "distance_embedding", "key_distances", "heads", "activation")
_FIELDS += ("attention_eps", "output_eps")

_ops = torch.ops.albert_act_fast


class NativeEngine:
    """An ALBERT-ACT layer's packed weights, and its iterations. Freed with its last reference.

    It may run in several threads at once. A process that is forked may go on using it.

    Args:
        layer: an object with the fields of `LayerWeights`, whose tensors are copied.
        mapping: weight [H, E] and bias of the embeddings' mapping, copied; None where runs are
            given what comes of it.
        int8: whether products are in int8.
        onednn: whether torch's oneDNN operators may be used.

    Raises:
        TypeError: what is given is no layer.
        ValueError: shapes, dtypes or sizes do not fit.
    """

    __slots__ = ("__weakref__", "_handle", "width")

    def __init__(self, layer, *, mapping=None, int8: bool, onednn: bool):
        for name in _FIELDS:
            if not hasattr(layer, name):
                raise TypeError(f"layer: has no {name}, expected the fields of LayerWeights.")
        table = layer.distance_embedding
        self._handle = _ops.engine_create.default(
            [tensor for name in PAIRS for tensor in _pair(f"layer.{name}", getattr(layer, name))],
            [] if mapping is None else _pair("mapping", mapping),
            None if table is None else _plain("layer.distance_embedding", table),
            layer.key_distances,
            layer.heads,
            layer.activation,
            layer.attention_eps,
            layer.output_eps,
            int8,
            onednn,
        )
        self.width = layer.query[0].size(0)
        release_with(self, _ops.engine_release.default, self._handle)

    def __reduce__(self):
        raise TypeError("a native engine cannot be copied or pickled; its layer can.")

    def run(
        self,
        *,
        hidden: Tensor,
        offsets: Tensor,
        positions: Tensor,
        threshold: float,
        max_iterations: int,
        out: Tensor,
        n_updates: Tensor,
        remainders: Tensor,
    ) -> list[int]:
        """Iterates; see `albert_act_fast.engine.loop.iterate`. Returns how many rows each iteration
        computed.

        Args:
            hidden: [T, H], or with a mapping embeddings [T, E], float32 or bfloat16 as the layer;
                contiguous, as all tensors here.
            offsets, positions: [B + 1] and [T], int64.
            threshold, max_iterations: as those of `HaltingLimits`.
            out: [T, H] in the same dtype, written to; so are n_updates and remainders, [T] float32.

        Raises:
            ValueError: an argument does not fit.
            BaseException: what a signal handler raised meanwhile (KeyboardInterrupt); looked after
                in the main thread, about every 50 ms.
        """
        rows = _ops.engine_run.default(
            self._handle, hidden, offsets, positions, threshold, max_iterations,
            is_interruptible(), out, n_updates, remainders,
        )  # fmt: skip
        return completed(rows)

    @property
    def is_batch_invariant(self) -> bool:
        """Whether a sequence's results have the same bits whatever stands beside it, and with any
        number of threads: all products are the engine's own, for any number of rows."""
        return _ops.engine_is_batch_invariant.default(self._handle)

    @property
    def packed_bytes(self) -> int:
        return _ops.engine_packed_bytes.default(self._handle)

    @property
    def workspace_bytes(self) -> int:
        return _ops.engine_workspace_bytes.default(self._handle)

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of the last run went."""
        return parts(_ops.engine_seconds.default(self._handle))


def parts(seconds: tuple[float, ...]) -> dict[str, float]:
    """Seconds of a run by name."""
    return dict(zip(("products", "attention", "other"), seconds, strict=True))


def count() -> int:
    """How many native engines there are."""
    return _ops.engine_count.default()


def _pair(name: str, pair) -> list[Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name}: expected (weight, bias).")
    parts = zip(("weight", "bias"), pair, strict=True)
    return [_plain(f"{name} {part}", tensor) for part, tensor in parts]


def _plain(name: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor)}, expected a tensor.")
    return tensor.detach().contiguous()


def is_interruptible() -> bool:
    """Whether a native run has to look after signals: their handlers run in the main thread alone,
    and others need not ask for the interpreter."""
    return threading.get_ident() == threading.main_thread().ident


def completed(rows: list[int]) -> list[int]:
    """What a native run returned, or raises what interrupted it."""
    if rows == [-1]:
        native.library.raise_interruption()
        raise RuntimeError("the run was interrupted, but nothing says by what.")
    return rows


def release_with(owner: object, operator: Callable[[int], None], handle: int) -> None:
    """Calls the operator with the handle once nothing refers to the owner any more."""
    # Not at exit, where the process's end frees all.
    weakref.finalize(owner, _release, operator, handle).atexit = False


def _release(operator: Callable[[int], None], handle: int) -> None:
    # The collector runs at any time, also while a call is recorded, whose part this is not.
    with _disable_current_modes():
        operator(handle)
