"""out[row_index[r]] = rows[r]. Reads one row and writes one."""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before


@triton.jit
def copy_rows(source, source_row, source_stride, target, target_row, target_stride, column, mask):
    """One tile of rows [rows, columns] to other places, bit for bit; rows in int64."""
    tile = tl.load(source + source_row[:, None] * source_stride + column[None, :], mask=mask)
    tl.store(target + target_row[:, None] * target_stride + column[None, :], tile, mask=mask)


@triton.jit(do_not_specialize=["count"])
def scatter_rows(
    rows, row_index, row_count, out, count, width, rows_stride, out_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    live = count if row_count is None else tl.load(row_count)
    first = tl.program_id(0).to(tl.int64) * ROWS
    if first >= live:
        return
    row = first + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    mask = (row < live)[:, None] & (column < width)[None, :]
    target = tl.load(row_index + row, mask=row < live, other=0)
    copy_rows(rows, row, rows_stride, out, target, out_stride, column, mask)
