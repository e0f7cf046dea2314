"""What the matrix products over packed rows share."""

import triton
import triton.language as tl


@triton.jit
def load_rows(x, x_stride, row, is_row, start, depth, BLOCK_K: tl.constexpr):
    """x[row, start + k], [rows, BLOCK_K]."""
    k = start + tl.arange(0, BLOCK_K)
    at = x + row[:, None] * x_stride + k[None, :]
    return tl.load(at, mask=is_row[:, None] & (k < depth)[None, :], other=0.0)


@triton.jit
def load_weight(weight, weight_stride, column, is_column, start, depth, BLOCK_K: tl.constexpr):
    """weight[column, start + k], [BLOCK_K, columns]."""
    k = start + tl.arange(0, BLOCK_K)
    at = weight + column[None, :] * weight_stride + k[:, None]
    return tl.load(at, mask=(k < depth)[:, None] & is_column[None, :], other=0.0)


@triton.jit
def load_ahead(
    weight, weight_stride, column, is_column, depth, AHEAD: tl.constexpr, BLOCK_K: tl.constexpr
):
    """All that a program reads of a weight, AHEAD steps of it, for `product`: into shared memory,
    while the kernel before still runs. That one must not write the weight."""
    tiles = ()
    for step in tl.static_range(AHEAD):
        start = step * BLOCK_K
        tile = load_weight(weight, weight_stride, column, is_column, start, depth, BLOCK_K)
        tiles = tiles + (tile,)  # noqa: RUF005
    return tiles


@triton.jit
def product(
    x, x_stride, row, is_row, weight, weight_stride, column, is_column, depth, ahead,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x[row] @ weight[column]^T over `depth` columns of both, in float32. ahead: what `load_ahead`
    gave of the weight, or nothing."""
    acc = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    if len(ahead) > 0:
        for step in tl.static_range(len(ahead)):
            a = load_rows(x, x_stride, row, is_row, step * BLOCK_K, depth, BLOCK_K)
            acc = tl.dot(a, ahead[step], acc, input_precision=PRECISION)
    else:
        for start in range(0, depth, BLOCK_K):
            a = load_rows(x, x_stride, row, is_row, start, depth, BLOCK_K)
            b = load_weight(weight, weight_stride, column, is_column, start, depth, BLOCK_K)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """x in float32. "gelu" is the erf form, "gelu_tanh" Hendrycks' approximation."""
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # 0.5 (1 + tanh(z)) = sigmoid(2 z)
        z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x * tl.sigmoid(2.0 * z)
    elif ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    elif ACTIVATION == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    else:
        tl.static_assert(ACTIVATION == "none")
    return x


@triton.jit
def finish(
    acc, bias, residual, residual_stride, out, out_stride, row, is_row, column, is_column,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """out[row, column] = activation(acc + bias) + residual, rounded once."""
    acc += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    acc = activate(acc, ACTIVATION)
    mask = is_row[:, None] & is_column[None, :]
    if residual is not None:
        at = residual + row[:, None] * residual_stride + column[None, :]
        acc += tl.load(at, mask=mask, other=0.0).to(tl.float32)
    tl.store(
        out + row[:, None] * out_stride + column[None, :],
        acc.to(out.dtype.element_ty),
        mask=mask,
    )
