"""What the matrix products over packed rows share."""

import triton
import triton.language as tl


@triton.jit
def product(
    x, x_stride, row, is_row, weight, weight_stride, column, is_column, depth,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x[row] @ weight[column]^T over `depth` columns of both, in float32."""
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((row.shape[0], column.shape[0]), tl.float32)
    for start in range(0, depth, BLOCK_K):
        is_k = start + k < depth
        a = tl.load(
            x + row[:, None] * x_stride + (start + k)[None, :],
            mask=is_row[:, None] & is_k[None, :],
            other=0.0,
        )
        b = tl.load(
            weight + column[None, :] * weight_stride + (start + k)[:, None],
            mask=is_k[:, None] & is_column[None, :],
            other=0.0,
        )
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
