"""Cuts a text into sentences, and what is too long for the model into windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from albert_act_fast.cli.texts import SourceText

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder

# After a full stop and the like, quotes and brackets that it closes, and white space; before what
# may begin a sentence. Abbreviations end sentences too.
_END = re.compile(r"(?<=[.!?…])[\"'’”)\]]*\s+(?=[\"'‘“(\[]*[A-ZÀ-ÖØ-Þ0-9])")


def parts(source: SourceText, encoder: TextEncoder) -> Iterator[SourceText]:
    """The sentences of a text, and of those that are too long the windows, cut at white space."""
    for sentence in sentences(source.text):
        for window in windows(sentence, encoder):
            yield replace(source, text=window)


def sentences(text: str) -> list[str]:
    """Together they are the text, but for the white space between them."""
    found, start = [], 0
    for end in _END.finditer(text):
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def windows(text: str, encoder: TextEncoder) -> Iterator[str]:
    """The text, or pieces of it that have as many tokens as the model takes, or a few less."""
    tokenize = encoder._tokenizer
    (offsets,) = tokenize.offsets_of([text])
    room = tokenize.room
    if offsets is None or len(offsets) <= room:
        yield text
        return
    start = 0
    while start < len(offsets):
        stop = min(start + room, len(offsets))
        if stop < len(offsets):
            # Back to where a word begins; a word that fills a window alone is cut.
            word = next((i for i in range(stop, start, -1) if _begins(text, offsets[i][0])), None)
            stop = word if word is not None else start + max(room // 2, 1)
        yield text[offsets[start][0] : offsets[stop - 1][1]].strip()
        start = stop


def _begins(text: str, place: int) -> bool:
    return text[place].isspace() or (place > 0 and text[place - 1].isspace())
