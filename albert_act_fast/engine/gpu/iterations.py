"""The launches of all iterations: eight each, and none that waits for the device.

    project_qkv       queries of the running rows; keys, values of those that moved, into the store
    ragged_attention
    linear            attention.dense
    add_layer_norm
    linear            ffn, with the activation
    linear            ffn_output, with the residual
    decide, move      the halting step

Every launch covers an upper bound of the rows; how many are live stands in device memory, and
programs past them leave before they load anything. Once no row is running, whole launches do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.gpu.buffers import Buffers
from albert_act_fast.engine.gpu.counts import KnownAtFirst
from albert_act_fast.engine.halting import (
    Finished,
    HaltingWeights,
    halting_step_arguments,
)
from albert_act_fast.engine.layer import LayerWeights, WeightAndBias
from albert_act_fast.ops.precision import takes_tf32

LAUNCHES_PER_ITERATION = 8


def launch_all(
    layer: LayerWeights,
    buffers: Buffers,
    limits: HaltingLimits,
    counts: KnownAtFirst,
    library: bool = False,
) -> None:
    """Iterates the batch that was loaded until no row is running, as far as the host knows.

    Args:
        library: products that need no epilogue may run in PyTorch's library (see
            `library_is_better`). It allocates a workspace, which a captured graph must not.
    """
    buffers.begin()
    for iteration in range(1, limits.max_iterations + 1):
        counts.poll()
        if counts.bound(iteration) == 0:
            break
        launch_iteration(layer, buffers, limits, iteration, counts, library)
        counts.sent(buffers.query_offsets[iteration % 2][-1:])


def launch_iteration(
    layer: LayerWeights,
    buffers: Buffers,
    limits: HaltingLimits,
    iteration: int,
    counts: KnownAtFirst,
    library: bool,
) -> None:
    source, target = (iteration - 1) % 2, iteration % 2
    rows = counts.bound(iteration)
    # Rows that moved in the iteration before: those that were running then.
    moved = buffers.running(source, counts.bound(max(1, iteration - 1)))
    now, following = buffers.running(source, rows), buffers.running(target, rows)
    running_count, moved_count = now.query_offsets[-1:], following.query_offsets[-1:]
    library = library and library_is_better(rows, counts.age(iteration), now.hidden)

    _op("project_qkv")(
        moved.hidden,
        [layer.query[0], layer.key[0], layer.value[0]],
        [layer.query[1], layer.key[1], layer.value[1]],
        moved.token_index,
        running_count,
        moved_count,
        buffers.queries[: moved.hidden.size(0)],
        buffers.key_store,
        buffers.value_store,
    )
    attended = buffers.attended[:rows]
    _op("ragged_attention")(
        buffers.queries[:rows],
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
    projected, ffn_input = buffers.projected[:rows], buffers.ffn_input[:rows]
    _linear(attended, layer.dense, None, running_count, "none", projected, library)
    _op("add_layer_norm")(
        projected, now.hidden, *layer.attention_norm, layer.attention_eps, running_count, ffn_input
    )
    inner, ffn_output = buffers.ffn_inner[:rows], buffers.ffn_output[:rows]
    _linear(ffn_input, layer.ffn, None, running_count, layer.activation, inner, False)
    # Our product adds the residual, which saves both launches of the halting step a row.
    residual = None if library else ffn_input
    _linear(inner, layer.ffn_output, residual, running_count, "none", ffn_output, library)
    _op("halting_step")(
        *halting_step_arguments(
            now,
            following,
            Finished(buffers.out, buffers.n_updates, buffers.remainders),
            HaltingWeights(*layer.output_norm, layer.output_eps, *layer.halting),
            limits,
            iteration,
            buffers.workspace,
            ffn_output,
            ffn_input if residual is None else None,
        )
    )


def library_is_better(rows: int, age: int, hidden: Tensor) -> bool:
    """Whether the library computes `rows` rows sooner than our kernel computes the live ones.

    The library's products do not know which rows are live, ours are slower for each row: so the
    library takes large products whose bound is fresh. In full float32 ours use no tensor cores and
    lose more, so that an older bound will do. Estimates, not yet measured on a GPU.
    """
    full_float32 = hidden.dtype == torch.float32 and not takes_tf32(hidden.dtype)
    return rows >= 512 and age <= (2 if full_float32 else 0)


def _linear(
    x: Tensor,
    parameters: WeightAndBias,
    residual: Tensor | None,
    row_count: Tensor,
    activation: str,
    out: Tensor,
    library: bool,
) -> None:
    weight, bias = parameters
    if library:
        # Rows past the live ones hold anything, and get anything: nobody reads them.
        torch.addmm(bias, x, weight.t(), out=out)
    else:
        _op("linear")(x, weight, bias, residual, row_count, activation, out)


def _op(name: str):
    return ops.implementation_of(name, "triton")
