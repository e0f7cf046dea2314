"""The halting probability of every token in every iteration, as the reference loop computes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from albert_act_fast.reference import HaltingState, halting_rule

if TYPE_CHECKING:
    from albert_act_fast import AlbertActModel


@dataclass(frozen=True)
class HaltingRecord:
    """Halting of a padded batch of B sequences of S tokens, N iterations at most.

    probabilities: float32 [B, S, N], p of each iteration that updates the token.
    accumulated: float32 [B, S, N], the accumulated probability after it, 1 where the token halts.
    Both are 0 at padding and in iterations that were not computed or no longer update the token.
    n_updates, remainders: float32 [B, S], as in the model's output.
    """

    probabilities: Tensor
    accumulated: Tensor
    n_updates: Tensor
    remainders: Tensor


def record(
    model: AlbertActModel, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs
) -> HaltingRecord:
    """Runs the reference loop on a batch and keeps what its halting unit said.

    Args:
        model: a bare model, in eval mode.
        input_ids, attention_mask, inputs: as in a call of the model.

    Raises:
        ValueError: the model is in training mode, or as in a call of the model.
    """
    if model.training:
        raise ValueError("model: it is in training mode, expected eval mode (call model.eval()).")
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
    with torch.no_grad(), recording(model) as seen:
        model(input_ids, **inputs, implementation="reference", return_dict=True)
    tokens = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return halting_record(seen, tokens.bool(), model.config)


@contextmanager
def recording(model: AlbertActModel) -> Iterator[list[Tensor]]:
    """A list that holds p [B, S] of each iteration of the reference loop that runs in the block."""
    seen: list[Tensor] = []
    hook = model.encoder.albert_layer.act.register_forward_hook(
        lambda module, args, p: seen.append(p.detach())
    )
    try:
        yield seen
    finally:
        hook.remove()


def halting_record(seen: list[Tensor], tokens: Tensor, config) -> HaltingRecord:
    """The rule applied once more to the probabilities of one call; the same operations on the same
    numbers, so the same n_updates.

    Args:
        seen: p [B, S] of each iteration that ran.
        tokens: bool [B, S], True at tokens.
    """
    state = HaltingState.start(seen[0].unsqueeze(-1))
    shape = (*tokens.shape, config.num_hidden_layers)
    probabilities = torch.zeros(shape, dtype=state.n_updates.dtype, device=tokens.device)
    accumulated = torch.zeros_like(probabilities)
    for iteration, p in enumerate(seen):
        running, _, state = halting_rule(p, state, config.halting_limits)
        running = running & tokens
        probabilities[..., iteration] = p.where(running, torch.zeros_like(p))
        after = state.accumulated_probability
        accumulated[..., iteration] = after.where(running, torch.zeros_like(after))
    return HaltingRecord(
        probabilities,
        accumulated,
        state.n_updates.masked_fill(~tokens, 0),
        state.remainder.masked_fill(~tokens, 0),
    )
