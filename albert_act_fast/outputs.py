"""What the encoders and the models return.

Shapes: B sequences, S tokens (padded), H hidden size. All values at padding are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.albert.modeling_albert import AlbertForPreTrainingOutput


@dataclass
class EncoderResult:
    """What an encoder computes, padded; every value at padding is 0.

    last_hidden_state [B, S, H]; n_updates, remainders [B, S] float32; hidden_states and
    attentions: one entry an iteration (hidden_states: one more, the input), None if not asked for.
    """

    last_hidden_state: Tensor
    n_updates: Tensor
    remainders: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class DepthOfTokens:
    """How deep every token went; all models return these after transformers' own fields.

    updates: float32 [B, 1, 1, S], iterations per token in the published model's shape.
    n_updates: float32 [B, S], the same.
    remainders: float32 [B, S], `1 -` the accumulated probability before the halting iteration;
        0 for a token that reached the iteration limit without halting.
    ponder_cost: float32 [B, S], n_updates + remainders (Graves 2016, eq. 9); its gradient flows
        through the remainder alone.
    """

    updates: Tensor | None = None
    n_updates: Tensor | None = None
    remainders: Tensor | None = None
    ponder_cost: Tensor | None = None


@dataclass
class AlbertActModelOutput(DepthOfTokens, BaseModelOutputWithPooling):
    """transformers' `BaseModelOutputWithPooling` and the depth of every token."""


@dataclass
class AlbertActForPreTrainingOutput(DepthOfTokens, AlbertForPreTrainingOutput):
    """transformers' `AlbertForPreTrainingOutput` and the depth of every token."""


@dataclass
class AlbertActMaskedLMOutput(DepthOfTokens, MaskedLMOutput):
    """transformers' `MaskedLMOutput` and the depth of every token."""


@dataclass
class AlbertActSequenceClassifierOutput(DepthOfTokens, SequenceClassifierOutput):
    """transformers' `SequenceClassifierOutput` and the depth of every token."""


@dataclass
class AlbertActTokenClassifierOutput(DepthOfTokens, TokenClassifierOutput):
    """transformers' `TokenClassifierOutput` and the depth of every token."""


@dataclass
class AlbertActQuestionAnsweringOutput(DepthOfTokens, QuestionAnsweringModelOutput):
    """transformers' `QuestionAnsweringModelOutput` and the depth of every token."""


@dataclass
class AlbertActMultipleChoiceOutput(DepthOfTokens, MultipleChoiceModelOutput):
    """transformers' `MultipleChoiceModelOutput` and the depth of every token."""
