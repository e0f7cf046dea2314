"""out = LayerNorm(x + residual). Reads two rows and writes one."""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.layer_norm import layer_norm, load_rows


@triton.jit(do_not_specialize=["count"])
def add_layer_norm(
    x, residual, weight, bias, eps, row_count, out,
    count, width, x_stride, residual_stride, out_stride,
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
    summed = load_rows(x, row, x_stride, column, mask)
    summed += load_rows(residual, row, residual_stride, column, mask)
    result = layer_norm(summed, column, width, weight, bias, eps)
    tl.store(
        out + row[:, None] * out_stride + column[None, :],
        result.to(out.dtype.element_ty),
        mask=mask,
    )
