"""`linear` and `project_qkv` for many rows, on GPUs that copy whole tiles by themselves (TMA).

There are as many programs as multiprocessors, and each takes one live tile after the other, so that
none is launched only to leave. Tiles of 256 columns read every row half as often as those of 128,
those of 192 two thirds as often, and what they read needs no registers for addresses. Where a tile
ends it does, beside the sums: two blocks of columns take turns, LEFT of them in the left one. As
Triton's blocks are powers of two, weights of 192 are copied and multiplied in two as well. Where
few rows are live, smaller tiles, read in the ordinary way, are more. SPECIALIZED: some warps copy,
some multiply, some end tiles; Triton 3.9 does it on compute capability 10.0, and takes no notice on
9.0.

Copied tiles hold rows past the live ones too, whatever is in them; none of those is stored.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.linear import linear_tile
from albert_act_fast.kernels.products import finish
from albert_act_fast.kernels.project_qkv import project_qkv_tile, store_projected


@triton.jit
def copied_tile(
    tile, x_tiles, weight_tiles, right_tiles, columns, depth,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEFT: tl.constexpr,
):  # fmt: skip
    """The sums of a tile, as `products.product` has them, of its left and of its right columns; its
    rows; and both kinds of columns."""
    tiles = tl.cdiv(columns, BLOCK_N)
    first = tile // tiles * BLOCK_M
    column = tile % tiles * BLOCK_N
    if right_tiles is None:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for start in range(0, depth, BLOCK_K):
            a = x_tiles.load([first, start])
            acc = tl.dot(a, weight_tiles.load([column, start]).T, acc)
        left, right = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, LEFT)), (0, 2, 1)))
    else:
        left = tl.zeros((BLOCK_M, LEFT), tl.float32)
        right = tl.zeros((BLOCK_M, BLOCK_N - LEFT), tl.float32)
        for start in range(0, depth, BLOCK_K):
            a = x_tiles.load([first, start])
            left = tl.dot(a, weight_tiles.load([column, start]).T, left)
            right = tl.dot(a, right_tiles.load([column + LEFT, start]).T, right)
    row = first.to(tl.int64) + tl.arange(0, BLOCK_M)
    left_column = column + tl.arange(0, LEFT)
    return left, right, row, left_column, column + LEFT + tl.arange(0, BLOCK_N - LEFT)


@triton.jit(do_not_specialize=["rows"])
def wide_linear(
    x, x_tiles, weight, weight_tiles, weight_right_tiles, bias, residual, row_count, out,
    rows, columns, depth,
    x_stride, weight_stride, residual_stride, out_stride,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FEW_ROWS: tl.constexpr, FEW_M: tl.constexpr, FEW_N: tl.constexpr, FEW_K: tl.constexpr,
    LEFT: tl.constexpr, SPECIALIZED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    live = (rows if row_count is None else tl.load(row_count)).to(tl.int32)
    if live > FEW_ROWS:
        end = tl.cdiv(live, BLOCK_M) * tl.cdiv(columns, BLOCK_N)
        for tile in tl.range(
            tl.program_id(0), end, tl.num_programs(0), warp_specialize=SPECIALIZED
        ):
            left, right, row, left_column, column = copied_tile(
                tile, x_tiles, weight_tiles, weight_right_tiles, columns, depth,
                BLOCK_M, BLOCK_N, BLOCK_K, LEFT,
            )  # fmt: skip
            finish(
                left, bias, residual, residual_stride, out, out_stride,
                row, row < live, left_column, left_column < columns, ACTIVATION,
            )  # fmt: skip
            finish(
                right, bias, residual, residual_stride, out, out_stride,
                row, row < live, column, column < columns, ACTIVATION,
            )  # fmt: skip
    else:
        tiles = tl.cdiv(live, FEW_M) * tl.cdiv(columns, FEW_N)
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            linear_tile(
                tile, x, weight, bias, residual, out, live, columns, depth,
                x_stride, weight_stride, residual_stride, out_stride, (),
                ACTIVATION, PRECISION, FEW_M, FEW_N, FEW_K,
            )  # fmt: skip


@triton.jit
def project_tiles(
    before, which, x_tiles, weight_tiles, right_tiles, bias, token_index, out, out_stride,
    live, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LEFT: tl.constexpr,
    SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """This program's tiles of one product; the products before it have `before` tiles, in whose
    round of programs it goes on."""
    programs = tl.num_programs(0)
    start = (tl.program_id(0) + programs - before % programs) % programs
    end = tl.cdiv(live, BLOCK_M) * tl.cdiv(width, BLOCK_N)
    for tile in tl.range(start, end, programs, warp_specialize=SPECIALIZED):
        left, right, row, left_column, column = copied_tile(
            tile, x_tiles, weight_tiles, right_tiles, width, width, BLOCK_M, BLOCK_N, BLOCK_K, LEFT
        )
        store_projected(
            left, which, bias, token_index, out, out_stride,
            row, row < live, left_column, left_column < width,
        )  # fmt: skip
        store_projected(
            right, which, bias, token_index, out, out_stride,
            row, row < live, column, column < width,
        )  # fmt: skip


@triton.jit
def wide_project_qkv(
    hidden, hidden_tiles, query_weight, key_weight, value_weight,
    query_tiles, query_right_tiles, key_tiles, key_right_tiles, value_tiles, value_right_tiles,
    query_bias, key_bias, value_bias,
    token_index, running_count, moved_count, queries, key_store, value_store,
    width, hidden_stride, weight_stride, queries_stride, key_store_stride, value_store_stride,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FEW_ROWS: tl.constexpr, FEW_M: tl.constexpr, FEW_N: tl.constexpr, FEW_K: tl.constexpr,
    LEFT: tl.constexpr, SPECIALIZED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    running = tl.load(running_count).to(tl.int32)
    moved = tl.load(moved_count).to(tl.int32)
    if moved > FEW_ROWS:
        live = tl.where(running > 0, moved, 0)
        of_queries = tl.cdiv(running, BLOCK_M) * tl.cdiv(width, BLOCK_N)
        of_keys = tl.cdiv(live, BLOCK_M) * tl.cdiv(width, BLOCK_N)
        project_tiles(
            0, 0, hidden_tiles, query_tiles, query_right_tiles, query_bias, token_index,
            queries, queries_stride, running, width, BLOCK_M, BLOCK_N, BLOCK_K, LEFT, SPECIALIZED,
        )  # fmt: skip
        project_tiles(
            of_queries, 1, hidden_tiles, key_tiles, key_right_tiles, key_bias, token_index,
            key_store, key_store_stride, live, width, BLOCK_M, BLOCK_N, BLOCK_K, LEFT, SPECIALIZED,
        )  # fmt: skip
        project_tiles(
            of_queries + of_keys, 2, hidden_tiles, value_tiles, value_right_tiles, value_bias,
            token_index, value_store, value_store_stride, live, width,
            BLOCK_M, BLOCK_N, BLOCK_K, LEFT, SPECIALIZED,
        )  # fmt: skip
    else:
        tiles = tl.cdiv(moved, FEW_M) * 3 * tl.cdiv(width, FEW_N)
        for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
            project_qkv_tile(
                tile, hidden, query_weight, key_weight, value_weight,
                query_bias, key_bias, value_bias,
                token_index, running, moved, queries, key_store, value_store,
                width, hidden_stride, weight_stride,
                queries_stride, key_store_stride, value_store_stride,
                (), PRECISION, FEW_M, FEW_N, FEW_K,
            )  # fmt: skip
