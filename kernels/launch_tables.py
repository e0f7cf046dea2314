"""Tile sizes, warps and pipeline stages by architecture and shape. Needs neither Triton nor a GPU.

Nothing is tuned while a model runs. Not yet measured on a GPU: the values follow from the resources
the compiled kernels take (docs/gpu_engine.md), none of which spills.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Products:
    """What a launch of products is given: the tile (rows, columns, depth of one step) for many live
    rows, and the tile that at most FEW_ROWS take (0: the same). Warps and pipeline stages are the
    same for both."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    FEW_ROWS: int
    FEW_M: int
    FEW_N: int
    FEW_K: int
    num_warps: int
    num_stages: int

    def programs(self, rows: int, columns: int) -> int:
        """Enough for `rows` rows or fewer: the small tiles may be more."""
        few = blocks(min(rows, self.FEW_ROWS), self.FEW_M) * blocks(columns, self.FEW_N)
        return max(few, blocks(rows, self.BLOCK_M) * blocks(columns, self.BLOCK_N))


def one_tile(m: int, n: int, k: int, num_warps: int, num_stages: int) -> Products:
    """The same for however many live rows."""
    return Products(m, n, k, 0, m, n, k, num_warps, num_stages)


def blocks(count: int, size: int) -> int:
    """Blocks of `size` that hold `count`."""
    return (count + size - 1) // size


@dataclass(frozen=True)
class Attention:
    """Queries and keys of a tile; warps; pipeline stages."""

    BLOCK_Q: int
    BLOCK_K: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Rows:
    """Rows of one program of the kernels that go row by row, their padded width, warps."""

    ROWS: int
    WIDTH: int
    num_warps: int


_FLOAT32 = ((None, one_tile(64, 64, 32, 8, 3)),)

# architecture -> bytes per element -> ((rows of the launch at most, tiles), ...)
_PRODUCTS = {
    "sm_80": {
        2: (
            (64, one_tile(16, 32, 128, 4, 4)),
            (512, Products(64, 64, 64, 64, 32, 32, 128, 4, 4)),
            (2048, Products(64, 128, 32, 512, 64, 64, 64, 4, 4)),
            (None, Products(128, 128, 32, 512, 64, 64, 64, 8, 4)),
        ),
        4: _FLOAT32,
    },
    "sm_90": {
        2: (
            (64, one_tile(16, 32, 128, 4, 5)),
            (512, Products(64, 64, 64, 64, 32, 32, 128, 4, 5)),
            (2048, Products(128, 128, 64, 256, 64, 128, 64, 8, 4)),
            (None, Products(128, 128, 64, 1024, 64, 128, 64, 8, 4)),
        ),
        4: _FLOAT32,
    },
    "gfx942": {
        2: (
            (64, one_tile(16, 32, 128, 4, 2)),
            (None, Products(128, 128, 64, 64, 16, 32, 128, 8, 2)),
        ),
        4: ((None, one_tile(64, 64, 16, 4, 2)),),
    },
}
# Of one tile of rows, for products whose programs load all that they read of a weight ahead of the
# wait; and how many steps that may be, so that the programs of two kernels fit into a
# multiprocessor's shared memory.
AHEAD_TILE = one_tile(64, 32, 256, 8, 1)
_AHEAD_STEPS = 4
# Where there are more rows than this, tiles are copied by the GPU itself, if it does that. How many
# columns they have is for `wide_products` to choose, and how many rows are few: the wider read
# fewer bytes. Those of 192 spill where warps are specialised.
WIDE_ROWS = 2048
WIDE_COLUMNS = {"sm_90": (256, 192), "sm_100": (256,)}
_WIDE = Products(128, 256, 64, 0, 64, 128, 128, 8, 4)
_PRODUCTS["sm_100"] = _PRODUCTS["sm_90"]
_PRODUCTS["sm_120"] = _PRODUCTS["sm_80"]


def architecture(device: torch.device) -> str:
    """The row of the tables for a device; "sm_80" for what has none of its own."""
    if device.type != "cuda":
        return "sm_80"
    return _gpu_architecture(device.index)


@functools.cache
def _gpu_architecture(index: int | None) -> str:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None:
        return "gfx942"
    # GPUs of 11 and 12 have dependent launches too and, as those of 8.6 and 8.9, no more shared
    # memory than sm_80's tiles take.
    known = {9: "sm_90", 10: "sm_100", 11: "sm_120", 12: "sm_120"}
    return known.get(properties.major, "sm_80")


def dependent_launch(arch: str) -> bool:
    """Whether kernels wait for the one before by themselves (`dependent_launch`)."""
    return arch in ("sm_90", "sm_100", "sm_120")


def multiplies_where_it_lies(arch: str) -> bool:
    """Whether matrix instructions read a weight from shared memory, so that it may be loaded there
    ahead of time; on others it would have to stand in registers."""
    return arch in ("sm_90", "sm_100")


def specialized(arch: str) -> bool:
    """Whether warps that work on copied tiles divide the work (`wide_products`)."""
    return arch == "sm_100"


def steps_ahead(arch: str, rows: int, depth: int, element_size: int, splits: int = 1) -> int:
    """Steps of a product's depth, or of a part of it, that are all loaded of the weight while the
    kernel before still runs; 0 where there are too many, or too many rows."""
    if not multiplies_where_it_lies(arch) or element_size != 2 or rows > AHEAD_TILE.BLOCK_M:
        return 0
    steps = blocks(blocks(depth, AHEAD_TILE.BLOCK_K), splits)
    return steps if steps <= _AHEAD_STEPS else 0


def products(arch: str, rows: int, element_size: int, ahead: int = 0) -> Products:
    """For a launch of `rows` rows, live or not. ahead: the weight's `steps_ahead`, if it is loaded
    so."""
    if ahead:
        return AHEAD_TILE
    for limit, tiles in _PRODUCTS[arch][element_size]:
        if limit is None or rows <= limit:
            return tiles
    raise AssertionError("the last entry of a table has no limit")


def covered(rows: int) -> int:
    """Eight numbers for every power of two, so that at most one eighth more rows are covered than
    there are, and 16 at least: the rows that CUDA graphs are captured for."""
    step = max(16, (1 << (rows - 1).bit_length()) // 16)
    return blocks(rows, step) * step


def wide_products(
    arch: str, rows: int, columns: int, element_size: int, multiprocessors: int
) -> Products | None:
    """The same for tiles that the GPU copies by itself; None where others are to be taken.

    With narrower tiles the last round may leave fewer multiprocessors idle; they are taken where
    they save a sixth with all rows live, as later on fewer are. None of these tiles is where they
    would not keep seven tenths of the multiprocessors busy. Rows are few where their tiles would
    leave half of them idle."""
    if arch not in WIDE_COLUMNS or element_size != 2 or rows <= WIDE_ROWS:
        return None

    def count(width: int) -> int:
        return blocks(covered(rows), _WIDE.BLOCK_M) * blocks(columns, width)

    def time(width: int) -> int:
        return blocks(count(width), multiprocessors) * width

    width, *narrower = WIDE_COLUMNS[arch]
    for other in narrower:
        if 6 * time(other) <= 5 * time(width):
            width = other
    if 10 * count(width) < 7 * multiprocessors:
        return None
    few = multiprocessors // (2 * blocks(columns, width)) * _WIDE.BLOCK_M
    return replace(_WIDE, BLOCK_N=width, FEW_ROWS=few)


def left_columns(block_n: int) -> int:
    """A copied tile's columns stand in two blocks, as Triton's are powers of two: those of the left
    one, which is no narrower than the right one."""
    return _power_of_two(block_n) // 2


def multiprocessors(device: torch.device) -> int:
    """An H100's for what is no GPU."""
    return _multiprocessors(device.index) if device.type == "cuda" else 132


@functools.cache
def _multiprocessors(index: int | None) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def splits(
    arch: str, rows: int, depth: int, columns: int, element_size: int, multiprocessors: int
) -> int:
    """Parts of a product's depth in a launch of `rows` rows. In 16 bits, where rows are too few for
    the tiles to keep a GPU busy, as many as leave each at least six or twelve steps of a tile, or
    three whose weights are loaded ahead: fewer would take a kernel's least time anyway. In float32
    one, so that every row is added up in one order whatever the batch."""
    if element_size != 2 or rows > 4096:
        return 1
    if wide_products(arch, rows, columns, element_size, multiprocessors):
        return 1
    each = 768 if multiplies_where_it_lies(arch) else 1536
    if rows > 64:
        each = 384 if rows <= 1024 else 768 if rows <= 2048 else 1536
    return max(1, min(4, depth // each))


def split_marks(rows: int, columns: int) -> int:
    """As many tiles as there can be, of whatever size."""
    return blocks(rows, 16) * blocks(columns, 32)


def attention(
    padded_head: int, element_size: int, relative: bool, arch: str = "sm_80"
) -> Attention:
    """The same tiles for all architectures: they are small, and short sequences the rule."""
    if padded_head * element_size > 512:
        return Attention(16, 16, 4, 2)  # with one stage it spills on sm_80
    if relative:
        return Attention(32, 32, 8, 2)
    if padded_head * element_size > 128:
        return Attention(32, 32, 4, 2)
    return Attention(64, 64, 4, 3 if arch == "sm_120" else 2)  # with two stages it spills there


def rows(width: int, arch: str = "sm_80") -> Rows:
    padded = _power_of_two(width)
    count = min(32, max(1, 4096 // padded))
    # On sm_120 `move` would spill with all that four warps can hold.
    most = 2048 if arch == "sm_120" else 4096
    return Rows(count, padded, 8 if padded * count > most else 4)


def columns(tokens: int) -> int:
    """Places of a sequence that a program looks at at a time."""
    return min(1024, max(32, _power_of_two(tokens)))


def padded_head(head_size: int) -> int:
    """tl.dot takes no operand narrower than 16."""
    return max(16, _power_of_two(head_size))


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
