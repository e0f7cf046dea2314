"""One progress bar: texts a second, iterations a token, time left."""

from __future__ import annotations

import sys
import time

# What is done sooner shows no bar, unless it was asked for.
_SECONDS_WITHOUT = 2.0


class ProgressBar:
    """On stderr, redrawn in place where that is a terminal.

    Args:
        show: None shows it on a terminal, and only once two seconds have passed.
        total: in the unit of what `advance` adds; None where it is not known.
    """

    def __init__(self, show: bool | None, total: float | None, title: str = "encoding"):
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._wanted = sys.stderr is not None and (terminal if show is None else bool(show))
        self._starts = time.monotonic() + (_SECONDS_WITHOUT if show is None else 0)
        self._total, self._title = total, title
        self._done, self._texts, self._tokens, self._rows = 0.0, 0, 0, 0
        self._began = time.monotonic()
        self._progress = self._task = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error) -> None:
        if self._progress is not None:
            self._draw()
            self._progress.stop()

    def advance(self, done: float, tokens: int = 0, rows: int = 0, texts: int = 1) -> None:
        """Some texts are done, of so many tokens and token iterations."""
        self._done += done
        self._texts += texts
        self._tokens += tokens
        self._rows += rows
        if not self._wanted or time.monotonic() < self._starts:
            return
        if self._progress is None:
            self._start()
        self._draw()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        console = Console(file=sys.stderr, force_terminal=sys.stderr.isatty())
        self._progress = Progress(
            TextColumn(self._title),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            Remaining(),
            console=console,
        )
        self._task = self._progress.add_task("texts", total=self._total, figures="")
        self._progress.start()

    def _draw(self) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        figures = f"{self._texts / seconds:.0f} texts/s"
        if self._tokens:
            figures += f", {self._rows / self._tokens:.1f} iterations a token"
        self._progress.update(self._task, completed=self._done, figures=figures)
