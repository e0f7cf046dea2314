"""What a `TextEncoder` is made of: a frozen model, its tokenizer, and how texts go through both."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

import torch

from albert_act_fast.text import loading, pipeline
from albert_act_fast.text.compute import FrozenModel, bare
from albert_act_fast.text.errors import TextError
from albert_act_fast.text.tokenize import TextTokenizer, TokenizedText, TokenizeOptions
from albert_act_fast.tokenizer import check_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from albert_act_fast.text.encoder import TextEncoder

# Tokens in a batch: enough rows for the products, few enough for the caches of a CPU.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# A window of a text that is split repeats so many tokens of the one before, if they fit.
_OVERLAP = 64
# Texts that are held and sorted by length at once, and how many batches their tokens may fill.
WINDOW_TEXTS = 4096
_WINDOW_BATCHES = 32


class FrozenEncoder:
    """The part of TextEncoder that holds things: construction, properties, settings of a call."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization: str | None = None,
        implementation: str | None = None,
        batch_invariant: bool = False,
    ):
        """
        Args:
            model: any of this package's models; it is copied, and left as it is.
            tokenizer: the one the model was trained with.
            device: default, where the model is.
            dtype: of weights and states; default, the model's.
            quantization: "int8", or None for the model's own setting.
            implementation: see `albert_act_fast.implementations`; default, the model's own.
            batch_invariant: compute so that `encode` and `depth` give a text the same bits in
                every batch, even where that is slower; see the property of that name.

        Raises:
            TypeError, ValueError: an argument is not what it should be, the two do not fit, or
                what computes the model is not batch-invariant though that was asked for.
        """
        from albert_act_fast.modeling import AlbertActPreTrainedModel

        if not isinstance(model, AlbertActPreTrainedModel):
            raise TypeError(
                f"model: got {type(model).__name__}, expected one of albert_act_fast's models "
                "(albert_act_fast.accelerate takes over one of the published package)."
            )
        self._set_up(
            copy.deepcopy(model),
            tokenizer,
            frozenset(),
            device=device,
            dtype=dtype,
            quantization=quantization,
            implementation=implementation,
            batch_invariant=batch_invariant,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization: str | None = None,
        implementation: str | None = None,
        batch_invariant: bool = False,
        tokenization: str | None = None,
    ) -> TextEncoder:
        """
        Args:
            name: a folder, a hub name, or the name of a model that ships ("sentence", "sst2").
            device: default, the GPU if there is one, else the CPU.
            dtype, quantization, implementation, batch_invariant: as in the constructor.
            tokenization: "published" or "transformers", the rule that cuts texts by a
                `spiece.model`; default, the one that the model was trained with (see
                `albert_act_fast.tokenizer`).

        Raises:
            OSError, ValueError: it cannot be loaded or is no ALBERT-ACT model.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls._of_loaded(
            loading.load(name, tokenization=tokenization),
            device=device,
            dtype=dtype,
            quantization=quantization,
            implementation=implementation,
            batch_invariant=batch_invariant,
        )

    @classmethod
    def _of_loaded(cls, loaded: loading.LoadedModel, **settings) -> TextEncoder:
        """Of a model that nobody else holds."""
        self = cls.__new__(cls)
        self._set_up(loaded.model, loaded.tokenizer, loaded.missing, **settings)
        self.pooling = loaded.pooling
        return self

    def _set_up(
        self,
        model,
        tokenizer,
        missing,
        *,
        device,
        dtype,
        quantization,
        implementation,
        batch_invariant=False,
    ) -> None:
        check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings)
        if quantization is not None:
            model.quantize(quantization)
        model = model.to(device=device, dtype=dtype)
        self._missing = missing
        # Of `encode` where it is not told.
        self.pooling = "mean"
        config = model.config
        base = bare(model)
        # Frozen and in inference: what is chosen now is what every call would choose.
        model.eval().requires_grad_(False)
        chosen = base._choose(implementation, base._inspect(), model.device)
        if config.quantization is not None and chosen.name not in ("cpp", "reference"):
            raise ValueError(
                f"quantization: got {config.quantization!r}, which only implementation 'cpp' "
                f"computes; got {chosen.name!r} ({chosen.reason})."
            )
        self._frozen = FrozenModel(model, chosen, batch_invariant=batch_invariant)
        if batch_invariant and (reason := self._frozen.why_not_batch_invariant()) is not None:
            raise ValueError(f"batch_invariant: got True, which cannot be met: {reason}.")
        self._tokenizer = TextTokenizer(tokenizer, config.max_position_embeddings)

    @property
    def config(self):
        """The model's configuration, a copy."""
        return copy.deepcopy(self._frozen.model.config)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer.tokenizer

    @property
    def device(self) -> torch.device:
        return self._frozen.device

    @property
    def dtype(self) -> torch.dtype:
        return self._frozen.model.dtype

    @property
    def implementation(self) -> str:
        """What computes: the name of an implementation."""
        return self._frozen.choice.name

    @property
    def why_not_batch_invariant(self) -> str | None:
        """None where `batch_invariant` is true, else the reason."""
        return self._frozen.why_not_batch_invariant()

    @property
    def batch_invariant(self) -> bool:
        """Whether `encode` and `depth` give a text the same bits alone, in any batch, order and
        window, and with any number of threads: where the C++ implementation computes from ids to
        embeddings with products of its own. That depends on the processor and the dtype
        (`albert-act-fast info`); the constructor's argument makes it so."""
        return self.why_not_batch_invariant is None

    @property
    def embedding_dimension(self) -> int:
        """H, the columns of an embedding."""
        return self._frozen.model.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text that is neither cut nor split, special tokens included."""
        return self._tokenizer.limit

    def get_sentence_embedding_dimension(self) -> int:
        """`embedding_dimension`, by the name that SentenceTransformer users know."""
        return self.embedding_dimension

    def __repr__(self) -> str:
        model = self._frozen.model
        precision = model.config.quantization or str(self.dtype).removeprefix("torch.")
        return (
            f"TextEncoder({type(model).__name__}, {self.embedding_dimension} columns, {precision}, "
            f"{self.implementation} on {self.device})"
        )

    def _work(self, options: TokenizeOptions, compute, finish) -> pipeline.Work:
        def tokenize(first, block):
            return self._tokenizer(first, block, options)

        return pipeline.Work(tokenize, compute, finish)

    def _options(self, offsets, truncation, chunk=False, chunk_overlap=None) -> TokenizeOptions:
        if chunk_overlap is None:
            chunk_overlap = min(_OVERLAP, self.max_tokens // 2) if chunk else 0
        elif not chunk:
            raise ValueError("chunk_overlap: got it without chunk=True.")
        options = TokenizeOptions(offsets, bool(truncation), bool(chunk), chunk_overlap)
        self._tokenizer.check_options(options)
        return options

    def _settings(
        self,
        batch_tokens=None,
        batch_size=None,
        errors="raise",
        ordered=True,
        window=WINDOW_TEXTS,
        tokenizer_threads=1,
        **internal,
    ) -> pipeline.Settings:
        one_of("errors", errors, ("raise", "collect"))
        if batch_tokens is None:
            batch_tokens = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cuda"])
        for name, value in (
            ("batch_tokens", batch_tokens),
            ("batch_size", batch_size),
            ("window", window),
            ("tokenizer_threads", tokenizer_threads),
        ):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}: got {value!r}, expected a whole number from 1.")
        internal.setdefault("stops", lambda error: errors == "raise")
        return pipeline.Settings(
            batch_tokens=batch_tokens,
            batch_texts=batch_size,
            window_texts=window,
            window_tokens=_WINDOW_BATCHES * batch_tokens,
            tokenizer_threads=tokenizer_threads,
            ordered=ordered,
            **internal,
        )

    def _not_finite(self, text: TokenizedText) -> TextError:
        precision = str(self.dtype).removeprefix("torch.")
        reason = f"the model gives values that are not finite in {precision}, expected numbers"
        return TextError(text.index, text.text, "not finite", reason)

    def _lacks(self, *parts: str) -> bool:
        return any(part in key for key in self._missing for part in parts)

    _bare = staticmethod(bare)


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}.")
