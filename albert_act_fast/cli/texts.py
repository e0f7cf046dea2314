"""Reads texts and refuses, with their place, those that cannot be worked on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from albert_act_fast.cli.errors import CommandError, file_error


@dataclass(frozen=True)
class SourceText:
    """A text and where it came from; `line` counts from 1, None for an argument."""

    text: str
    place: str
    line: int | None = None


def texts_of_arguments(texts: Sequence[str]) -> list[SourceText]:
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
    return found


def texts_of_file(argument: str, path: str, *, skip_empty: bool) -> list[SourceText]:
    """One text a line; `-` is standard input.

    Raises:
        CommandError: the file cannot be read, is not UTF-8, holds no text, or holds an empty line
            while `skip_empty` is off.
    """
    name = "standard input" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise file_error(argument, name, error) from None
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CommandError(
            f"{argument}: got {name!r}, expected UTF-8: line {line} has the byte "
            f"0x{data[error.start]:02x} ({error.reason})"
        ) from None
    # Not str.splitlines, which also ends lines at form feeds and the like and so counts other
    # lines than an editor.
    lines = content.replace("\r\n", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    found = []
    for number, text in enumerate(lines, 1):
        if text.strip():
            found.append(SourceText(text, f"line {number} of {name}", number))
        elif not skip_empty:
            raise CommandError(
                f"{argument}: line {number} of {name} is empty, expected a text on every line "
                "(--skip-empty leaves empty lines out)"
            )
    if not found:
        raise CommandError(f"{argument}: got {name!r}, which holds no text")
    return found
