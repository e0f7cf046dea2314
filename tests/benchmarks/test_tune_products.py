"""The script that times tiles, as far as that goes without a GPU."""

from __future__ import annotations

import pytest
import torch
import tune_products

from albert_act_fast.kernels import launch_tables


def test_candidates_hold_every_tile_of_the_table():
    for rows in tune_products.ROWS:
        tiles = set(tune_products.candidates(rows))
        assert 50 < len(tiles) < 400
        for architecture in ("sm_80", "sm_90"):
            for size in (2, 4):
                chosen = launch_tables.products(architecture, rows, size)
                tile = (chosen.BLOCK_M, chosen.BLOCK_N, chosen.BLOCK_K)
                assert tile in {(t.BLOCK_M, t.BLOCK_N, t.BLOCK_K) for t in tiles}
    for columns in (768, 3072):
        wide = launch_tables.wide_products("sm_90", 8192, columns, 2, 132)
        tile = launch_tables.one_tile(
            wide.BLOCK_M, wide.BLOCK_N, wide.BLOCK_K, wide.num_warps, wide.num_stages
        )
        assert tile in set(tune_products.wide_candidates())


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="needs a GPU"):
        tune_products.main()
