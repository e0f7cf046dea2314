"""The tokens of a measured text, one by one, and their classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from albert_act_fast.text import TextDepth

# What a vocabulary writes for the beginning of a word, or for its going on.
_BEGINS = ("▁", "Ġ")
_GOES_ON = "##"
# In the order in which pictures show them.
TOKEN_CLASSES = (
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "special",
    "punctuation",
    "number",
    "word",
    "word part",
)


@dataclass(frozen=True)
class TokenDepth:
    """One token.

    text: its characters in the text; the piece's own where the tokenizer gives no offsets, and for
    a special token its name. piece: as the vocabulary writes it. offsets: character range in the
    text; None for a special token, and where the tokenizer gives none. token_class: one of
    `TOKEN_CLASSES`; what goes on with a word is a word part. joined: nothing stands between it and
    the token before.

    n_updates, remainder: as in `AlbertActModelOutput`. probabilities, accumulated: p and the
    accumulated probability of each iteration, `n_updates` of them; None where not asked for.
    """

    text: str
    piece: str
    input_id: int
    offsets: tuple[int, int] | None
    token_class: str
    joined: bool
    n_updates: int
    remainder: float
    probabilities: list[float] | None = None
    accumulated: list[float] | None = None


class TokenDepths(list):
    """The depths of several texts, in their order; a list that shows itself in notebooks. Where
    errors were collected, a `TextError` stands in a failed text's place."""

    def _repr_html_(self) -> str:
        from albert_act_fast.depth.html import fragment

        return fragment(self)


def tokens_of(depth: TextDepth) -> list[TokenDepth]:
    """The tokens of a measured text, in their order."""
    looks = _looks(depth.text, depth.tokens, depth.special, depth.offsets)
    return [
        TokenDepth(
            text=look.text,
            piece=depth.tokens[place],
            input_id=depth.input_ids[place],
            offsets=look.offsets,
            token_class=look.token_class,
            joined=look.joined,
            n_updates=depth.iterations[place],
            remainder=depth.remainders[place],
            probabilities=depth.probabilities[place] if depth.probabilities else None,
            accumulated=depth.accumulated[place] if depth.accumulated else None,
        )
        for place, look in enumerate(looks)
    ]


def token_classes(
    text: str,
    pieces: Sequence[str],
    special: Sequence[str | None],
    offsets: Sequence[tuple[int, int]] | None,
) -> list[str]:
    """The class of each token of a text; arguments as the fields of `TextDepth`."""
    return [look.token_class for look in _looks(text, pieces, special, offsets)]


class _Look(NamedTuple):
    text: str
    offsets: tuple[int, int] | None
    token_class: str
    joined: bool


def _looks(text, pieces, special, offsets) -> list[_Look]:
    found: list[_Look] = []
    marks_beginnings = any(piece.startswith(_BEGINS) for piece in pieces)
    for place, (piece, name) in enumerate(zip(pieces, special, strict=True)):
        before = found[-1] if found else None
        own = offsets[place] if offsets else None
        if own is not None and own[0] == own[1]:
            own = None
        # Some tokenizers count the space before a word as the word's.
        shown = "" if own is None else text[slice(*own)].strip()
        goes_on = piece.startswith(_GOES_ON) or (marks_beginnings and not piece.startswith(_BEGINS))
        if own is None or before is None or before.offsets is None:
            joined = goes_on and name is None and before is not None and _is_text(before)
        else:
            joined = own[0] == before.offsets[1] and not text[own[0]].isspace()
        kind = _class_of(piece, name)
        if kind == "word" and joined and goes_on and before.token_class in _OF_WORDS:
            kind = "word part"
        found.append(_Look(shown or (piece if name else _bare(piece)), own, kind, joined))
    return found


def measured(depths: Iterable) -> Iterator[TextDepth]:
    """The texts that have a depth, without the errors among them."""
    return (one for one in depths if hasattr(one, "iterations"))


def iterations_of(count: int) -> str:
    return f"{count} iteration" + ("" if count == 1 else "s")


_OF_WORDS = ("word", "word part", "number")


def _is_text(token: _Look) -> bool:
    return token.token_class in ("punctuation", *_OF_WORDS)


def _class_of(piece: str, special: str | None) -> str:
    if special is not None:
        return special
    bare = _bare(piece)
    if not re.search(r"\w", bare):
        return "punctuation"
    return "number" if re.fullmatch(r"[\d.,]+", bare) else "word"


def _bare(piece: str) -> str:
    for mark in (*_BEGINS, _GOES_ON):
        if piece.startswith(mark) and len(piece) > len(mark):
            return piece[len(mark) :]
    return piece
