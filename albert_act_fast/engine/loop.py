"""The iterations, over packed rows.

Exact because a halted token's state never changes again and, the layer's weights being tied,
neither do its key and value: it needs no row in any later product, and its last key and value,
projected once in the iteration after it halted, stay in the K/V store for those still running.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albert_act_fast import ops
from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.halting import (
    Finished,
    HaltingWeights,
    RunningRows,
    halting_step_arguments,
)
from albert_act_fast.engine.packing import PackedResult, PackedTokens
from albert_act_fast.modules import halting_logit
from albert_act_fast.ops.torch_ops import finish_iteration

HOW = "one iteration at a time from Python, modules called"


def why_not(call: Call) -> str | None:
    """None where the loop can compute the call, else the reason."""
    if call.gradients:
        return "its operators fill buffers, which autograd cannot follow"
    if call.inspection.active_dropout is not None:
        return f"{call.inspection.active_dropout} is in training mode"
    return None


def iterate(
    call: Call, hidden: Tensor, tokens: PackedTokens, limits: HaltingLimits
) -> PackedResult:
    """Iterates the layer on packed rows until every token halted or ran out of iterations.

    The layer's linear modules and its activation are called, and so is any other module that may
    not be read; operators do the rest.

    Args:
        call: with `call.implementation`, whose operators to run.
        hidden: [T, H], the embeddings mapped to the hidden size; T at least 1.
    """
    op = {name: ops.implementation_of(name, call.implementation) for name in ops.OPERATORS}
    layer, offsets, positions = call.layer, tokens.offsets, tokens.positions
    attention = layer.attention
    distance = attention.distance_embedding.weight.contiguous() if attention.relative else None
    halting_is_read = not (call.is_called("full_layer_layer_norm") or call.is_called("act.dense"))
    state_dtype = torch.promote_types(hidden.dtype, torch.float32)

    n_updates = hidden.new_empty(hidden.size(0), dtype=state_dtype)
    finished = Finished(torch.empty_like(hidden), n_updates, torch.empty_like(n_updates))
    key_store = value_store = None
    workspace = offsets.new_zeros(ops.halting_workspace(hidden.size(0)))

    now = RunningRows(
        hidden,
        torch.zeros_like(n_updates),
        torch.arange(hidden.size(0), device=hidden.device),
        offsets,
    )
    moved = now
    result = PackedResult(finished.out, finished.n_updates, finished.remainders)

    for iteration in range(1, limits.max_iterations + 1):
        running = now.hidden
        result.running_rows.append(running.size(0))
        keys, values = attention.key(moved.hidden), attention.value(moved.hidden)
        if key_store is None:  # the first iteration moves all tokens, in order
            key_store, value_store = keys, values
        else:
            op["write_kv"](keys, values, moved.token_index, None, key_store, value_store)
        queries = attention.query(running)
        attended = torch.empty_like(queries)
        op["ragged_attention"](
            queries,
            key_store,
            value_store,
            now.query_offsets,
            offsets,
            now.token_index,
            positions,
            attention.num_attention_heads,
            distance,
            attention.key_distances,
            attended,
        )
        projected = attention.dense(attended)
        if call.is_called("LayerNorm"):
            ffn_input = layer.LayerNorm(projected + running)
        else:
            ffn_input = torch.empty_like(running)
            op["add_layer_norm"](projected, running, *_norm(layer.LayerNorm), None, ffn_input)
        ffn_output = layer.ffn_output(layer.activation(layer.ffn(ffn_input)))

        moved = RunningRows(*(torch.empty_like(part) for part in now))
        if halting_is_read:
            weights = HaltingWeights(
                *_norm(layer.full_layer_layer_norm),
                layer.act.dense.weight.contiguous(),
                layer.act.dense.bias,
            )
            op["halting_step"](
                *halting_step_arguments(
                    now,
                    moved,
                    finished,
                    weights,
                    limits,
                    iteration,
                    workspace,
                    ffn_output,
                    ffn_input,
                )
            )
        else:
            candidate = layer.full_layer_layer_norm(ffn_output + ffn_input)
            p = halting_logit(layer.act.dense, candidate).squeeze(1).sigmoid()
            arguments = halting_step_arguments(
                now, moved, finished, HaltingWeights(), limits, iteration, workspace
            )
            finish_iteration(arguments, candidate, p)
        count = int(moved.query_offsets[-1])
        if count == 0:
            break
        now = RunningRows(*(part[:count] for part in moved[:3]), moved.query_offsets)
    return result


def _norm(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight.contiguous(), norm.bias.contiguous(), norm.eps
