"""Times tiles for the Triton products on the GPU at hand, for kernels/launch_tables.py.

    .venv/bin/python benchmarks/tune_products.py       # on a GPU

Nothing is tuned while a model runs: what this prints is put into the table by hand. It compiles
some hundreds of kernels. Not yet run on a GPU; the tests run it in Triton's interpreter, where its
times mean nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from rich.console import Console
from rich.progress import track

from albert_act_fast.kernels import launch_tables
from albert_act_fast.kernels.launch_tables import Products, one_tile
from albert_act_fast.ops import implementation_of

# Rows that the table's entries are for, and (inputs, outputs) of the layer at the published size.
ROWS = (64, 512, 2048, 8192)
SHAPES = ((768, 768), (768, 3072), (3072, 768))
Clock = Callable[[Callable[[], None]], float]


def candidates(rows: int) -> Iterator[Products]:
    """Tiles that hold at most as many rows as there are, but for the smallest."""
    sizes = itertools.product((16, 32, 64, 128), (32, 64, 128), (32, 64, 128), (2, 3, 4, 5))
    for m, n, k, stages in sizes:
        if m <= max(16, rows):
            yield one_tile(m, n, k, 8 if m * n > 64 * 64 else 4, stages)


def wide_candidates() -> Iterator[Products]:
    """Tiles that the GPU copies by itself."""
    sizes = ((128, 128), (128, 192), (128, 256), (256, 128))
    for (m, n), stages in itertools.product(sizes, (3, 4)):
        yield one_tile(m, n, 64, 8, stages)


def seconds(
    tile: Products,
    rows: int,
    dtype: torch.dtype,
    device: str,
    clock: Clock,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    wide: bool = False,
) -> float | None:
    """Of products of all shapes, all rows live; None where the GPU lacks what the tile needs. wide:
    the GPU copies tiles by itself."""
    from triton.runtime.errors import OutOfResources

    total = 0.0
    with (
        mock.patch.object(launch_tables, "products", return_value=tile),
        mock.patch.object(launch_tables, "wide_products", return_value=tile if wide else None),
    ):
        for inputs, outputs in shapes:
            x = torch.randn(rows, inputs, device=device).to(dtype)
            weight = torch.randn(outputs, inputs, device=device).to(dtype) / inputs**0.5
            bias = torch.randn(outputs, device=device).to(dtype)
            out = torch.empty(rows, outputs, device=device, dtype=dtype)

            def call(x=x, weight=weight, bias=bias, out=out):
                implementation_of("linear", "triton")(x, weight, bias, None, None, "none", out)

            try:
                call()
            except OutOfResources:
                return None
            expected = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
            error = (out.float() - expected).abs().max() / expected.abs().max()
            if not error < 0.01:
                raise AssertionError(f"{tile}: a product is wrong by {error:.1e} of its largest.")
            total += clock(call)
    return total


def gpu_clock(call: Callable[[], None]) -> float:
    from triton.testing import do_bench

    return 1e-3 * do_bench(call, return_mode="median")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("tune_products: needs a GPU; torch.cuda.is_available() is False here.")
    console, device = Console(stderr=True), "cuda"
    architecture = launch_tables.architecture(torch.device("cuda", 0))
    multiprocessors = launch_tables.multiprocessors(torch.device("cuda", 0))
    print(f"{torch.cuda.get_device_name()}: {architecture}")
    for dtype, rows in itertools.product((torch.bfloat16, torch.float32), ROWS):
        found = []
        tiles = [(tile, False) for tile in candidates(rows)]
        size = (rows, SHAPES[0][1], dtype.itemsize, multiprocessors)
        if launch_tables.wide_products(architecture, *size):
            tiles += [(tile, True) for tile in wide_candidates()]
        for tile, wide in track(tiles, f"{dtype}, {rows} rows", console=console, transient=True):
            taken = seconds(tile, rows, dtype, device, gpu_clock, wide=wide)
            if taken is not None:
                found.append((taken, f"{tile}{', copied' * wide}"))
        if not found:
            print(f"{dtype}, {rows} rows: no tile runs", file=sys.stderr)
            continue
        print(f"{dtype}, {rows} rows:")
        for taken, tile in sorted(found, key=lambda pair: pair[0])[:5]:
            print(f"    {1e6 * taken:8.1f} us  {tile}")


if __name__ == "__main__":
    main()
