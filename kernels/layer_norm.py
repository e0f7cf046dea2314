"""Rows and their LayerNorm, which several kernels share."""

import triton
import triton.language as tl


@triton.jit
def load_rows(base, row, stride, column, mask):
    """A tile [rows, columns] in float32, 0 where the mask is off; `row` in int64."""
    return tl.load(base + row[:, None] * stride + column[None, :], mask=mask, other=0.0).to(
        tl.float32
    )


@triton.jit
def layer_norm(x, column, width, weight, bias, eps):
    """LayerNorm of each row of x [rows, columns] over its first `width` columns, in float32."""
    is_column = column < width
    mean = tl.sum(x, 1) / width
    centred = tl.where(is_column[None, :], x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / width
    scale = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)
    return centred * tl.rsqrt(variance + eps)[:, None] * scale[None, :] + shift[None, :]
