"""out[r] = activation(x[r] weight^T + bias) + residual[r] for the live rows, counted on the device.

The launch covers all rows there might be; tiles past the live ones leave before they load any.
Where few rows are live, large tiles would leave most of the GPU idle: up to FEW_ROWS take smaller
ones.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.products import finish, load_ahead, product


@triton.jit
def linear_tile(
    tile, x, weight, bias, residual, out, live, columns, depth,
    x_stride, weight_stride, residual_stride, out_stride, ahead,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Tiles of the same rows stand next to each other, so that the live ones come first.
    tiles = tl.cdiv(columns, BLOCK_N)
    first = (tile // tiles).to(tl.int64) * BLOCK_M
    if first < live:
        row = first + tl.arange(0, BLOCK_M)
        column = tile % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = row < live
        is_column = column < columns
        acc = product(
            x, x_stride, row, is_row, weight, weight_stride, column, is_column, depth,
            ahead, BLOCK_K, PRECISION,
        )  # fmt: skip
        finish(
            acc, bias, residual, residual_stride, out, out_stride, row, is_row, column, is_column,
            ACTIVATION,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def linear(
    x, weight, bias, residual, row_count, out, rows, columns, depth,
    x_stride, weight_stride, residual_stride, out_stride,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FEW_ROWS: tl.constexpr, FEW_M: tl.constexpr, FEW_N: tl.constexpr, FEW_K: tl.constexpr,
    AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    ahead = ()
    if AHEAD > 0:  # the launch is one tile of rows, so that a program's columns are known by now
        column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        ahead = load_ahead(weight, weight_stride, column, column < columns, depth, AHEAD, BLOCK_K)
    wait_for_the_kernel_before(PDL)
    live = rows if row_count is None else tl.load(row_count)
    if live > FEW_ROWS:
        linear_tile(
            tl.program_id(0), x, weight, bias, residual, out, live, columns, depth,
            x_stride, weight_stride, residual_stride, out_stride, ahead,
            ACTIVATION, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    elif FEW_ROWS > 0:
        linear_tile(
            tl.program_id(0), x, weight, bias, residual, out, live, columns, depth,
            x_stride, weight_stride, residual_stride, out_stride, ahead,
            ACTIVATION, PRECISION, FEW_M, FEW_N, FEW_K,
        )  # fmt: skip
