"""From texts to ids, safe to call from several threads; what has no ids is told by its index."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from albert_act_fast.published_tokenizer import AlbertActTokenizer
from albert_act_fast.text.errors import TextError, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A text of more characters than this for each position of the model is read from its beginning
# until enough tokens were found: the tokenizers library needs 100 bytes for each byte of text.
_CHARACTERS_A_POSITION = 64
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class TokenizedText:
    """A text, or one window of it, as the model takes it.

    text_tokens: how many of the ids are the text's own, special tokens left out; offsets:
    character ranges in the text, None where they were not asked for or cannot be had.
    """

    index: int
    text: str
    input_ids: list[int]
    token_type_ids: list[int]
    offsets: list[tuple[int, int]] | None
    text_tokens: int
    truncated: bool = False


@dataclass(frozen=True)
class TokenizeOptions:
    """offsets: whether they are wanted; truncation: cut what is too long; chunk: split it into
    windows of the model's length, each of which repeats `overlap` tokens of the one before."""

    offsets: bool = False
    truncation: bool = False
    chunk: bool = False
    overlap: int = 0


class TextTokenizer:
    """A tokenizer's own way of splitting, held apart from its state.

    transformers sets padding and truncation on the one tokenizer that all threads share; here the
    text is split without either, and special tokens are put around it.

    Args:
        limit: most tokens a text may have, special ones included.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int):
        self.tokenizer = tokenizer
        self.limit = limit
        self._most_characters = limit * _CHARACTERS_A_POSITION  # read at once
        self._lock = threading.Lock()
        self._backend = None
        if tokenizer.is_fast:
            self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
            self._backend.no_truncation()
            self._backend.no_padding()
        self._before, self._after = _special_tokens(tokenizer)
        self._room = limit - len(self._before) - len(self._after)
        if self._room < 1:
            raise ValueError(
                f"tokenizer: adds {limit - self._room} special tokens to a text, but the model has "
                f"only {limit} positions."
            )
        self._nothing_known = _pieces_that_say_nothing(tokenizer)
        self._names = {
            getattr(tokenizer, f"{name}_token_id"): f"[{name.upper()}]"
            for name in ("cls", "sep", "mask")
        }

    def __getstate__(self):
        return {"tokenizer": self.tokenizer, "limit": self.limit}

    def __setstate__(self, state):
        self.__init__(**state)

    def pieces(self, input_ids: list[int]) -> list[str]:
        """The tokens of ids, as the vocabulary writes them."""
        return self.tokenizer.convert_ids_to_tokens(input_ids)

    def special_names(self, text: TokenizedText) -> list[str | None]:
        """Which of a text's ids are special tokens, and which, as `TextDepth` says it."""
        own = self.own_places(text)
        return [
            self._names.get(token) or (None if place in own else "special")
            for place, token in enumerate(text.input_ids)
        ]

    @property
    def room(self) -> int:
        """Most tokens of its own that a text may have."""
        return self._room

    def offsets_of(self, texts: list[str]) -> list[list[tuple[int, int]] | None]:
        """Character ranges of each text's own tokens, however many; None if there are none."""
        return [
            self._split_long(text, TokenizeOptions(offsets=True, chunk=True))[1] for text in texts
        ]

    def own_places(self, text: TokenizedText) -> range:
        """Where the text's own tokens stand among its ids."""
        return self.own_range(len(text.input_ids))

    def own_range(self, count: int) -> range:
        """Where a text's own tokens stand among `count` ids."""
        return range(len(self._before), count - len(self._after))

    def check_options(self, options: TokenizeOptions) -> None:
        """Raises ValueError, TypeError: options that exclude each other or are out of range."""
        if options.truncation and options.chunk:
            raise ValueError("truncation, chunk: got both, expected one of the two.")
        if not 0 <= options.overlap < self._room:
            raise ValueError(
                f"chunk_overlap: got {options.overlap}, expected 0 to {self._room - 1}: a window "
                f"holds {self._room} tokens of the text."
            )

    def __call__(
        self, first: int, texts: Sequence[object], options: TokenizeOptions
    ) -> list[list[TokenizedText] | TextError]:
        """Windows of each text (one, unless `chunk`), or why there are none.

        Args:
            first: index of the first of the texts.
        """
        results: list = [_refuse(first + i, text) for i, text in enumerate(texts)]
        places = [i for i, error in enumerate(results) if error is None]
        short = [i for i in places if len(texts[i]) <= self._most_characters]
        for i, (ids, offsets) in zip(
            short, self._split([texts[i] for i in short], options.offsets), strict=True
        ):
            results[i] = self._windows(first + i, texts[i], ids, offsets, True, options)
        for i in places:
            if results[i] is None:
                split = self._split_long(texts[i], options)
                results[i] = self._windows(first + i, texts[i], *split, options)
        return results

    def plain_ids(self, text: object) -> list[int] | None:
        """Ids of a text that is one whole window, special tokens included; None of any other."""
        if _refuse(0, text) is not None or len(text) > self._most_characters:
            return None
        ((ids, _),) = self._split([text], False)
        if len(ids) > self._room or self._says_nothing(0, text, ids) is not None:
            return None
        return self._with_special_tokens(ids)

    def _says_nothing(self, index: int, text: str, ids: list[int]) -> TextError | None:
        """Why a text of these ids has no result; None where it has one."""
        if not ids:
            reason = f"got {shown(text)}, in which the tokenizer finds no token, expected a text"
            return TextError(index, text, "empty", reason)
        if self._nothing_known.issuperset(ids):
            reason = (
                f"got {shown(text)}, of which the tokenizer's vocabulary knows no piece, expected "
                "a text in its language"
            )
            return TextError(index, text, "unknown", reason)
        return None

    def _with_special_tokens(self, ids: list[int]) -> list[int]:
        return [*self._before, *ids, *self._after]

    def _windows(
        self, index, text, ids, offsets, whole, options
    ) -> list[TokenizedText] | TextError:
        error = self._says_nothing(index, text, ids)
        if error is not None:
            return error
        starts = [0]
        if len(ids) > self._room:
            if options.chunk:
                step = self._room - options.overlap
                starts = list(range(0, len(ids) - options.overlap, step))
            elif not options.truncation:
                count = f"{len(ids) + self.limit - self._room}" if whole else f"over {self.limit}"
                reason = (
                    f"got {count} tokens, expected at most {self.limit}, the model's "
                    "max_position_embeddings"
                )
                return TextError(index, text, "too long", reason)
            elif self.tokenizer.truncation_side == "left":
                starts = [len(ids) - self._room]
        truncated = len(ids) > self._room and not options.chunk
        return [
            self._window(index, text, ids, offsets, slice(start, start + self._room), truncated)
            for start in starts
        ]

    def _window(self, index, text, ids, offsets, part, truncated) -> TokenizedText:
        own = ids[part]
        before, after = len(self._before), len(self._after)
        if offsets is not None:
            offsets = [(0, 0)] * before + offsets[part] + [(0, 0)] * after
        return TokenizedText(
            index,
            text,
            self._with_special_tokens(own),
            [0] * (before + len(own) + after),
            offsets,
            len(own),
            truncated,
        )

    def _split(self, texts: list[str], with_offsets: bool):
        """Ids and offsets (or None) of each text, without special tokens."""
        if isinstance(self.tokenizer, AlbertActTokenizer) and (
            with_offsets or not self.tokenizer.split_special_tokens
        ):
            found = [self.tokenizer.pieces(text) for text in texts]
            to_ids = self.tokenizer.convert_tokens_to_ids
            return [
                (
                    to_ids([p.text for p in pieces]),
                    [(p.start, p.end) for p in pieces] if with_offsets else None,
                )
                for pieces in found
            ]
        if self._backend is None:
            with self._lock:
                encoded = [
                    self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
                    for text in texts
                ]
            return [(ids, None) for ids in encoded]
        if len(texts) == 1:  # in this thread, not in one of the library's
            encodings = [self._backend.encode(texts[0], add_special_tokens=False)]
        else:
            encode = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
            encodings = encode(texts, add_special_tokens=False)
        return [(e.ids, e.offsets if with_offsets else None) for e in encodings]

    def _split_long(self, text: str, options: TokenizeOptions):
        """As `_split`, of pieces of the text that end at white space, where words end too; no more
        of them than are needed. The third says whether all of the text was read."""
        needs_all = options.chunk or self.tokenizer.truncation_side == "left"
        ids: list[int] = []
        offsets: list[tuple[int, int]] | None = [] if options.offsets else None
        length, start = self._most_characters, 0
        while start < len(text) and (needs_all or len(ids) <= self._room):
            found = _SPACE.search(text, start + length)
            end = len(text) if found is None else found.start()
            ((more, more_offsets),) = self._split([text[start:end]], options.offsets)
            ids += more
            if offsets is not None and more_offsets is not None:
                offsets += [(a + start, b + start) for a, b in more_offsets]
            elif offsets is not None:
                offsets = None
            start = end
        return ids, offsets, start >= len(text)


def _refuse(index: int, text: object) -> TextError | None:
    if not isinstance(text, str):
        return TextError(index, text, "type", f"got {shown(text)}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"got {shown(text)}, expected Unicode text: character {error.start} is a surrogate"
        return TextError(index, text, "unicode", reason)
    return None


def _special_tokens(tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text."""
    probe = "a"
    bare = tokenizer(probe, add_special_tokens=False)["input_ids"]
    full = tokenizer(probe)
    ids = full["input_ids"]
    for start in range(len(ids) - len(bare) + 1):
        if ids[start : start + len(bare)] == bare:
            before, after = ids[:start], ids[start + len(bare) :]
            if any(full.get("token_type_ids", [0])):
                break
            return before, after
    raise ValueError(
        f"tokenizer: {type(tokenizer).__name__} does not put its special tokens around a text, "
        "with token type 0; expected one that does, as ALBERT's and BERT's."
    )


def _pieces_that_say_nothing(tokenizer) -> frozenset[int]:
    """The unknown piece, and those that are nothing but the mark of a word's beginning."""
    if tokenizer.unk_token_id is None:
        return frozenset()
    marks = tokenizer.convert_tokens_to_ids(["▁", "Ġ", "##"])
    return frozenset([tokenizer.unk_token_id, *(i for i in marks if i is not None)])
