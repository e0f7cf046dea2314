"""Queries of the running rows; keys and values of the rows that moved, straight into the store.

One launch for the three products: a program's tile belongs to one of them. The running rows are the
first of those that moved. Where none runs nobody will ask for a key again, and nothing is done.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.products import load_ahead, product


@triton.jit
def store_projected(acc, which, bias, token_index, out, out_stride, row, is_row, column, is_column):
    """Queries (`which` 0) at their rows, keys and values at their tokens."""
    acc += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    target = row
    if which > 0:
        target = tl.load(token_index + row, mask=is_row, other=0)
    tl.store(
        out + target[:, None] * out_stride + column[None, :],
        acc.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_column[None, :],
    )


@triton.jit
def one_of(which, query, key, value):
    one = query
    if which == 1:
        one = key
    elif which == 2:
        one = value
    return one


@triton.jit
def project_qkv_tile(
    tile, hidden, query_weight, key_weight, value_weight, query_bias, key_bias, value_bias,
    token_index, running, moved, queries, key_store, value_store,
    width, hidden_stride, weight_stride, queries_stride, key_store_stride, value_store_stride,
    ahead, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(width, BLOCK_N)
    which = tile % (3 * tiles) // tiles
    live = running
    if (which > 0) & (running > 0):
        live = moved
    first = (tile // (3 * tiles)).to(tl.int64) * BLOCK_M
    if first < live:
        weight = one_of(which, query_weight, key_weight, value_weight)
        bias = one_of(which, query_bias, key_bias, value_bias)
        out = queries
        out_stride = queries_stride
        if which == 1:
            out = key_store
            out_stride = key_store_stride
        elif which == 2:
            out = value_store
            out_stride = value_store_stride
        row = first + tl.arange(0, BLOCK_M)
        column = tile % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        is_row = row < live
        is_column = column < width
        acc = product(
            hidden, hidden_stride, row, is_row, weight, weight_stride, column, is_column, width,
            ahead, BLOCK_K, PRECISION,
        )  # fmt: skip
        store_projected(
            acc, which, bias, token_index, out, out_stride, row, is_row, column, is_column
        )


@triton.jit
def project_qkv(
    hidden, query_weight, key_weight, value_weight, query_bias, key_bias, value_bias,
    token_index, running_count, moved_count, queries, key_store, value_store,
    width, hidden_stride, weight_stride, queries_stride, key_store_stride, value_store_stride,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    FEW_ROWS: tl.constexpr, FEW_M: tl.constexpr, FEW_N: tl.constexpr, FEW_K: tl.constexpr,
    AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    ahead = ()
    if AHEAD > 0:  # as in `linear`
        tiles = tl.cdiv(width, BLOCK_N)
        column = tl.program_id(0) % tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        weight = one_of(tl.program_id(0) // tiles, query_weight, key_weight, value_weight)
        ahead = load_ahead(weight, weight_stride, column, column < width, width, AHEAD, BLOCK_K)
    wait_for_the_kernel_before(PDL)
    running = tl.load(running_count)
    moved = tl.load(moved_count)
    # As in `linear`: few rows take smaller tiles.
    if moved > FEW_ROWS:
        project_qkv_tile(
            tl.program_id(0), hidden, query_weight, key_weight, value_weight,
            query_bias, key_bias, value_bias,
            token_index, running, moved, queries, key_store, value_store,
            width, hidden_stride, weight_stride,
            queries_stride, key_store_stride, value_store_stride,
            ahead, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    elif FEW_ROWS > 0:
        project_qkv_tile(
            tl.program_id(0), hidden, query_weight, key_weight, value_weight,
            query_bias, key_bias, value_bias,
            token_index, running, moved, queries, key_store, value_store,
            width, hidden_stride, weight_stride,
            queries_stride, key_store_stride, value_store_stride,
            ahead, PRECISION, FEW_M, FEW_N, FEW_K,
        )  # fmt: skip
