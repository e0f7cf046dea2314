"""Random calls of every operator, and what each computes in plain PyTorch: the tests' oracle.

The plain functions work row by row or sequence by sequence in whatever dtype they are given: in
float64 they are the truth, in the call's own dtype the yardstick of its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.reference import HaltingState, asking, halting_rule

INTEGER_POISON = -7_777_777


@dataclass
class Call:
    """Arguments in the schema's order; `outputs` names the tensors the operator writes."""

    operator: str
    arguments: dict
    outputs: tuple[str, ...]

    def to(self, target: torch.device | str) -> Call:
        moved = {k: v.to(target) if isinstance(v, Tensor) else v for k, v in self.arguments.items()}
        return Call(self.operator, moved, self.outputs)

    def named(self) -> tuple:
        return ops.ARGUMENTS[self.operator](**self.arguments)

    def in_float64(self) -> dict:
        return {
            k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in self.arguments.items()
        }


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan") if dtype.is_floating_point else INTEGER_POISON).to(dtype)


class Maker:
    """Random tensors of one dtype; `rows` gives a view into a wider tensor full of NaN."""

    def __init__(self, seed: int, dtype: torch.dtype, wide: bool):
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.wide = dtype, wide

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * scale + mean).to(self.dtype)

    def integers(self, high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator)

    def uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator)

    def rows(self, live: int, width: int, beyond: int = 0, scale: float = 1.0) -> Tensor:
        left, right = (3, 2) if self.wide else (0, 0)
        table = poisoned(live + beyond, left + width + right, dtype=self.dtype)
        view = table[:, left : left + width]
        view[:live] = self.normal(live, width, scale=scale)
        return view

    def subset(self, count: int, share: float) -> Tensor:
        """Ascending."""
        return (self.uniform(count) < share).nonzero().squeeze(1)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


# Tokens of each sequence; 0 is a sequence that is all padding.
RAGGED = {
    "one token": [1],
    "one sequence": [17],
    "ragged": [5, 0, 1, 13, 33, 2],
    "equal": [8, 8, 8],
}


def running_tokens(make: Maker, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Token index and offsets of running rows; every third sequence has none left."""
    starts, chosen = offsets_of(lengths), []
    for b, length in enumerate(lengths):
        some = make.subset(length, 0.6) if b % 3 != 2 else torch.empty(0, dtype=torch.int64)
        if b == 0 and not some.numel():
            some = torch.tensor([0])
        chosen.append(some + starts[b])
    return torch.cat(chosen), offsets_of([c.numel() for c in chosen])


def beyond_live(index: Tensor, beyond: int) -> Tensor:
    return torch.cat([index, torch.full((beyond,), 2**40)])


def counted(rows: int, beyond: int) -> Tensor | None:
    """`row_count` where there are rows beyond the live ones, else none."""
    return torch.tensor([rows]) if beyond else None


def embed_tokens(
    make: Maker, width: int, lengths: list[int], position: bool = True, beyond: int = 4
) -> Call:
    tokens = sum(lengths)
    return Call(
        "embed_tokens",
        {
            "token_ids": beyond_live(make.integers(29, tokens), beyond),
            "token_type_ids": beyond_live(make.integers(2, tokens), beyond),
            "position_ids": beyond_live(make.integers(40, tokens), beyond),
            "word": make.rows(29, width),
            "token_type": make.rows(2, width),
            "position": make.rows(40, width) if position else None,
            "ln_weight": make.normal(width, mean=1.0, scale=0.2),
            "ln_bias": make.normal(width),
            "eps": 1e-12,
            "row_count": counted(tokens, beyond),
            "out": poisoned(tokens + beyond, width, dtype=make.dtype),
        },
        ("out",),
    )


def write_kv(make: Maker, width: int, lengths: list[int], beyond: int = 4) -> Call:
    tokens = sum(lengths)
    index = make.subset(tokens, 0.5)
    index = index[torch.randperm(index.numel(), generator=make.generator)]
    return Call(
        "write_kv",
        {
            "keys": make.rows(index.numel(), width, beyond),
            "values": make.rows(index.numel(), width, beyond),
            "token_index": beyond_live(index, beyond),
            "row_count": counted(index.numel(), beyond),
            "key_store": poisoned(tokens, width, dtype=make.dtype),
            "value_store": poisoned(tokens, width, dtype=make.dtype),
        },
        ("key_store", "value_store"),
    )


def ragged_attention(
    make: Maker,
    width: int,
    lengths: list[int],
    heads: int = 1,
    distances: str = "absolute",
    beyond: int = 4,
) -> Call:
    tokens = sum(lengths)
    token_index, query_offsets = running_tokens(make, lengths)
    # Places in the sequence, ascending with holes.
    positions = [make.integers(2, n).add(1).cumsum(0) - 1 for n in lengths]
    longest = 2 * max(lengths)
    size = width // heads
    distance_embedding = None
    if distances != "absolute":
        distance_embedding = make.rows(2 * longest - 1, size, scale=size**-0.5)
    call = {
        "queries": make.rows(token_index.numel(), width, beyond, scale=1.5),
        "key_store": make.rows(tokens, width, scale=1.5),
        "value_store": make.rows(tokens, width),
        "query_offsets": query_offsets,
        "key_offsets": offsets_of(lengths),
        "token_index": beyond_live(token_index, beyond),
        "positions": torch.cat(positions),
        "heads": heads,
        "distance_embedding": distance_embedding,
        "key_distances": distances == "relative_key_query",
        "out": poisoned(token_index.numel() + beyond, width, dtype=make.dtype),
    }
    # Nobody asks for the keys of a sequence that has no running row.
    for b, length in enumerate(lengths):
        if query_offsets[b] == query_offsets[b + 1]:
            start = int(call["key_offsets"][b])
            call["key_store"][start : start + length] = float("nan")
            call["value_store"][start : start + length] = float("nan")
    return Call("ragged_attention", call, ("out",))


def add_layer_norm(make: Maker, width: int, lengths: list[int], beyond: int = 4) -> Call:
    rows = sum(lengths)
    return Call(
        "add_layer_norm",
        {
            "x": make.rows(rows, width, beyond),
            "residual": make.rows(rows, width, beyond),
            "weight": make.normal(width, mean=1.0, scale=0.2),
            "bias": make.normal(width),
            "eps": 1e-12,
            "row_count": counted(rows, beyond),
            "out": poisoned(rows + beyond, width, dtype=make.dtype),
        },
        ("out",),
    )


def halting_step(
    make: Maker,
    width: int,
    lengths: list[int],
    threshold: float = 0.99,
    last: bool = False,
    beyond: int = 4,
    summed: bool = False,
    spread: float = 0.7,
    margin: float = 0.05,
) -> Call:
    """Args:
    spread: of the halting logits, around -1.
    margin: a p that differs by as much changes nothing that the rule decides.
    """
    tokens = sum(lengths)
    token_index, query_offsets = running_tokens(make, lengths)
    rows, state = token_index.numel(), torch.float32
    call = {
        "ffn_output": make.rows(rows, width, beyond),
        "ffn_input": None if summed else make.rows(rows, width, beyond),
        "hidden": make.rows(rows, width, beyond),
        "ln_weight": make.normal(width, mean=1.0, scale=0.2),
        "ln_bias": make.normal(width, scale=0.2),
        "eps": 1e-12,
        "halting_weight": make.normal(1, width, scale=spread * width**-0.5),
        "halting_bias": make.normal(1, mean=-1.0, scale=0.1),
        "threshold": threshold,
        "iteration": 3,
        "last": last,
        "accumulated_probability": poisoned(rows + beyond, dtype=state),
        "token_index": beyond_live(token_index, beyond),
        "query_offsets": query_offsets,
        "next_hidden": poisoned(rows + beyond, width, dtype=make.dtype),
        "next_accumulated_probability": poisoned(rows + beyond, dtype=state),
        "next_token_index": poisoned(rows + beyond, dtype=torch.int64),
        "next_query_offsets": poisoned(len(lengths) + 1, dtype=torch.int64),
        "workspace": torch.zeros(ops.halting_workspace(rows + beyond), dtype=torch.int64),
        "out": poisoned(tokens, width, dtype=make.dtype),
        "n_updates": poisoned(tokens, dtype=state),
        "remainders": poisoned(tokens, dtype=state),
    }
    outputs = [k for k in call if k.startswith("next_")]
    outputs += ["workspace", "out", "n_updates", "remainders"]
    result = Call("halting_step", call, tuple(outputs))
    _, p = candidate_and_probability(result.in_float64(), rows)
    call["accumulated_probability"][:rows] = settled(make, p, result.named(), margin)
    return result


def decision(p: Tensor, accumulated_probability: Tensor, limits) -> Tensor:
    """What the reference's rule decides of running tokens, bool [..., 3]: whether one can go on,
    asks for it, and has a remainder. limits: as the rule takes them."""
    nothing = torch.zeros_like(accumulated_probability)
    state = HaltingState(accumulated_probability, nothing, nothing)
    _, _, after = halting_rule(p, state, limits)
    goes_on = after.accumulated_probability < 1
    return torch.stack([goes_on, asking(after, limits), after.remainder > 0], -1)


def settled(make: Maker, p: Tensor, limits, margin: float) -> Tensor:
    """Accumulated probabilities [rows] float32 with which the rule decides the same of p and of all
    within the margin; about half of the rows halt, where they can."""
    drawn = make.uniform(32 * p.numel()).view(32, -1)
    nearby = ((p + by).clamp(0, 1) for by in (-margin, 0.0, margin))
    under, at, over = (decision(some, drawn, limits) for some in nearby)
    is_settled = ((under == at) & (at == over)).all(-1)
    assert bool(is_settled.any(0).all()), "a row whose p leaves the rule's decision open"
    as_wished = at[..., 0] == (make.uniform(p.numel()) < 0.5)
    return drawn.gather(0, (is_settled * 2 + as_wished).argmax(0, keepdim=True))[0]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def candidate_and_probability(a: dict, rows: int) -> tuple[Tensor, Tensor]:
    live = slice(0, rows)
    summed = a["ffn_output"][live]
    if a["ffn_input"] is not None:
        summed = summed + a["ffn_input"][live]
    g = layer_norm(summed, a["ln_weight"], a["ln_bias"], a["eps"])
    wide = torch.promote_types(g.dtype, torch.float32)
    logit = g.to(wide) @ a["halting_weight"].to(wide)[0] + a["halting_bias"].to(wide)
    return g, logit.sigmoid()


def scatter_rows(make: Maker, width: int, lengths: list[int], beyond: int = 4) -> Call:
    tokens = sum(lengths)
    index = make.subset(tokens, 0.5)
    index = index[torch.randperm(index.numel(), generator=make.generator)]
    return Call(
        "scatter_rows",
        {
            "rows": make.rows(index.numel(), width, beyond),
            "row_index": beyond_live(index, beyond),
            "row_count": counted(index.numel(), beyond),
            "out": poisoned(tokens, width, dtype=make.dtype),
        },
        ("out",),
    )


MAKERS: dict[str, Callable[..., Call]] = {
    "embed_tokens": embed_tokens,
    "write_kv": write_kv,
    "ragged_attention": ragged_attention,
    "add_layer_norm": add_layer_norm,
    "halting_step": halting_step,
    "scatter_rows": scatter_rows,
}


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
    nothing = torch.zeros_like(hp)
    limits = ops.ARGUMENTS["halting_step"](**a)
    _, w, state = halting_rule(p, HaltingState(hp, nothing, nothing), limits)
    w, reached = w.unsqueeze(1), state.accumulated_probability
    mixed = (w * candidate + (1 - w) * hidden).to(hidden.dtype)
    halts = ~(reached < 1)
    if a["last"] or not bool(asking(state, limits).any()):
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
        "next_accumulated_probability": (torch.arange(count), reached[staying]),
        "next_query_offsets": (torch.arange(len(query_offsets)), torch.tensor(survivors)),
        "workspace": (torch.arange(a["workspace"].numel()), torch.zeros_like(a["workspace"])),
        "out": (finished, mixed[leaving]),
        "n_updates": (finished, torch.full(finished.shape, float(a["iteration"]))),
        "remainders": (finished, state.remainder[leaving]),
    }


def plain_scatter_rows(a: dict) -> Written:
    live = live_rows(a, "rows")
    return {"out": (a["row_index"][live], a["rows"][live])}


PLAIN: dict[str, Callable[[dict], Written]] = {name: globals()[f"plain_{name}"] for name in MAKERS}
