"""The end of an iteration: LayerNorm, halting rule, mix and compaction, in two launches.

`decide` computes each row's halting probability and how many rows of its block run on; `move` adds
up the blocks before its own, which says where its rows go, and moves them. `decide` reads a row per
row and writes 4 bytes; `move` reads two and writes one, or two where the row halts; each reads one
more where `ffn_input` has not been added to `ffn_output` yet. One launch would save what `decide`
reads, at the price of programs that wait for each other.

The workspace, as int32: `HEADER` entries, the first of which counts finished blocks; a probability
per row (float32 bits); then one entry per block. The last block to finish makes it zeros again.

A block's entry says how many of its rows run on; the first one of `GROUP` blocks also says, above
that, what its whole group has: how many rows run on, and how many blocks have a row that asks for
another iteration. So `move` reads the first entries of all groups and the entries of its own group,
which for 65,000 rows of 768 columns are 320 in place of 16,250.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before
from albert_act_fast.kernels.layer_norm import layer_norm, load_rows
from albert_act_fast.ops.contracts import HALTING_WORKSPACE_HEADER

# As int32.
HEADER = tl.constexpr(2 * HALTING_WORKSPACE_HEADER)
# Fields of a block's entry: its rows from bit 0 on (32 at most), its group's from GROUP_ROWS on
# (32 * 256 at most), the group's blocks that ask from GROUP_ASKS on (256 at most).
GROUP = tl.constexpr(256)
GROUP_ROWS = tl.constexpr(1 << 6)
GROUP_ASKS = tl.constexpr(1 << 20)
# How many entries of the workspace, and how many sequence offsets, a program looks at at a time.
CHUNK = tl.constexpr(1024)
OFFSETS = tl.constexpr(64)


@triton.jit
def summed_rows(ffn_output, ffn_input, ffn_output_stride, ffn_input_stride, row, column, mask):
    """The candidate before its LayerNorm."""
    summed = load_rows(ffn_output, row, ffn_output_stride, column, mask)
    if ffn_input is not None:
        summed += load_rows(ffn_input, row, ffn_input_stride, column, mask)
    return summed


@triton.jit
def first_offset_above(offsets, sequences, row):
    """The index of the first of the ascending offsets [sequences + 1] that is greater than `row`,
    which one is."""
    probe = tl.arange(0, OFFSETS)
    low, size = 0, sequences  # it is `low` to `low + size`
    while size > 0:
        step = (size + OFFSETS - 1) // OFFSETS
        offset = tl.load(offsets + low + probe * step, mask=probe * step < size, other=row + 1)
        passed = tl.sum((offset <= row).to(tl.int32), 0)
        high = tl.minimum(low + size, low + passed * step)
        low = tl.where(passed > 0, low + (passed - 1) * step + 1, low)
        size = high - low
    return low


@triton.jit
def halting_rule(accumulated, p, threshold):
    """For running rows: the accumulated probability reached; which rows halt now, and their
    remainder, which is the candidate's weight in the mix (0 and p elsewhere); which go on, if there
    is another iteration; and which of those ask for one.

    Only a threshold of 1 lets a row reach exactly 1 without passing it: it never runs again. Where
    p is NaN a row does none of these.
    """
    reached = accumulated + p
    halts = reached > threshold
    remainder = tl.where(halts, 1.0 - accumulated, 0.0)
    goes_on = (reached <= threshold) & (reached < 1.0)
    return reached, halts, remainder, goes_on, reached < threshold


@triton.jit(do_not_specialize=["rows", "sequences"])
def decide(
    ffn_output, ffn_input, ln_weight, ln_bias, eps, halting_weight, halting_bias, threshold,
    accumulated_probability, query_offsets, workspace,
    rows, sequences, width, ffn_output_stride, ffn_input_stride,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    live = tl.load(query_offsets + sequences)
    block = tl.program_id(0)
    first = block.to(tl.int64) * ROWS
    if first >= live:
        return
    row = first + tl.arange(0, ROWS)
    is_row = row < live
    column = tl.arange(0, WIDTH)
    is_column = column < width
    mask = is_row[:, None] & is_column[None, :]
    summed = summed_rows(
        ffn_output, ffn_input, ffn_output_stride, ffn_input_stride, row, column, mask
    )
    candidate = layer_norm(summed, column, width, ln_weight, ln_bias, eps)
    weight = tl.load(halting_weight + column, mask=is_column, other=0.0).to(tl.float32)
    # Lanes past the width hold 0 * 0 + 0 from LayerNorm, and a weight of 0.
    logit = tl.sum(candidate * weight[None, :], 1) + tl.load(halting_bias).to(tl.float32)
    p = 1.0 / (1.0 + tl.exp(-logit))
    hp = tl.load(accumulated_probability + row, mask=is_row, other=2.0)
    _reached, _halts, _remainder, goes_on, asks = halting_rule(hp, p, threshold)
    runs_on = is_row & goes_on
    asks = runs_on & asks
    tl.store(workspace + HEADER + row, p.to(tl.int32, bitcast=True), mask=is_row)
    any_asks = tl.max(asks.to(tl.int32), 0)
    count = tl.sum(runs_on.to(tl.int32), 0)
    # Sums of integers, read by the next launch: no order among programs is asked for.
    counts = workspace + HEADER + rows
    of_group = count * GROUP_ROWS + any_asks * GROUP_ASKS
    tl.atomic_add(counts + block, count, sem="relaxed")
    tl.atomic_add(counts + block // GROUP * GROUP, of_group, sem="relaxed")


@triton.jit(do_not_specialize=["iteration", "rows", "sequences"])
def move(
    ffn_output, ffn_input, hidden, ln_weight, ln_bias, eps, threshold, iteration,
    accumulated_probability, token_index, query_offsets,
    next_hidden, next_accumulated_probability, next_token_index, next_query_offsets,
    workspace, out, n_updates, remainders,
    rows, sequences, width,
    ffn_output_stride, ffn_input_stride, hidden_stride, next_hidden_stride, out_stride,
    LAST: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
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

    # All rows are asked for before anything is computed, so that one wait is for all of them.
    row = first + tl.arange(0, ROWS)
    is_row = row < live
    column = tl.arange(0, WIDTH)
    mask = is_row[:, None] & (column < width)[None, :]
    summed = summed_rows(
        ffn_output, ffn_input, ffn_output_stride, ffn_input_stride, row, column, mask
    )
    state = load_rows(hidden, row, hidden_stride, column, mask)
    probabilities = workspace + HEADER
    p = tl.load(probabilities + row, mask=is_row, other=0).to(tl.float32, bitcast=True)
    hp = tl.load(accumulated_probability + row, mask=is_row, other=0.0)
    token = tl.load(token_index + row, mask=is_row, other=0)

    # What runs on before this block, and whether any row at all asks for another iteration.
    blocks = ((live + ROWS - 1) // ROWS).to(tl.int32)
    counts = probabilities + rows
    group = block // GROUP
    other = group * GROUP + tl.arange(0, GROUP)
    entry = tl.load(counts + other, mask=other < block, other=0)
    before = tl.sum(entry % GROUP_ROWS, 0)
    asking = 0
    groups = (blocks + GROUP - 1) // GROUP
    for start in range(0, groups, GROUP):
        other = start + tl.arange(0, GROUP)
        entry = tl.load(counts + other * GROUP, mask=other < groups, other=0)
        before += tl.sum(tl.where(other < group, entry % GROUP_ASKS // GROUP_ROWS, 0), 0)
        asking += tl.sum(entry // GROUP_ASKS, 0)

    reached, halts, remainder, goes_on, _asks = halting_rule(hp, p, threshold)
    stays = is_row & goes_on
    if LAST:
        asking = asking * 0
    stays = stays & (asking > 0)
    before = tl.where(asking > 0, before, 0)

    candidate = layer_norm(summed, column, width, ln_weight, ln_bias, eps)
    weight = tl.where(halts, remainder, p)[:, None]
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
    start = first_offset_above(query_offsets, sequences, first) if block > 0 else 0
    more = start <= sequences
    while more:
        b = start + tl.arange(0, OFFSETS)
        offset = tl.load(query_offsets + b, mask=b <= sequences, other=live + ROWS)
        inside = tl.sum(tl.where(row[None, :] < offset[:, None], staying[None, :], 0), 1)
        tl.store(
            next_query_offsets + b,
            tl.where(offset == 0, 0, before + inside),
            mask=(offset <= first + ROWS) & (b <= sequences),
        )
        start += OFFSETS
        more = tl.max(offset, 0) <= first + ROWS

    # All accesses of this program come before its own mark, and the last one sees all marks.
    tl.debug_barrier()
    finished = tl.atomic_add(workspace, 1, sem="acq_rel") + 1
    if finished == blocks:
        tl.debug_barrier()
        tl.store(workspace, 0)
        for start in range(0, live.to(tl.int32), CHUNK):
            place = start + chunk
            tl.store(probabilities + place, place * 0, mask=place < live)
        for start in range(0, blocks, CHUNK):
            place = start + chunk
            tl.store(counts + place, place * 0, mask=place < blocks)
