"""All iterations of a batch as one CUDA graph, captured once for each capacity and replayed.

A graph has the most iterations the model may take, seven or eight kernels each, on buffers of its
own. Where all rows have halted before the last, the rest of its kernels leave before they load
anything. (CUDA's conditional WHILE node would leave them out, but PyTorch captures IF nodes alone.)
It runs our kernels alone: nothing is allocated while it is captured, so that graphs share no memory
pool and any two of them may run at the same time.

Not yet run on a GPU.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.gpu.buffers import Batch, Buffers
from albert_act_fast.engine.gpu.counts import Unknown
from albert_act_fast.engine.gpu.iterations import launch_all
from albert_act_fast.engine.layer import LayerWeights
from albert_act_fast.flags import is_set
from albert_act_fast.ops.precision import takes_tf32

logger = logging.getLogger(__name__)

SWITCH = "ALBERT_ACT_FAST_CUDA_GRAPHS"
# Of one layer: memory of all its graphs' buffers, and how many graphs there are.
MAX_BYTES = 2 << 30
MAX_GRAPHS = 32
# A graph gives way to a capacity that was asked for this many times as often, and no sooner:
# batches of more capacities than there is room for would otherwise capture for ever. Frequencies
# fade, all being halved after so many batches. (TinyLFU, Einziger et al. 2017)
ASKED_MORE = 2
FADE_AFTER = 1024

# Given a function that launches kernels, returns one that launches them all again.
Capture = Callable[[Callable[[], None], torch.device], Callable[[], None]]


@dataclass(frozen=True)
class Capacity:
    """What a graph is made for; any batch of at most so many rows and sequences may use it."""

    rows: int
    sequences: int


def capacity_of(rows: int, sequences: int) -> Capacity:
    """Rows: as the launch tables change (`covered`). Sequences, which cost next to nothing: powers
    of two."""
    # With the first call alone: importing the package imports no kernels.
    from albert_act_fast.kernels import launch_tables

    return Capacity(launch_tables.covered(rows), 1 << (sequences - 1).bit_length())


def why_not(device: torch.device) -> str | None:
    """None where graphs can be captured on the device, else the reason."""
    if not is_set(SWITCH, default="1"):
        return f"{SWITCH}=0"
    if device.type != "cuda":
        return f"there are no CUDA graphs on {device.type}"
    return None


_capturing = threading.Lock()


def capture_on_gpu(launch: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`launch` runs once for the kernels to be compiled and loaded, and then into the graph."""
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        launch()
    torch.cuda.current_stream(device).wait_stream(stream)
    # One capture at a time; other threads may go on launching meanwhile. `torch.cuda.graph` would
    # first wait for the whole device and empty the allocator's cache; nothing is allocated here.
    with _capturing, _without_cyclic_collection(), torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    return graph.replay


@contextmanager
def _without_cyclic_collection() -> Iterator[None]:
    """What is collected may free memory or events of the device, which a capture must not."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CapturedLoop:
    """A graph and its buffers. One batch at a time: `run` orders its callers, threads by a lock and
    streams by an event."""

    def __init__(
        self,
        layer: LayerWeights,
        capacity: Capacity,
        limits: HaltingLimits,
        dtype: torch.dtype,
        device: torch.device,
        capture: Capture,
    ) -> None:
        # What is made in inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self.buffers = Buffers(layer, capacity.rows, capacity.sequences, dtype, device)
            self._replay = capture(
                lambda: launch_all(layer, self.buffers, limits, Unknown()), device
            )
        # The weights' addresses are in the graph.
        self._layer = layer
        self._lock = threading.Lock()
        on_gpu = device.type == "cuda"
        self._done = torch.cuda.Event() if on_gpu else None
        self._streams = {torch.cuda.current_stream()} if on_gpu else set()

    def run(self, batch: Batch):
        """What `batch.take` gives."""
        with self._lock:
            self._wait_for_the_batch_before()
            batch.load(self.buffers)
            self._replay()
            result = batch.take(self.buffers)
            if self._done is not None:
                self._done.record()
        return result

    def _wait_for_the_batch_before(self) -> None:
        """On the current stream; the host does not wait."""
        if self._done is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self._done)
        if stream not in self._streams:
            self.buffers.record_stream(stream)
            self._streams.add(stream)


class LayerGraphs:
    """The graphs of one layer. They hold while the weights stay where they are: all are dropped
    once one has moved. What stands at those places may change."""

    def __init__(self, capture: Capture = capture_on_gpu) -> None:
        self._capture = capture
        self._lock = threading.Lock()
        self._forget()

    def _forget(self, identity: tuple | None = None) -> None:
        self._identity = identity
        self._loops: dict[tuple, CapturedLoop] = {}
        self._asked: Counter[tuple] = Counter()
        self._refused: dict[tuple, str] = {}
        self._promised: dict[tuple, int] = {}  # bytes of those that are being captured

    def find(
        self, layer: LayerWeights, rows: int, sequences: int, limits: HaltingLimits
    ) -> CapturedLoop | str:
        """The graph for a batch of so many rows, captured where it is the second of its capacity
        and there is room, else why there is none. The first is launched kernel by kernel, which
        also compiles them: most sizes that come once do not come again. Other threads go on while
        one captures."""
        capacity = capacity_of(rows, sequences)
        dtype, device = layer.query[0].dtype, layer.query[0].device
        key = (capacity, limits, dtype, takes_tf32(dtype))
        identity = layer.identity()
        with self._lock:
            if self._identity != identity:
                self._forget(identity)
            self._ask(key)
            if key in self._loops:
                return self._loops[key]
            needed = Buffers.bytes_needed(layer, capacity.rows, capacity.sequences, dtype)
            reason = self._refused.get(key) or self._why_not_now(key, needed)
            if reason is not None:
                return reason
            self._promised[key] = needed
            promised = self._promised
        loop = None
        try:
            loop = CapturedLoop(layer, capacity, limits, dtype, device, self._capture)
        except torch.cuda.OutOfMemoryError:
            reason = f"no memory was left for a graph of {capacity.rows} rows"
            logger.warning("%s; its batches run without one.", reason)
        finally:
            with self._lock:
                del promised[key]
                # Else the weights have moved meanwhile: it is good for this batch alone.
                if promised is self._promised:
                    if loop is not None:
                        self._loops[key] = loop
                    elif reason is not None:
                        self._refused[key] = reason
        return loop or reason

    def _ask(self, key: tuple) -> None:
        if self._asked.total() >= FADE_AFTER:
            self._asked = Counter({k: n // 2 for k, n in self._asked.items() if n > 1})
        self._asked[key] += 1

    def _why_not_now(self, key: tuple, needed: int) -> str | None:
        """None where a graph is to be captured now; there is room for it then."""
        rows = key[0].rows
        if self._asked[key] < 2:
            return f"the first batch with a capacity of {rows} rows"
        if key in self._promised:
            return f"another thread is capturing the graph of {rows} rows"
        if needed > MAX_BYTES:
            self._refused[key] = (
                f"a graph of {rows} rows takes {needed >> 20} MiB, more than {MAX_BYTES >> 20}"
            )
            return self._refused[key]
        taken = sum(loop.buffers.nbytes() for loop in self._loops.values())
        taken += sum(self._promised.values())
        count = len(self._loops) + len(self._promised)
        leaving = []
        for least in sorted(self._loops, key=self._asked.__getitem__):
            if count < MAX_GRAPHS and taken + needed <= MAX_BYTES:
                break
            if self._asked[key] < ASKED_MORE * self._asked[least]:
                break
            leaving.append(least)
            count, taken = count - 1, taken - self._loops[least].buffers.nbytes()
        if count >= MAX_GRAPHS or taken + needed > MAX_BYTES:
            return f"no room for a graph of {rows} rows beside those asked for as often"
        for least in leaving:
            del self._loops[least]
        return None

    def report(self) -> dict[Capacity, int]:
        """The memory of the buffers, in bytes, for each capacity that has a graph."""
        with self._lock:
            memory: dict[Capacity, int] = {}
            for (capacity, *_), loop in self._loops.items():
                memory[capacity] = memory.get(capacity, 0) + loop.buffers.nbytes()
            return memory


_graphs: weakref.WeakKeyDictionary[nn.Module, LayerGraphs] = weakref.WeakKeyDictionary()
_graphs_lock = threading.Lock()


def graphs_of(layer: nn.Module) -> LayerGraphs:
    with _graphs_lock:
        return _graphs.setdefault(layer, LayerGraphs())


def release(layer: nn.Module) -> None:
    """Frees the layer's graphs, their buffers and their hold on the weights."""
    with _graphs_lock:
        _graphs.pop(layer, None)
