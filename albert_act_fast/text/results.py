"""What `TextEncoder` returns. H: hidden size, n: number of texts, T: tokens of one text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from albert_act_fast.configuration import HaltingLimits
    from albert_act_fast.text.errors import TextError


@dataclass(frozen=True)
class HaltingRule:
    """The rule a result was computed with: a token halts once its accumulated probability exceeds
    `1 - act_epsilon`, or after `max_iterations`."""

    max_iterations: int
    act_epsilon: float

    @cached_property
    def limits(self) -> HaltingLimits:
        """As engines are told it."""
        from albert_act_fast.configuration import HaltingLimits, rounded_threshold

        return HaltingLimits(rounded_threshold(self.act_epsilon), self.max_iterations)


@dataclass(frozen=True)
class TextCost:
    """What one text took.

    tokens: how many, special ones included; over all windows where it was split.
    rows: token iterations computed, the sum of the tokens' iterations.
    truncated: whether the text was cut to the model's length.
    windows: in how many it was split, 1 for a text that fits.
    tokens_by_iterations: how many tokens took 0, 1, 2, ... iterations, up to the most of one token.
    """

    tokens: int
    rows: int
    truncated: bool
    windows: int
    tokens_by_iterations: tuple[int, ...]

    @property
    def mean_iterations(self) -> float:
        return self.rows / self.tokens


@dataclass(frozen=True)
class TextEmbedding:
    """One text of a stream. index: place in the input, from 0; embedding: float32 [H]."""

    index: int
    text: str
    embedding: np.ndarray
    cost: TextCost
    rule: HaltingRule


@dataclass(frozen=True)
class EncodeResult:
    """`TextEncoder.encode` with `details=True` or `errors="collect"`.

    embeddings: float32 [n, H], NaN in the rows of texts that failed.
    errors: those texts, by index.
    tokens, rows: int64 [n], as in `TextCost`, 0 for texts that failed.
    """

    embeddings: np.ndarray | torch.Tensor
    errors: list[TextError]
    tokens: np.ndarray
    rows: np.ndarray
    rule: HaltingRule


@dataclass(frozen=True)
class TextDepth:
    """How deep each token of a text went.

    tokens: the tokenizer's pieces [T]; input_ids: their ids; offsets: character ranges in the text,
    None if the tokenizer gives none; iterations: how many each took; remainders: 1 minus the
    accumulated probability before the halting iteration, 0 where a token did not halt; special:
    for a special token its name ("[CLS]", "[SEP]", "[MASK]" or "special"), else None.

    probabilities, accumulated: of each token p and the accumulated probability of each of its
    iterations; None where not asked for.

    `albert_act_fast.depth` has its tokens one by one, and its pictures; a notebook shows it.
    """

    index: int
    text: str
    tokens: list[str]
    input_ids: list[int]
    offsets: list[tuple[int, int]] | None
    iterations: list[int]
    remainders: list[float]
    cost: TextCost
    rule: HaltingRule
    special: list[str | None]
    probabilities: list[list[float]] | None = None
    accumulated: list[list[float]] | None = None

    def _repr_html_(self) -> str:
        from albert_act_fast.depth import fragment

        return fragment([self])


@dataclass(frozen=True)
class TextClass:
    """The class of a text.

    label: the most probable one; None in a regression.
    labels: all whose probability exceeds 0.5, where a text may have several.
    score: its probability; in a regression the predicted number.
    scores: of every label. Softmax over labels, or each label's own sigmoid where
        `config.problem_type` is "multi_label_classification".
    """

    index: int
    text: str
    label: str | None
    score: float
    scores: dict[str, float]
    labels: list[str] = field(default_factory=list)
    cost: TextCost | None = None
    rule: HaltingRule | None = None


@dataclass(frozen=True)
class FilledMask:
    """What a model puts in the place of one mask.

    position: of the mask among the text's tokens; tokens, token_ids, scores: the most probable
    ones, best first; iterations: how many the mask took.
    """

    position: int
    tokens: list[str]
    token_ids: list[int]
    scores: list[float]
    iterations: int


@dataclass(frozen=True)
class FilledText:
    """The masks of one text, in its order."""

    index: int
    text: str
    masks: list[FilledMask]
    cost: TextCost
    rule: HaltingRule


@dataclass(frozen=True)
class TokenClass:
    """One token's class; offsets: its characters in the text."""

    token: str
    offsets: tuple[int, int] | None
    label: str
    score: float
    iterations: int


@dataclass(frozen=True)
class TokenClasses:
    """The classes of a text's tokens, special tokens left out."""

    index: int
    text: str
    tokens: list[TokenClass]
    cost: TextCost
    rule: HaltingRule
