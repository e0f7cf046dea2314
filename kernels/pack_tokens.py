"""The tokens of a padded batch one after the other, and the state before the first iteration."""

import triton
import triton.language as tl

from albert_act_fast.kernels.count_tokens import load_mask
from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before


@triton.jit(do_not_specialize=["sequences", "tokens"])
def pack_tokens(
    input_ids, attention_mask, token_type_ids, position_ids, key_offsets,
    row_of_place, packed_ids, packed_token_types, packed_position_ids, positions,
    accumulated_probability, token_index, query_offsets, moved_offsets,
    sequences, tokens,
    input_ids_stride, attention_mask_stride, token_type_ids_stride, position_ids_stride,
    COLUMNS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    sequence = tl.program_id(0)
    first = tl.load(key_offsets + sequence)
    tl.store(query_offsets + sequence, first)
    tl.store(moved_offsets + sequence, first)
    if sequence >= sequences:  # the capacity has more than the batch
        return
    b = sequence.to(tl.int64)
    for start in range(0, tokens, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < tokens
        is_token, _ = load_mask(attention_mask, b * attention_mask_stride + column, inside)
        taken = is_token.to(tl.int64)
        row = first + tl.cumsum(taken, 0) - taken
        place = b * tokens + column
        tl.store(row_of_place + place, tl.where(is_token, row, -1), mask=inside)
        # Given embeddings are a table that is indexed by the place.
        token = place
        if input_ids is not None:
            token = tl.load(input_ids + b * input_ids_stride + column, mask=is_token, other=0)
        tl.store(packed_ids + row, token.to(tl.int64), mask=is_token)
        kind = column * 0
        if token_type_ids is not None:
            of_row = token_type_ids + b * token_type_ids_stride
            kind = tl.load(of_row + column, mask=is_token, other=0)
        tl.store(packed_token_types + row, kind.to(tl.int64), mask=is_token)
        position = column
        if position_ids is not None:
            of_row = position_ids + b * position_ids_stride
            position = tl.load(of_row + column, mask=is_token, other=0)
        tl.store(packed_position_ids + row, position.to(tl.int64), mask=is_token)
        tl.store(positions + row, column.to(tl.int64), mask=is_token)
        tl.store(accumulated_probability + row, taken.to(tl.float32) * 0.0, mask=is_token)
        tl.store(token_index + row, row, mask=is_token)
        first += tl.sum(taken, 0)
