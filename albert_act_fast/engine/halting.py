"""When iterations end, what one hands to the next, and the operator `halting_step` between them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.configuration import HaltingLimits


class RunningRows(NamedTuple):
    """The rows of one iteration, of which the first query_offsets[B] are live.

    hidden: [R, H]. accumulated_probability: [R] float32. token_index: int64 [R].
    query_offsets: int64 [B + 1].
    """

    hidden: Tensor
    accumulated_probability: Tensor
    token_index: Tensor
    query_offsets: Tensor


class Finished(NamedTuple):
    """Where rows go that have halted, by token: out [T, H]; n_updates, remainders [T] float32."""

    out: Tensor
    n_updates: Tensor
    remainders: Tensor


class HaltingWeights(NamedTuple):
    """What the halting step reads of the layer; None where it reads nothing (see
    `torch_ops.finish_iteration`)."""

    ln_weight: Tensor | None = None
    ln_bias: Tensor | None = None
    eps: float | None = None
    halting_weight: Tensor | None = None
    halting_bias: Tensor | None = None


def halting_step_arguments(
    now: RunningRows,
    following: RunningRows,
    finished: Finished,
    weights: HaltingWeights,
    limits: HaltingLimits,
    iteration: int,
    workspace: Tensor,
    ffn_output: Tensor | None = None,
    ffn_input: Tensor | None = None,
) -> tuple:
    """The operator's arguments by its schema's names. following: what it writes."""
    told = limits._asdict()
    last = iteration == told.pop("max_iterations")
    return ops.ARGUMENTS["halting_step"](
        ffn_output=ffn_output,
        ffn_input=ffn_input,
        iteration=iteration,
        last=last,
        workspace=workspace[: ops.halting_workspace(now.hidden.size(0))],
        **told,
        **now._asdict(),
        **{f"next_{name}": value for name, value in following._asdict().items()},
        **finished._asdict(),
        **weights._asdict(),
    )
