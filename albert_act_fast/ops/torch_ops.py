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


def embed_tokens(a):
    live = _live(a.row_count)
    rows = a.word.index_select(0, a.token_ids[live])
    rows += a.token_type.index_select(0, a.token_type_ids[live])
    if a.position is not None:
        rows += a.position.index_select(0, a.position_ids[live])
    a.out[live].copy_(F.layer_norm(rows, rows.shape[-1:], a.ln_weight, a.ln_bias, a.eps))


def write_kv(a):
    live = _live(a.row_count)
    a.key_store.index_copy_(0, a.token_index[live], a.keys[live])
    a.value_store.index_copy_(0, a.token_index[live], a.values[live])


def ragged_attention(a):
    queries, keys = a.query_offsets.tolist(), a.key_offsets.tolist()
    running = [b for b in range(len(queries) - 1) if queries[b + 1] > queries[b]]
    # On a GPU many small launches cost more than padding: all sequences in one.
    groups = [[b] for b in running] if a.queries.device.type == "cpu" else [running]
    for group in filter(None, groups):
        attend_group = attend_one_sequence if len(group) == 1 else attend_padded
        attend_group(
            a,
            [(queries[b], queries[b + 1]) for b in group],
            [(keys[b], keys[b + 1]) for b in group],
        )


def attend_one_sequence(a, query_spans: list[tuple[int, int]], key_spans: list[tuple[int, int]]):
    rows, keys = slice(*query_spans[0]), slice(*key_spans[0])
    q, k, v = (
        x.unflatten(-1, (a.heads, -1)).transpose(0, 1).unsqueeze(0)
        for x in (a.queries[rows], a.key_store[keys], a.value_store[keys])
    )
    bias = None
    if a.distance_embedding is not None:
        bias = _relative_scores(a, q, k, rows, keys)
    attended = attend(q, k, v, bias)
    a.out[rows] = attended.squeeze(0).transpose(0, 1).flatten(1)


def attend_padded(a, query_spans: list[tuple[int, int]], key_spans: list[tuple[int, int]]):
    rows, live_rows = _padded_index(query_spans, a.queries.device)
    keys, live_keys = _padded_index(key_spans, a.queries.device)
    q, k, v = (
        x.unflatten(-1, (a.heads, -1)).transpose(1, 2)
        for x in (a.queries[rows], a.key_store[keys], a.value_store[keys])
    )
    mask = live_keys[:, None, None, :]
    if a.distance_embedding is not None:
        mask = _relative_scores(a, q, k, rows, keys).masked_fill(~mask, float("-inf"))
    attended = attend(q, k, v, mask)
    a.out[rows[live_rows]] = attended.transpose(1, 2).flatten(2)[live_rows]


def _relative_scores(a, q: Tensor, k: Tensor, rows, keys) -> Tensor:
    query_positions, key_positions = a.positions[a.token_index[rows]], a.positions[keys]
    return relative_scores(
        q, k, query_positions, key_positions, a.distance_embedding, a.key_distances
    )


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


def add_layer_norm(a):
    live = _live(a.row_count)
    summed = a.x[live] + a.residual[live]
    a.out[live].copy_(F.layer_norm(summed, a.x.shape[-1:], a.weight, a.bias, a.eps))


def halting_rule(hp: Tensor, p: Tensor, limits) -> tuple[Tensor, ...]:
    """For running rows [R]: the accumulated probability reached; which rows go on, if there is
    another iteration; which of them ask for one; the weight of the candidate in the mix; and the
    remainder (0 where a row does not halt now). limits: `HaltingLimits`, or a halting step's
    arguments."""
    reached, threshold = hp + p, limits.threshold
    # Only a threshold of 1 (act_epsilon 0) lets a token reach exactly 1 without passing it: it gets
    # no remainder, and never runs again. Where p is NaN none of these holds.
    goes_on = (reached <= threshold) & (reached < 1)
    halts = reached > threshold
    remainder = torch.where(halts, 1 - hp, torch.zeros_like(hp))
    asks = goes_on & (reached < threshold)
    return reached, goes_on, asks, torch.where(halts, remainder, p), remainder


def halting_step(a):
    live = slice(0, int(a.query_offsets[-1]))
    summed = a.ffn_output[live] if a.ffn_input is None else a.ffn_output[live] + a.ffn_input[live]
    candidate = F.layer_norm(summed, a.hidden.shape[-1:], a.ln_weight, a.ln_bias, a.eps)
    logit = linear_in_float32(candidate, a.halting_weight, a.halting_bias)
    finish_iteration(a, candidate, logit.squeeze(1).sigmoid())


def finish_iteration(a, candidate: Tensor, p: Tensor) -> None:
    """What `halting_step` does once it has the live rows' candidate states [rows, H] and halting
    probabilities [rows]: the rule, the mix, and every row to its place.

    Args:
        a: the operator's arguments; those that candidate and p follow from are not looked at.
    """
    live = slice(0, candidate.size(0))
    reached, goes_on, asks, weight, remainder = halting_rule(a.accumulated_probability[live], p, a)
    weight = weight.unsqueeze(1)
    mixed = torch.addcmul((1 - weight) * a.hidden[live], weight, candidate).to(a.hidden.dtype)

    if a.last or not bool(asks.any()):
        goes_on = torch.zeros_like(goes_on)
    staying = goes_on.nonzero().squeeze(1)
    leaving = (~goes_on).nonzero().squeeze(1)
    slots = torch.cat([staying, leaving.flip(0)])
    token_index = a.token_index[live]
    torch.index_select(mixed, 0, slots, out=a.next_hidden[live])
    torch.index_select(token_index, 0, slots, out=a.next_token_index[live])
    count = staying.numel()
    torch.index_select(reached, 0, staying, out=a.next_accumulated_probability[:count])
    survivors_before = F.pad(goes_on.cumsum(0), (1, 0))
    torch.index_select(survivors_before, 0, a.query_offsets, out=a.next_query_offsets)

    finished = token_index[leaving]
    a.out.index_copy_(0, finished, mixed[leaving])
    was_updated = ~p.isnan()[leaving]
    updates = torch.where(was_updated, a.iteration, a.iteration - 1)
    a.n_updates[finished] = updates.to(a.n_updates.dtype)
    a.remainders[finished] = remainder[leaving]


def scatter_rows(a):
    live = _live(a.row_count)
    a.out.index_copy_(0, a.row_index[live], a.rows[live])


for _name in contracts.OPERATORS:
    contracts.register(_name, "torch", globals()[_name], "CompositeExplicitAutograd")
