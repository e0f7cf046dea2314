"""The script that times tiles checks each of them first; the rest of it: tests/benchmarks."""

from __future__ import annotations

import pytest
import torch
import tune_products

from albert_act_fast.kernels import launch_tables
from albert_act_fast.ops import implementation_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiles_are_checked_before_they_are_timed(interpreted, dtype, monkeypatch):
    tile = launch_tables.Product(16, 32, 32, 4, 2)
    calls = []

    def clock(call):
        call()
        calls.append(call)
        return 0.5

    shapes = ((40, 33), (33, 70))
    assert tune_products.seconds(tile, 19, dtype, "cpu", clock, shapes) == 1.0
    assert len(calls) == 2
    right = implementation_of("linear", "triton")

    def wrong(*arguments):
        right(*arguments)
        arguments[-1][3, 5] += 1

    monkeypatch.setattr(tune_products, "implementation_of", lambda *_: wrong)
    with pytest.raises(AssertionError, match="a product is wrong by"):
        tune_products.seconds(tile, 19, dtype, "cpu", clock, shapes)
    assert len(calls) == 2
