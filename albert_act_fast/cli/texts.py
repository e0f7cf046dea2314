"""Where texts come from: arguments, files of several formats, standard input; read as they are
needed, and refused, with their place, where they are no texts."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from albert_act_fast.cli import text_formats
from albert_act_fast.cli.errors import CommandError, file_error

# So many are read before a model is loaded: most mistakes show in the first lines.
_AT_FIRST = 256


@dataclass(frozen=True)
class SourceText:
    """A text and where it came from; `line` (or row) counts from 1, None for an argument."""

    text: str
    place: str
    line: int | None = None


class Texts:
    """Iterates over texts; `skipped` counts those left out so far because they were empty, `done`
    of `total` says how far the reading is (bytes or rows; total None where that is unknown)."""

    def __init__(self, texts: Iterator[SourceText], position=None, total: float | None = None):
        self._texts = texts
        self._position = position
        self.total = total
        self.skipped = 0

    def __iter__(self) -> Iterator[SourceText]:
        return self._texts

    @property
    def done(self) -> float:
        return 0 if self._position is None else self._position()

    def begin(self) -> Texts:
        """Reads the first of them now, so that a mistake there is found before more is done."""
        first = list(itertools.islice(self._texts, _AT_FIRST))
        self._texts = itertools.chain(first, self._texts)
        return self


def texts_of_arguments(texts: Sequence[str]) -> Texts:
    """Raises CommandError for a text that is empty or not Unicode."""
    found = []
    for number, text in enumerate(texts, 1):
        place = f"TEXT {number}"
        if not text.strip():
            raise CommandError(f"{place}: got {text!r}, expected a text that is not empty")
        try:
            text.encode()
        except UnicodeEncodeError:  # the shell handed over bytes that are no UTF-8
            raise CommandError(f"{place}: got {text!r}, expected text in UTF-8") from None
        found.append(SourceText(text, place))
    return Texts(iter(found), total=len(found))


def texts_of_file(argument: str, path: str, *, skip_empty: bool, field: str | None = None) -> Texts:
    """The texts of a file, by the format that its name tells; `-` is lines of standard input.

    Args:
        argument: what the errors call the file.
        field: the column, or key, that holds the texts, in formats that have some.

    Raises:
        CommandError: the file cannot be read, or the first of its texts are none; later ones
            raise it when they are read.
    """
    name = "standard input" if path == "-" else path
    kind = text_formats.kind_of(path)
    if field is not None and kind == "lines":
        raise CommandError(
            f"--field: got {field!r}, but {name} is read as lines; expected a file of a format "
            f"with fields: {', '.join(text_formats.WITH_FIELDS)}"
        )
    try:
        opened = text_formats.open_file(argument, path, kind, field)
    except OSError as error:
        raise file_error(argument, name, error) from None
    texts = Texts(iter(()), opened.position, opened.total)
    texts._texts = _texts(argument, name, opened, texts, skip_empty)
    return texts.begin()


def _texts(argument, name, opened, texts: Texts, skip_empty: bool) -> Iterator[SourceText]:
    records = iter(opened.records)
    count = 0
    while True:
        try:
            number, text = next(records)
        except StopIteration:
            break
        except OSError as error:
            raise file_error(argument, name, error) from None
        except text_formats.Malformed as error:
            raise CommandError(f"{argument}: got {name!r}, {error}") from None
        if text.strip():
            count += 1
            yield SourceText(text, f"{opened.unit} {number} of {name}", number)
        elif skip_empty:
            texts.skipped += 1
        else:
            every = "line" if opened.unit == "line" else opened.unit
            raise CommandError(
                f"{argument}: {opened.unit} {number} of {name} is empty, expected a text on every "
                f"{every} (--skip-empty leaves empty ones out)"
            )
    if not count:
        raise CommandError(f"{argument}: got {name!r}, which holds no text")


def same_file(path: str, other: os.PathLike) -> bool:
    """Whether both are there and one file."""
    try:
        return path != "-" and os.path.samefile(path, other)
    except OSError:
        return False


def needs_standard_input(argument: str) -> None:
    """Raises CommandError where it is closed."""
    if sys.stdin is None:
        raise CommandError(f"{argument}: standard input is closed, expected texts on it")
