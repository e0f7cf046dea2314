"""key_store[token_index[r]] = keys[r], and the same for values. Reads two rows and writes two.

Only where the products come from a library; `project_qkv` writes to the stores itself.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.scatter_rows import copy_rows


@triton.jit(do_not_specialize=["count"])
def write_kv(
    keys, values, token_index, row_count, key_store, value_store,
    count, width, keys_stride, values_stride, key_store_stride, value_store_stride,
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
    token = tl.load(token_index + row, mask=row < live, other=0)
    copy_rows(keys, row, keys_stride, key_store, token, key_store_stride, column, mask)
    copy_rows(values, row, values_stride, value_store, token, value_store_stride, column, mask)
