"""The iterations, over packed rows.

Exact because a halted token's state never changes again and, the layer's weights being tied,
neither do its key and value: it needs no row in any later product, and its last key and value,
projected once in the iteration after it halted, stay in the K/V store for those still running.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from albert_act_fast import ops


@dataclass
class PackedResult:
    """hidden [T, H]; n_updates, remainders [T] float32; running_rows: how many rows each iteration
    computed, from T down; empty where only the device knows."""

    hidden: Tensor
    n_updates: Tensor
    remainders: Tensor
    running_rows: list[int] = field(default_factory=list)


def iterate(
    layer: nn.Module,
    hidden: Tensor,
    offsets: Tensor,
    positions: Tensor,
    *,
    threshold: float,
    max_iterations: int,
    implementation: str,
) -> PackedResult:
    """Iterates `layer` on packed rows until every token halted or ran `max_iterations` times.

    Args:
        layer: anything with the submodules of an ALBERT-ACT layer. Its linear modules are called,
            not their weights read, so that replaced (quantised, adapted) modules keep working.
        hidden: [T, H], the embeddings mapped to the hidden size; T at least 1.
        offsets, positions: see `PackedTokens`.
        threshold: `1 - act_epsilon` rounded to float32.
        implementation: whose operators to run.
    """
    op = {name: ops.implementation_of(name, implementation) for name in ops.OPERATORS}
    attention, halting = layer.attention, layer.act.dense
    distance = getattr(attention, "distance_embedding", None)
    state_dtype = torch.promote_types(hidden.dtype, torch.float32)

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
            None if distance is None else distance.weight,
            attention.position_embedding_type == "relative_key_query",
            attended,
        )
        projected = attention.dense(attended)
        ffn_input = torch.empty_like(running)
        norm = layer.LayerNorm
        op["add_layer_norm"](projected, running, norm.weight, norm.bias, norm.eps, None, ffn_input)
        ffn_output = layer.ffn_output(layer.activation(layer.ffn(ffn_input)))

        moved = torch.empty_like(running)
        moved_index = torch.empty_like(token_index)
        next_probability = torch.empty_like(accumulated_probability)
        next_offsets = torch.empty_like(query_offsets)
        norm = layer.full_layer_layer_norm
        op["halting_step"](
            ffn_output,
            ffn_input,
            running,
            norm.weight,
            norm.bias,
            norm.eps,
            halting.weight,
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
        count = int(next_offsets[-1])
        if count == 0:
            break
        running, token_index = moved[:count], moved_index[:count]
        accumulated_probability, query_offsets = next_probability[:count], next_offsets
    return result
