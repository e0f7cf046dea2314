"""The script that times tiles, as far as that goes without a GPU."""

from __future__ import annotations

import pytest
import torch
import tune_products

from albert_act_fast.kernels import launch_tables
from albert_act_fast.ops import triton_ops


def test_candidates_hold_every_tile_of_the_table():
    for rows in tune_products.ROWS:
        tiles = set(tune_products.candidates(rows))
        assert 50 < len(tiles) < 400
        for architecture in ("sm_80", "sm_90"):
            for size in (2, 4):
                chosen = launch_tables.products(architecture, rows, size)
                tile = (chosen.BLOCK_M, chosen.BLOCK_N, chosen.BLOCK_K)
                assert tile in {(t.BLOCK_M, t.BLOCK_N, t.BLOCK_K) for t in tiles}


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
    right = triton_ops.linear

    def wrong(x, weight, bias, residual, row_count, activation, out):
        right(x, weight, bias, residual, row_count, activation, out)
        out[3, 5] += 1

    monkeypatch.setattr(triton_ops, "linear", wrong)
    with pytest.raises(AssertionError, match="a product is wrong by"):
        tune_products.seconds(tile, 19, dtype, "cpu", clock, shapes)
    assert len(calls) == 2


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="needs a GPU"):
        tune_products.main()
