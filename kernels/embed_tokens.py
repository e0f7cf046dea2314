"""out = LayerNorm(word + token type + position). Reads three rows of tables and writes one row."""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.layer_norm import layer_norm, load_rows


@triton.jit(do_not_specialize=["count"])
def embed_tokens(
    token_ids, token_type_ids, position_ids, word, token_type, position,
    ln_weight, ln_bias, eps, row_count, out,
    count, width, word_stride, token_type_stride, position_stride, out_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    live = count if row_count is None else tl.load(row_count)
    first = tl.program_id(0).to(tl.int64) * ROWS
    if first >= live:
        return
    row = first + tl.arange(0, ROWS)
    is_row = row < live
    column = tl.arange(0, WIDTH)
    mask = is_row[:, None] & (column < width)[None, :]
    token = tl.load(token_ids + row, mask=is_row, other=0)
    kind = tl.load(token_type_ids + row, mask=is_row, other=0)
    summed = load_rows(word, token, word_stride, column, mask)
    summed += load_rows(token_type, kind, token_type_stride, column, mask)
    if position is not None:
        place = tl.load(position_ids + row, mask=is_row, other=0)
        summed += load_rows(position, place, position_stride, column, mask)
    result = layer_norm(summed, column, width, ln_weight, ln_bias, eps)
    tl.store(
        out + row[:, None] * out_stride + column[None, :],
        result.to(out.dtype.element_ty),
        mask=mask,
    )
