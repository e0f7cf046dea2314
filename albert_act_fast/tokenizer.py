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
from pathlib import Path

from transformers import AlbertTokenizer, AutoTokenizer, PreTrainedTokenizerBase

STOCK_TOKENIZER = Path(__file__).parent / "data" / "tokenizer"
STOCK_MAX_LENGTH = 512
# Either is enough to make a tokenizer from.
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
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
        ValueError: there is one but it cannot be read.
    """
    if model_name_or_path is None or not has_tokenizer(model_name_or_path):
        return _load(AlbertTokenizer, STOCK_TOKENIZER)
    return _load(AutoTokenizer, model_name_or_path)


def has_tokenizer(model_name_or_path: str | os.PathLike) -> bool:
    """Whether a tokenizer is saved in that folder or hub repository.

    Raises:
        OSError: the hub cannot be reached and its cache does not tell.
    """
    if os.path.isdir(model_name_or_path):
        return any((Path(model_name_or_path) / name).is_file() for name in _TOKENIZER_FILES)
    return any(_in_hub_repository(str(model_name_or_path), name) for name in _TOKENIZER_FILES)


def _load(tokenizer_class: type, source: str | os.PathLike) -> PreTrainedTokenizerBase:
    try:
        tokenizer = tokenizer_class.from_pretrained(source, model_input_names=list(_INPUT_NAMES))
    except OSError:
        raise
    # The tokenizers library raises a bare Exception for a file it cannot parse.
    except Exception as error:
        raise ValueError(f"the tokenizer in {source} cannot be read: {error}") from error
    if tokenizer.model_max_length > _NO_LIMIT:
        tokenizer.model_max_length = STOCK_MAX_LENGTH
    return tokenizer


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
