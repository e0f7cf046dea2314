"""Attention whose scores are so large that their rounding errors are large numbers too."""

from __future__ import annotations

import torch

from suite.operator_calls import PLAIN, Call

# That queries and keys are multiplied by; in float16 they have to stay finite.
_FACTORS = {torch.float16: 1e3, torch.float64: 1e12}


def with_huge_scores(call: Call, equal: bool) -> None:
    """Changes the call's arguments. equal: all keys of a sequence are the same, so that which one
    wins is decided by rounding, if by anything."""
    a = call.arguments
    factor = _FACTORS.get(a["queries"].dtype, 1e6)
    a["queries"].mul_(factor)
    a["key_store"].mul_(factor)
    if not equal:
        return
    for start, stop in zip(a["key_offsets"], a["key_offsets"][1:], strict=False):
        a["key_store"][start:stop] = a["key_store"][start : start + 1].clone()
    if a["distance_embedding"] is not None:
        a["distance_embedding"][:] = a["distance_embedding"][:1].clone()


def check_huge_scores(call: Call, ran: Call, equal: bool) -> None:
    """Every output is a mean of its sequence's values; of the key that wins by far, its value."""
    a, out = ran.arguments, ran.arguments["out"].double()
    eps = 4 * torch.finfo(a["queries"].dtype).eps
    queries, keys = (a[k].tolist() for k in ("query_offsets", "key_offsets"))
    for b in range(len(keys) - 1):
        first, last, start, stop = *queries[b : b + 2], *keys[b : b + 2]
        if first == last:
            continue
        rows, values = out[first:last], a["value_store"][start:stop].double()
        assert rows.isfinite().all()
        assert (rows >= values.amin(0) - eps * values.abs().amax(0)).all()
        assert (rows <= values.amax(0) + eps * values.abs().amax(0)).all()
    if not equal:
        rows, expected = PLAIN["ragged_attention"](call.in_float64())["out"]
        torch.testing.assert_close(out[rows], expected, rtol=0, atol=eps * expected.abs().max())
