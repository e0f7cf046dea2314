"""Packed rows back at their places in the padded batch, 0 at padding. Writes every place once."""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before


@triton.jit(do_not_specialize=["places"])
def unpack_rows(
    rows, n_updates, remainders, row_of_place, out, out_n_updates, out_remainders,
    places, width, rows_stride, out_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_place = place < places
    row = tl.load(row_of_place + place, mask=is_place, other=-1)
    has_row = row >= 0
    column = tl.arange(0, WIDTH)
    is_column = (column < width)[None, :]
    tile = tl.load(
        rows + row[:, None] * rows_stride + column[None, :],
        mask=has_row[:, None] & is_column, other=0.0,
    )  # fmt: skip
    tl.store(
        out + place[:, None] * out_stride + column[None, :],
        tile, mask=is_place[:, None] & is_column,
    )  # fmt: skip
    updates = tl.load(n_updates + row, mask=has_row, other=0.0)
    tl.store(out_n_updates + place, updates, mask=is_place)
    remainder = tl.load(remainders + row, mask=has_row, other=0.0)
    tl.store(out_remainders + place, remainder, mask=is_place)
