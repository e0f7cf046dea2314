"""As `linear`, without an activation, for products so deep and of so few rows that their tiles
would leave most of the GPU idle: each tile's depth is split among several programs.

Every program writes its partial sums in float32. The last of a tile to finish, whichever that is,
adds all of them up, always in the same order, so that one input has one result; the kernels that
read `out` know nothing of it.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.products import finish, load_ahead, product


@triton.jit
def part_of(split, depth, SPLITS: tl.constexpr, BLOCK_K: tl.constexpr):
    """Where this part of the depth begins, and how many columns it has (none, if not positive)."""
    share = tl.cdiv(tl.cdiv(depth, BLOCK_K), SPLITS) * BLOCK_K
    begin = split * share
    return begin, tl.minimum(share, depth - begin)


@triton.jit
def split_tile(
    x, weight, bias, residual, parts, arrived, out, live, rows, columns, depth,
    x_stride, weight_stride, residual_stride, out_stride, ahead,
    PRECISION: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(columns, BLOCK_N)
    tile = tl.program_id(0) // SPLITS
    split = tl.program_id(0) % SPLITS
    first = (tile // tiles).to(tl.int64) * BLOCK_M
    if first < live:
        row = first + tl.arange(0, BLOCK_M)
        column = tile % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = row < live
        is_column = column < columns
        begin, part = part_of(split, depth, SPLITS, BLOCK_K)
        acc = product(
            x + begin, x_stride, row, is_row, weight + begin, weight_stride, column, is_column,
            part, ahead, BLOCK_K, PRECISION,
        )  # fmt: skip
        mask = is_row[:, None] & is_column[None, :]
        place = row[:, None] * columns + column[None, :]
        size = rows.to(tl.int64) * columns
        tl.store(parts + split * size + place, acc, mask=mask)

        # All of this program's sums come before its own mark, and the last one sees all marks.
        tl.debug_barrier()
        finished = tl.atomic_add(arrived + tile, 1, sem="acq_rel") + 1
        if finished == SPLITS:
            tl.debug_barrier()
            total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for other in range(SPLITS):
                total += tl.load(parts + other * size + place, mask=mask, other=0.0)
            finish(
                total, bias, residual, residual_stride, out, out_stride, row, is_row, column,
                is_column, "none",
            )  # fmt: skip
            tl.store(arrived + tile, 0)


@triton.jit(do_not_specialize=["rows"])
def split_linear(
    x, weight, bias, residual, row_count, parts, arrived, out, rows, columns, depth,
    x_stride, weight_stride, residual_stride, out_stride,
    PRECISION: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FEW_ROWS: tl.constexpr, FEW_M: tl.constexpr, FEW_N: tl.constexpr, FEW_K: tl.constexpr,
    AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    ahead = ()
    if AHEAD > 0:  # as in `linear`
        begin, part = part_of(tl.program_id(0) % SPLITS, depth, SPLITS, BLOCK_K)
        column = tl.program_id(0) // SPLITS * BLOCK_N + tl.arange(0, BLOCK_N)
        ahead = load_ahead(
            weight + begin, weight_stride, column, column < columns, part, AHEAD, BLOCK_K
        )
    wait_for_the_kernel_before(PDL)
    live = rows if row_count is None else tl.load(row_count)
    if live > FEW_ROWS:
        split_tile(
            x, weight, bias, residual, parts, arrived, out, live, rows, columns, depth,
            x_stride, weight_stride, residual_stride, out_stride, ahead,
            PRECISION, SPLITS, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    elif FEW_ROWS > 0:
        split_tile(
            x, weight, bias, residual, parts, arrived, out, live, rows, columns, depth,
            x_stride, weight_stride, residual_stride, out_stride, ahead,
            PRECISION, SPLITS, FEW_M, FEW_N, FEW_K,
        )  # fmt: skip
