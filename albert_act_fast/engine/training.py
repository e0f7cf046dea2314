"""The engine with gradients: training, too, computes running tokens only.

The same iterations as in `loop`, written with PyTorch's own differentiable functions in place of
the operators that fill buffers, so that autograd follows them. A halted token's last key and value
stay in the graph for as long as other tokens attend to them; that is where the gradient that the
dense loop sends it through later iterations comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from albert_act_fast.engine.packing import PackedTokens, pack
from albert_act_fast.inputs import ModelInputs
from albert_act_fast.ops.torch_ops import halting_probability, halting_rule, relative_scores
from albert_act_fast.outputs import EncoderResult


def encode_with_gradients(
    embeddings: nn.Module,
    encoder: nn.Module,
    inputs: ModelInputs,
    *,
    threshold: float,
    max_iterations: int,
) -> EncoderResult:
    """As `encode`, differentiable and with dropout where the model is in training mode.

    Gradients flow as in the reference: through the candidate states, the weights of the mix and
    the remainders; `n_updates` is a constant.
    """
    tokens = pack(inputs.attention_mask)
    hidden = encoder.embedding_hidden_mapping_in(_embed(embeddings, inputs, tokens))
    n_updates = hidden.new_zeros(
        hidden.size(0), dtype=torch.promote_types(hidden.dtype, torch.float32)
    )
    remainders = n_updates.clone()
    if hidden.size(0):
        hidden, n_updates, remainders = _iterate(
            encoder.albert_layer, hidden, tokens, threshold, max_iterations
        )
    shape = inputs.attention_mask.shape
    return EncoderResult(*(_unpack(x, tokens, shape) for x in (hidden, n_updates, remainders)))


def _embed(embeddings: nn.Module, inputs: ModelInputs, tokens: PackedTokens) -> Tensor:
    index = tokens.flat_index
    if inputs.inputs_embeds is None:
        rows = embeddings.word_embeddings(inputs.input_ids.flatten()[index])
    else:
        rows = inputs.inputs_embeds.flatten(0, 1)[index]
    rows = rows + embeddings.token_type_embeddings(inputs.token_type_ids.flatten()[index])
    if embeddings.position_embedding_type == "absolute":
        rows = rows + embeddings.position_embeddings(inputs.position_ids.flatten()[index])
    return embeddings.dropout(embeddings.LayerNorm(rows))


def _unpack(rows: Tensor, tokens: PackedTokens, shape: torch.Size) -> Tensor:
    padded = rows.new_zeros(shape.numel(), *rows.shape[1:])
    return padded.index_copy(0, tokens.flat_index, rows).unflatten(0, shape)


def _iterate(
    layer: nn.Module, hidden: Tensor, tokens: PackedTokens, threshold: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """hidden [T, H], n_updates [T] and remainders [T] of all tokens, in their packed order."""
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

    for iteration in range(1, max_iterations + 1):
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
        halting = layer.act.dense
        p = halting_probability(candidate, halting.weight, halting.bias, hp.dtype)
        reached, goes_on, weight, remainder = halting_rule(hp, p, threshold)
        weight = weight.unsqueeze(1)
        moved = (weight * candidate + (1 - weight) * running).to(running.dtype)
        moved_index = token_index
        updates = torch.where(p.isnan(), iteration - 1, iteration).to(hp.dtype)

        staying, leaving = goes_on.nonzero().squeeze(1), (~goes_on).nonzero().squeeze(1)
        finished.append(
            (token_index[leaving], moved[leaving], updates[leaving], remainder[leaving])
        )
        running, token_index, hp = moved[staying], token_index[staying], reached[staying]
        if not (hp < threshold).any():
            break

    # Tokens that never halted: at the iteration limit, or exactly at the threshold.
    finished.append((token_index, running, torch.full_like(hp, iteration), torch.zeros_like(hp)))
    order, *results = (torch.cat(pieces) for pieces in zip(*finished, strict=True))
    order = order.argsort()
    return tuple(result[order] for result in results)


def _attend(attention, queries, keys, values, rows, lengths, token_index, tokens) -> Tensor:
    """Every sequence's running queries against all of its own keys, [R, H].

    `split` and `cat` rather than slices: the backward pass of a slice writes a tensor of the size
    of the whole for every sequence.
    """
    heads = attention.num_attention_heads
    distance = getattr(attention, "distance_embedding", None)
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
        if distance is not None:
            bias = relative_scores(
                q,
                k,
                query_positions,
                key_positions,
                distance.weight,
                attention.position_embedding_type == "relative_key_query",
            )
        dropout = attention.attention_dropout
        context = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout.p if dropout.training else 0.0
        )
        contexts.append(context.squeeze(0).transpose(0, 1).flatten(1))
    return torch.cat(contexts)
