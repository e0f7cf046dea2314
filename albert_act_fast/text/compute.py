"""One batch through the model: the only place where texts meet it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from albert_act_fast.text.fork import one_thread_after_fork
from albert_act_fast.text.results import HaltingRule

if TYPE_CHECKING:
    from albert_act_fast.implementations import Choice
    from albert_act_fast.text.tokenize import TokenizedText

POOLINGS = ("mean", "cls", "pooler")
# Rules besides the model's own whose weights stay packed.
_KEPT_RULES = 2


@dataclass(frozen=True)
class PackedBatch:
    """Ids of B sequences one after the other: int64 [T]; sequence b owns `offsets[b]` to
    `offsets[b + 1]`, int64 [B + 1]."""

    input_ids: Tensor
    token_type_ids: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, texts: Sequence[TokenizedText]) -> PackedBatch:
        lengths = [0, *(len(t.input_ids) for t in texts)]
        return cls(
            torch.tensor(list(chain.from_iterable(t.input_ids for t in texts))),
            torch.tensor(list(chain.from_iterable(t.token_type_ids for t in texts))),
            torch.tensor(lengths).cumsum(0),
        )

    @property
    def lengths(self) -> list[int]:
        return self.offsets.diff().tolist()


@dataclass(frozen=True)
class PooledBatch:
    """rows: float32 [B, H]; tokens_by_iterations: int64 [B, N + 1], of each sequence how many
    tokens took 0 to N iterations, where N is the most that one took."""

    rows: np.ndarray
    tokens_by_iterations: np.ndarray


def encode_packed(
    model: nn.Module, batch: PackedBatch, *, pooling: str, implementation: str
) -> PooledBatch:
    """One embedding for each sequence.

    Args:
        model: the bare model, in eval mode.
        pooling: "mean" over a sequence's tokens, "cls", its first token, or "pooler".
    """
    out = run_padded(model, batch, implementation=implementation)
    if pooling == "pooler":
        pooled = out.pooler_output
    elif pooling == "cls":
        pooled = out.last_hidden_state[:, 0]
    else:
        # At padding states are 0.
        lengths = batch.offsets.diff().to(out.last_hidden_state.device)
        pooled = out.last_hidden_state.float().sum(dim=1) / lengths.unsqueeze(1)
    return PooledBatch(pooled.float().cpu().numpy(), _histograms(out.n_updates, batch))


def _histograms(n_updates: Tensor, batch: PackedBatch) -> np.ndarray:
    n_updates = n_updates.round().long().cpu()
    sequences, columns = len(n_updates), int(n_updates.max()) + 1
    places = n_updates + columns * torch.arange(sequences).unsqueeze(1)
    counts = places.flatten().bincount(minlength=sequences * columns).view(sequences, columns)
    # At padding n_updates is 0.
    counts[:, 0] -= n_updates.size(1) - batch.offsets.diff()
    return counts.numpy()


def run_padded(model: nn.Module, batch: PackedBatch, *, implementation: str):
    """The model's own output for the sequences, padded on the right."""
    device = model.device

    def padded(values: Tensor) -> Tensor:
        return pad_sequence(values.split(batch.lengths), batch_first=True).to(device)

    one_thread_after_fork()
    with torch.inference_mode():
        return model(
            input_ids=padded(batch.input_ids),
            token_type_ids=padded(batch.token_type_ids),
            attention_mask=padded(torch.ones_like(batch.input_ids)),
            implementation=implementation,
        )


def run_recorded(model: nn.Module, batch: PackedBatch) -> dict[str, Tensor]:
    """The reference loop's output for the sequences, padded on the right, with `probabilities` and
    `accumulated` [B, S, N] of every iteration."""
    from albert_act_fast.depth.recording import halting_record, recording

    with recording(model) as seen:
        out = run_padded(model, batch, implementation="reference")
    tokens = pad_sequence(
        torch.ones_like(batch.input_ids, dtype=torch.bool).split(batch.lengths), batch_first=True
    )
    found = halting_record(seen, tokens.to(model.device), model.config)
    return {**out, "probabilities": found.probabilities, "accumulated": found.accumulated}


class FrozenModel:
    """A model of the encoder's own, its weights never to change, under the rules asked for.

    Calls from several threads are computed one after the other.

    Args:
        model: any of this package's models; it is put into eval mode, and its settings that
            change what a call returns are set back.
        choice: the implementation, and why that one.
    """

    def __init__(self, model: nn.Module, choice: Choice):
        self.choice = choice
        self.model = model.eval().requires_grad_(False)
        config = model.config
        config.return_dict = True
        config.output_attentions = config.output_hidden_states = False
        self._restart()

    def _restart(self) -> None:
        self._lock = threading.RLock()
        self._others: OrderedDict[HaltingRule, nn.Module] = OrderedDict()

    def __getstate__(self):
        return {"choice": self.choice, "model": self.model}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._restart()

    @property
    def rule(self) -> HaltingRule:
        """The model's own."""
        config = self.model.config
        return HaltingRule(config.num_hidden_layers, config.act_epsilon)

    def rule_of(self, max_iterations: int | None, act_epsilon: float | None) -> HaltingRule:
        """The rule that a call names, the model's own where it names none.

        Raises:
            ValueError: a value is out of its range.
        """
        own = self.rule
        if max_iterations is None:
            max_iterations = own.max_iterations
        elif not (
            isinstance(max_iterations, int)
            and not isinstance(max_iterations, bool)
            and 1 <= max_iterations <= own.max_iterations
        ):
            raise ValueError(
                f"max_iterations: got {max_iterations!r}, expected None or a whole number from "
                f"1 to {own.max_iterations}, the model's num_hidden_layers."
            )
        if act_epsilon is None:
            act_epsilon = own.act_epsilon
        elif not (isinstance(act_epsilon, int | float) and 0 <= act_epsilon < 1):
            raise ValueError(
                f"act_epsilon: got {act_epsilon!r}, expected None or a number in [0, 1)."
            )
        return HaltingRule(max_iterations, act_epsilon)

    @contextmanager
    def under(self, rule: HaltingRule):
        """The model under that rule, for one batch."""
        with self._lock:
            if rule == self.rule:
                yield self.model
                return
            if rule not in self._others:
                self._others[rule] = _with_rule(self.model, rule)
                if len(self._others) > _KEPT_RULES:
                    self._others.popitem(last=False)
            self._others.move_to_end(rule)
            yield self._others[rule]


def _with_rule(model: nn.Module, rule: HaltingRule) -> nn.Module:
    """The same weights, not copied, under another rule."""
    import copy

    tensors = chain(model.parameters(), model.buffers())
    other = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    other.config.num_hidden_layers = rule.max_iterations
    other.config.act_epsilon = rule.act_epsilon
    return other
