"""What every operator computes, in plain PyTorch: the oracle of all implementations.

The functions work row by row or sequence by sequence in whatever dtype they are given: in float64
they are the truth, in the call's own dtype the yardstick of its error. Random calls of them:
benchmarks/suite/operator_calls.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from suite.operator_calls import (
    MAKERS,
    candidate_and_probability,
    layer_norm,
)

# Written rows of an output and their values.
Written = dict[str, tuple[Tensor, Tensor]]


def live_rows(a: dict, name: str) -> slice:
    """The live ones of the rows of argument `name`."""
    return slice(a[name].size(0) if a["row_count"] is None else int(a["row_count"]))


def plain_embed_tokens(a: dict) -> Written:
    live = live_rows(a, "token_ids")
    x = a["word"][a["token_ids"][live]] + a["token_type"][a["token_type_ids"][live]]
    if a["position"] is not None:
        x = x + a["position"][a["position_ids"][live]]
    rows = torch.arange(x.size(0))
    return {"out": (rows, layer_norm(x, a["ln_weight"], a["ln_bias"], a["eps"]))}


def plain_write_kv(a: dict) -> Written:
    live = live_rows(a, "token_index")
    index = a["token_index"][live]
    return {"key_store": (index, a["keys"][live]), "value_store": (index, a["values"][live])}


def plain_ragged_attention(a: dict) -> Written:
    """One sequence at a time, all its heads: [A, queries, keys]."""
    query_offsets, key_offsets = a["query_offsets"].tolist(), a["key_offsets"].tolist()
    out = torch.empty_like(a["queries"][: query_offsets[-1]])

    def heads_of(x: Tensor) -> Tensor:
        return x.unflatten(1, (a["heads"], -1)).transpose(0, 1)

    for b in range(len(key_offsets) - 1):
        queries = slice(query_offsets[b], query_offsets[b + 1])
        keys = slice(key_offsets[b], key_offsets[b + 1])
        if queries.start == queries.stop:
            continue
        q, k, v = (
            heads_of(x)
            for x in (a["queries"][queries], a["key_store"][keys], a["value_store"][keys])
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(q.size(2))
        if a["distance_embedding"] is not None:
            position = a["positions"][a["token_index"][queries]]
            distance = position[:, None] - a["positions"][keys]
            e = a["distance_embedding"]
            e = e[distance + (e.size(0) - 1) // 2]
            scores = scores + torch.einsum("aqd,qkd->aqk", q, e)
            if a["key_distances"]:
                scores = scores + torch.einsum("akd,qkd->aqk", k, e)
        out[queries] = (scores.softmax(2) @ v).transpose(0, 1).flatten(1)
    return {"out": (torch.arange(query_offsets[-1]), out)}


def plain_add_layer_norm(a: dict) -> Written:
    live = live_rows(a, "x")
    x = a["x"][live] + a["residual"][live]
    return {"out": (torch.arange(x.size(0)), layer_norm(x, a["weight"], a["bias"], a["eps"]))}


def plain_halting_step(a: dict) -> Written:
    """Halted rows of next_hidden and next_token_index in the order of the rows that left."""
    query_offsets = a["query_offsets"].tolist()
    rows = query_offsets[-1]
    candidate, p = candidate_and_probability(a, rows)
    hidden, hp, tokens = (a[k][:rows] for k in ("hidden", "accumulated_probability", "token_index"))
    halts = hp + p > a["threshold"]
    w = torch.where(halts, 1 - hp, p).unsqueeze(1)
    mixed = (w * candidate + (1 - w) * hidden).to(hidden.dtype)
    remainder = torch.where(halts, 1 - hp, 0)
    if a["last"] or not bool((~halts & (hp + p < a["threshold"])).any()):
        halts = torch.ones_like(halts)
    staying, leaving = (~halts).nonzero().squeeze(1), halts.nonzero().squeeze(1)
    count = staying.numel()
    slots = torch.cat([torch.arange(count), torch.arange(rows - 1, count - 1, -1)])
    order = torch.cat([staying, leaving])
    survivors = [0] + [
        int((~halts[: query_offsets[b + 1]]).sum()) for b in range(len(query_offsets) - 1)
    ]
    finished = tokens[leaving]
    return {
        "next_hidden": (slots, mixed[order]),
        "next_token_index": (slots, tokens[order]),
        "next_accumulated_probability": (torch.arange(count), (hp + p)[staying]),
        "next_query_offsets": (torch.arange(len(query_offsets)), torch.tensor(survivors)),
        "workspace": (torch.arange(a["workspace"].numel()), torch.zeros_like(a["workspace"])),
        "out": (finished, mixed[leaving]),
        "n_updates": (finished, torch.full(finished.shape, float(a["iteration"]))),
        "remainders": (finished, remainder[leaving]),
    }


def plain_scatter_rows(a: dict) -> Written:
    live = live_rows(a, "rows")
    return {"out": (a["row_index"][live], a["rows"][live])}


PLAIN: dict[str, Callable[[dict], Written]] = {name: globals()[f"plain_{name}"] for name in MAKERS}
