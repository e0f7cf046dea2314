"""softmax(q k^T / sqrt(D) + relative) v of running queries over all tokens of their sequence.

One program has one head and at most BLOCK_Q running rows of one sequence, and goes once over the
sequence's keys and values, keeping each row's maximum and sum (online softmax). Relative positions
take a slow path: one column of the distance table after the other, added up in float32.
"""

import triton
import triton.language as tl

from albert_act_fast.kernels.dependent_launch import wait_for_the_kernel_before

LOG2_E = tl.constexpr(1.4426950408889634)
# Sequence offsets that a program looks at at a time.
OFFSETS = tl.constexpr(256)


@triton.jit
def find_sequence(query_offsets, sequences, block, BLOCK_Q: tl.constexpr):
    """The sequence whose rows `block` may have.

    Sequence b's blocks begin at query_offsets[b] // BLOCK_Q + b: always enough of them, so that
    the number of blocks, rows // BLOCK_Q + sequences, needs no count of the device's.
    """
    found = 0
    for start in range(0, sequences, OFFSETS):
        b = start + tl.arange(0, OFFSETS)
        offset = tl.load(query_offsets + b, mask=b < sequences, other=0)
        begins = offset // BLOCK_Q + b
        found += tl.sum(((begins <= block) & (b < sequences)).to(tl.int32), 0)
    return found - 1


@triton.jit
def relative_scores(
    queries, key_store, distance_embedding, distance_embedding_stride, distance, is_pair,
    query_start, key_start, is_row, is_key, head_size,
    KEY_DISTANCES: tl.constexpr,
):  # fmt: skip
    """q . e, or (q + k) . e, of every pair of the tile; `*_start`: where each row's head begins.

    Summed in pieces of 8 columns, which keeps the rounding error of one long sum away.
    """
    scores = tl.zeros(distance.shape, tl.float32)
    for start in range(0, head_size, 8):
        piece = tl.zeros(distance.shape, tl.float32)
        for d in range(start, tl.minimum(start + 8, head_size)):
            e = tl.load(
                distance_embedding + distance * distance_embedding_stride + d,
                mask=is_pair,
                other=0.0,
            ).to(tl.float32)
            left = tl.load(queries + query_start + d, mask=is_row, other=0.0).to(tl.float32)
            left = left[:, None]
            if KEY_DISTANCES:
                key = tl.load(key_store + key_start + d, mask=is_key, other=0.0).to(tl.float32)
                left = left + key[None, :]
            piece += left * e
        scores += piece
    return scores


@triton.jit(do_not_specialize=["sequences"])
def ragged_attention(
    queries, key_store, value_store, query_offsets, key_offsets, token_index, positions,
    distance_embedding, out,
    sequences, head_size, scale, distances,
    queries_stride, key_store_stride, value_store_stride, distance_embedding_stride, out_stride,
    KEY_DISTANCES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, HEAD: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_the_kernel_before(PDL)
    block = tl.program_id(0)
    sequence = find_sequence(query_offsets, sequences, block, BLOCK_Q)
    begin = tl.load(query_offsets + sequence)
    end = tl.load(query_offsets + sequence + 1)
    first = begin + (block - begin // BLOCK_Q - sequence) * BLOCK_Q
    if first >= end:
        return
    row = first + tl.arange(0, BLOCK_Q)
    is_row = row < end
    d = tl.arange(0, HEAD)
    is_d = d < head_size
    head = tl.program_id(1) * head_size
    query_start = row * queries_stride + head
    q = tl.load(
        queries + query_start[:, None] + d[None, :], mask=is_row[:, None] & is_d[None, :], other=0.0
    )
    if distance_embedding is not None:
        token = tl.load(token_index + row, mask=is_row, other=0)
        query_position = tl.load(positions + token, mask=is_row, other=0)

    key_end = tl.load(key_offsets + sequence + 1)
    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, HEAD], tl.float32)
    for key_first in range(tl.load(key_offsets + sequence), key_end, BLOCK_K):
        key = (key_first + tl.arange(0, BLOCK_K)).to(tl.int64)
        is_key = key < key_end
        key_start = key * key_store_stride + head
        k = tl.load(
            key_store + key_start[None, :] + d[:, None],
            mask=is_key[None, :] & is_d[:, None],
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        if distance_embedding is not None:
            key_position = tl.load(positions + key, mask=is_key, other=0)
            distance = query_position[:, None] - key_position[None, :] + (distances - 1) // 2
            scores += relative_scores(
                queries, key_store, distance_embedding, distance_embedding_stride, distance,
                is_row[:, None] & is_key[None, :], query_start, key_start, is_row, is_key,
                head_size, KEY_DISTANCES,
            )  # fmt: skip
        scores = tl.where(is_key[None, :], scores * LOG2_E, float("-inf"))
        # The first block has a key for every row, so `highest` is finite from here on.
        now_highest = tl.maximum(highest, tl.max(scores, 1))
        weight = tl.exp2(scores - now_highest[:, None])
        fade = tl.exp2(highest - now_highest)
        total = total * fade + tl.sum(weight, 1)
        highest = now_highest
        v = tl.load(
            value_store + (key * value_store_stride + head)[:, None] + d[None, :],
            mask=is_key[:, None] & is_d[None, :],
            other=0.0,
        )
        acc = acc * fade[:, None]
        acc = tl.dot(weight.to(v.dtype), v, acc, input_precision=PRECISION)
    tl.store(
        out + (row * out_stride + head)[:, None] + d[None, :],
        (acc / total[:, None]).to(out.dtype.element_ty),
        mask=is_row[:, None] & is_d[None, :],
    )
