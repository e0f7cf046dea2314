"""One batch through the model: the only place where texts meet it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from albert_act_fast.text.fork import one_thread_after_fork
from albert_act_fast.text.native import head_pooling, make_native, why_not_now
from albert_act_fast.text.results import HaltingRule

if TYPE_CHECKING:
    from albert_act_fast.engine.native_encoder import EncodedRows, NativeEncoder
    from albert_act_fast.implementations import Choice
    from albert_act_fast.text.tokenize import TokenizedText

POOLINGS = ("mean", "cls", "pooler")
# Rules besides the model's own whose weights stay packed.
_KEPT_RULES = 2


def _tensor(values: Iterable[int]) -> Tensor:
    return torch.from_numpy(np.array([*values], np.int64))  # half of torch.tensor's time


@dataclass(frozen=True)
class PackedBatch:
    """Ids of B sequences one after the other: int64 [T]; sequence b owns `offsets[b]` to
    `offsets[b + 1]`, int64 [B + 1]. token_type_ids: int64 [T], or None where all are 0."""

    input_ids: Tensor
    token_type_ids: Tensor | None
    offsets: Tensor

    @classmethod
    def of(cls, texts: Sequence[TokenizedText]) -> PackedBatch:
        types = None
        if any(any(t.token_type_ids) for t in texts):
            types = _tensor(chain.from_iterable(t.token_type_ids for t in texts))
        ids = _tensor(chain.from_iterable(t.input_ids for t in texts))
        return cls(ids, types, _tensor(accumulate((len(t.input_ids) for t in texts), initial=0)))

    @cached_property
    def lengths(self) -> list[int]:
        return self.offsets.diff().tolist()


@dataclass(frozen=True)
class PooledBatch:
    """rows: float32 [B, H]; n_updates: float32 [T], of the batch's tokens."""

    rows: np.ndarray
    n_updates: Tensor
    batch: PackedBatch

    @cached_property
    def tokens_by_iterations(self) -> np.ndarray:
        """int64 [B, N + 1], of each sequence how many tokens took 0 to N iterations, where N is the
        most that one took."""
        iterations = self.n_updates.numpy().astype(np.int64)
        lengths, columns = self.batch.lengths, int(iterations.max()) + 1
        if len(lengths) > 1:
            iterations += columns * np.repeat(np.arange(len(lengths)), lengths)
        counts = np.bincount(iterations, minlength=len(lengths) * columns)
        return counts.reshape(len(lengths), columns)


def encode_packed(
    frozen: FrozenModel, batch: PackedBatch, *, rule: HaltingRule, pooling: str
) -> PooledBatch:
    """One embedding for each sequence.

    As in all of these functions, the native call computes sequences of token type 0 alone; for
    others it is the model's own forward pass.

    Args:
        pooling: "mean" over a sequence's tokens, "cls", its first token, or "pooler".
    """
    with frozen.lock:
        native = frozen.native_for(batch, pooling)
        if native is not None:
            found = run_native(native, batch, rule, pooling)
            return PooledBatch(found.rows.numpy(), found.n_updates, batch)
        with frozen.under(rule) as model:
            out = run_padded(bare(model), batch, implementation=frozen.choice.name)
    if pooling == "pooler":
        pooled = out.pooler_output
    elif pooling == "cls":
        pooled = out.last_hidden_state[:, 0]
    else:
        # At padding states are 0.
        lengths = batch.offsets.diff().to(out.last_hidden_state.device)
        pooled = out.last_hidden_state.float().sum(dim=1) / lengths.unsqueeze(1)
    n_updates = torch.cat(_own(out.n_updates.cpu(), batch))
    return PooledBatch(pooled.float().cpu().numpy(), n_updates, batch)


def row_of(frozen: FrozenModel, input_ids: list[int], *, pooling: str) -> np.ndarray | None:
    """The embedding [H] of one sequence of token type 0 under the model's own rule, by a native
    call; None where it takes more than that, or is not finite."""
    batch = PackedBatch(_tensor(input_ids), None, _tensor((0, len(input_ids))))
    with frozen.lock:
        native = frozen.native_for(batch, pooling)
        if native is None:
            return None
        found = run_native(native, batch, frozen.rule, pooling)
    return found.rows.numpy()[0] if found.finite else None


def states_packed(
    frozen: FrozenModel, batch: PackedBatch, *, rule: HaltingRule
) -> dict[str, Sequence[Tensor]]:
    """Of each sequence its own last_hidden_state [S, H], n_updates and remainders [S]."""
    fields = ("last_hidden_state", "n_updates", "remainders")
    with frozen.lock:
        native = frozen.native_for(batch)
        if native is not None:
            found = run_native(native, batch, rule)
            return {f: x.split(batch.lengths) for f, x in zip(fields, found, strict=False)}
        with frozen.under(rule) as model:
            out = run_padded(bare(model), batch, implementation=frozen.choice.name)
    return {field: _own(out[field].cpu(), batch) for field in fields}


def head_packed(
    frozen: FrozenModel, batch: PackedBatch, *, rule: HaltingRule
) -> dict[str, Sequence[Tensor]] | None:
    """Of each sequence the fields of the model's head and its own n_updates [S]; None where the
    model's own forward pass has to compute them.

    The head is called with one sequence at a time, so that its products too are those of a text
    alone: the heads that this is done for (`native.HEADS`) are small.
    """
    pooling = frozen.head_pooling
    with frozen.lock:
        native = None if pooling is None else frozen.native_for(batch, pooling)
        if native is None:
            return None
        found = run_native(native, batch, rule, pooling)
        rows = found.rows.to(native.dtype)
        parts = rows.split(1) if pooling == "pooler" else rows.split(batch.lengths)
        with torch.inference_mode():
            # Copies, which all begin alike in memory: libraries' sums may depend on that.
            fields = [frozen.head(part.clone()) for part in parts]
    named = {name: [field[name][0] for field in fields] for name in fields[0]}
    return named | {"n_updates": found.n_updates.split(batch.lengths)}


def run_native(
    native: NativeEncoder, batch: PackedBatch, rule: HaltingRule, pooling: str = "none"
) -> EncodedRows:
    one_thread_after_fork()
    return native.run(
        batch.input_ids,
        batch.offsets,
        **rule.limits._asdict(),
        pooling=pooling,
    )


def _own(values: Tensor, batch: PackedBatch) -> list[Tensor]:
    return [row[:length] for row, length in zip(values, batch.lengths, strict=True)]


def run_padded(model: nn.Module, batch: PackedBatch, *, implementation: str):
    """The model's own output for the sequences, padded on the right."""
    device = model.device

    def padded(values: Tensor) -> Tensor:
        return pad_sequence(values.split(batch.lengths), batch_first=True).to(device)

    types = None if batch.token_type_ids is None else padded(batch.token_type_ids)
    one_thread_after_fork()
    with torch.inference_mode():
        return model(
            input_ids=padded(batch.input_ids),
            token_type_ids=types,
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

    Calls from several threads are computed one after the other. device: the model's; rule: its own.

    Args:
        model: any of this package's models; it is put into eval mode, and its settings that
            change what a call returns are set back.
        choice: the implementation, and why that one.
        batch_invariant: all products are to be the native engine's own, even where others are
            faster.
    """

    def __init__(self, model: nn.Module, choice: Choice, *, batch_invariant: bool = False):
        self.choice = choice
        self._batch_invariant = batch_invariant
        self.model = model.eval().requires_grad_(False)
        config = model.config
        config.return_dict = True
        config.output_attentions = config.output_hidden_states = False
        self._restart()

    def _restart(self) -> None:
        self.lock = threading.RLock()
        self.device = self.model.device
        config = self.model.config
        self.rule = HaltingRule(config.num_hidden_layers, config.act_epsilon)
        self._others: OrderedDict[HaltingRule, nn.Module] = OrderedDict()
        self._made = False

    def __getstate__(self):
        return {
            "choice": self.choice,
            "model": self.model,
            "_batch_invariant": self._batch_invariant,
        }

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._restart()

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

    @property
    def head_pooling(self) -> str | None:
        """How states come to the model's head, where that may be called by itself; else None."""
        if not self._made:
            self.why_not_native()
        return self._native_head

    def head(self, rows: Tensor) -> dict[str, Tensor]:
        """The fields of the model's head, of one sequence.

        Args:
            rows: its states [S, H], or [1, H], what the pooler made of them.
        """
        pooled = self.head_pooling == "pooler"
        encoded = SimpleNamespace(
            pooler_output=rows if pooled else None,
            last_hidden_state=None if pooled else rows.unsqueeze(0),
        )
        return self.model._apply_head(encoded)

    def native_for(self, batch: PackedBatch, pooling: str = "none") -> NativeEncoder | None:
        """What computes a batch in one native call, under any rule; None where the model's own
        forward pass has to. Packed once: nothing looks after the weights."""
        if batch.token_type_ids is not None or self.why_not_native(pooling) is not None:
            return None
        return self._native.encoder

    def why_not_native(self, pooling: str = "none") -> str | None:
        """None where a native call can compute such a batch now, else the reason."""
        with self.lock:
            if not self._made:
                self._native = make_native(bare(self.model), self.choice, self._batch_invariant)
                self._native_head = head_pooling(self.model)
                self._made = True
        if pooling == "pooler" and self._native.why_no_pooler is not None:
            return self._native.why_no_pooler
        return self._native.why_not or why_not_now()

    def why_not_batch_invariant(self) -> str | None:
        """None where a text's embedding has the same bits in every batch, else the reason."""
        reason = self.why_not_native()
        if reason is None and not self._native.encoder.engine.is_batch_invariant:
            reason = "products of many rows are oneDNN's (see batch_invariant of TextEncoder)"
        return reason

    @contextmanager
    def under(self, rule: HaltingRule):
        """The model under that rule, for one batch."""
        with self.lock:
            if rule == self.rule:
                yield self.model
                return
            if rule not in self._others:
                self._others[rule] = _with_rule(self.model, rule)
                if len(self._others) > _KEPT_RULES:
                    self._others.popitem(last=False)
            self._others.move_to_end(rule)
            yield self._others[rule]


def bare(model: nn.Module) -> nn.Module:
    """Without its head."""
    return getattr(model, model.base_model_prefix, model)


def _with_rule(model: nn.Module, rule: HaltingRule) -> nn.Module:
    """The same weights, not copied, under another rule."""
    import copy

    tensors = chain(model.parameters(), model.buffers())
    other = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    other.config.num_hidden_layers = rule.max_iterations
    other.config.act_epsilon = rule.act_epsilon
    return other
