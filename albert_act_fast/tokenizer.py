"""The tokenizer of a model, or the stock English ALBERT one that ships with the package.

Which ids a text gets is transformers' `AlbertTokenizer` (5.x) as it reads `spiece.model`. That is
not everywhere what sentencepiece alone gives: transformers makes the vocabulary's user-defined
symbols (`( ) " - . – £ €`) tokens of their own before the rest is split, so "quiet ." ends in the
piece "." where sentencepiece has "▁" and ".", and what follows such a symbol starts a word ("3.14"
is "▁3", ".", "▁14"). A model has to be used with the tokenizer it was trained with: train with this
one, and save it beside the model, or load the model's own.

transformers also lists those symbols among `all_special_tokens`. `decode(skip_special_tokens=True)`
keeps them all the same, but `get_special_tokens_mask(ids, already_has_special_tokens=True)` marks
them; where only [CLS], [SEP] and padding are meant, ask for `return_special_tokens_mask=True` when
tokenizing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from transformers import AlbertTokenizer, AutoTokenizer, PreTrainedTokenizerBase

# That of a model that was trained with it, whose folder is whole, so that anything can read it: one
# copy serves both.
STOCK_TOKENIZER = Path(__file__).parent / "data" / "models" / "sst2"
STOCK_MAX_LENGTH = 512
# Where one of these is saved the model has a tokenizer of its own.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "spiece.model",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "tiktoken.model",
    "tekken.json",
)
_INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]
# transformers writes 1e30 where a tokenizer was saved without a limit.
_NO_LIMIT = 10**18


def load_tokenizer(
    model_name_or_path: str | os.PathLike | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model if there is one, else the stock ALBERT tokenizer.

    Args:
        model_name_or_path: a folder or a hub name; None for the stock tokenizer.

    Returns:
        A tokenizer with character offsets (`return_offsets_mapping=True`), with `token_type_ids`
        among its outputs (a pair's second text has 1), and with `model_max_length` 512 unless it
        was saved with another one.

    Raises:
        OSError: the hub cannot be reached and nothing tells whether the model has a tokenizer.
        ValueError: there is one but it cannot be read, or its vocabulary is missing.
    """
    if model_name_or_path is None or not has_tokenizer(model_name_or_path):
        return _load(AlbertTokenizer, STOCK_TOKENIZER)
    tokenizer = _load(AutoTokenizer, model_name_or_path)
    _need_vocabulary(tokenizer, model_name_or_path)
    return tokenizer


def has_tokenizer(model_name_or_path: str | os.PathLike) -> bool:
    """Whether a tokenizer is saved in that folder or hub repository.

    Raises:
        OSError: the hub cannot be reached and its cache does not tell.
    """
    return bool(_saved(model_name_or_path, _TOKENIZER_FILES))


def _saved(model_name_or_path: str | os.PathLike, names: Iterable[str]) -> list[str]:
    """Which of these files are there."""
    if os.path.isdir(model_name_or_path):
        return [name for name in names if (Path(model_name_or_path) / name).is_file()]
    return [name for name in names if _in_hub_repository(str(model_name_or_path), name)]


def _need_vocabulary(tokenizer: PreTrainedTokenizerBase, source: str | os.PathLike) -> None:
    """transformers makes a tokenizer of five tokens where the file that its class reads is not
    there, and says nothing."""
    wanted = list(tokenizer.vocab_files_names.values())
    if not _saved(source, wanted):
        kind = type(tokenizer).__name__
        there = ", ".join(_saved(source, _TOKENIZER_FILES))
        raise ValueError(
            f"the tokenizer in {source} cannot be read: as a {kind} it needs "
            f"{' or '.join(wanted)}, but there is only {there} "
            "(is a file missing, or tokenizer_config.json, which names the class?)"
        )


def _load(tokenizer_class: type, source: str | os.PathLike) -> PreTrainedTokenizerBase:
    try:
        tokenizer = tokenizer_class.from_pretrained(source, model_input_names=list(_INPUT_NAMES))
    except OSError:
        raise
    # The tokenizers library raises a bare Exception for a file it cannot parse.
    except Exception as error:
        raise ValueError(f"the tokenizer in {source} cannot be read: {_why(error)}") from error
    if tokenizer.model_max_length > _NO_LIMIT:
        tokenizer.model_max_length = STOCK_MAX_LENGTH
    return tokenizer


def _why(error: Exception) -> str:
    # What transformers says of any file of a vocabulary that it cannot parse.
    if "tiktoken" in str(error):
        return "its vocabulary (spiece.model, or the like) is damaged or not complete"
    return str(error)


def _in_hub_repository(repository: str, filename: str) -> bool:
    # transformers' own `cached_file` answers None both for "there is none" and for "no connection";
    # taking the second for the first would exchange the vocabulary without a word.
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = huggingface_hub.try_to_load_from_cache(repository, filename)
    if cached is not None:
        return isinstance(cached, str)
    try:
        huggingface_hub.hf_hub_download(repository, filename)
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"{repository}: cannot tell whether it has a tokenizer; the hub cannot be reached"
        ) from error
    except EntryNotFoundError:
        return False
    return True
