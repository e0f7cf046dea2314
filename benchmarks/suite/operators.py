"""Each operator against its floor: the time that its bytes take at the bandwidth of a copy, or its
operations at the peak of matrix products, whichever is more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from albert_act_fast import ops
from albert_act_fast.ops.contracts import IMPLEMENTATIONS
from suite import machine, timing
from suite.operator_calls import MAKERS, Maker

HIDDEN, EMBEDDING, HEADS = 768, 128, 12
BATCHES = {"8 x 128": [128] * 8, "1 x 16": [16]}
DTYPES = ("float32", "bfloat16")
ROUNDS = 9
# Of outputs against the float64 truth, relative to their size, a gate and no test: those are in
# tests/ops.
ERROR = {"float32": 1e-5, "bfloat16": 2e-2}


def operator_rows(device: str, advance: Callable[[], None] = lambda: None) -> list[dict]:
    """A row for every operator, batch and dtype, and every implementation the device has."""
    rows = []
    for dtype in DTYPES:
        peak = machine.product_peaks(device, [dtype])[dtype]
        for batch, lengths in BATCHES.items():
            for name in ops.OPERATORS:
                rows += _rows(name, batch, lengths, dtype, peak, device)
                advance()
    return rows


def steps() -> int:
    """How often `operator_rows` calls `advance`."""
    return len(DTYPES) * len(BATCHES) * len(ops.OPERATORS)


def _rows(name, batch, lengths, dtype, peak, device) -> list[dict]:
    make = Maker(0, getattr(torch, dtype), wide=False)
    width = EMBEDDING if name == "embed_tokens" else HIDDEN
    options = {"heads": HEADS} if name == "ragged_attention" else {}
    call = MAKERS[name](make, width, lengths, beyond=0, **options).to(device)
    about = {"kind": "operator", "case": f"{name}, {batch}", "batch": len(lengths)}
    about |= {"length": max(lengths), "dtype": dtype}
    bytes_moved, flop = bytes_of(name, call.arguments), flop_of(name, call.arguments)
    floor = max(bytes_moved / machine.copy_bandwidth(bytes_moved, device), flop / peak)
    expected = _outputs("torch", call)
    rows, calls = [], {}
    for implementation in IMPLEMENTATIONS:
        if not ops.registered(name, implementation, torch.device(device).type):
            continue
        if (difference := _difference(_outputs(implementation, call), expected)) > ERROR[dtype]:
            wrong = f"differs from torch by {difference:.1e}, at most {ERROR[dtype]:.1e} expected"
            rows.append({**about, "variant": f"{implementation} {dtype}", "wrong": wrong})
            continue
        operator, arguments = ops.implementation_of(name, implementation), call.arguments.values()
        calls[f"{implementation} {dtype}"] = lambda o=operator, a=tuple(arguments): o(*a)
    synchronize = machine.synchronizer(device)
    estimates = {variant: timing.timed(run, synchronize) for variant, run in calls.items()}
    seconds = timing.interleave(calls, estimates, ROUNDS, synchronize=synchronize)
    baseline = seconds.get(f"torch {dtype}")
    for variant, measured in seconds.items():
        figures = timing.figures(measured, baseline or measured)
        rows.append(
            {
                **about,
                "variant": variant,
                **figures,
                "bytes": bytes_moved,
                "flop": flop,
                "floor_seconds": floor,
                "share_of_floor": floor / figures["seconds"],
            }
        )
    return rows


def _outputs(implementation: str, call) -> dict[str, Tensor]:
    ops.implementation_of(call.operator, implementation)(*call.arguments.values())
    return {name: call.arguments[name].clone() for name in call.outputs}


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Root mean square, over the root mean square of what is expected; places that neither wrote
    hold NaN or the same integer in both."""
    worst = 0.0
    for name, right in expected.items():
        a, b = (x.double().nan_to_num(12345.0) for x in (found[name], right))
        # The order of the rows that halted is the implementation's own.
        if name in ("next_hidden", "next_token_index"):
            continue
        norm = b.square().mean().sqrt().item() or 1.0
        worst = max(worst, (a - b).square().mean().sqrt().item() / norm)
    return worst


def bytes_of(name: str, arguments: dict) -> int:
    """Every operand once: read or written."""

    def size(*names: str) -> int:
        return sum(arguments[n].nbytes for n in names if arguments[n] is not None)

    if name == "write_kv":
        return 2 * size("keys", "values") + size("token_index")
    if name == "scatter_rows":
        return 2 * size("rows") + size("row_index")
    return size(*(n for n, value in arguments.items() if isinstance(value, Tensor)))


def flop_of(name: str, arguments: dict) -> int:
    """Of products; the element-wise work of the others hides behind their bytes."""
    if name != "ragged_attention":
        return 0
    rows = arguments["query_offsets"].diff() * arguments["key_offsets"].diff()
    return 4 * arguments["queries"].size(1) * int(rows.sum())
