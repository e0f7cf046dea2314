"""Implementation `torch` of all operators: plain PyTorch, on any device.

Host code reads counts and offsets, so on a GPU every iteration waits for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from albert_act_fast.modules import linear_in_float32
from albert_act_fast.ops import contracts


def _live(row_count: Tensor | None) -> slice:
    return slice(None if row_count is None else int(row_count))


def embed_tokens(
    token_ids,
    token_type_ids,
    position_ids,
    word,
    token_type,
    position,
    ln_weight,
    ln_bias,
    eps,
    row_count,
    out,
):
    live = _live(row_count)
    rows = word.index_select(0, token_ids[live])
    rows += token_type.index_select(0, token_type_ids[live])
    if position is not None:
        rows += position.index_select(0, position_ids[live])
    out[live].copy_(F.layer_norm(rows, rows.shape[-1:], ln_weight, ln_bias, eps))


def write_kv(keys, values, token_index, row_count, key_store, value_store):
    live = _live(row_count)
    key_store.index_copy_(0, token_index[live], keys[live])
    value_store.index_copy_(0, token_index[live], values[live])


def ragged_attention(
    queries,
    key_store,
    value_store,
    query_offsets,
    key_offsets,
    token_index,
    positions,
    heads,
    distance_embedding,
    key_distances,
    out,
):
    query_bounds, key_bounds = query_offsets.tolist(), key_offsets.tolist()
    if queries.device.type == "cpu":
        groups = [[b] for b in range(len(query_bounds) - 1)]
    else:
        # Many small launches cost more than padding: all sequences in one.
        groups = [list(range(len(query_bounds) - 1))]
    for group in groups:
        group = [b for b in group if query_bounds[b + 1] > query_bounds[b]]
        if len(group) == 1:
            attend = _attend_one_sequence
        elif group:
            attend = _attend_padded
        else:
            continue
        attend(
            queries,
            key_store,
            value_store,
            [(query_bounds[b], query_bounds[b + 1]) for b in group],
            [(key_bounds[b], key_bounds[b + 1]) for b in group],
            token_index,
            positions,
            heads,
            distance_embedding,
            key_distances,
            out,
        )


def _attend_one_sequence(
    queries, key_store, value_store, query_spans, key_spans, token_index, positions, heads,
    distance_embedding, key_distances, out,
):  # fmt: skip
    rows, keys = slice(*query_spans[0]), slice(*key_spans[0])
    q, k, v = (
        x.unflatten(-1, (heads, -1)).transpose(0, 1).unsqueeze(0)
        for x in (queries[rows], key_store[keys], value_store[keys])
    )
    bias = None
    if distance_embedding is not None:
        bias = relative_scores(
            q, k, positions[token_index[rows]], positions[keys], distance_embedding, key_distances
        )
    attended = attend(q, k, v, bias)
    out[rows] = attended.squeeze(0).transpose(0, 1).flatten(1)


def _attend_padded(
    queries, key_store, value_store, query_spans, key_spans, token_index, positions, heads,
    distance_embedding, key_distances, out,
):  # fmt: skip
    rows, live_rows = _padded_index(query_spans, queries.device)
    keys, live_keys = _padded_index(key_spans, queries.device)
    q, k, v = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2)
        for x in (queries[rows], key_store[keys], value_store[keys])
    )
    mask = live_keys[:, None, None, :]
    if distance_embedding is not None:
        bias = relative_scores(
            q, k, positions[token_index[rows]], positions[keys], distance_embedding, key_distances
        )
        mask = bias.masked_fill(~mask, float("-inf"))
    attended = attend(q, k, v, mask)
    out[rows[live_rows]] = attended.transpose(1, 2).flatten(2)[live_rows]


# PyTorch's kernel for CPUs gives finite numbers for scores of nothing but NaN where there are fewer
# keys than a vector has lanes (16 in float32).
_FEW_KEYS = 32


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v for q [..., Q, D], k and v [..., K, D], bias to add (or
    bool, False where there is no key) [..., Q, K]; dropout: the share of weights to drop."""
    if k.device.type != "cpu" or k.size(-2) >= _FEW_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) / math.sqrt(q.size(-1))
        if bias is not None and bias.dtype == torch.bool:
            scores = scores.masked_fill(~bias, float("-inf"))
        elif bias is not None:
            scores = scores + bias
        weights = F.dropout(scores.softmax(-1), dropout, dropout > 0)
        return (weights @ v.to(dtype)).to(q.dtype)


def _padded_index(spans: list[tuple[int, int]], device) -> tuple[Tensor, Tensor]:
    """Row index [sequences, longest] and which of its places are live; others repeat a live row."""
    start, stop = torch.tensor(spans, device=device).unbind(1)
    index = start[:, None] + torch.arange(max(b - a for a, b in spans), device=device)
    return torch.minimum(index, stop[:, None] - 1), index < stop[:, None]


def relative_scores(q, k, query_positions, key_positions, distance_embedding, key_distances):
    """[..., A, queries, keys] to add to the scaled scores; see `ragged_attention`'s contract."""
    distance = query_positions[..., :, None] - key_positions[..., None, :]
    embedding = F.embedding(distance + distance_embedding.size(0) // 2, distance_embedding)
    embedding = embedding.to(q.dtype)
    if embedding.dim() == 3:
        embedding = embedding.unsqueeze(0)
    scores = torch.einsum("bald,blrd->balr", q, embedding.expand(q.size(0), -1, -1, -1))
    if key_distances:
        scores += torch.einsum("bard,blrd->balr", k, embedding.expand(q.size(0), -1, -1, -1))
    return scores


def add_layer_norm(x, residual, weight, bias, eps, row_count, out):
    live = _live(row_count)
    out[live].copy_(F.layer_norm(x[live] + residual[live], x.shape[-1:], weight, bias, eps))


def halting_rule(hp: Tensor, p: Tensor, threshold: float) -> tuple[Tensor, ...]:
    """For running rows [R]: the accumulated probability reached, which rows go on, the weight of
    the candidate in the mix, and the remainder (0 where a row does not halt now)."""
    reached = hp + p
    # Only a threshold of 1 (act_epsilon 0) lets a token reach exactly 1 without passing it: it gets
    # no remainder, and never runs again. Where p is NaN none of these holds.
    goes_on = (reached <= threshold) & (reached < 1)
    halts = reached > threshold
    remainder = torch.where(halts, 1 - hp, torch.zeros_like(hp))
    return reached, goes_on, torch.where(halts, remainder, p), remainder


def halting_step(
    ffn_output,
    ffn_input,
    hidden,
    ln_weight,
    ln_bias,
    eps,
    halting_weight,
    halting_bias,
    threshold,
    iteration,
    last,
    accumulated_probability,
    token_index,
    query_offsets,
    next_hidden,
    next_accumulated_probability,
    next_token_index,
    next_query_offsets,
    workspace,
    out,
    n_updates,
    remainders,
):
    live = slice(0, int(query_offsets[-1]))
    summed = ffn_output[live] if ffn_input is None else ffn_output[live] + ffn_input[live]
    candidate = F.layer_norm(summed, hidden.shape[-1:], ln_weight, ln_bias, eps)
    finish_iteration(
        candidate,
        linear_in_float32(candidate, halting_weight, halting_bias).squeeze(1).sigmoid(),
        hidden[live],
        threshold,
        iteration,
        last,
        accumulated_probability[live],
        token_index[live],
        query_offsets,
        next_hidden[live],
        next_accumulated_probability,
        next_token_index[live],
        next_query_offsets,
        out,
        n_updates,
        remainders,
    )


def finish_iteration(
    candidate, p, hidden, threshold, iteration, last, hp, token_index, query_offsets, next_hidden,
    next_accumulated_probability, next_token_index, next_query_offsets, out, n_updates, remainders,
):  # fmt: skip
    """What `halting_step` does once it has the candidate states and their halting probability: the
    rule, the mix, and every row to its place. All arguments of rows hold the live ones alone."""
    reached, goes_on, weight, remainder = halting_rule(hp, p, threshold)
    weight = weight.unsqueeze(1)
    mixed = torch.addcmul((1 - weight) * hidden, weight, candidate).to(hidden.dtype)

    if last or not bool((goes_on & (reached < threshold)).any()):
        goes_on = torch.zeros_like(goes_on)
    staying = goes_on.nonzero().squeeze(1)
    leaving = (~goes_on).nonzero().squeeze(1)
    slots = torch.cat([staying, leaving.flip(0)])
    torch.index_select(mixed, 0, slots, out=next_hidden)
    torch.index_select(token_index, 0, slots, out=next_token_index)
    count = staying.numel()
    torch.index_select(reached, 0, staying, out=next_accumulated_probability[:count])
    survivors_before = F.pad(goes_on.cumsum(0), (1, 0))
    torch.index_select(survivors_before, 0, query_offsets, out=next_query_offsets)

    finished = token_index[leaving]
    out.index_copy_(0, finished, mixed[leaving])
    was_updated = ~p.isnan()[leaving]
    n_updates[finished] = torch.where(was_updated, iteration, iteration - 1).to(n_updates.dtype)
    remainders[finished] = remainder[leaving]


def scatter_rows(rows, row_index, row_count, out):
    live = _live(row_count)
    out.index_copy_(0, row_index[live], rows[live])


for _name in contracts.OPERATORS:
    contracts.register(_name, "torch", globals()[_name], "CompositeExplicitAutograd")
