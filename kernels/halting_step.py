"""The end of an iteration: LayerNorm, halting rule, mix and compaction, in two launches.

`decide` computes each row's halting probability and how many rows of its block run on; `move` adds
up the blocks before its own, which says where its rows go, and moves them. `decide` reads a row per
row and writes 4 bytes; `move` reads two and writes one, or two where the row halts; each reads one
more where `ffn_input` has not been added to `ffn_output` yet. One launch would save what `decide`
reads, at the price of programs that wait for each other.

The workspace, as int32: `HEADER` entries, the first of which counts finished blocks; a probability
per row (float32 bits); then one entry per block: how many of its rows run on, and in bit 16
whether any of them asks for another iteration. The last block to finish makes it zeros again.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.layer_norm import layer_norm, load_rows
from albert_act_fast.ops.contracts import HALTING_WORKSPACE_HEADER

# As int32.
HEADER = tl.constexpr(2 * HALTING_WORKSPACE_HEADER)
ASKS = tl.constexpr(1 << 16)
# How many entries of the workspace, and how many sequence offsets, a program looks at at a time.
CHUNK = tl.constexpr(1024)
OFFSETS = tl.constexpr(64)


@triton.jit
def candidate_rows(
    ffn_output, ffn_input, ffn_output_stride, ffn_input_stride, ln_weight, ln_bias, eps,
    row, column, width, mask,
):  # fmt: skip
    summed = load_rows(ffn_output, row, ffn_output_stride, column, mask)
    if ffn_input is not None:
        summed += load_rows(ffn_input, row, ffn_input_stride, column, mask)
    return layer_norm(summed, column, width, ln_weight, ln_bias, eps)


@triton.jit
def halting_rule(accumulated, p, threshold):
    """For running rows: the accumulated probability reached; which rows go on, if there is another
    iteration; which of them ask for one; the weight of the candidate in the mix; and the remainder,
    0 where a row does not halt now.

    Only a threshold of 1 lets a row reach exactly 1 without passing it: it never runs again. Where
    p is NaN a row does none of these.
    """
    reached = accumulated + p
    halts = reached > threshold
    remainder = tl.where(halts, 1.0 - accumulated, 0.0)
    goes_on = (reached <= threshold) & (reached < 1.0)
    asks = goes_on & (reached < threshold)
    return reached, goes_on, asks, tl.where(halts, remainder, p), remainder


@triton.jit(do_not_specialize=["rows", "sequences"])
def decide(
    ffn_output, ffn_input, ln_weight, ln_bias, eps, halting_weight, halting_bias, threshold,
    accumulated_probability, query_offsets, workspace,
    rows, sequences, width, ffn_output_stride, ffn_input_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    live = tl.load(query_offsets + sequences)
    block = tl.program_id(0)
    first = block.to(tl.int64) * ROWS
    if first >= live:
        return
    row = first + tl.arange(0, ROWS)
    is_row = row < live
    column = tl.arange(0, WIDTH)
    is_column = column < width
    candidate = candidate_rows(
        ffn_output, ffn_input, ffn_output_stride, ffn_input_stride, ln_weight, ln_bias, eps,
        row, column, width, is_row[:, None] & is_column[None, :],
    )  # fmt: skip
    weight = tl.load(halting_weight + column, mask=is_column, other=0.0).to(tl.float32)
    # Lanes past the width hold 0 * 0 + 0 from LayerNorm, and a weight of 0.
    logit = tl.sum(candidate * weight[None, :], 1) + tl.load(halting_bias).to(tl.float32)
    p = 1.0 / (1.0 + tl.exp(-logit))
    hp = tl.load(accumulated_probability + row, mask=is_row, other=0.0)
    _reached, goes_on, asks, _weight, _remainder = halting_rule(hp, p, threshold)
    tl.store(workspace + HEADER + row, p.to(tl.int32, bitcast=True), mask=is_row)
    any_asks = tl.max((is_row & asks).to(tl.int32), 0)
    count = tl.sum((is_row & goes_on).to(tl.int32), 0)
    tl.store(workspace + HEADER + rows + block, count + any_asks * ASKS)


@triton.jit(do_not_specialize=["iteration", "rows", "sequences"])
def move(
    ffn_output, ffn_input, hidden, ln_weight, ln_bias, eps, threshold, iteration,
    accumulated_probability, token_index, query_offsets,
    next_hidden, next_accumulated_probability, next_token_index, next_query_offsets,
    workspace, out, n_updates, remainders,
    rows, sequences, width,
    ffn_output_stride, ffn_input_stride, hidden_stride, next_hidden_stride, out_stride,
    LAST: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    live = tl.load(query_offsets + sequences)
    block = tl.program_id(0)
    first = block.to(tl.int64) * ROWS
    chunk = tl.arange(0, CHUNK)
    if first >= live:
        if block == 0:  # no row is left: no other program writes the offsets
            for start in range(0, sequences + 1, CHUNK):
                b = start + chunk
                tl.store(next_query_offsets + b, (b * 0).to(tl.int64), mask=b <= sequences)
        return

    # What runs on before this block, and whether any row at all asks for another iteration.
    blocks = ((live + ROWS - 1) // ROWS).to(tl.int32)
    probabilities = workspace + HEADER
    counts = probabilities + rows
    before = 0
    asking = 0
    for start in range(0, blocks, CHUNK):
        other = start + chunk
        entry = tl.load(counts + other, mask=other < blocks, other=0)
        before += tl.sum(tl.where(other < block, entry % ASKS, 0), 0)
        asking += tl.sum(entry // ASKS, 0)

    row = first + tl.arange(0, ROWS)
    is_row = row < live
    p = tl.load(probabilities + row, mask=is_row, other=0).to(tl.float32, bitcast=True)
    hp = tl.load(accumulated_probability + row, mask=is_row, other=0.0)
    token = tl.load(token_index + row, mask=is_row, other=0)
    reached, goes_on, _asks, weight, remainder = halting_rule(hp, p, threshold)
    stays = is_row & goes_on
    if LAST:
        asking = asking * 0
    stays = stays & (asking > 0)
    before = tl.where(asking > 0, before, 0)

    column = tl.arange(0, WIDTH)
    mask = is_row[:, None] & (column < width)[None, :]
    candidate = candidate_rows(
        ffn_output, ffn_input, ffn_output_stride, ffn_input_stride, ln_weight, ln_bias, eps,
        row, column, width, mask,
    )  # fmt: skip
    weight = weight[:, None]
    state = load_rows(hidden, row, hidden_stride, column, mask)
    mixed = (weight * candidate + (1.0 - weight) * state).to(next_hidden.dtype.element_ty)

    staying = stays.to(tl.int64)
    staying_before = before + tl.cumsum(staying, 0) - staying
    slot = tl.where(stays, staying_before, live - 1 - (row - staying_before))
    tl.store(next_token_index + slot, token, mask=is_row)
    tl.store(next_accumulated_probability + slot, reached, mask=stays)
    tl.store(next_hidden + slot[:, None] * next_hidden_stride + column[None, :], mixed, mask=mask)

    leaves = is_row & (staying == 0)
    tl.store(
        out + token[:, None] * out_stride + column[None, :], mixed, mask=mask & leaves[:, None]
    )
    updates = tl.where(p == p, iteration, iteration - 1).to(tl.float32)
    tl.store(n_updates + token, updates, mask=leaves)
    tl.store(remainders + token, remainder, mask=leaves)

    # Rows before a sequence's offset that run on. Each offset is one block's: the block that holds
    # the row before it (the first block, where there is none).
    for start in range(0, sequences + 1, OFFSETS):
        b = start + tl.arange(0, OFFSETS)
        offset = tl.load(query_offsets + b, mask=b <= sequences, other=-1)
        mine = (offset > first) & (offset <= first + ROWS) | (offset == 0) & (block == 0)
        inside = tl.sum(tl.where(row[None, :] < offset[:, None], staying[None, :], 0), 1)
        tl.store(
            next_query_offsets + b,
            tl.where(offset == 0, 0, before + inside),
            mask=mine & (b <= sequences),
        )

    # All accesses of this program come before its own mark, and the last one sees all marks.
    tl.debug_barrier()
    finished = tl.atomic_add(workspace, 1, sem="acq_rel") + 1
    if finished == blocks:
        tl.debug_barrier()
        tl.store(workspace, 0)
        for start in range(0, live.to(tl.int32), CHUNK):
            entry = start + chunk
            tl.store(probabilities + entry, entry * 0, mask=entry < live)
        for start in range(0, blocks, CHUNK):
            entry = start + chunk
            tl.store(counts + entry, entry * 0, mask=entry < blocks)
