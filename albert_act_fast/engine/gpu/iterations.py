"""The launches of all iterations: seven or eight each, and none that waits for the device.

    project_qkv       queries of the running rows; keys, values of those that moved, into the store
    ragged_attention
    linear            attention.dense
    add_layer_norm
    linear            ffn, with the activation
    linear            ffn_output, with the residual
    halting_step      in CUDA C++, where that was built for the GPU; else decide and move

Where rows are few, `split_linear` takes the place of the first and the third `linear`.

Every launch covers all rows there were at first; how many are live stands in device memory, and
programs past them leave before they load anything. Once no row is running, whole launches do.

Right before each stands another of them, or what loads the batch, and neither writes a weight: so
weights are settled, and few rows' products load them while the launch before still runs.

What is launched, and with which tiles, follows from the capacity alone. The host may stop sooner
where it happens to know that no row is running; so one input has the same result, to the bit,
however fast the counts arrive, kernel by kernel or in a graph.
"""

from __future__ import annotations

from albert_act_fast import ops
from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.gpu.counts import Unknown
from albert_act_fast.engine.halting import (
    Finished,
    HaltingWeights,
    halting_step_arguments,
)
from albert_act_fast.engine.layer import LayerWeights
from albert_act_fast.implementations import availability

# By whose halting step it is.
LAUNCHES_PER_ITERATION = {"cuda": 7, "triton": 8}
# Columns of a row, at most (kMaxWidth in csrc/cuda/kernels.h).
CUDA_MAX_WIDTH = 4096


def whose_halting_step(layer: LayerWeights) -> str:
    """The implementation whose halting step the engine takes: CUDA's, one launch that reads every
    row once, wherever it can."""
    device = layer.query[0].device
    if layer.width <= CUDA_MAX_WIDTH and availability(device)["cuda"] is None:
        return "cuda"
    return "triton"


def launch_all(
    layer: LayerWeights, buffers: Buffers, limits: HaltingLimits, counts: Unknown
) -> None:
    """Iterates the batch that was loaded until no row is running, as far as the host knows."""
    halting_step = whose_halting_step(layer)
    for iteration in range(1, limits.max_iterations + 1):
        launch_iteration(layer, buffers, limits, iteration, halting_step)
        counts.sent(buffers.running(iteration % 2).query_offsets[-1:])
        if counts.no_row_runs():
            break


def launch_iteration(
    layer: LayerWeights,
    buffers: Buffers,
    limits: HaltingLimits,
    iteration: int,
    halting_step: str,
) -> None:
    """halting_step: the implementation it is taken of."""
    # Rows that moved in the iteration before, those that were running then, stand first in what
    # this one reads; the offsets that it will overwrite still say how many.
    now, following = buffers.running((iteration - 1) % 2), buffers.running(iteration % 2)
    running_count, moved_count = now.query_offsets[-1:], following.query_offsets[-1:]
    attended, projected, ffn_input = buffers.attended, buffers.projected, buffers.ffn_input

    _op("project_qkv")(
        now.hidden,
        [layer.query[0], layer.key[0], layer.value[0]],
        [layer.query[1], layer.key[1], layer.value[1]],
        now.token_index,
        running_count,
        moved_count,
        buffers.queries,
        buffers.key_store,
        buffers.value_store,
        weights_settled=True,
    )
    _op("ragged_attention")(
        buffers.queries,
        buffers.key_store,
        buffers.value_store,
        now.query_offsets,
        buffers.key_offsets,
        now.token_index,
        buffers.positions,
        layer.heads,
        layer.distance_embedding,
        layer.key_distances,
        attended,
    )
    _product(buffers, attended, *layer.dense, None, running_count, projected)
    _op("add_layer_norm")(
        projected, now.hidden, *layer.attention_norm, layer.attention_eps, running_count, ffn_input
    )
    _op("linear")(
        ffn_input,
        *layer.ffn,
        None,
        running_count,
        layer.activation,
        buffers.ffn_inner,
        weights_settled=True,
    )
    # The product adds the residual, which saves each launch of the halting step a row.
    _product(
        buffers, buffers.ffn_inner, *layer.ffn_output, ffn_input, running_count, buffers.ffn_output
    )
    ops.implementation_of("halting_step", halting_step)(
        *halting_step_arguments(
            now,
            following,
            Finished(buffers.out, buffers.n_updates, buffers.remainders),
            HaltingWeights(*layer.output_norm, layer.output_eps, *layer.halting),
            limits,
            iteration,
            buffers.workspace,
            buffers.ffn_output,
            None,
        )
    )


def _product(buffers: Buffers, x, weight, bias, residual, row_count, out) -> None:
    """`linear` without activation, of a depth that may be split."""
    splits = buffers.splits[x.size(1)]
    if splits == 1:
        _op("linear")(x, weight, bias, residual, row_count, "none", out, weights_settled=True)
    else:
        parts = buffers.parts[:splits]
        _op("split_linear")(
            x, weight, bias, residual, row_count, parts, buffers.arrived, out, weights_settled=True
        )


def _op(name: str):
    return ops.implementation_of(name, "triton")
