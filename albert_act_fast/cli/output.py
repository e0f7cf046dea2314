"""Where results go: a terminal may be coloured; a file or a pipe gets every character, no more."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from typing import TextIO

from albert_act_fast.cli.errors import FAILURE, CommandError


class Printer:
    """Lines on a stream, coloured where it is a terminal, never wrapped, never cut."""

    def __init__(self, stream: TextIO):
        from rich.console import Console

        # Told outright, because FORCE_COLOR and the like would colour a file.
        self._console = Console(
            file=stream, force_terminal=stream.isatty(), highlight=False, soft_wrap=True
        )

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Parts are texts or (text, style) pairs; brackets in them are no markup."""
        from rich.text import Text

        self._console.print(Text.assemble(*parts), soft_wrap=True)


def print_json(document: dict) -> None:
    """One JSON document on stdout; what is not finite is null there."""
    readable = encodes(sys.stdout, "▁")
    json.dump(_finite(document), sys.stdout, ensure_ascii=not readable, allow_nan=False, indent=1)
    sys.stdout.write("\n")


def needs_standard_output(what: str = "this command") -> None:
    """Raises CommandError where it is closed, before any work is done for it."""
    if sys.stdout is None:
        raise CommandError(f"standard output is closed, expected a place for {what}", FAILURE)


def print_json_line(document: dict) -> None:
    """One JSON object on a line of stdout."""
    readable = encodes(sys.stdout, "▁")
    line = json.dumps(_finite(document), ensure_ascii=not readable, allow_nan=False)
    sys.stdout.write(line + "\n")


def notice(message: str) -> None:
    """A line on stderr, so that stdout holds the results alone."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"albert-act-fast: {message}", file=sys.stderr)


def bar(length: float, stream: TextIO) -> str:
    """A bar of `length` columns, to an eighth of one; `#` where the stream cannot say it finer."""
    if not encodes(stream, "█▏"):
        return "#" * max(1, round(length))
    whole, eighths = divmod(round(length * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def allow_any_character(stream: TextIO) -> None:
    """A character the stream's encoding lacks is written as an escape, not as a traceback."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def encodes(stream: TextIO, text: str) -> bool:
    """Whether the stream has a way to write that text."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(console, columns: dict[str, str], rows: list[list[str]]) -> None:
    """A table, or, where the terminal is too narrow for it, a block of lines for each row.

    Args:
        console: rich's.
        columns: "left" or "right" of each column's name.
    """
    from rich.table import Table

    table = Table()
    for column, justify in columns.items():
        table.add_column(column, justify=justify, no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
        console.print(table)
        return
    width = max(map(len, columns))
    for cells in rows:
        for name, value in zip(columns, cells, strict=True):
            if value:
                line = f"{name:<{width}}  {value}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print()
