"""Each sequence's tokens, and its places that no model takes. Reads the padded batch once."""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before


@triton.jit
def load_mask(attention_mask, place, inside):
    """(whether each place is a token, whether its mask is neither 0 nor 1); all that are `inside`
    are tokens where there is no mask."""
    if attention_mask is None:
        return inside, inside & False
    value = tl.load(attention_mask + place, mask=inside, other=0)
    # Exact in float64, whatever the mask's dtype: 1 + 1e-12 is not 1, nor is NaN.
    value = value.to(tl.float64) if value.dtype.is_floating() else value.to(tl.int64)
    return inside & (value == 1), inside & (value != 0) & (value != 1)


@triton.jit
def out_of_range(ids, place, inside, size):
    """Whether each id is below 0, or not below `size`."""
    value = tl.load(ids + place, mask=inside, other=0).to(tl.int64)
    return inside & ((value < 0) | (value >= size))


@triton.jit(do_not_specialize=["tokens", "vocabulary", "token_types", "positions"])
def count_tokens(
    input_ids, attention_mask, token_type_ids, position_ids,
    tokens, vocabulary, token_types, positions, found, sequences,
    input_ids_stride, attention_mask_stride, token_type_ids_stride, position_ids_stride,
    COLUMNS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    b = tl.program_id(0).to(tl.int64)
    count = tl.zeros([COLUMNS], tl.int32)
    wrong = tl.zeros([COLUMNS], tl.int32)
    for start in range(0, tokens, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < tokens
        is_token, is_wrong = load_mask(attention_mask, b * attention_mask_stride + column, inside)
        if input_ids is not None:
            place = b * input_ids_stride + column
            is_wrong |= out_of_range(input_ids, place, inside, vocabulary)
        if token_type_ids is not None:
            place = b * token_type_ids_stride + column
            is_wrong |= out_of_range(token_type_ids, place, inside, token_types)
        if position_ids is not None:
            place = b * position_ids_stride + column
            is_wrong |= out_of_range(position_ids, place, inside, positions)
        count += is_token.to(tl.int32)
        wrong += is_wrong.to(tl.int32)
    tl.store(found + b, tl.sum(count, 0))
    tl.store(found + sequences + b, tl.sum(wrong, 0))
