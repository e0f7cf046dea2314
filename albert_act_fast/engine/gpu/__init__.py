"""The engine around the Triton kernels: no iteration waits for the host, nor the host for one.

Not yet run on a GPU: shown to be right in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.gpu import graphs, padded
from albert_act_fast.engine.gpu.buffers import Batch, Buffers, PackedRows
from albert_act_fast.engine.gpu.counts import Arriving, Unknown
from albert_act_fast.engine.gpu.graphs import graphs_of, release
from albert_act_fast.engine.gpu.iterations import (
    LAUNCHES_PER_ITERATION,
    launch_all,
    whose_halting_step,
)
from albert_act_fast.engine.packing import PackedResult, PackedTokens
from albert_act_fast.inputs import ShapedInputs
from albert_act_fast.ops.triton_ops import MAX_HEAD_SIZE, ROW_DTYPES
from albert_act_fast.outputs import EncoderResult

__all__ = [
    "describe",
    "encode",
    "graphs_of",
    "iterate",
    "release",
    "warm_up",
    "why_not",
    "why_not_encode",
]

HOW = "all iterations without a host sync"


def why_not(call: Call) -> str | None:
    """None where the kernels can run on the layer's weights, else the reason."""
    if call.implementation != "triton":
        return f"it computes implementation 'triton', not {call.implementation!r}"
    reason = call.why_not_read_layer()
    if reason is not None:
        return reason
    weights = call.layer_weights
    dtype = weights.query[0].dtype
    if dtype not in ROW_DTYPES:
        return f"the weights are {dtype}"
    for name, tensor in weights.tensors().items():
        if tensor.dtype != dtype:
            return f"{name} is {tensor.dtype}, not {dtype} as query.weight"
        if not tensor.is_contiguous():
            return f"{name} is not contiguous"
    head_size = weights.width // weights.heads
    if head_size > MAX_HEAD_SIZE:
        return f"a head has {head_size} columns, more than {MAX_HEAD_SIZE}"
    return None


def iterate(
    call: Call, hidden: Tensor, tokens: PackedTokens, limits: HaltingLimits
) -> PackedResult:
    """As `loop.iterate`, without a host sync.

    The result's `running_rows` stays empty: only the device knows them.
    """
    return _run(call, PackedRows(hidden, tokens.offsets, tokens.positions), limits)


def why_not_encode(call: Call) -> str | None:
    """None where `encode` can take the call, else the reason."""
    return padded.why_not(call)


def encode(call: Call, inputs: ShapedInputs, limits: HaltingLimits) -> EncoderResult:
    """A padded batch whose values have not been checked, with one host sync.

    Raises:
        ValueError: naming the argument whose values are out of its range.
    """
    with torch.cuda.device_of(inputs.source):
        batch = padded.PaddedBatch(call, inputs)
    return _run(call, batch, limits) if batch.rows else batch.nothing()


def _run(call: Call, batch: Batch, limits: HaltingLimits):
    """What `batch.take` gives after the iterations."""
    weights = call.layer_weights
    dtype, device = weights.query[0].dtype, weights.query[0].device
    with torch.cuda.device_of(weights.query[0]):
        if graphs.why_not(device) is None:
            captured = graphs_of(call.layer).find(weights, batch.rows, batch.sequences, limits)
            if not isinstance(captured, str):
                return captured.run(batch)
        buffers = Buffers(weights, batch.rows, batch.sequences, dtype, device)
        batch.load(buffers)
        counts = Arriving(limits.max_iterations) if device.type == "cuda" else Unknown()
        launch_all(weights, buffers, limits, counts)
        return batch.take(buffers)


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


def describe(call: Call) -> str:
    """How it runs on the model's device."""
    device = call.layer.act.dense.weight.device
    halting_step = whose_halting_step(call.layer_weights)
    launches = LAUNCHES_PER_ITERATION[halting_step]
    how = f"{HOW}, {launches} launches each (halting step: {halting_step})"
    reason = graphs.why_not(device)
    if reason is not None:
        return f"{how}, kernel by kernel: {reason}"
    captured = graphs_of(call.layer).report()
    sizes = ", ".join(f"{c.rows} rows ({n >> 20} MiB)" for c, n in captured.items()) or "none yet"
    return f"{how}; CUDA graphs so far: {sizes}"
