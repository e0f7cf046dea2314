"""The engine with gradients: training, too, computes running tokens only.

The same iterations as in `loop`, written with PyTorch's own differentiable functions in place of
the operators that fill buffers, so that autograd follows them. A halted token's last key and value
stay in the graph for as long as other tokens attend to them; that is where the gradient that the
dense loop sends it through later iterations comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from albert_act_fast.configuration import HaltingLimits
from albert_act_fast.engine.call import Call
from albert_act_fast.engine.packing import PackedResult, PackedTokens
from albert_act_fast.modules import halting_logit
from albert_act_fast.ops.torch_ops import attend, halting_rule, relative_scores

HOW = "running tokens alone, forward and backward, in plain PyTorch"


def why_not(call: Call) -> str | None:
    """None where the call can run with gradients, else the reason."""
    if call.implementation != "torch":
        return f"autograd follows implementation 'torch' alone, not {call.implementation!r}"
    return None


def iterate(
    call: Call, hidden: Tensor, tokens: PackedTokens, limits: HaltingLimits
) -> PackedResult:
    """As `loop.iterate`, differentiable and with dropout where it is on. All modules are called.

    Gradients flow as in the reference: through the candidate states, the weights of the mix and
    the remainders; `n_updates` is a constant.
    """
    layer = call.layer
    attention = layer.attention
    lengths = tokens.offsets.diff().tolist()
    sequence = torch.repeat_interleave(
        torch.arange(len(lengths), device=hidden.device), tokens.offsets.diff()
    )
    running = moved = hidden
    token_index = moved_index = torch.arange(hidden.size(0), device=hidden.device)
    hp = hidden.new_zeros(hidden.size(0), dtype=torch.promote_types(hidden.dtype, torch.float32))
    keys = values = None
    finished: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    for iteration in range(1, limits.max_iterations + 1):
        moved_keys, moved_values = attention.key(moved), attention.value(moved)
        if keys is None:  # the first iteration moves all tokens, in order
            keys, values = moved_keys, moved_values
        else:
            keys = keys.index_copy(0, moved_index, moved_keys)
            values = values.index_copy(0, moved_index, moved_values)
        rows = torch.bincount(sequence[token_index], minlength=len(lengths)).tolist()
        context = _attend(
            attention, attention.query(running), keys, values, rows, lengths, token_index, tokens
        )
        attended = attention.output_dropout(attention.dense(context))
        ffn_input = layer.LayerNorm(attended + running)
        ffn_output = layer.dropout(layer.ffn_output(layer.activation(layer.ffn(ffn_input))))
        candidate = layer.full_layer_layer_norm(ffn_output + ffn_input)
        p = halting_logit(layer.act.dense, candidate).squeeze(1).sigmoid()
        reached, goes_on, asks, weight, remainder = halting_rule(hp, p, limits)
        weight = weight.unsqueeze(1)
        moved = (weight * candidate + (1 - weight) * running).to(running.dtype)
        moved_index = token_index
        updates = torch.where(p.isnan(), iteration - 1, iteration).to(hp.dtype)

        staying, leaving = goes_on.nonzero().squeeze(1), (~goes_on).nonzero().squeeze(1)
        finished.append(
            (token_index[leaving], moved[leaving], updates[leaving], remainder[leaving])
        )
        running, token_index, hp = moved[staying], token_index[staying], reached[staying]
        if not asks.any():
            break

    # Tokens that never halted: at the iteration limit, or exactly at the threshold.
    finished.append((token_index, running, torch.full_like(hp, iteration), torch.zeros_like(hp)))
    order, *results = (torch.cat(pieces) for pieces in zip(*finished, strict=True))
    order = order.argsort()
    return PackedResult(*(result[order] for result in results))


def _attend(attention, queries, keys, values, rows, lengths, token_index, tokens) -> Tensor:
    """Every sequence's running queries against all of its own keys, [R, H].

    `split` and `cat` rather than slices: the backward pass of a slice writes a tensor of the size
    of the whole for every sequence.
    """
    heads = attention.num_attention_heads
    dropout = attention.attention_dropout.p if attention.attention_dropout.training else 0.0
    parts = zip(
        queries.split(rows),
        keys.split(lengths),
        values.split(lengths),
        tokens.positions[token_index].split(rows),
        tokens.positions.split(lengths),
        strict=True,
    )
    contexts = []
    for q, k, v, query_positions, key_positions in parts:
        if not q.size(0):
            continue
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        bias = None
        if attention.relative:
            bias = relative_scores(
                q,
                k,
                query_positions,
                key_positions,
                attention.distance_embedding.weight,
                attention.key_distances,
            )
        context = attend(q, k, v, bias, dropout)
        contexts.append(context.squeeze(0).transpose(0, 1).flatten(1))
    return torch.cat(contexts)
