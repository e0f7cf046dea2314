"""Where a call of the engine in C++ spends its time: its own clocks, while nothing halts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from albert_act_fast import AlbertActModel, native
from albert_act_fast.engine.cpu import last_native_engine
from suite import machine
from suite.cases import fixed
from suite.inputs import Batch
from suite.models import model_of
from suite.timing import quartiles
from suite.variants import adaptive_call, in_dtype
from suite.work import dense_work

BATCHES = ((8, 128), (1, 128), (1, 16), (1, 4))
DTYPES = ("float32", "bfloat16", "int8")
ITERATIONS = 24
SECONDS, FEWEST = 2.0, 5
# Of a call: the products of the layer; attention with the way of keys and values into their store;
# LayerNorm and the halting step; everything outside the iterations.
PARTS = ("products", "attention", "other", "outside")


def steps() -> int:
    """How often `parts_rows` calls `advance`."""
    return len(BATCHES) * len(DTYPES)


@torch.inference_mode()
def parts_rows(folder: Path, advance: Callable[[], None] = lambda: None) -> list[dict]:
    """A row for every batch and dtype; each part is the median over the calls, in seconds."""
    if native.why_no_cpp is not None:
        return []
    rows, peaks = [], machine.product_peaks("cpu", DTYPES)
    for dtype in DTYPES:
        for sequences, length in BATCHES:
            case = fixed("base", sequences, length, depth=ITERATIONS)
            with torch.inference_mode(False), torch.no_grad():
                model = in_dtype(model_of(case, folder), dtype)
            work = dense_work(model.config, sequences, length, ITERATIONS)
            attention = 4 * model.config.hidden_size * work.rows * length
            rows.append(
                {
                    "kind": "parts",
                    "case": f"{sequences * length} rows",
                    "batch": sequences,
                    "length": length,
                    "variant": f"cpp {dtype}",
                    "dtype": dtype,
                    **_measured(model, case.inputs()),
                    "flop": work.flop - attention,
                    "peak_flops": peaks[dtype],
                }
            )
            advance()
    return rows


def _measured(model: AlbertActModel, batch: Batch) -> dict[str, float]:
    layer = model.encoder.albert_layer
    call = adaptive_call(model, batch, "cpp")
    return measured_parts(call, lambda: last_native_engine(layer).seconds)


def measured_parts(
    call: Callable[[], object], engine_seconds: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Medians over the calls. engine_seconds: what the engine says of the last of them."""
    measured: dict[str, list[float]] = {part: [] for part in (*PARTS, "seconds")}
    call()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(measured["seconds"]) < FEWEST:
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        parts = engine_seconds()
        parts = {**parts, "outside": seconds - sum(parts.values()), "seconds": seconds}
        for part, value in parts.items():
            measured[part].append(value)
    return {part: quartiles(values)[1] for part, values in measured.items()}
