"""The tokenizer of a model, or the stock English ALBERT one that ships with the package.

One `spiece.model` is cut into pieces by one of two rules, and a model has to be used with the one
it was trained with:

- "published", `AlbertActTokenizer`: sentencepiece and ALBERT's rule for commas, as transformers up
  to 4 cut for ALBERT, and as the published checkpoints were trained;
- "transformers", `AlbertTokenizer` of transformers 5, which makes the vocabulary's user-defined
  symbols (`( ) " - . – £ €`) tokens of their own before the rest is split: "quiet ." ends in the
  piece "." where sentencepiece has "▁" and ".", and what follows such a symbol starts a word
  ("3.14" is "▁3", ".", "▁14"). The stock tokenizer follows it, and so do the models that ship.

A folder says its rule in tokenizer_config.json: by `"tokenization"`, one of the two names, or by
`"tokenizer_class": "AlbertActTokenizer"`. Where it does not, and has a `spiece.model`, its
config.json tells: transformers before 5, or none named, is the published rule.

transformers also lists those symbols among `all_special_tokens`. `decode(skip_special_tokens=True)`
keeps them all the same, but `get_special_tokens_mask(ids, already_has_special_tokens=True)` marks
them; where only [CLS], [SEP] and padding are meant, ask for `return_special_tokens_mask=True` when
tokenizing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from transformers import AlbertTokenizer, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from albert_act_fast.published_tokenizer import AlbertActTokenizer

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
_SPIECE = "spiece.model"
# By the name that a folder, a call or a command gives.
RULES = {"published": AlbertActTokenizer, "transformers": AlbertTokenizer}
_INPUT_NAMES = ["input_ids", "token_type_ids", "attention_mask"]
# transformers writes 1e30 where a tokenizer was saved without a limit.
_NO_LIMIT = 10**18


def load_tokenizer(
    model_name_or_path: str | os.PathLike | None = None, *, tokenization: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model if there is one, else the stock ALBERT tokenizer.

    Args:
        model_name_or_path: a folder or a hub name; None for the stock tokenizer.
        tokenization: the rule that cuts a `spiece.model`, "published" or "transformers"; None for
            the one that the model was trained with, as its folder tells.

    Returns:
        A tokenizer with character offsets (`return_offsets_mapping=True`), with `token_type_ids`
        among its outputs (a pair's second text has 1), and with `model_max_length` 512 unless it
        was saved with another one.

    Raises:
        OSError: the hub cannot be reached and nothing tells whether the model has a tokenizer.
        ValueError: there is one but it cannot be read, or its vocabulary is missing; a rule is
            asked for that does not exist, or that has no `spiece.model` to cut by.
    """
    if tokenization not in (None, *RULES):
        raise ValueError(f"tokenization: got {tokenization!r}, expected one of {', '.join(RULES)}.")
    if model_name_or_path is None or not has_tokenizer(model_name_or_path):
        return _load(RULES[tokenization or "transformers"], STOCK_TOKENIZER)
    if tokenization is not None and not _saved(model_name_or_path, (_SPIECE,)):
        raise ValueError(
            f"tokenization: got {tokenization!r}, but {model_name_or_path} has no {_SPIECE}, the "
            "vocabulary that such a rule cuts by."
        )
    if tokenization is None:
        tokenization = _rule_of(model_name_or_path)
    tokenizer = _load(RULES.get(tokenization, AutoTokenizer), model_name_or_path)
    _need_vocabulary(tokenizer, model_name_or_path)
    return tokenizer


def tokenization_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """ "published" or "transformers"; None if it is of another class, with a rule of its own."""
    return next((name for name, kind in RULES.items() if isinstance(tokenizer, kind)), None)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, entries: int) -> None:
    """
    Args:
        entries: rows of the model's word embeddings.

    Raises:
        ValueError: the tokenizer knows ids that the model does not; or it knows so few of the
            model's that it is another model's.
    """
    known = len(tokenizer)
    if known > entries:
        raise ValueError(
            f"tokenizer: its vocabulary has {known} entries, expected at most the {entries} of the "
            "model."
        )
    # Tables are rounded up, and entries added to them that no tokenizer has yet.
    if known < 0.75 * entries and entries - known > 256:
        raise ValueError(
            f"tokenizer: its vocabulary has {known} entries, far fewer than the {entries} of the "
            "model; expected the tokenizer that the model was trained with."
        )


class TokenizerByAge:
    """What `AutoTokenizer` finds for models of this package whose folder names no class."""

    @staticmethod
    def from_pretrained(source: str | os.PathLike, *args, **kwargs) -> PreTrainedTokenizerBase:
        kind = RULES.get(_rule_of(source), AlbertTokenizer)
        return kind.from_pretrained(source, *args, **kwargs)


def _rule_of(source: str | os.PathLike) -> str | None:
    """ "published" or "transformers"; None where the class that the folder names decides."""
    settings = get_tokenizer_config(source)
    rule = settings.get("tokenization")
    if rule is not None:
        if rule not in RULES:
            raise ValueError(
                f"the tokenizer in {source} cannot be read: tokenization is {rule!r}, expected one "
                f"of {', '.join(RULES)}"
            )
        return rule
    named = settings.get("tokenizer_class")
    if named == AlbertActTokenizer.__name__:
        return "published"
    if named not in (None, "AlbertTokenizer", "AlbertTokenizerFast"):
        return None
    if not _saved(source, (_SPIECE,)):
        return None
    try:
        config = PreTrainedConfig.get_config_dict(source)[0]
    except OSError:  # a folder of a tokenizer alone
        return None
    written_by = str(config.get("transformers_version") or "0").split(".")[0]
    return "published" if not written_by.isdigit() or int(written_by) < 5 else None


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
