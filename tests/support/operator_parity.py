"""Runs an operator on a copy of a call, and compares what it wrote with plain PyTorch."""

from __future__ import annotations

import torch

from albert_act_fast import ops
from suite.operator_calls import INTEGER_POISON, PLAIN, Call

# Of rows, in every implementation. float64, on CPUs alone: tests/native/test_native_loop.py.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def apply(call: Call, implementation: str, device: str = "cpu") -> Call:
    """A copy of the call on which the operator ran; its inputs must be as they were."""
    ran = Call(call.operator, copied(call.arguments, device), call.outputs)
    ops.implementation_of(call.operator, implementation)(*ran.arguments.values())
    ran = ran.to("cpu")
    for name, given in call.arguments.items():
        if isinstance(given, torch.Tensor) and name not in call.outputs:
            assert same_bits(ran.arguments[name], given), f"{name} was changed"
    return ran


def copied(arguments: dict, device: str) -> dict:
    """Strides kept: `clone` would make a slice of a wider tensor dense."""
    copies = {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            base = value if value._base is None else value._base
            base = base.clone().to(device)
            value = base.as_strided(value.shape, value.stride(), value.storage_offset())
        copies[name] = value
    return copies


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def check(call: Call, ran: Call, exact: bool = False) -> None:
    truth = PLAIN[call.operator](call.in_float64())
    yardstick = PLAIN[call.operator](call.arguments)
    for name in call.outputs:
        given = ran.arguments[name]
        rows, expected = truth[name]
        if call.operator == "halting_step" and name in ("next_hidden", "next_token_index"):
            rows = _slots_by_token(ran, yardstick["next_token_index"], rows)
        untouched = torch.ones(given.size(0), dtype=torch.bool)
        untouched[rows] = False
        left = given[untouched]
        left = left.isnan() if given.is_floating_point() else left == INTEGER_POISON
        assert bool(left.all()), f"{name}: rows that are not the operator's were written"
        written = given[rows]
        if exact or not given.is_floating_point() or name == "n_updates":
            assert torch.equal(written, expected.to(written.dtype)), name
            continue
        if not written.numel():
            continue
        error = (written.double() - expected).abs().max().item()
        plain = (yardstick[name][1].double() - expected).abs().max().item()
        # Where plain PyTorch happens to be exact: one rounding of the output itself.
        floor = torch.finfo(given.dtype).eps * expected.abs().max().item()
        assert error <= 2 * plain + floor, f"{name}: error {error}, plain PyTorch's {plain}"


def _slots_by_token(ran: Call, expected: tuple, slots: torch.Tensor) -> torch.Tensor:
    """The order among the rows that left is free: finds each one's slot by its token."""
    tokens = expected[1]
    leaving = tokens.numel() - int(ran.arguments["next_query_offsets"][-1])
    if leaving == 0:
        return slots
    kept = slots[: tokens.numel() - leaving]
    given = ran.arguments["next_token_index"][kept.numel() : tokens.numel()]
    places = {token: kept.numel() + i for i, token in enumerate(given.tolist())}
    assert sorted(places) == sorted(tokens[kept.numel() :].tolist())
    return torch.cat([kept, torch.tensor([places[t] for t in tokens[kept.numel() :].tolist()])])
