"""Configuration of ALBERT-ACT models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from transformers import AlbertConfig
from transformers.activations import ACT2FN


@dataclass(frozen=True)
class PositionType:
    """Where a model's positions enter.

    Attributes:
        embedded: an embedding of each token's position is added to the token's own.
        relative: scores have a term for the distance from query to key, of the query and the
            distance's embedding (Shaw et al. 2018).
        key_distances: of the key, too (Huang et al. 2020, method 4).
    """

    embedded: bool = False
    relative: bool = False
    key_distances: bool = False


POSITION_TYPES = {
    "absolute": PositionType(embedded=True),
    "relative_key": PositionType(relative=True),
    "relative_key_query": PositionType(relative=True, key_distances=True),
}


class HaltingLimits(NamedTuple):
    """When the iterations end: what the halting rule is told beside a token's own state, and the
    limit.

    Attributes:
        threshold: `1 - act_epsilon`, rounded to float32.
        max_iterations: the most iterations a token may take.
    """

    threshold: float
    max_iterations: int


def rounded_threshold(act_epsilon: float) -> float:
    """`1 - act_epsilon` rounded to float32, as the halting rule compares it."""
    # Not with struct: torch.compile cannot follow it.
    mantissa, exponent = math.frexp(1.0 - act_epsilon)
    return math.ldexp(round(math.ldexp(mantissa, 24)), exponent - 24)


# "albert" because some published checkpoints were saved under ALBERT's own model type.
ACCEPTED_MODEL_TYPES = ("albert_act", "albert")


class AlbertActConfig(AlbertConfig):
    """ALBERT's configuration plus the halting rule's and this package's settings.

    The defaults of the shared fields are those of the published `AlbertActConfig` (and of
    `AlbertConfig`); `tiny`, `small` and `base` give the sizes of the published checkpoints.

    Args:
        num_hidden_layers: the most iterations a token may take (N in the paper).
        act_epsilon: a token halts once its accumulated probability exceeds `1 - act_epsilon`
            (Graves 2016, eq. 7); in [0, 1).
        act_tau: weight of the ponder cost in the training loss; None leaves the loss untouched.
        position_embedding_type: "absolute", "relative_key" or "relative_key_query".
        implementation: what computes the encoder: "auto", "reference" or an engine
            implementation (see `albert_act_fast.implementations`).
        quantization: None, or "int8": the encoder's products with int8 weights and activations,
            on CPUs with the C++ operators; the halting state stays float32. Only implementation
            "reference" computes such a model in its own dtype.
        add_pooling_layer: whether an `AlbertActModel` has a pooler, where its call does not say; a
            saved model's configuration says what it had. Models with a head have what that needs.

    Raises:
        ValueError: a field is out of range, or the fields describe a model that is not
            ALBERT-ACT (several layer groups); the message names field, value and expectation.
    """

    model_type = "albert_act"
    # Per-token diagnostics have the batch's own length: the Trainer must not gather them.
    # A list, because the Trainer adds lists to it.
    keys_to_ignore_at_inference = [
        "hidden_states",
        "attentions",
        "updates",
        "n_updates",
        "remainders",
        "ponder_cost",
    ]

    position_embedding_type: str = "absolute"
    act_epsilon: int | float = 0.01
    act_tau: int | float | None = None
    implementation: str = "auto"
    quantization: str | None = None
    add_pooling_layer: bool = True

    @classmethod
    def tiny(cls, **overrides) -> AlbertActConfig:
        """Size of the published `albert-act-tiny`: at most 6 iterations."""
        return cls(**(_PUBLISHED_SIZE | {"num_hidden_layers": 6} | overrides))

    @classmethod
    def small(cls, **overrides) -> AlbertActConfig:
        """Size of the published `albert-act-small`: at most 12 iterations."""
        return cls(**(_PUBLISHED_SIZE | {"num_hidden_layers": 12} | overrides))

    @classmethod
    def base(cls, **overrides) -> AlbertActConfig:
        """Size of the published `albert-act-base`: at most 24 iterations."""
        return cls(**(_PUBLISHED_SIZE | {"num_hidden_layers": 24} | overrides))

    @property
    def halting_threshold(self) -> float:
        """`1 - act_epsilon` rounded to float32, as the halting rule compares it."""
        return rounded_threshold(self.act_epsilon)

    @property
    def halting_limits(self) -> HaltingLimits:
        """All that the iterations have to be told."""
        return HaltingLimits(self.halting_threshold, self.num_hidden_layers)

    def validate_limits(self):
        """Raises ValueError unless the fields that every call reads are in their range: they may
        have been set since the model was made."""
        limit = self.num_hidden_layers
        _require(type(limit) is int and limit >= 1, "num_hidden_layers", limit, "at least 1")
        epsilon = self.act_epsilon
        _require(
            isinstance(epsilon, int | float) and 0 <= epsilon < 1,
            "act_epsilon",
            epsilon,
            "a number in [0, 1)",
        )

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # transformers' own call of it is bound to the parent's method.
        self.validate_architecture()

    def validate_architecture(self):
        """Raises ValueError unless the fields describe an ALBERT-ACT model.

        Called when a configuration is made and when a model is made from it.
        """
        super().validate_architecture()
        self.validate_limits()
        tau = self.act_tau
        _require(
            tau is None or (isinstance(tau, int | float) and tau >= 0),
            "act_tau",
            tau,
            "None or a number of at least 0",
        )
        for name in (
            "vocab_size embedding_size hidden_size num_hidden_layers num_attention_heads "
            "intermediate_size max_position_embeddings type_vocab_size"
        ).split():
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"a multiple of num_attention_heads={self.num_attention_heads}",
        )
        _require(
            self.position_embedding_type in POSITION_TYPES,
            "position_embedding_type",
            self.position_embedding_type,
            f"one of {', '.join(POSITION_TYPES)}",
        )
        _require(
            self.hidden_act in ACT2FN, "hidden_act", self.hidden_act, f"one of {', '.join(ACT2FN)}"
        )
        _require(
            self.quantization in (None, "int8"), "quantization", self.quantization, "None or 'int8'"
        )
        for name in ("num_hidden_groups", "inner_group_num"):
            _require(
                getattr(self, name) == 1,
                name,
                getattr(self, name),
                "1: ALBERT-ACT iterates one weight-tied layer, so other values are another model",
            )

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type not in ACCEPTED_MODEL_TYPES:
            raise ValueError(
                f"model_type: the checkpoint's configuration says {model_type!r}; expected one of "
                f"{', '.join(ACCEPTED_MODEL_TYPES)}. This is a checkpoint of another architecture."
            )
        return super().from_dict({**config_dict, "model_type": cls.model_type}, **kwargs)


_PUBLISHED_SIZE = {
    "embedding_size": 128,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
}


def _require(holds: bool, name: str, given, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {given!r}, expected {expected}.")
