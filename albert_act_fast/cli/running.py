"""Loads the model and its tokenizer, checks texts against them, runs batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from albert_act_fast.cli.errors import FAILURE, CommandError, one_line
from albert_act_fast.cli.options import Device, Dtype, Quantization
from albert_act_fast.cli.texts import SourceText

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from albert_act_fast import AlbertActModel
    from albert_act_fast.implementations import Choice
    from albert_act_fast.outputs import AlbertActModelOutput


# The shipped model that runs where none is named.
DEFAULT_MODEL = "sentence"


@dataclass(frozen=True)
class TokenizedText:
    """A text as the model takes it; `offsets` are character ranges, None if the tokenizer has
    none."""

    source: SourceText
    input_ids: list[int]
    token_type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]] | None
    truncated: bool


@dataclass(frozen=True)
class Runner:
    """A model ready to run; `shipped` if it is one of those that come with the package."""

    model: AlbertActModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    shipped: bool
    choice: Choice
    device: str
    dtype: Dtype
    has_pooler: bool

    @property
    def precision(self) -> str:
        return self.model.config.quantization or self.dtype.value

    def describe(self) -> dict:
        """What a result has to be read with; part of every JSON document."""
        from albert_act_fast.cli.info import versions

        config = self.model.config
        return {
            "model": {
                "name": self.name,
                "shipped": self.shipped,
                "hidden_size": config.hidden_size,
                "iteration_limit": config.num_hidden_layers,
                "act_epsilon": config.act_epsilon,
            },
            "implementation": {"name": self.choice.name, "reason": self.choice.reason},
            "device": self.device,
            "dtype": self.dtype.value,
            "quantization": config.quantization,
            "versions": versions(),
        }

    def tokenize(self, texts: Sequence[SourceText], *, truncate: bool) -> list[TokenizedText]:
        """
        Raises:
            CommandError: a text has no tokens, or more than the model has positions while
                `truncate` is off.
        """
        tokenizer, limit = self.tokenizer, self.model.config.max_position_embeddings
        encoded = tokenizer(
            [source.text for source in texts],
            truncation=False,
            verbose=False,  # a text that is too long is dealt with below
            return_token_type_ids=True,
            return_attention_mask=False,
            return_offsets_mapping=tokenizer.is_fast,
        )
        special = tokenizer.num_special_tokens_to_add()
        result = []
        for index, source in enumerate(texts):
            fields = {name: values[index] for name, values in encoded.items()}
            count = len(fields["input_ids"])
            if count <= special:
                raise CommandError(
                    f"{source.place}: got {source.text[:40]!r}, in which the tokenizer finds no "
                    "token, expected a text"
                )
            if count > limit:
                if not truncate:
                    raise CommandError(
                        f"{source.place}: got {count} tokens, expected at most {limit}, the "
                        "model's max_position_embeddings (--truncate cuts texts that are longer)"
                    )
                cut = tokenizer(
                    source.text,
                    truncation=True,
                    max_length=limit,
                    return_token_type_ids=True,
                    return_offsets_mapping=tokenizer.is_fast,
                )
                fields = {name: cut[name] for name in fields}
            result.append(
                TokenizedText(
                    source,
                    fields["input_ids"],
                    fields["token_type_ids"],
                    tokenizer.convert_ids_to_tokens(fields["input_ids"]),
                    fields.get("offset_mapping"),
                    count > limit,
                )
            )
        return result

    def run(self, texts: Sequence[TokenizedText]) -> AlbertActModelOutput:
        """One batch, padded on the right.

        Raises:
            CommandError: the batch does not fit into memory, or the model refuses it.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        def padded(rows: list[list[int]], value: int) -> torch.Tensor:
            rows = [torch.tensor(row) for row in rows]
            return pad_sequence(rows, batch_first=True, padding_value=value).to(self.device)

        try:
            with torch.inference_mode():
                return self.model(
                    input_ids=padded(
                        [t.input_ids for t in texts], self.tokenizer.pad_token_id or 0
                    ),
                    token_type_ids=padded([t.token_type_ids for t in texts], 0),
                    attention_mask=padded([[1] * len(t.input_ids) for t in texts], 0),
                    implementation=self.choice.name,
                )
        except (torch.OutOfMemoryError, MemoryError):
            raise CommandError(
                f"{self.device} is out of memory with {len(texts)} texts of up to "
                f"{max(len(t.input_ids) for t in texts)} tokens at once; expected to fit: try a "
                "smaller --batch-size",
                FAILURE,
            ) from None
        except ValueError as error:
            raise CommandError(f"the model refuses the texts: {one_line(error)}", FAILURE) from None

    def refuse_not_finite(self, values: Tensor, texts: Sequence[TokenizedText]) -> None:
        """Raises CommandError for the first text with a NaN or infinity in `values` [B, ...]."""
        finite = values.flatten(1).isfinite().all(dim=1).tolist()
        if not all(finite):
            raise CommandError(
                f"{texts[finite.index(False)].source.place}: the model gives values that are not "
                f"finite in {self.dtype.value}, expected numbers (is the checkpoint damaged? does "
                "--dtype float32 help?)",
                FAILURE,
            )


def load(
    name: str | None,
    implementation: str | None,
    device: Device | None,
    dtype: Dtype,
    quantization: Quantization | None = None,
) -> Runner:
    """
    Raises:
        CommandError: device, implementation, model or tokenizer cannot be had, and why.
    """

    from albert_act_fast import AlbertActModel, implementations

    place = _place(device)
    with _errors_of("--implementation"):
        # Before the model is loaded, which may take long.
        implementations.choose(implementation, device=place)
    name = DEFAULT_MODEL if name is None else name
    source = _source(name)
    with _quiet_libraries():
        model, info = _from_pretrained(AlbertActModel, source)
        tokenizer = _load_tokenizer(source)
    has_pooler = not any("pooler." in key for key in info["missing_keys"])
    _check_vocabulary(name, model, tokenizer)
    with _errors_of("--implementation"):
        choice = implementations.choose(implementation, model.config.implementation, device=place)
    model = _prepare(model, place, dtype, quantization, choice.name)
    return Runner(model, tokenizer, name, source != name, choice, place, dtype, has_pooler)


def load_for_task(
    model_class: type,
    name: str,
    implementation: str | None,
    device: Device | None,
    dtype: Dtype,
    quantization: Quantization | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A task model with its trained head, in eval mode, and its tokenizer.

    Raises:
        CommandError: as `load`; and where the checkpoint has no head of that kind.
    """

    from albert_act_fast import implementations

    place = _place(device)
    with _errors_of("--implementation"):
        choice = implementations.choose(implementation, device=place)
    source = _source(name)
    with _quiet_libraries():
        model, info = _from_pretrained(model_class, source)
        tokenizer = _load_tokenizer(source)
    if info["missing_keys"]:
        raise CommandError(
            f"--model: got {name!r}, a model without {', '.join(sorted(info['missing_keys']))}; "
            "expected one fine-tuned on the task"
        )
    _check_vocabulary(name, model, tokenizer)
    return _prepare(model, place, dtype, quantization, choice.name), tokenizer


def _prepare(
    model: PreTrainedModel,
    place: str,
    dtype: Dtype,
    quantization: Quantization | None,
    implementation: str,
) -> PreTrainedModel:
    import torch

    if quantization is not None:
        if implementation != "cpp":
            raise CommandError(
                f"--quantization: got {quantization.value!r}, which only implementation 'cpp' "
                f"computes; got {implementation!r}"
            )
        with _errors_of("--quantization"):
            model.quantize(quantization.value)
    return model.to(place, getattr(torch, dtype.value)).eval()


def _place(device: Device | None) -> str:
    import torch

    has_cuda = torch.cuda.is_available()
    if device is Device.CUDA and not has_cuda:
        raise CommandError(
            "--device: got 'cuda', expected 'cpu': PyTorch finds no CUDA device "
            "(`albert-act-fast info` tells more)"
        )
    return device.value if device else ("cuda" if has_cuda else "cpu")


def _check_vocabulary(name: str, model, tokenizer) -> None:
    entries = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > entries:
        raise CommandError(
            f"--model: got {name!r}, whose vocabulary has {entries} entries, expected at least the "
            f"{len(tokenizer)} of the tokenizer (the stock one, if none is saved beside the model)"
        )


def batches(texts: Sequence[TokenizedText], size: int) -> Iterator[Sequence[TokenizedText]]:
    """Consecutive texts, `size` at a time."""
    for start in range(0, len(texts), size):
        yield texts[start : start + size]


def _source(name: str) -> str:
    """Where to load it from: the name of a shipped model stands for its folder."""
    from albert_act_fast.shipped import shipped_model, shipped_models

    if name in shipped_models() and not os.path.exists(name):
        return str(shipped_model(name))
    return name


def _from_pretrained(model_class: type, name: str) -> tuple[PreTrainedModel, dict]:
    if os.path.exists(name):
        if not os.path.isdir(name):
            raise CommandError(f"--model: got {name!r}, a file; expected a folder or a hub name")
        if not os.path.isfile(os.path.join(name, "config.json")):
            raise CommandError(
                f"--model: got {name!r}, a folder without config.json; expected one that "
                "`save_pretrained` wrote"
            )
    elif not name or name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise CommandError(f"--model: got {name!r}, which does not exist; expected a folder")
    try:
        return model_class.from_pretrained(name, output_loading_info=True)
    except Exception as error:
        # Of many kinds: OSError (no such repository, no network), ValueError (another
        # architecture), those of safetensors and pickle for a file that is damaged.
        what = "a folder" if os.path.isdir(name) else "no folder here, so a hub name"
        raise CommandError(
            f"--model: got {name!r} ({what}), which cannot be loaded as an ALBERT-ACT model: "
            f"{one_line(error)}"
        ) from error


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    from albert_act_fast.tokenizer import load_tokenizer

    try:
        return load_tokenizer(name)
    except (OSError, ValueError) as error:
        raise CommandError(f"--model: got {name!r}: {one_line(error)}") from error


@contextmanager
def _errors_of(option: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        # The library names the argument of the same name first.
        raise CommandError(f"--{one_line(error)}") from None


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No progress bars and load reports on stderr: an error has to be one line there."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_before = hub_logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        hub_logging.set_verbosity(hub_before)
        if bars:
            logging.enable_progress_bar()
