"""The iterations, over packed rows.

Exact because a halted token's state never changes again and, the layer's weights being tied,
neither do its key and value: it needs no row in any later product, and its last key and value,
projected once in the iteration after it halted, stay in the K/V store for those still running.
"""

from __future__ import annotations

import torch
from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.layer import HaltingLimits
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
    attention, halting = layer.attention, layer.act.dense
    distance = attention.distance_embedding.weight.contiguous() if attention.relative else None
    halting_is_read = not (call.is_called("full_layer_layer_norm") or call.is_called("act.dense"))
    state_dtype = torch.promote_types(hidden.dtype, torch.float32)
    max_iterations, threshold = limits.max_iterations, limits.threshold

    out = torch.empty_like(hidden)
    n_updates = hidden.new_empty(hidden.size(0), dtype=state_dtype)
    remainders = torch.empty_like(n_updates)
    key_store = value_store = None
    workspace = offsets.new_zeros(ops.halting_workspace(hidden.size(0)))

    running = moved = hidden
    token_index = moved_index = torch.arange(hidden.size(0), device=hidden.device)
    accumulated_probability = torch.zeros_like(n_updates)
    query_offsets = offsets
    result = PackedResult(out, n_updates, remainders)

    for iteration in range(1, max_iterations + 1):
        result.running_rows.append(running.size(0))
        keys, values = attention.key(moved), attention.value(moved)
        if key_store is None:  # the first iteration moves all tokens, in order
            key_store, value_store = keys, values
        else:
            op["write_kv"](keys, values, moved_index, None, key_store, value_store)
        queries = attention.query(running)
        attended = torch.empty_like(queries)
        op["ragged_attention"](
            queries,
            key_store,
            value_store,
            query_offsets,
            offsets,
            token_index,
            positions,
            attention.num_attention_heads,
            distance,
            attention.key_distances,
            attended,
        )
        projected = attention.dense(attended)
        norm = layer.LayerNorm
        if call.is_called("LayerNorm"):
            ffn_input = norm(projected + running)
        else:
            ffn_input = torch.empty_like(running)
            op["add_layer_norm"](
                projected,
                running,
                norm.weight.contiguous(),
                norm.bias.contiguous(),
                norm.eps,
                None,
                ffn_input,
            )
        ffn_output = layer.ffn_output(layer.activation(layer.ffn(ffn_input)))

        moved = torch.empty_like(running)
        moved_index = torch.empty_like(token_index)
        next_probability = torch.empty_like(accumulated_probability)
        next_offsets = torch.empty_like(query_offsets)
        norm = layer.full_layer_layer_norm
        if halting_is_read:
            op["halting_step"](
                ffn_output,
                ffn_input,
                running,
                norm.weight.contiguous(),
                norm.bias.contiguous(),
                norm.eps,
                halting.weight.contiguous(),
                halting.bias,
                threshold,
                iteration,
                iteration == max_iterations,
                accumulated_probability,
                token_index,
                query_offsets,
                moved,
                next_probability,
                moved_index,
                next_offsets,
                workspace[: ops.halting_workspace(running.size(0))],
                out,
                n_updates,
                remainders,
            )
        else:
            candidate = norm(ffn_output + ffn_input)
            finish_iteration(
                candidate,
                halting_logit(halting, candidate).squeeze(1).sigmoid(),
                running,
                threshold,
                iteration,
                iteration == max_iterations,
                accumulated_probability,
                token_index,
                query_offsets,
                moved,
                next_probability,
                moved_index,
                next_offsets,
                out,
                n_updates,
                remainders,
            )
        count = int(next_offsets[-1])
        if count == 0:
            break
        running, token_index = moved[:count], moved_index[:count]
        accumulated_probability, query_offsets = next_probability[:count], next_offsets
    return result
