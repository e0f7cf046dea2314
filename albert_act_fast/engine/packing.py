"""From a padded batch to packed rows, and what comes back of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PackedTokens:
    """Where the T tokens of a padded [B, S] batch stand; padding has no row.

    flat_index: int64 [T], each token's place in the flattened batch, ascending, hence sorted by
        sequence.
    positions: int64 [T], each token's column: holes and left padding keep their places.
    offsets: int64 [B + 1], sequence b owns rows offsets[b] to offsets[b + 1].
    """

    flat_index: Tensor
    positions: Tensor
    offsets: Tensor


@dataclass
class PackedResult:
    """hidden [T, H]; n_updates, remainders [T] float32; running_rows: how many rows each iteration
    computed, from T down; empty where only the device knows."""

    hidden: Tensor
    n_updates: Tensor
    remainders: Tensor
    running_rows: list[int] = field(default_factory=list)


def pack(attention_mask: Tensor) -> PackedTokens:
    """Packs the True places of a bool mask [B, S]; rows may be all False."""
    flat_index = attention_mask.flatten().nonzero().squeeze(1)
    offsets = F.pad(attention_mask.sum(1).cumsum(0), (1, 0))
    return PackedTokens(flat_index, flat_index % attention_mask.size(1), offsets)
