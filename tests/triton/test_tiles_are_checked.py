"""The script that times tiles checks each of them first; the rest of it: tests/benchmarks."""

from __future__ import annotations

import pytest
import torch
import tune_products

pytest.importorskip("triton", reason="Triton is not installed")

from support import triton_interpreter

from albert_act_fast.kernels import launch_tables
from albert_act_fast.ops import implementation_of


@pytest.mark.parametrize(
    ("dtype", "wide"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_tiles_are_checked_before_they_are_timed(interpreted, dtype, wide, monkeypatch):
    tile = launch_tables.one_tile(16, 32, 32, 4, 2)
    calls, before = [], len(triton_interpreter.launches)

    def clock(call):
        call()
        calls.append(call)
        return 0.5

    # Rows of multiples of 16 bytes, where copied tiles ask for them.
    shapes = ((40, 33), (48 if wide else 33, 70))
    assert tune_products.seconds(tile, 19, dtype, "cpu", clock, shapes, wide) == 1.0
    assert len(calls) == 2
    kernels = {name for name, _ in triton_interpreter.launches[before:]}
    assert kernels == {"wide_linear" if wide else "linear"}
    right = implementation_of("linear", "triton")

    def wrong(*arguments):
        right(*arguments)
        arguments[-1][3, 5] += 1

    monkeypatch.setattr(tune_products, "implementation_of", lambda *_: wrong)
    with pytest.raises(AssertionError, match="a product is wrong by"):
        tune_products.seconds(tile, 19, dtype, "cpu", clock, shapes, wide)
    assert len(calls) == 2
