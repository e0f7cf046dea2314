"""The engine around the Triton kernels: no iteration waits for the host, nor the host for one.

Not yet run on a GPU: shown to be right in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from albert_act_fast.engine.gpu import graphs, weights
from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.gpu.counts import Arriving, KnownAtFirst
from albert_act_fast.engine.gpu.graphs import graphs_of
from albert_act_fast.engine.gpu.iterations import HaltingLimits, launch_all
from albert_act_fast.engine.gpu.weights import weights_of, why_not
from albert_act_fast.engine.loop import PackedResult

__all__ = ["explain", "graphs_of", "iterate_on_device", "warm_up", "why_not"]


def iterate_on_device(
    layer: nn.Module,
    hidden: Tensor,
    offsets: Tensor,
    positions: Tensor,
    *,
    threshold: float,
    max_iterations: int,
) -> PackedResult:
    """As `loop.iterate`, for a layer for which `why_not` is None, without a host sync.

    The result's `running_rows` stays empty: only the device knows them.
    """
    limits = HaltingLimits(threshold, max_iterations)
    layer_weights, sequences = weights_of(layer), offsets.numel() - 1
    with torch.cuda.device_of(hidden):
        if graphs.why_not(hidden.device) is None:
            captured = graphs_of(layer).find(layer_weights, hidden, sequences, limits)
            if not isinstance(captured, str):
                return captured.run(hidden, offsets, positions)
        buffers = Buffers(layer_weights, hidden.size(0), sequences, hidden.dtype, hidden.device)
        buffers.load(hidden, offsets, positions)
        on_gpu = hidden.device.type == "cuda"
        rows = hidden.size(0)
        counts = Arriving(rows, max_iterations) if on_gpu else KnownAtFirst(rows)
        launch_all(layer_weights, buffers, limits, counts, library=on_gpu)
    return buffers.result(rows)


@torch.no_grad()
def warm_up(model: nn.Module, batches: Iterable[tuple[int, int]]) -> None:
    """Compiles the kernels and captures the graphs that full batches will need, ahead of them.

    Args:
        model: any ALBERT-ACT model.
        batches: (sequences, tokens of each). Batches with padding have fewer rows, hence graphs of
            their own.
    """
    for sequences, tokens in batches:
        input_ids = torch.zeros(sequences, tokens, dtype=torch.int64, device=model.device)
        for _ in range(2):  # the first is launched kernel by kernel, the second captures
            model(input_ids)


def explain(layer: nn.Module) -> str:
    """How implementation `triton` computes the layer, and why not otherwise."""
    reason = weights.why_not(layer)
    if reason is not None:
        return f"one iteration at a time, the host waiting for each: {reason}"
    device = layer.act.dense.weight.device
    reason = graphs.why_not(device)
    if reason is not None:
        return f"all iterations without a host sync, kernel by kernel: {reason}"
    captured = graphs_of(layer).report()
    sizes = ", ".join(f"{c.rows} rows ({n >> 20} MiB)" for c, n in captured.items()) or "none yet"
    return f"all iterations without a host sync; CUDA graphs so far: {sizes}"
