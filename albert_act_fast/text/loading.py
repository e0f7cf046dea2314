"""Finds and loads a model with its tokenizer, whichever of the task models it was saved as."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HEAD = re.compile(r"^(predictions|sop_classifier|classifier|qa_outputs)\.")


@dataclass(frozen=True)
class LoadedModel:
    """missing: names of weights that the checkpoint does not have, so that they are random;
    pooling: how its folder says that token states become one embedding, "mean" if it does not,
    None if in a way that is not known here."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: frozenset[str]
    pooling: str | None = "mean"


def source_of(name: str | os.PathLike) -> str:
    """The folder of a shipped model for its name; else the name itself."""
    from albert_act_fast.shipped import shipped_model, shipped_models

    name = os.fspath(name)
    if name in shipped_models() and not os.path.exists(name):
        return str(shipped_model(name))
    return name


def load(
    name: str | os.PathLike, model_class: type | None = None, tokenization: str | None = None
) -> LoadedModel:
    """
    Args:
        name: a folder, a hub name, or the name of a shipped model.
        model_class: default, the one it was saved from, if that is one of this package's.
        tokenization: see `albert_act_fast.tokenizer.load_tokenizer`.

    Raises:
        OSError, ValueError: it cannot be loaded, or is not ALBERT-ACT.
    """
    import albert_act_fast
    from albert_act_fast.configuration import AlbertActConfig
    from albert_act_fast.shipped import pooling
    from albert_act_fast.tokenizer import load_tokenizer

    source = source_of(name)
    with quiet_libraries():
        config = AlbertActConfig.from_pretrained(source)
        architectures = config.architectures or []
        known = [a for a in architectures if a in _model_classes()]
        if model_class is None:
            model_class = getattr(albert_act_fast, known[0] if known else "AlbertActModel")
        # Mismatches are looked at here: transformers points to a report that nobody sees.
        model, info = model_class.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True
        )
        _refuse_mismatches(info.get("mismatched_keys", ()))
        tokenizer = load_tokenizer(source, tokenization=tokenization)
    try:
        own = pooling(source)
    except ValueError:
        own = None
    return LoadedModel(model, tokenizer, frozenset(info["missing_keys"]), own)


def _refuse_mismatches(mismatched) -> None:
    if mismatched:
        shown = [
            f"{key}: {tuple(saved)}, but its config.json says {tuple(wanted)}"
            for key, saved, wanted in sorted(mismatched)
        ]
        raise ValueError(f"weights of another shape than the configuration's: {'; '.join(shown)}")


def untrained_head(missing: frozenset[str]) -> list[str]:
    """Weights of the head among those that are missing."""
    return sorted(key for key in missing if _HEAD.match(key))


def _model_classes() -> list[str]:
    from albert_act_fast import modeling

    return [name for name in modeling.__all__ if name != "AlbertActPreTrainedModel"]


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and load reports on stderr."""
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
