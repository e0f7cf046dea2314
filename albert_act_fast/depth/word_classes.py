"""The word classes of a text's tokens, as a spaCy pipeline tells them (extra `[spacy]`)."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.language import Language

# Universal Dependencies' names, in the order of tables: content words, function words, the rest.
WORD_CLASSES = (
    *("NOUN", "PROPN", "VERB", "ADJ", "ADV", "NUM", "INTJ"),
    *("PRON", "DET", "ADP", "AUX", "PART", "SCONJ", "CCONJ"),
    *("PUNCT", "SYM", "X"),
)
NO_CLASS = "no class"
# A text is tagged in pieces of so many characters: spaCy needs memory for each.
_CHARACTERS = 100_000
# A pipeline that has said nothing of so many words will say nothing.
_WORDS = 1000


def load_pipeline(name: str | os.PathLike) -> Language:
    """
    Args:
        name: of an installed pipeline, or its folder.

    Raises:
        ImportError: spaCy is not installed; ValueError: it cannot load such a pipeline.
    """
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            "spacy_model: spaCy is not installed; pip install 'albert_act_fast[spacy]'"
        ) from error
    try:
        return spacy.load(name)
    except (OSError, ValueError, ImportError) as error:  # ImportError: a package of its own
        raise ValueError(
            f"spacy_model: got {os.fspath(name)!r}, which spaCy cannot load: {error} Expected an "
            "installed pipeline (python -m spacy download en_core_web_sm) or its folder."
        ) from error


class WordClasses:
    """
    Args:
        pipeline: one that sets `Token.pos`, as spaCy's trained pipelines do.

    Raises:
        ImportError, ValueError: as `load_pipeline`; or it has no components.
    """

    def __init__(self, pipeline: str | os.PathLike | Language):
        named = isinstance(pipeline, (str, os.PathLike))
        self._pipeline = load_pipeline(pipeline) if named else pipeline
        meta = self._pipeline.meta
        self.name = f"{meta['lang']}_{meta['name']} {meta['version']}"
        self._words = self._known = 0
        if not self._pipeline.pipe_names:
            raise self._says_nothing("has no components")

    def of(self, text: str, windows: Sequence[Sequence[tuple[int, int]] | None]) -> list[list[str]]:
        """The class of the word in which each token begins; `NO_CLASS` for tokens of no word.

        Args:
            windows: character ranges in the text of each window's tokens.

        Raises:
            ValueError: there are no character ranges, or the pipeline gives no classes.
        """
        starts, classes = self._tag(text)
        found = []
        for offsets in windows:
            if offsets is None:
                raise ValueError(
                    "spacy_model: the tokenizer gives no character offsets, expected one that does"
                    " (a fast one, or AlbertActTokenizer)."
                )
            found.append([self._class_at(text, *own, starts, classes) for own in offsets])
        return found

    def check(self) -> None:
        """Raises ValueError: no token of any text had a class."""
        if not self._known:
            raise self._says_nothing("gave no word a class")

    def _tag(self, text: str) -> tuple[list[int], list[str]]:
        """Where each word of the text begins, and its class."""
        starts, classes = [], []
        for place, part in _parts(text):
            words = self._pipeline(part)
            starts += [place + word.idx for word in words]
            classes += [word.pos_ or NO_CLASS for word in words]
        self._words += len(classes)
        self._known += len(classes) - classes.count(NO_CLASS)
        if self._words >= _WORDS:
            self.check()
        return starts, classes

    @staticmethod
    def _class_at(text, start: int, end: int, starts, classes) -> str:
        # Some tokenizers count the space before a word as the word's.
        while start < end and text[start].isspace():
            start += 1
        word = bisect_right(starts, start) - 1
        return NO_CLASS if start >= end or word < 0 else classes[word]

    def _says_nothing(self, what: str) -> ValueError:
        return ValueError(
            f"spacy_model: got {self.name!r}, which {what}; expected a pipeline with a tagger or "
            "rules that set Token.pos."
        )


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Pieces of the text that end at white space, where there is some, and where they begin."""
    start = 0
    while start < len(text):
        end = start + _CHARACTERS
        if end < len(text):
            # From a word's beginning on: not in the middle of one that is longer than a piece.
            space = max(text.rfind(space, start + 1, end) for space in " \n\t")
            end = space if space > 0 else end
        yield start, text[start:end]
        start = end
