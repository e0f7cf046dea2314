"""Loads what a command runs, and says what went wrong in the command line's terms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from albert_act_fast.cli.errors import (
    FAILURE,
    CommandError,
    is_out_of_memory,
    one_line,
    out_of_memory,
)
from albert_act_fast.cli.options import Device, Dtype, Quantization, Tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from albert_act_fast import TextEncoder, TextError
    from albert_act_fast.cli.texts import SourceText


# The shipped model that runs where none is named.
DEFAULT_MODEL = "sentence"

_ADVICE = {
    "too long": "--truncate cuts texts that are longer",
    "not finite": "is the checkpoint damaged? does --dtype float32 help?",
    "empty": "--skip-empty leaves such texts out",
    "unknown": "--skip-empty leaves such texts out",
    "memory": "a smaller --batch-size, or a shorter text",
}
# Kinds of failure that --skip-empty leaves out.
SKIPPED = ("empty", "unknown")


def describe(
    name: str,
    encoder: TextEncoder,
    max_iterations: int | None = None,
    act_epsilon: float | None = None,
) -> dict:
    """What a result has to be read with; part of every JSON document.

    Raises:
        CommandError: the rule asked for is none.
    """
    from albert_act_fast.cli.info import versions
    from albert_act_fast.tokenizer import tokenization_of

    with option_errors():
        rule = encoder._frozen.rule_of(max_iterations, act_epsilon)

    config = encoder.config
    choice = encoder._frozen.choice
    return {
        "model": {
            "name": name,
            "shipped": _is_shipped(name),
            "hidden_size": config.hidden_size,
            "iteration_limit": config.num_hidden_layers,
            "act_epsilon": config.act_epsilon,
        },
        "rule": {"max_iterations": rule.max_iterations, "act_epsilon": rule.act_epsilon},
        "implementation": {"name": choice.name, "reason": choice.reason},
        "device": encoder.device.type,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "quantization": config.quantization,
        "tokenization": tokenization_of(encoder.tokenizer),
        "versions": versions(),
    }


def precision(encoder: TextEncoder) -> str:
    """What the encoder's products are computed in."""
    return encoder.config.quantization or str(encoder.dtype).removeprefix("torch.")


def text_error(error: TextError, source: SourceText) -> CommandError:
    """The failure of a text, with the place it came from."""
    advice = _ADVICE.get(error.kind)
    status = FAILURE if error.kind in ("not finite", "memory") else 2
    suffix = f" ({advice})" if advice and (source.line is not None or "skip" not in advice) else ""
    return CommandError(f"{source.place}: {error.reason}{suffix}", status)


def load(
    name: str | None,
    implementation: str | None,
    device: Device | None,
    dtype: Dtype,
    quantization: Quantization | None = None,
    threads: int | None = None,
    tokenization: Tokenization | None = None,
) -> TextEncoder:
    """
    Raises:
        CommandError: device, implementation, model or tokenizer cannot be had, and why.
    """
    from albert_act_fast import implementations

    place = _prepare(implementation, device, threads)
    name = DEFAULT_MODEL if name is None else name
    _check_name(name)
    from albert_act_fast.text import TextEncoder, loading

    loaded = _loading(name, lambda: loading.load(name, tokenization=_value(tokenization)))
    with option_errors():
        implementations.choose(implementation, loaded.model.config.implementation, device=place)
    _check_vocabulary(name, loaded.model, loaded.tokenizer)
    with option_errors(name):
        return TextEncoder._of_loaded(
            loaded,
            device=place,
            dtype=_dtype(dtype),
            quantization=_value(quantization),
            implementation=implementation,
        )


def load_for_task(
    model_class: type,
    name: str,
    implementation: str | None,
    device: Device | None,
    dtype: Dtype,
    quantization: Quantization | None = None,
    threads: int | None = None,
    tokenization: Tokenization | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A task model with its trained head, or the bare model, in eval mode, and its tokenizer.

    Raises:
        CommandError: as `load`; and where the checkpoint has no head of that kind.
    """
    from albert_act_fast import AlbertActModel, implementations

    place = _prepare(implementation, device, threads)
    with option_errors():
        choice = implementations.choose(implementation, device=place)
    _check_name(name)
    from albert_act_fast.text import loading

    loaded = _loading(name, lambda: loading.load(name, model_class, _value(tokenization)))
    missing = sorted(loaded.missing)
    if issubclass(model_class, AlbertActModel):  # its pooler has no part in a cosine
        missing = [weight for weight in missing if not weight.startswith("pooler.")]
    if missing:
        raise CommandError(
            f"--model: got {name!r}, a model without {', '.join(missing)}; "
            "expected one fine-tuned on the task"
        )
    _check_vocabulary(name, loaded.model, loaded.tokenizer)
    if quantization is not None:
        if choice.name != "cpp":
            raise CommandError(
                f"--quantization: got {quantization.value!r}, which only implementation 'cpp' "
                f"computes; got {choice.name!r}"
            )
        with option_errors():
            loaded.model.quantize(quantization.value)
    return loaded.model.to(place, _dtype(dtype)).eval(), loaded.tokenizer


def load_scorable(
    name: str,
    implementation: str | None,
    device: Device | None,
    dtype: Dtype,
    quantization: Quantization | None = None,
    threads: int | None = None,
    tokenization: Tokenization | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A fine-tuned classifier, or, of a folder that says how it pools, the sentence encoder without
    any head; its tokenizer and pooling.

    Raises:
        CommandError: as `load_for_task`; and where the pooling is not known here.
    """
    from albert_act_fast import AlbertActForSequenceClassification, AlbertActModel
    from albert_act_fast.shipped import is_sentence_encoder, pooling
    from albert_act_fast.text.loading import source_of

    source = source_of(name)
    encodes = is_sentence_encoder(source)
    model_class = AlbertActModel if encodes else AlbertActForSequenceClassification
    try:
        how = pooling(source)
    except ValueError as error:
        raise CommandError(f"--model: got {name!r}: {one_line(error)}") from None
    how_to_load = (implementation, device, dtype, quantization, threads, tokenization)
    found = load_for_task(model_class, name, *how_to_load)
    return *found, how


def _prepare(implementation: str | None, device: Device | None, threads: int | None) -> str:
    """Checks what can be checked before a model is loaded, which may take long."""
    import torch

    from albert_act_fast import implementations

    if threads is not None:
        torch.set_num_threads(threads)
    has_cuda = torch.cuda.is_available()
    if device is Device.CUDA and not has_cuda:
        raise CommandError(
            "--device: got 'cuda', expected 'cpu': PyTorch finds no CUDA device "
            "(`albert-act-fast info` tells more)"
        )
    place = device.value if device else ("cuda" if has_cuda else "cpu")
    with option_errors():
        implementations.choose(implementation, device=place)
    return place


def _value(choice: Quantization | Tokenization | None) -> str | None:
    return None if choice is None else choice.value


def _dtype(dtype: Dtype):
    import torch

    return getattr(torch, dtype.value)


def _check_vocabulary(name: str, model, tokenizer) -> None:
    from albert_act_fast.tokenizer import check_vocabulary

    entries = model.get_input_embeddings().num_embeddings
    if len(tokenizer) <= entries:
        with option_errors(name):
            check_vocabulary(tokenizer, entries)
    else:
        raise CommandError(
            f"--model: got {name!r}, whose vocabulary has {entries} entries, expected at least the "
            f"{len(tokenizer)} of the tokenizer (the stock one, if none is saved beside the model)"
        )


def _is_shipped(name: str) -> bool:
    from albert_act_fast.text.loading import source_of

    return source_of(name) != name


def _check_name(name: str) -> None:
    if _is_shipped(name):
        return
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
    else:
        _offline_where_the_hub_is_not()


def _offline_where_the_hub_is_not(timeout: float = 3.0) -> None:
    """Without a connection the hub's library tries again and again, for half a minute; what its
    cache holds is found at once where it knows that it is offline."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if os.environ.get("HF_HUB_OFFLINE") or getproxies():
        return
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout).close()
    except OSError:
        import huggingface_hub.constants

        os.environ["HF_HUB_OFFLINE"] = "1"
        huggingface_hub.constants.HF_HUB_OFFLINE = True


def _loading(name: str, load):
    try:
        return load()
    except Exception as error:
        # Of many kinds: OSError (no such repository, no network), ValueError (another
        # architecture), those of safetensors and pickle for a file that is damaged.
        if is_out_of_memory(error):
            raise out_of_memory() from error
        if str(error).startswith("tokenization:"):
            raise CommandError(f"--{one_line(error)}") from None
        what = "a folder" if os.path.isdir(name) else "no folder here, so a hub name"
        what = "which ships" if _is_shipped(name) else what
        raise CommandError(
            f"--model: got {name!r} ({what}), which cannot be loaded as an ALBERT-ACT model: "
            f"{one_line(error)}"
        ) from error


@contextmanager
def option_errors(model: str | None = None) -> Iterator[None]:
    """An error of the library about one of its arguments as one about the option of that name; one
    about the tokenizer as one about the model whose it is."""
    try:
        yield
    except ValueError as error:
        name, _, rest = one_line(error).partition(":")
        if name == "tokenizer" and model is not None:
            raise CommandError(f"--model: got {model!r}: {name}:{rest}") from None
        raise CommandError(f"--{name.replace('_', '-')}:{rest}") from None
